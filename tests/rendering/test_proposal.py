"""Proposal networks: where bins come to lie, what teaches whom, resume, files."""

import json

import pytest
import torch
from helpers import CPU, TINY, make_run, run, same, whole_and_resumed

import run_nerf_qat
from compressors.int8 import Int8Compressor
from deploy.model_file import load_renderer
from rendering.occupancy import OccupancyGrid
from rendering.points import FieldOutput
from rendering.proposal import ProposalRenderer, ProposalTraining
from rendering.ray_warps import WARPS
from rendering.rays import RaySetup, make_rays
from rendering.renderer import render_image
from rendering.step_functions import next_bins
from utils.errors import BadInput

PROPOSAL = [
    *TINY, "--sampler", "proposal", "--proposal_bins", "24", "--final_bins", "12", "--N_rand", "128",
    "--proposal_width", "16",
]  # fmt: skip
MIP = [*PROPOSAL, "--field", "mip"]
TWO = [*MIP, "--proposal_bins", "24", "16", "--ray_warp", "reciprocal"]
KINDS = pytest.mark.parametrize("flags", [PROPOSAL, MIP, TWO], ids=["nerf", "mip", "two_levels"])


class Shell(torch.nn.Module):
    """A surface of some thickness at distance 2 from the origin."""

    def __init__(self, density: float = 200.0):
        super().__init__()
        self.raw = torch.nn.Parameter(torch.tensor(density))

    def forward(self, points):
        inside = (points.positions.norm(dim=-1) - 2).abs() < 0.05
        return FieldOutput(self.raw * inside, torch.full((len(points), 3), 0.25) * self.raw / self.raw.detach())


def shells(bins: tuple[int, ...] = (64, 32), **options) -> ProposalRenderer:
    proposals = [Shell() for _ in bins[:-1]]
    return ProposalRenderer(Shell(), proposals, RaySetup(near=0.5, far=6.0), bins, **options).eval()


def some_rays(count: int = 16):
    directions = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    return make_rays(torch.zeros(count, 3), directions, RaySetup(near=0.5, far=6.0), None)


@pytest.mark.parametrize("curve", WARPS)
def test_bins_gather_where_something_is(curve):
    renderer = shells(curve=curve)
    rendering = renderer(some_rays(), torch.zeros(3))
    t, _ = renderer.levels(some_rays())[-1]
    middle = 0.5 * (t[:, 1:] + t[:, :-1])
    near_surface = ((middle - 2).abs() < 0.2).float().mean()
    assert near_surface > 0.6
    torch.testing.assert_close(rendering.depth, torch.full_like(rendering.depth, 2.0), atol=0.05, rtol=0)
    torch.testing.assert_close(rendering.rgb, torch.full_like(rendering.rgb, 0.25), atol=2e-3, rtol=0)
    assert rendering.queries == 16 * 96


def test_an_opaque_end_leaves_nothing():
    renderer = shells(opaque=True)
    for shell in (renderer.field, *renderer.proposals):
        shell.raw.data.fill_(1e-6)
    renderer.setup = RaySetup(near=2.0 - 0.04, far=2.04)
    assert renderer(some_rays(), torch.ones(3)).opacity.min() > 0.999


def test_colours_teach_the_field_and_weights_the_proposals():
    renderer = shells(training=ProposalTraining(distortion=0.0)).train()

    class Batch:
        share = 1.0

    rendering = renderer(some_rays(), torch.zeros(3), generator=torch.Generator().manual_seed(0))
    losses = renderer.losses(Batch, rendering, None)
    assert set(losses) == {"interlevel"}
    of_color = torch.autograd.grad(
        rendering.rgb.sum(), [renderer.proposals[0].raw], allow_unused=True, retain_graph=True
    )
    assert of_color == (None,)
    of_bound = torch.autograd.grad(
        losses["interlevel"], [renderer.field.raw, renderer.proposals[0].raw], allow_unused=True
    )
    assert of_bound[0] is None and of_bound[1] is not None


@KINDS
def test_resume_is_bit_for_bit(scene, tmp_path, flags):
    a, b = whole_and_resumed(scene, tmp_path, [*flags, "--N_iters", "40"])
    networks = [name for name in a if name.startswith(("network_", "proposal_")) and name.endswith("_state_dict")]
    assert len(networks) >= 2 and all(same(a[name], b[name]) for name in networks)


