"""The viewer as a command: what it refuses, and what a browser sees of it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from chromium import Tab, browser, find_chromium
from conftest import ROOT
from helpers import CPU, TINY, fails_cleanly, make_trainer

import run_nerf_qat
import run_viewer
from deploy.model_file import load_renderer, save_float_model
from load_scene import load_scene
from options import config_parser
from rendering.renderer import render_image
from run_nerf_helpers import to8b
from scenes.paths import read_path
from scenes.poses import orbit_path
from scenes.scene import Cameras
from viewer.page import Exhibit, Page
from viewer.views import View

FLOAT = ROOT / "tests/golden/float/model_float32.safetensors"
MISSING = "viser is an extra: pip install -r requirements-viewer.txt"
needs_viser = pytest.mark.skipif(find_spec("viser") is None, reason=MISSING)
SAME_PICTURE = 4.0  # levels of 255, on average: of JPEG and of what is shown larger than it is
WEBGL_WITHOUT_GPU = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
LIMIT = 60  # seconds, after which a test is given up


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two of the still life, after 30 and after 60 steps."""
    folder = tmp_path_factory.mktemp("run")
    scene = load_scene(config_parser().parse_args(TINY))
    trainer = make_trainer(scene, folder, TINY)
    for steps in (30, 60):
        trainer.train(steps)
        save_float_model(folder / f"model_{steps}.safetensors", trainer.renderer, scene.render_path)
    return [folder / f"model_{steps}.safetensors" for steps in (60, 30)]


# ------------------------------------------------------------------------------------- refused


