"""Pages on WebGPU, by a software adapter that the address asks for: what they show, and when they go on without it."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from chromium import SOFTWARE_GPU, Tab, browser
from helpers import HIERARCHICAL, TINY, run
from test_web_page import GOLDEN, check_alike, check_same, needs_chromium, picture, reference

import run_nerf_qat
import run_r2l
from deploy import web_page
from deploy.web_model import page_model
from deploy.web_page import make_page

RENDERED = (
    *(f"{run}/model_int8" for run in ("int8", "int8_hierarchical", "int8_mixed_bits", "int8_no_views", "light_field")),
    *("mip/model_int8", "proposal/model_int8", "ternary/model_ternary", "w4a8/model_w4a8"),
)
ENGINE = "page.engine.name"

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """Of a window so small that a page draws no picture larger than its file's, which takes such an adapter seconds."""
    with browser(tmp_path_factory.mktemp("profile"), *SOFTWARE_GPU) as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=100, height=100, deviceScaleFactor=1, mobile=False)
        page = tmp_path_factory.mktemp("empty") / "empty.html"
        page.write_text("<!doctype html>")
        tab.open(page.as_uri())  # WebGPU is for files, not for blank tabs
        tab.wait_for("location.protocol === 'file:' && document.readyState === 'complete'")
        if not tab.run("navigator.gpu ? navigator.gpu.requestAdapter().then(Boolean) : false"):
            pytest.skip("no WebGPU adapter here, not even SwiftShader")
        yield tab


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A trained int8 file without view directions, with its page beside it."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [flag for flag in TINY if flag != "--use_viewdirs"]
    flags += ["--N_iters", "300", "--qat_iters", "30", "--i_weights", "0", "--path_frames", "12", "--export_html"]
    assert run(run_nerf_qat, *flags, "--basedir", folder, "--expname", "run") == 0
    return folder / "run" / "model_int8.safetensors"


def opened(tab: Tab, page: Path, fragment: str = "#webgpu") -> Tab:
    tab.console.clear()
    tab.open("about:blank")  # another fragment alone would not load it anew
    tab.open(page.resolve().as_uri() + fragment)
    tab.wait_for("document.body && document.body.dataset.still >= 1")
    return tab


def golden_page(name: str, folder: Path) -> Path:
    file = Path(shutil.copy(GOLDEN / name, folder))
    file.with_suffix(".html").write_bytes(make_page(file))
    return file


def by_engine(tab: Tab, page: Path, frames: tuple[int, ...], check=check_same) -> list[np.ndarray]:
    """A page's pictures by WebGPU, which are those by WebAssembly."""
    shown = {}
    for fragment, name in (("#webgpu", "WebGPU (google swiftshader)"), ("#wasm", "WebAssembly SIMD")):
        opened(tab, page, fragment)
        assert tab.run(ENGINE).startswith(name)
        assert tab.run("document.getElementById('status').textContent").startswith(name)
        shown[fragment] = [picture(tab, frame) for frame in frames]
        assert tab.console == []
    for one, other in zip(*shown.values(), strict=True):
        check(one, other)
    return shown["#webgpu"]


@pytest.mark.parametrize("name", RENDERED)
def test_it_shows_the_reference_picture(tab, tmp_path, name):
    file = golden_page(f"{name}.safetensors", tmp_path)
    (shown,) = by_engine(tab, file.with_suffix(".html"), (0,))
    check_same(shown, reference(file, 0))


def test_a_trained_file_on_three_views(tab, model):
    shown = by_engine(tab, model.with_suffix(".html"), (0, 4, 8))
    for frame, one in zip((0, 4, 8), shown, strict=True):
        check_same(one, reference(model, frame))
    assert min(one.std() for one in shown) > 10  # there is something in them


def trained(folder: Path, *flags: str) -> Path:
    """A tiny run's file, with its page beside it."""
    flags = [*TINY, *flags, "--N_iters", "300", "--qat_iters", "30", "--i_weights", "0", "--export_html"]
    assert run(run_nerf_qat, *flags, "--basedir", folder, "--expname", "run") == 0
    (page,) = (folder / "run").glob("*.html")
    return page.with_suffix(".safetensors")


@pytest.mark.parametrize(
    "flags",
    [("--quant", "ternary"), ("--quant", "ternary", "--field", "mip"), ("--field", "mip", "--mip_directions", "9")],
    ids=["few bits", "few bits of cones", "cones along many directions"],
)
def test_samples_that_are_longer_the_farther_they_are(tab, tmp_path, flags):
    file = trained(tmp_path, "--cone_steps", "3", *flags)
    shown = by_engine(tab, file.with_suffix(".html"), (0, 1))
    for frame, one in enumerate(shown):
        check_same(one, reference(file, frame))
    assert min(one.std() for one in shown) > 10


PROPOSAL = ("--sampler", "proposal", "--final_bins", "12", "--N_rand", "128", "--proposal_width", "16")
MIP = (*PROPOSAL, "--field", "mip")


@pytest.mark.parametrize(
    "flags",
    [
        (*MIP, "--proposal_bins", "24", "16", "--ray_warp", "log"),
        (*PROPOSAL, "--proposal_bins", "24"),
        (*PROPOSAL, "--proposal_bins", "19", "--no_hull", "--no_dilation", "--ray_warp", "piecewise"),
    ],
    ids=["hull of cones", "hull of points", "near to far"],
)
def test_proposals(tab, tmp_path, flags):
    file = trained(tmp_path, *flags)
    shown = by_engine(tab, file.with_suffix(".html"), (0, 1))
    for frame, one in enumerate(shown):
        check_same(one, reference(file, frame))
    assert min(one.std() for one in shown) > 10