@KINDS
def test_it_learns_and_its_int8_file_is_what_was_trained(tmp_path, flags):
    flags = [*flags, "--N_iters", "300", "--qat_iters", "40", "--basedir", tmp_path, "--expname", "p"]
    assert run(run_nerf_qat, *flags) == 0
    models = json.loads((tmp_path / "p" / "metrics.json").read_text())["models"]
    assert models["float32"]["psnr"] > 17
    assert models["int8"]["psnr"] > models["float32"]["psnr"] - 0.4
    assert models["int8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.05)
    renderer, path, metadata = load_renderer(tmp_path / "p" / "model_int8.safetensors", CPU)
    assert len(metadata["fields"]) == len(metadata["sampler"]["bins"])
    assert torch.isfinite(render_image(renderer, path[0]).rgb).all()


def hulled() -> ProposalRenderer:
    """The shell, and a grid of the cells that it crosses above the origin."""
    hull = OccupancyGrid(torch.tensor([[-2.5] * 3, [2.5] * 3]), 20)
    centers = hull.cell_centers(torch.arange(20**3))
    shell = ((centers.norm(dim=-1) - 2).abs() < 0.3) & (centers[:, 2] > 0.5)
    hull.set_occupied(shell.view(20, 20, 20))
    return shells(hull=hull)


def test_bins_begin_and_end_with_the_hull():
    renderer, rays = hulled(), some_rays(400)
    warp, hit = renderer.warp(rays)
    up = rays.directions[:, 2]
    assert hit[up > 0.35].all() and not hit[up < 0].any()
    sure = up > 0.35  # others may graze the hull's edge
    entered, left = warp.near[sure, 0], warp.far[sure, 0]
    # The shell is met between 1.95 and 2.05; a hull of cells of 0.25 reaches a little farther on either side.
    assert (entered < 1.95).all() and (left > 2.05).all()
    assert (left - entered).median() < 1.5 and (entered > 0.5).all() and (left < 4.4).all()
    # Every occupied place of a ray lies between them.
    t = torch.linspace(0.5, 4.5, 400)
    inside = renderer.hull.holds(rays.origins[:, None] + t[:, None] * rays.directions[:, None])
    within = (t >= warp.near) & (t <= warp.far)
    assert (inside <= within)[hit].all() and not inside[~hit].any()


@pytest.mark.parametrize("training", [False, True])
def test_rays_beside_the_hull_see_the_background(training):
    renderer, rays, background = hulled().train(training), some_rays(400), torch.tensor([1.0, 0.5, 0.0])
    _, hit = renderer.warp(rays)
    seen = renderer(rays, background, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen.rgb[~hit], background.expand(400, 3)[~hit]) and not seen.opacity[~hit].any()
    assert seen.queries == 96 * (400 if training else int(hit.sum()))
    alone = hulled().train(training)(rays.take(hit.nonzero()[:, 0]), background)
    sure = rays.directions[hit, 2] > 0.35
    torch.testing.assert_close(alone.depth[sure], torch.full_like(alone.depth[sure], 2.0), atol=0.06, rtol=0)
    none = renderer(rays.take((~hit).nonzero()[:, 0]), background)
    assert torch.equal(none.rgb, background.expand_as(none.rgb))


def test_the_hull_is_that_of_the_silhouettes_and_goes_into_the_file(tmp_path):
    flags = [*MIP, "--N_iters", "20", "--qat_iters", "4", "--basedir", tmp_path, "--expname", "p"]
    assert run(run_nerf_qat, *flags) == 0
    _, scene, renderer = make_run(MIP)
    assert 0 < float(renderer.hull.occupied.float().mean()) < 0.8
    loaded, _, metadata = load_renderer(tmp_path / "p" / "model_int8.safetensors", CPU)
    assert metadata["sampler"]["hull"]["grid_resolution"] == renderer.hull.resolution
    assert torch.equal(loaded.hull.occupied, renderer.hull.occupied)
    for without in (["--no_hull"], ["--opaque"]):
        assert make_run([*MIP, *without])[2].hull is None


def test_annealing_goes_from_even_bins_to_what_was_found(scene):
    _, _, renderer = make_run([*PROPOSAL, "--N_iters", "100", "--anneal_share", "0.5"])
    assert renderer.done == 0
    rays = some_rays(4)
    w = torch.rand(4, 24)
    s = torch.linspace(0, 1, 25).expand(4, 25)
    renderer.eval()
    even = next_bins(s, w / w.sum(-1, keepdim=True), 10, 0.0, renderer.done, None)
    torch.testing.assert_close(even.diff(dim=-1), torch.full((4, 10), 0.1), atol=1e-5, rtol=0)
    renderer.after_step(50, torch.Generator())
    assert renderer.done == 1 and len(rays) == 4


def test_bits_of_layers_that_only_some_networks_have():
    args, scene, renderer = make_run(
        [*MIP, "--use_viewdirs", "--quant_bits", "rgb_linear=6", "proposal_0.pts_linears.1=4"]
    )
    compressor = Int8Compressor.from_flags(args, renderer, scene.render_path, has_float=True)
    bits = compressor.weight_bits
    assert bits["network_fn.rgb_linear"] == 6 and bits["proposal_0.pts_linears.1"] == 4
    assert bits["network_fn.pts_linears.1"] == 8
    with pytest.raises(BadInput, match="no layer nothing"):
        args.quant_bits = ["nothing=4"]
        Int8Compressor.from_flags(args, renderer, scene.render_path, has_float=True)
