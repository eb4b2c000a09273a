"""Ref-NeRF as a field: its normals, what they are taught by, files, resume, a shiny scene."""

import json

import pytest
import torch
from helpers import CPU, HIERARCHICAL, TINY, fails_cleanly, make_run, make_trainer, run, same, whole_and_resumed

import run_nerf
import run_nerf_qat
from deploy.model_file import load_renderer
from fields.ref_nerf import POINTS_PER_SLOPE, scattered
from fields.reflections import unit
from rendering.points import Cones, Points
from rendering.renderer import RenderLimits, render_image

REF = [*TINY, "--field", "ref", "--use_viewdirs", "--ref_bottleneck", "16", "--multires", "5"]
PROPOSAL = [
    *REF, "--sampler", "proposal", "--proposal_bins", "24", "--final_bins", "12", "--N_rand", "128",
    "--proposal_width", "16",
]  # fmt: skip
SAMPLERS = pytest.mark.parametrize(
    "flags",
    [REF, [*HIERARCHICAL, *REF, "--sampler", "hierarchical"], PROPOSAL],
    ids=["occupancy", "hierarchical", "proposal"],
)


def some_points(count: int = 50) -> Points:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(count, 3, generator=generator) - 0.5
    directions = unit(torch.randn(count, 3, generator=generator))
    t = torch.full((count,), 2.0)
    cones = Cones(positions - 2.05 * directions, directions, t, t + 0.1, torch.full((count,), 0.003))
    return Points(positions, directions, cones)


def test_the_slope_of_the_density_is_the_autograd_of_its_encoding():
    """What `disagreement` compares predicted normals with, against finite differences of the raw density."""
    _, _, renderer = make_run(REF)
    field, points = renderer.field.train().double(), some_points()
    field.basis = field.basis.double()
    for part in ("positions", "directions"):
        setattr(points, part, getattr(points, part).double())
    points.cones = Cones(*(part.double() for part in points.cones._tensors()))
    said = field(points).extras
    with torch.no_grad():
        slopes = []
        for axis in torch.eye(3, dtype=torch.float64):
            up, down = (field.network.raw_density(field.encode(points.shifted(s * 1e-5 * axis))) for s in (1, -1))
            slopes.append((up - down) / 2e-5)
        normals = unit(-torch.stack(slopes, -1))
        disagreement = 1 - (said["normals"] * normals).sum(-1, keepdim=True)
    found, chosen = said["disagreement"].double(), scattered(50, POINTS_PER_SLOPE, CPU)
    assert (found != 0).sum() == len(chosen) == 12  # of the others nothing is asked
    torch.testing.assert_close(found[chosen], POINTS_PER_SLOPE * disagreement[chosen], atol=4e-5, rtol=0)


@pytest.mark.parametrize("bins", [6, 12, 16, 20, 32])
def test_slopes_are_asked_of_every_bin_alike(bins):
    """Of rays with so many bins each, in equal numbers to within a few."""
    asked = torch.bincount(scattered(480 * bins, 4, CPU) % bins, minlength=bins)
    assert asked.sum() == 120 * bins and len(scattered(2, 4, CPU)) == 1
    assert (asked - 120).abs().max() <= 12


def test_losses_by_hand():
    _, _, renderer = make_run([*REF, "--orientation_weight", "0.5", "--normal_weight", "2"])
    seen = {"turned_away": torch.tensor([[0.2], [0.4]]), "disagreement": torch.tensor([[1.0], [0.0]])}
    losses = renderer.field.losses(0, seen)
    assert losses["orientation"].item() == pytest.approx(0.15) and losses["normals"].item() == pytest.approx(1.0)
    assert renderer.field.losses(0, {}) == {}


def test_normals_are_taught_by_the_density_and_the_density_by_them():
    """The loss of eq. 10 reaches both, through a second derivative."""
    _, _, renderer = make_run(REF)
    field = renderer.field.train()
    said = field(some_points()).extras["disagreement"].mean()
    weight = field.network.surface_linear.weight
    (slope,) = torch.autograd.grad(said, weight)
    assert slope[0].abs().max() > 0 and slope[-3:].abs().max() > 0  # of the density and of the normal
    assert not slope[1:8].any()  # nor roughness, tint or diffuse colour


def test_colour_depends_on_the_view_by_the_mirrored_direction_only():
    """With the facing angle the same, turning the view about the normal changes what is mirrored; rough surfaces
    hardly notice."""
    _, _, renderer = make_run(REF)
    field, points = renderer.field.eval(), some_points(200)
    with torch.no_grad():
        normals = field(points).extras["normals"]
        turned = points.directions - 2 * (points.directions * normals).sum(-1, keepdim=True) * normals
        turned = -turned  # the same angle to the normal, from the other side
        before, after = field(points).rgb, field(Points(points.positions, turned, points.cones)).rgb
        assert (before - after).abs().max() > 1e-4
        field.network.surface_linear.bias[1] = 40.0  # rough as chalk: exp(-40) of the first harmonic is left
        before, after = field(points).rgb, field(Points(points.positions, turned, points.cones)).rgb
    assert (before - after).abs().max() < 1e-6


@SAMPLERS
def test_resume_is_bit_for_bit(scene, tmp_path, flags):
    a, b = whole_and_resumed(scene, tmp_path, flags)
    assert same(a["network_fn_state_dict"], b["network_fn_state_dict"])


def test_it_learns_a_shiny_scene_and_its_file_renders_alone(tmp_path):
    flags = [*REF, "--procedural_scene", "glossy", "--N_iters", "300", "--basedir", tmp_path, "--expname", "r"]
    assert run(run_nerf, *flags) == 0
    models = json.loads((tmp_path / "r" / "metrics.json").read_text())["models"]
    assert models["float32"]["psnr"] > 19
    assert models["float32"]["normal_degrees"] < 75
    renderer, path, _ = load_renderer(tmp_path / "r" / "model_float32.safetensors", CPU)
    picture = render_image(renderer, path[0])
    assert torch.isfinite(picture.rgb).all() and picture.extras["normals"].shape == (*picture.rgb.shape[:2], 3)


def test_amp(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, REF, "--amp", "bf16")
    trainer.train(6)
    assert all(torch.isfinite(parameter).all() for parameter in trainer.renderer.parameters())


def test_what_it_cannot_be(tmp_path, capsys):
    flags = [*TINY, "--field", "ref", "--N_iters", "2", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf, *flags, "--no_use_viewdirs", says=("--use_viewdirs",))
    fails_cleanly(capsys, run_nerf, *flags, "--use_viewdirs", "--residual", says=("--residual",))
    fails_cleanly(capsys, run_nerf, *flags, "--use_viewdirs", "--compile", says=("--compile", "ref"))
    fails_cleanly(capsys, run_nerf_qat, *flags, "--use_viewdirs", says=("ref",))


def test_rays_that_all_miss_the_hull(tmp_path):
    """A part of a picture in which there is nothing."""
    _, scene, renderer = make_run([*PROPOSAL, "--random_bkgd"])
    assert renderer.hull is not None
    parts = [render_image(renderer, scene.cameras[0], RenderLimits(rays=count)) for count in (7, 10_000)]
    torch.testing.assert_close(parts[0].rgb, parts[1].rgb)
    torch.testing.assert_close(parts[0].extras, parts[1].extras)
