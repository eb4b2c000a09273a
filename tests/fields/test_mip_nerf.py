"""mip-NeRF as a field: cones from every renderer, training, files of every precision, resume."""

import json

import pytest
import torch
from helpers import CPU, HIERARCHICAL, TINY, make_run, random_int8_field, run, same, whole_and_resumed

import run_nerf
import run_nerf_qat
from deploy.backends.choose import BACKENDS
from deploy.model_file import load_renderer
from fields.mip_nerf import MipConfig, MipField
from rendering.points import Cones, Points
from rendering.rays import PIXEL_RADIUS
from rendering.renderer import render_image
from run_nerf_helpers import NeRF
from utils.errors import BadInput

MIP = [*TINY, "--field", "mip", "--multires", "6"]
MIP_HIERARCHICAL = [*HIERARCHICAL, "--field", "mip", "--use_viewdirs"]
BOTH = pytest.mark.parametrize("flags", [MIP, MIP_HIERARCHICAL], ids=["occupancy", "hierarchical"])


class Recorder(torch.nn.Module):
    """A field that keeps what it was asked."""

    wants_cones = True

    def __init__(self, field: MipField):
        super().__init__()
        self.field, self.config, self.asked = field, field.config, []

    def forward(self, points: Points):
        self.asked.append(points)
        return self.field(points)


def test_the_grid_s_samples_are_cones_of_their_step():
    _, scene, renderer = make_run(MIP)
    renderer.field = recorder = Recorder(renderer.field)
    camera = scene.render_path[0]
    render_image(renderer, camera)
    cones = recorder.asked[0].cones
    live = cones.t_end > cones.t_start  # the others fill up a block
    assert live.sum() > 100
    length = (cones.t_end - cones.t_start) * cones.directions.norm(dim=-1)
    torch.testing.assert_close(length[live], torch.full_like(length[live], renderer.step), rtol=1e-4, atol=0)
    torch.testing.assert_close(cones.radii[live], torch.full_like(cones.radii[live], PIXEL_RADIUS / camera.K[0, 0, 0]))
    middle = cones.origins + 0.5 * (cones.t_start + cones.t_end)[:, None] * cones.directions
    torch.testing.assert_close(middle[live], recorder.asked[0].positions[live], rtol=1e-4, atol=1e-5)


def test_coarse_samples_are_cones_that_meet_half_way():
    _, scene, renderer = make_run(MIP_HIERARCHICAL)
    renderer.coarse = recorder = Recorder(renderer.coarse)
    render_image(renderer, scene.render_path[0])
    cones = recorder.asked[0].cones
    ends = cones.t_end.view(-1, renderer.n_samples)
    starts = cones.t_start.view(-1, renderer.n_samples)
    torch.testing.assert_close(ends[:, :-1], starts[:, 1:])
    setup = renderer.setup
    assert torch.allclose(starts[:, 0], torch.tensor(setup.near)) and torch.allclose(
        ends[:, -1], torch.tensor(setup.far)
    )


def test_fields_that_see_points_get_no_cones():
    _, scene, renderer = make_run(TINY)
    asked = []
    forward = renderer.field.forward
    renderer.field.forward = lambda points: asked.append(points) or forward(points)
    render_image(renderer, scene.render_path[0])
    assert asked and all(points.cones is None for points in asked)


def test_detail_that_a_pixel_cannot_see_fades_out():
    """The encoding of a wide cone has no high octaves, that of a thin one is the place's own."""
    config = MipConfig(depth=2, width=16, multires=8)
    field = MipField(config, config.make_network(NeRF))
    one = torch.ones(1)
    at = torch.tensor([[0.3, -0.2, 0.0]])

    def encoded(radius: float, half: float) -> torch.Tensor:
        cones = Cones(at, torch.tensor([[0.0, 0, 1]]), one - half, one + half, radius * one)
        return field.encode(Points(at, at, cones)).view(8, 2, 3)

    wide, thin = encoded(0.5, 0.2), encoded(1e-6, 1e-6)
    assert wide[6:].abs().max() < 1e-6 and wide[0].abs().max() > 0.2
    place = at + torch.tensor([[0.0, 0, 1]])
    torch.testing.assert_close(thin, field.encode(Points(place, place)).view(8, 2, 3), atol=1e-3, rtol=0)


@BOTH
def test_resume_is_bit_for_bit(scene, tmp_path, flags):
    a, b = whole_and_resumed(scene, tmp_path, flags)
    assert same(a["network_fn_state_dict"], b["network_fn_state_dict"])


@pytest.mark.parametrize("directions", ["3", "21"])
def test_it_learns_and_its_int8_file_is_what_was_trained(tmp_path, directions):
    flags = [*MIP, "--N_iters", "250", "--qat_iters", "50", "--mip_directions", directions, "--basedir", tmp_path]
    assert run(run_nerf_qat, *flags, "--expname", "mip") == 0
    models = json.loads((tmp_path / "mip" / "metrics.json").read_text())["models"]
    assert models["float32"]["psnr"] > 19
    assert models["int8"]["psnr"] > models["float32"]["psnr"] - 0.3
    assert models["int8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.02)
    file = tmp_path / "mip" / "model_int8.safetensors"
    pictures = [render_image(*_first(file, backend)).rgb for backend in ("reference", "torch")]
    assert (pictures[0] - pictures[1]).abs().max() <= 2 / 255


def _first(file, backend: str):
    renderer, path, _ = load_renderer(file, CPU, backend)
    return renderer, path[0]


@pytest.mark.parametrize("quant", ["w4a8", "ternary"])
def test_few_bits(tmp_path, quant):
    flags = [*MIP, "--N_iters", "20", "--qat_iters", "20", "--residual", "--quant", quant, "--basedir", tmp_path]
    assert run(run_nerf_qat, *flags, "--expname", "mip") == 0
    models = json.loads((tmp_path / "mip" / "metrics.json").read_text())["models"]
    assert models[quant]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.02)


def test_unbounded_and_in_ndc(tmp_path):
    """Contraction, and cylinders where rays are parallel."""
    flags = [*MIP_HIERARCHICAL, "--contract", "on", "--N_iters", "4", "--basedir", tmp_path]
    assert run(run_nerf, *flags, "--expname", "c") == 0
    from capture_files import write_llff

    write_llff(tmp_path / "llff")
    flags = ["--dataset_type", "llff", "--datadir", tmp_path / "llff", "--N_iters", "4", "--basedir", tmp_path]
    assert run(run_nerf, *MIP_HIERARCHICAL, *flags, "--expname", "ndc") == 0


def test_triton_encodes_positions_only():
    config = MipConfig(depth=2, width=16, multires=4)
    with pytest.raises(BadInput, match="cones"):
        BACKENDS["triton"].int8(config, random_int8_field(config).network, CPU)