def test_without_viser(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    fails_cleanly(capsys, run_viewer, FLOAT, says=("viser", "pip install -r requirements-viewer.txt"))
    fails_cleanly(capsys, run_nerf_qat, "--viewer", says=("viser", "pip install -r requirements-viewer.txt"))


@needs_viser
def test_files_that_are_none(capsys, tmp_path):
    fails_cleanly(capsys, run_viewer, tmp_path / "none.safetensors", says=("none.safetensors", "no such model file"))
    (tmp_path / "a.safetensors").write_bytes(b"no model")
    fails_cleanly(capsys, run_viewer, FLOAT, tmp_path / "a.safetensors", says=("a.safetensors", "not a whole"))


@needs_viser
def test_addresses_that_cannot_be_had(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails_cleanly(capsys, run_viewer, FLOAT, "--port", port, says=("--port", str(port), "in use", "another"))
    fails_cleanly(capsys, run_viewer, FLOAT, "--host", "192.0.2.1", says=("--host 192.0.2.1", "another"))
    fails_cleanly(capsys, run_viewer, FLOAT, "--port", "70000", says=("--port", "65535"))


@needs_viser
def test_a_training_is_refused_a_port_before_it_begins(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = [*TINY, "--viewer", "--port", taken.getsockname()[1], "--basedir", tmp_path]
        fails_cleanly(capsys, run_nerf_qat, *flags, says=("--port", "in use"))
    assert not list(tmp_path.glob("*/*.tar"))


def test_a_config_of_a_run_says_where_the_data_are(tmp_path):
    """Its lists do not swallow the files."""
    (tmp_path / "c.txt").write_text("scales = [1, 2]\nprocedural_size = 24\nN_iters = 5\n")
    for words in (["a", "b", "--config", f"{tmp_path}/c.txt"], ["--config", f"{tmp_path}/c.txt", "a", "b"]):
        args = run_viewer.make_parser().parse_args(words)
        assert (args.file, args.other, args.scales, args.procedural_size) == ("a", "b", [1, 2], 24)


def test_the_help_shows_what_is_read(capsys):
    with pytest.raises(SystemExit):
        run_viewer.make_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("MODEL_FILE", "--port", "--host", "--datadir", "--backend", "--threads"))
    assert not any(flag in text for flag in ("--N_iters", "--netwidth", "--i_print", "render_only", "]viewer"))


# --------------------------------------------------------------------------------- in a browser


@needs_viser
def test_a_port_is_free_again_once_the_page_is_closed():
    renderer, path, _ = load_renderer(FLOAT, CPU)
    page = Page(Exhibit([renderer], ["a note"], path, FLOAT.parent), "127.0.0.1", 0)
    with urllib.request.urlopen(page.address, timeout=LIMIT) as answer:
        assert b"<html" in answer.read() and not page.watched
    page.close()
    assert not page.renders.is_alive()
    with socket.create_server(("127.0.0.1", int(page.address.rpartition(":")[2]))):
        pass


@pytest.fixture
def make_page():
    """Makes pages and closes them."""
    pages = []

    def make(folder: Path, file: Path = FLOAT, **more) -> Page:
        renderer, path, _ = load_renderer(file, CPU)
        pages.append(Page(Exhibit([renderer], ["a note"], path, folder, **more), "127.0.0.1", 0))
        return pages[-1]

    yield make
    for page in pages:
        page.close()


@needs_viser
def test_paths_are_saved_beside_each_other(make_page, tmp_path):
    page = make_page(tmp_path)
    page._save(None)
    assert "no camera yet" in page.status.content and not list(tmp_path.iterdir())
    around = Cameras(orbit_path(4.0, frames=8), page.exhibit.path.K.repeat(8, 1, 1), 16, 16)
    page._change_path([View.of_camera(around[i]) for i in (0, 1)])
    assert page.listed.content.count("at [") == 2
    for name in ("camera_path.json", "camera_path_2.json"):
        page._save(None)
        assert name in page.status.content
        assert len(read_path(tmp_path / name, page.exhibit.path)) == 61
    page._change_path([])
    assert page.listed.content == "no camera yet"


@needs_viser
def test_a_path_that_cannot_be_saved_is_said(make_page, tmp_path):
    (tmp_path / "file").write_text("")
    page = make_page(tmp_path / "file" / "folder")
    page._change_path([View.of_camera(page.exhibit.path[0])])
    page._save(None)
    assert "could not be saved" in page.status.content


@needs_viser
def test_what_is_drawn_around_is_what_is_known(make_page, tmp_path, scene):
    light_field = ROOT / "tests/golden/light_field/model_float32.safetensors"
    hierarchical = ROOT / "tests/golden/hierarchical/model_float32.safetensors"
    assert set(make_page(tmp_path)._outlines) == {"box", "occupied cells", "path"}
    assert set(make_page(tmp_path, hierarchical)._outlines) == {"path"}
    assert set(make_page(tmp_path, hierarchical, scene=scene)._outlines) == {"photographs", "box", "path"}
    assert set(make_page(tmp_path, light_field, ball=3.0)._outlines) >= {"ball", "path"}
    in_ndc = replace(scene, ndc=True)
    assert set(make_page(tmp_path, hierarchical, scene=in_ndc)._outlines) == {"photographs", "path"}


@needs_viser
def test_cells_of_the_networks_that_are_shown(make_page, tmp_path):
    page = make_page(tmp_path)
    page.ticks["occupied cells"].value = True
    page._tick("occupied cells")
    (before,) = page._outlines["occupied cells"]
    other, _, _ = load_renderer(FLOAT, CPU)
    other.grid.set_occupied(torch.zeros_like(other.grid.occupied).index_fill_(0, torch.tensor(3), True))
    page.replace([other], "after step 5")
    (after,) = page._outlines["occupied cells"]
    assert page.notes.content == "after step 5"
    assert len(after.points) == other.grid.resolution**2 != len(before.points)


@needs_viser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; apt-get install chromium")
def test_a_browser_sees_the_model_and_turns_it(files, tmp_path):
    """Two files side by side: what is on the screen is what they render, it follows the mouse, and a path is saved."""
    words = [sys.executable, "run_viewer.py", *map(str, files), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        renderer, path, _ = load_renderer(files[0], CPU)
        saved = files[0].parent / "camera_path.json"
        with browser(tmp_path, *WEBGL_WITHOUT_GPU, size=(800, 600)) as tab:
            tab.open(address)
            tab.wait_for("document.querySelector('canvas') !== null", LIMIT)
            wait_until(lambda: shows(tab, renderer, path[0]))
            press(tab, "add camera here")
            drag(tab, (100, 400), (180, 380))
            wait_until(lambda: not shows(tab, renderer, path[0]) and stands_still(tab))
            press(tab, "add camera here")
            press(tab, "save")
            wait_until(saved.is_file)
            cameras = read_path(saved, path)
            press(tab, "clear")  # what is drawn of the path
            wait_until(lambda: shows(tab, renderer, cameras[len(cameras) - 1]))
        assert len(cameras) == 61  # of two seconds, and the last
        assert torch.allclose(cameras.c2w[0], path.c2w[0], atol=1e-4)
        assert not torch.allclose(cameras.c2w[-1], path.c2w[0], atol=0.1)
    finally:
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and error.strip() == "interrupted"


def picture_of(tab: Tab) -> np.ndarray:
    """What is on the screen, uint8 `[H, W, 3]`."""
    return cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def shows(tab: Tab, renderer, camera) -> bool:
    """Whether the left model is on the screen as it renders from a camera, where nothing is in front of it."""
    screen = picture_of(tab)
    height, width = screen.shape[:2]
    view = View.of_camera(camera)
    whole = render_image(renderer, View(view.c2w, view.fov, width / height).camera(height // 4, width // 4))
    expected = cv2.resize(to8b(whole.rgb).numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    open_part = slice(height // 2, height), slice(0, 2 * width // 5)
    return float(np.abs(screen[open_part].astype(float) - expected[open_part]).mean()) < SAME_PICTURE


def stands_still(tab: Tab) -> bool:
    before = picture_of(tab)
    time.sleep(0.3)
    return np.array_equal(before, picture_of(tab))


def press(tab: Tab, label: str) -> None:
    """Presses the button with that text, as soon as it is there."""
    button = f"[...document.querySelectorAll('button')].find(b => b.textContent.trim() == '{label}')"
    tab.wait_for(f"(b => b && (b.click(), true))({button})", LIMIT)


def drag(tab: Tab, start: tuple[int, int], end: tuple[int, int], moves: int = 8) -> None:
    """Moves the mouse from one place to another with its left button down."""
    tab.mouse("Pressed", *start)
    for x, y in np.linspace(start, end, moves).tolist():
        tab.mouse("Moved", x, y)
        time.sleep(0.02)
    tab.mouse("Released", *end)


def wait_until(done) -> None:
    until = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
