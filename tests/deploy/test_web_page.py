"""Pages: what is in them, and in a real browser that they show what the reference executor renders."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Tab, browser, find_chromium, picture_of_page, record_turn
from conftest import ROOT
from helpers import HIERARCHICAL, SMALL_TENSOR, TINY, fails_cleanly, run
from PIL import Image, ImageSequence

import run_nerf_qat
import run_vq
from deploy.model_file import load_renderer
from deploy.web_page import SOURCES, make_page, to_text
from rendering.renderer import render_image
from run_nerf_helpers import to8b

GOLDEN = ROOT / "tests" / "golden"
FILES = [
    *(f"{run}/model_int8" for run in ("int8", "int8_hierarchical", "int8_mixed_bits", "int8_no_views", "light_field")),
    *("mip/model_int8", "proposal/model_int8", "ternary/model_ternary", "w4a8/model_w4a8", "vq/model_vq"),
]
SCREENSHOTS = ROOT / "logs" / "screenshots"  # kept for whoever wants to look

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; apt-get install chromium")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A trained int8 file, with its page beside it."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [*TINY, "--N_iters", "300", "--qat_iters", "30", "--i_weights", "0", "--path_frames", "12"]
    assert run(run_nerf_qat, *flags, "--export_html", "--basedir", folder, "--expname", "run") == 0
    return folder / "run" / "model_int8.safetensors"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile"), "--disable-gpu") as tab:
        yield tab


def opened(tab: Tab, page: Path) -> Tab:
    """A tab whose page has drawn all that it wants to."""
    tab.console.clear()
    tab.open(page.resolve().as_uri())
    tab.wait_for("document.body && document.body.dataset.still >= 1")
    return tab


def picture(tab: Tab, frame: int) -> np.ndarray:
    return picture_of_page(tab, frame)[0]


def reference(file: Path, frame: int) -> np.ndarray:
    renderer, path, _ = load_renderer(file, torch.device("cpu"))
    return to8b(render_image(renderer, path[frame]).rgb).numpy()


def check_same(shown: np.ndarray, expected: np.ndarray) -> None:
    apart = np.abs(shown.astype(int) - expected.astype(int))
    assert apart.max() <= 2, apart.max()
    assert (apart**2).mean() <= 255**2 * 10**-5.0  # 50 dB


def check_alike(shown: np.ndarray, expected: np.ndarray) -> None:
    """The same but for single pixels. Where the last bit of a position moves a code of a proposal's input, the bins of
    that ray move, and what the field sees in them; of a whole picture that is little."""
    apart = np.abs(shown.astype(int) - expected.astype(int))
    assert (apart.max(-1) > 2).mean() <= 0.01
    assert (apart**2).mean() <= 255**2 * 10**-5.0  # 50 dB


def test_a_page_needs_nothing_else(model):
    page = model.with_suffix(".html")
    content, size = page.read_bytes(), model.stat().st_size
    assert content == make_page(model)
    plain = re.sub(rb'(id="payload" data-length="\d+">)[^<]*<', rb"\1<", content)
    assert 0 < len(plain) < 8000 and not re.search(rb"https?://|<link|src=|import\s", plain)
    assert len(content) < 1.4 * size + 40_000


@pytest.mark.parametrize("name", FILES)
def test_pages_are_small(name):
    file = GOLDEN / f"{name}.safetensors"
    assert len(make_page(file)) < 1.4 * file.stat().st_size + 40_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"\xff", "\x7f@"),
        (b"\x00", "\x80"),  # unsafe, then the padding
        (b"\x78\x00", "\u0180\x80"),  # 60 with the 0 behind it, 0 with the padding
        (bytes(7), "\x80" * 4),
    ],
)
def test_text_is_seven_bits_a_character(content, text):
    assert to_text(content) == text


def test_float_files_have_no_page(model, tmp_path, capsys):
    file = model.with_name("model_float32.safetensors")
    flags = ["--render_only", "--export_html", "--model", file, "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("a page renders files of integers",))
    assert not file.with_suffix(".html").exists()


def test_the_kernels_are_what_their_source_says(tmp_path):
    """Compiled anew, by the compiler that made them."""
    clang = shutil.which("clang")
    if (
        clang is None
        or "version 14." not in subprocess.run([clang, "--version"], capture_output=True, text=True).stdout
    ):
        pytest.skip("no clang 14 here; apt-get install clang lld")
    shutil.copytree(SOURCES, tmp_path / "deploy" / "web")
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "build_web_kernels.sh", tmp_path / "scripts")
    programs = [tmp_path / "deploy" / "web" / name for name in ("kernels.wasm", "range_coder.wasm")]
    for program in programs:
        program.unlink()
    subprocess.run(["bash", script], check=True, env={**os.environ})
    for program in programs:
        assert program.read_bytes() == (SOURCES / program.name).read_bytes(), program.name


@needs_chromium
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_shows_the_reference_picture(tab, tmp_path, name):
    file = shutil.copy(GOLDEN / f"{name}.safetensors", tmp_path)
    page = Path(file).with_suffix(".html")
    page.write_bytes(make_page(Path(file)))
    opened(tab, page)
    check_same(picture(tab, 0), reference(Path(file), 0))
    assert tab.console == []


@needs_chromium
def test_a_trained_file_on_three_views(tab, model):
    opened(tab, model.with_suffix(".html"))
    shown = [picture(tab, frame) for frame in (0, 4, 8)]
    for frame, one in zip((0, 4, 8), shown, strict=True):
        check_same(one, reference(model, frame))
    assert min(one.std() for one in shown) > 10  # there is something in them
    assert tab.console == []


@needs_chromium
@pytest.mark.parametrize(
    "flags",
    [("--proposal_bins", "24", "16"), ("--proposal_bins", "24", "--opaque", "--ray_warp", "reciprocal")],
    ids=["two in a hull", "opaque"],
)
def test_a_trained_file_of_proposals(tab, tmp_path, flags):
    flags = [*TINY, "--sampler", "proposal", "--final_bins", "12", "--N_rand", "128", "--proposal_width", "16", *flags]
    flags += ["--no_random_bkgd", "--N_iters", "300", "--qat_iters", "30", "--i_weights", "0", "--export_html"]
    assert run(run_nerf_qat, *flags, "--basedir", tmp_path, "--expname", "run") == 0
    file = tmp_path / "run" / "model_int8.safetensors"
    opened(tab, file.with_suffix(".html"))
    shown = picture(tab, 0)
    check_alike(shown, reference(file, 0))
    assert shown.std() > 10 and tab.console == []


POSE, STATUS = "Array.from(page.camera.pose)", "document.getElementById('status').textContent"
PIXELS = "document.getElementById('picture').toDataURL()"


@needs_chromium
def test_hands_move_the_camera(tab, model):
    opened(tab, model.with_suffix(".html"))
    before, pose = tab.run(PIXELS), tab.run(POSE)
    size = round(model.stat().st_size / 1000)
    assert re.fullmatch(rf"WebAssembly SIMD, \d+ workers? · \d+ × \d+ · \d+ ms · {size} kB", tab.run(STATUS))

    tab.mouse("Pressed", 400, 300)
    for step in range(1, 9):
        tab.mouse("Moved", 400 + 15 * step, 300 + 4 * step)
    coarse = tab.run("document.body.dataset.size")
    tab.mouse("Released", 520, 332)
    tab.wait_for(f"document.body.dataset.level == '2' && {PIXELS} != {before!r}")
    turned = np.array(tab.run(POSE)).reshape(3, 4)
    assert coarse and np.allclose(turned[:, :3] @ turned[:, :3].T, np.eye(3), atol=1e-4)
    assert not np.allclose(turned, np.reshape(pose, (3, 4)), atol=1e-2)
    target = np.array(tab.run("page.camera.target"))
    far = np.linalg.norm(turned[:, 3] - target)
    assert far == pytest.approx(np.linalg.norm(np.reshape(pose, (3, 4))[:, 3] - target), rel=1e-4)

    tab.mouse("Wheel", 400, 300, deltaX=0, deltaY=-200)
    assert np.linalg.norm(np.reshape(tab.run(POSE), (3, 4))[:, 3] - target) < 0.95 * far
    for key in ("ArrowLeft", "ArrowUp", "+"):
        pose = tab.run(POSE)
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        assert tab.run(POSE) != pose, key
    tab.run("page.camera.pan(0.1, 0)")
    assert not np.allclose(tab.run("page.camera.target"), target, atol=1e-3)
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="0")
    still = tab.run("Number(document.body.dataset.still)")
    tab.wait_for(f"document.body.dataset.still > {still} || document.body.dataset.level == '2'")
    assert tab.run(POSE) == pytest.approx(tab.run("Array.from(page.pose(0))"), abs=1e-5)
    assert tab.console == []


@needs_chromium
def test_a_page_has_its_bytes_back(tab, model):
    opened(tab, model.with_suffix(".html"))
    generator = np.random.default_rng(0)
    for length in range(20):
        content = generator.choice(np.array([0, 1, 13, 26, 60, 120, 255], np.uint8), length).tobytes()
        text = ",".join(str(ord(character)) for character in to_text(content))
        assert bytes(tab.run(f"Array.from(bytesOf(String.fromCharCode({text}), {length}))")) == content


@needs_chromium
def test_the_space_bar_plays_until_a_hand_takes_the_camera(tab, model):
    opened(tab, model.with_suffix(".html"))
    pressed = "document.getElementById('play').getAttribute('aria-pressed')"
    for playing in ("true", "false", "true"):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=" ")
        assert tab.run(pressed) == playing and tab.run("String(page.playing)") == playing
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    assert tab.run(pressed) == "false" and not tab.run("page.playing")


@needs_chromium
def test_a_turn_is_recorded(tab, model):
    """As README's picture was (`benchmarks/web_page.py --gif`)."""
    opened(tab, model.with_suffix(".html"))
    pose = np.array(tab.run(POSE))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    record_turn(tab, SCREENSHOTS / "page.gif", frames=6)
    with Image.open(SCREENSHOTS / "page.gif") as recorded:
        frames = [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(recorded)]
    assert len(frames) == 6
    assert min(np.abs(one - other).mean() for one, other in zip(frames, frames[1:], strict=False)) > 1
    assert np.allclose(tab.run(POSE), pose, atol=1e-4)  # once round


