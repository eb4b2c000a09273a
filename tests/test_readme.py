"""README.md and the pages of docs say what is there: their tables, flags, files, links, and the map of folders."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
from capture_files import write_colmap, write_llff, write_nerfstudio
from conftest import ROOT

import run_compare
import run_nerf_qat
import run_photos
from options import config_parser

sys.path.insert(0, str(ROOT / "scripts"))

import autotask
import share

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
NOT_OURS = {
    "--logdir", "--nproc_per_node", "--dist", "--fog_radius",  # of tensorboard, torchrun, pytest, an example
    "--method", "--data", "--presets", "--set", "--steps",  # of nerfbaselines
}  # fmt: skip
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SHORT = [
    "--N_iters", "4", "--qat_iters", "2", "--i_weights", "0", "--netwidth", "16", "--grid_resolution", "16",
    "--samples_per_batch", "512", "--march_step", "2", "--path_frames", "1", "--threads", "1",
]  # fmt: skip


def test_tables_are_those_of_the_measurements():
    status = subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT).returncode
    assert status == 0, "run python benchmarks/tables.py"


def test_every_flag_exists():
    scripts = run_compare, run_photos, autotask, share
    parsers = [config_parser(), *(script.make_parser() for script in scripts)]
    ours = {word for parser in parsers for action in parser._actions for word in action.option_strings}
    for path in (ROOT / "benchmarks").glob("*.py"):
        ours |= set(re.findall(r'"(--\w+)"', path.read_text()))
    mentioned = {word for page in PAGES for word in re.findall(r"(?<![\w-])--\w+", page.read_text())}
    assert len(mentioned) > 40
    assert mentioned <= ours | NOT_OURS


@each_page
def test_every_file_exists(page):
    text = page.read_text()
    paths = re.findall(r"(?<![\w/.-])(?:configs|scripts|benchmarks|docs|tests)/[\w./-]*\w", text)
    paths += re.findall(r"requirements[\w-]*\.txt", text)
    for path in paths:
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`(\w+\.py)\b", text):  # a table names its command without the folder
        assert (ROOT / module).exists() or (ROOT / "benchmarks" / module).exists(), module


@each_page
def test_every_link_leads_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page):
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_leads_to_every_page():
    reached, left = set(), [PAGES[0]]
    while left:
        page = left.pop()
        if page not in reached:
            reached.add(page)
            links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
            left += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert reached == set(PAGES)


def test_readme_is_short():
    assert len(README.splitlines()) <= 140
    assert max(len(line) for line in README.splitlines()) <= 250


def test_the_map_has_every_folder():
    """And every file that it names is there. What git leaves out is no part of it."""
    tree = next(block for block in FENCE.findall(README) if "run_nerf_helpers.py" in block)
    names = re.findall(r"(?<!\S)[\w*/-]+(?:/|\.py|\.txt)(?!\w)", tree)
    for name in names:
        assert any(ROOT.glob(name.rstrip("/"))), name
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert {name[:-1] for name in names if re.fullmatch(r"\w+/", name)} == there - ignored


@pytest.mark.parametrize("kind", ["nerfstudio", "colmap", "llff"])
def test_the_command_for_an_own_scene_takes_photographs(tmp_path, monkeypatch, kind):
    """As it is written, and then without --plot_cameras but made short."""
    folder = tmp_path / "scene"
    {"nerfstudio": write_nerfstudio, "colmap": write_colmap, "llff": partial(write_llff, factor=4)}[kind](folder)
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
