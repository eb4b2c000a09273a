"""README.md says what is there: its tables, its flags, its files."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
from capture_files import write_colmap, write_nerfstudio
from conftest import ROOT
from test_load_llff import make_scene as make_llff_scene

import run_compare
import run_nerf_qat
from options import config_parser

sys.path.insert(0, str(ROOT / "scripts"))

import autotask

README = (ROOT / "README.md").read_text()
NOT_OURS = {"--logdir", "--check", "--rounds", "--bytes", "--nproc_per_node"}  # of tensorboard, benchmarks and torchrun
SHORT = [
    "--N_iters", "4", "--qat_iters", "2", "--i_weights", "0", "--netwidth", "16", "--grid_resolution", "16",
    "--samples_per_batch", "512", "--march_step", "2", "--path_frames", "1", "--threads", "1",
]  # fmt: skip


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


@pytest.mark.parametrize("kind", ["nerfstudio", "colmap", "llff"])
def test_the_command_for_an_own_scene_takes_photographs(tmp_path, monkeypatch, kind):
    """As it is written, and then without --plot_cameras but made short."""
    folder = tmp_path / "scene"
    {"nerfstudio": write_nerfstudio, "colmap": write_colmap, "llff": partial(make_llff_scene, factor=4)}[kind](folder)
    (line,) = [line for line in README.splitlines() if line.startswith("python") and "--plot_cameras" in line]
    script, *words = line.removeprefix("python ").split()
    assert script == "run_nerf_qat.py" and "PATH" in words
    words = [str(folder) if word == "PATH" else word for word in words]
    monkeypatch.chdir(ROOT)
    run_nerf_qat.main([*words, "--basedir", str(tmp_path)])
    assert (tmp_path / "mine" / "cameras.png").is_file()
    words.remove("--plot_cameras")
    run_nerf_qat.main([*words, "--basedir", str(tmp_path), *SHORT])
    models = json.loads((tmp_path / "mine" / "metrics.json").read_text())["models"]
    assert models["int8"]["psnr"] > 5