@pytest.mark.parametrize(
    "flags",
    [
        (*MIP, "--proposal_bins", "24", "16", "--contract", "on", "--mip_directions", "21"),
        (*PROPOSAL, "--proposal_bins", "24", "--opaque", "--ray_warp", "reciprocal"),
    ],
    ids=["contracted", "opaque"],
)
def test_proposals_of_scenes_that_nothing_shines_through(tab, tmp_path, flags):
    file = trained(tmp_path, *flags, "--no_random_bkgd")
    shown = by_engine(tab, file.with_suffix(".html"), (0, 1), check_alike)
    for frame, one in enumerate(shown):
        check_alike(one, reference(file, frame))
    assert min(one.std() for one in shown) > 10


def test_coarse_and_fine_samples_by_disparity(tab, tmp_path):
    flags = [*HIERARCHICAL, "--use_viewdirs", "--lindisp", "--density_activation", "softplus", "--density_bias", "-1"]
    flags += ["--density_scale", "25", "--raw_noise_std", "0", "--lrate", "5e-3", "--N_iters", "400"]
    flags += ["--qat_iters", "40", "--i_weights", "0", "--export_html", "--basedir", tmp_path, "--expname", "run"]
    assert run(run_nerf_qat, *flags) == 0
    file = tmp_path / "run" / "model_int8.safetensors"
    (shown,) = by_engine(tab, file.with_suffix(".html"), (0,))
    check_same(shown, reference(file, 0))
    assert shown.std() > 10


def test_a_light_field_whose_sums_are_of_codes(tab, model, tmp_path):
    flags = [*TINY, "--no_random_bkgd", "--sampler", "light_field", "--netdepth", "6", "--ray_points", "4"]
    flags += ["--rounded_stream", "--real", "0", "--samples_per_batch", "512", "--pseudo_views", "10"]
    flags += ["--N_iters", "60", "--qat_iters", "20", "--calibration_batches", "2", "--i_weights", "0", "--export_html"]
    assert run(run_r2l, *flags, "--teacher", model, "--basedir", tmp_path, "--expname", "s") == 0
    file = tmp_path / "s" / "model_int8.safetensors"
    (shown,) = by_engine(tab, file.with_suffix(".html"), (1,))
    check_same(shown, reference(file, 1))


def forward_facing(cone_steps: float, *of_file: object) -> tuple[dict, bytes]:
    """What a page has of a file, as if that were of a scene in NDC, seen from the origin."""
    _, content = page_model(*of_file)
    end = 4 + int.from_bytes(content[:4], "little")
    described, arrays = json.loads(content[4:end]), bytearray(content[end:])
    described["rays"] |= {"near": 0.0, "far": 1.0, "ndc_near": 1.0}
    described["sampler"] |= {"cone_steps": cone_steps, "ray_warp": "linear"}
    start, length = described["arrays"][described["path"]]
    arrays[start : start + length] = np.eye(3, 4, dtype=np.float32).tobytes()
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 4)
    return described, len(header).to_bytes(4, "little") + header + arrays


@pytest.mark.parametrize(
    ("name", "cone_steps"), [("int8", 0), ("int8", 3), ("int8_hierarchical", 0), ("mip", 3), ("proposal", 0)]
)
def test_it_knows_ndc(tab, tmp_path, monkeypatch, name, cone_steps):
    monkeypatch.setattr(web_page, "page_model", partial(forward_facing, cone_steps))
    page = golden_page(f"{name}/model_int8.safetensors", tmp_path).with_suffix(".html")
    (shown,) = by_engine(tab, page, (0,))
    assert shown.std() > 4


@pytest.mark.parametrize("name", ["vq/model_vq"])
def test_what_it_does_not_support_is_for_webassembly(tab, tmp_path, name):
    file = golden_page(f"{name}.safetensors", tmp_path)
    opened(tab, file.with_suffix(".html"))
    assert tab.run(ENGINE).startswith("WebAssembly SIMD")
    check_same(picture(tab, 0), reference(file, 0))
    assert tab.console == []


def test_a_software_adapter_is_only_used_when_asked_for(tab, model):
    opened(tab, model.with_suffix(".html"), "")
    assert tab.run(ENGINE).startswith("WebAssembly SIMD")


def test_a_lost_device_is_replaced_by_webassembly(tab, model):
    opened(tab, model.with_suffix(".html"))
    tab.run("page.engine.device.destroy()")
    check_same(picture(tab, 4), reference(model, 4))
    assert tab.run(ENGINE).startswith("WebAssembly SIMD")
    tab.run("page.engine.stop()")
    check_same(picture(tab, 8), reference(model, 8))
    assert tab.console == []


@pytest.mark.parametrize("shader", ["rays.wgsl", "network.wgsl"])
def test_a_shader_that_does_not_compile_is_replaced_by_webassembly(tab, model, tmp_path, monkeypatch, shader):
    script = web_page.script
    monkeypatch.setattr(web_page, "script", lambda *names: script(*names) + b"?" * (names == (shader,)))
    page = tmp_path / "broken.html"
    page.write_bytes(make_page(model))
    opened(tab, page)
    assert tab.run(ENGINE).startswith("WebAssembly SIMD")
    check_same(picture(tab, 0), reference(model, 0))
    assert tab.console == []


def test_a_newer_picture_overtakes(tab, model):
    opened(tab, model.with_suffix(".html"))
    one, two = tab.run(
        "Promise.all([0, 4].map((frame) => page.engine.render(page.cameraAt(2, page.pose(frame)), () => {})))"
    )
    assert one is None and two > 0