@needs_chromium
def test_two_fingers_zoom(tab, model):
    opened(tab, model.with_suffix(".html"))
    far = tab.run("page.camera.distance")

    def touch(kind: str, *points: tuple[int, int]) -> None:
        tab.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=[{"x": x, "y": y} for x, y in points])

    touch("Start", (350, 300), (450, 300))
    for spread in (70, 90, 110):
        touch("Move", (400 - spread, 300), (400 + spread, 300))
    touch("End")
    assert tab.run("page.camera.distance") < 0.8 * far


@needs_chromium
def test_it_plays_the_files_path_in_light_and_dark(tab, model):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        opened(tab, model.with_suffix(".html"))
        pose = tab.run(POSE)
        tab.run("document.getElementById('play').click()")
        tab.wait_for("page.frame > 2")
        tab.run("document.getElementById('play').click()")
        assert tab.run(POSE) != pose
        still = tab.run("Number(document.body.dataset.still || 0)")
        tab.wait_for(f"document.body.dataset.level == '2' && !page.drawing && {still} >= 0")
        (SCREENSHOTS / f"page_{scheme}.png").write_bytes(tab.screenshot())
    assert tab.console == []


@needs_chromium
def test_a_browser_without_simd_is_told(tab, model, tmp_path):
    page = tmp_path / "old.html"
    page.write_text(model.with_suffix(".html").read_text().replace("WebAssembly.validate(", "(() => false)("))
    tab.open(page.as_uri())
    assert "no WebAssembly SIMD" in tab.wait_for("document.getElementById('message')?.textContent.includes('SIMD') && "
                                                 "document.getElementById('message').textContent")  # fmt: skip


@pytest.mark.parametrize(
    ("module", "flags", "says"),
    [
        (run_nerf_qat, [*HIERARCHICAL, "--N_samples", "400", "--N_importance", "200"], "500 samples or bins"),
        (run_vq, [*TINY, "--field", "tensorf", *SMALL_TENSOR, "--export_onnx"], "not for vq"),
    ],
    ids=["samples", "onnx of VQ"],
)
def test_what_cannot_be_written_is_said_before_training(tmp_path, capsys, module, flags, says):
    fails_cleanly(capsys, module, *flags, "--export_html", "--basedir", tmp_path, "--expname", "run", says=(says,))
    assert not list((tmp_path / "run").glob("*.tar"))
