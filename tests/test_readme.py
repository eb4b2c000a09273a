"""README.md says what is there: its tables, its flags, its files."""

import re
import subprocess
import sys

from conftest import ROOT

import run_compare
from options import config_parser

sys.path.insert(0, str(ROOT / "scripts"))

import autotask

README = (ROOT / "README.md").read_text()
NOT_OURS = {"--logdir", "--check", "--rounds", "--bytes", "--nproc_per_node"}  # of tensorboard, benchmarks and torchrun


def test_tables_are_those_of_the_measurements():
    status = subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT).returncode
    assert status == 0, "run python benchmarks/tables.py"


def test_every_flag_exists():
    parsers = config_parser(), run_compare.make_parser(), autotask.make_parser()
    ours = {word for parser in parsers for action in parser._actions for word in action.option_strings}
    mentioned = set(re.findall(r"(?<![\w-])--\w+", README))
    assert len(mentioned) > 20
    assert mentioned <= ours | NOT_OURS


def test_every_file_and_config_exists():
    paths = re.findall(r"(?:configs|scripts|benchmarks|docs)/[\w./-]*\w", README)
    modules = re.findall(r"`(\w+\.py)`", README)
    assert len(modules) > 10
    paths += re.findall(r"requirements[\w-]*\.txt", README)
    for path in paths:
        assert (ROOT / path).exists(), path
    for module in modules:  # a table names its command without the folder
        assert (ROOT / module).exists() or (ROOT / "benchmarks" / module).exists(), module


def test_every_module_is_in_the_layout():
    layout = README[README.index("## Layout") :]
    missing = [path.name for path in ROOT.glob("*.py") if f"`{path.name}`" not in layout]
    assert not missing
