"""Volume rendering against closed forms: slabs, spheres, opaque walls; both samplers."""

import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from fields.nerf import FieldConfig
from rendering.compositing import packed_weights, weights_from_density
from rendering.crossing import Samples
from rendering.hierarchical import HierarchicalRenderer
from rendering.occupancy import OccupancyGrid
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.points import FieldOutput
from rendering.rays import RaySetup, make_rays
from rendering.renderer import RenderLimits, render_image
from scenes.scene import Cameras, pinhole


class Analytic(torch.nn.Module):
    """A field given by a function of position, of one colour."""

    def __init__(self, density, color=(0.2, 0.5, 0.8)):
        super().__init__()
        self.function = density
        self.register_buffer("color", torch.tensor(color))
        self.points = 0
        self.config = FieldConfig(width=8)

    def density(self, positions):
        return self.function(positions)

    def forward(self, points, raw_noise=None):
        self.points += len(points)
        return FieldOutput(self.function(points.positions), self.color.expand(len(points), 3))


def slab(density: float, low: float, high: float):
    """Uniform density between two planes of x."""
    return lambda p: density * ((p[:, 0] >= low) & (p[:, 0] < high)).float()


def ball(density: float, radius: float):
    return lambda p: density * (p.norm(dim=-1) < radius).float()


def rays_along_x(count: int = 1, scale: float = 1.0, setup: RaySetup | None = None):
    setup = setup or RaySetup(0.0, 10.0)
    origins = torch.zeros(count, 3)
    origins[:, 0] = -3.0
    return make_rays(origins, scale * torch.tensor([[1.0, 0.0, 0.0]]).expand(count, 3), setup, None)


def test_weights_and_remainder_sum_to_one():
    g = torch.Generator().manual_seed(0)
    density, length = 5 * torch.rand(50, 30, generator=g), torch.rand(50, 30, generator=g)
    weights, leaving = weights_from_density(density, length)
    torch.testing.assert_close(weights.sum(-1) + leaving, torch.ones(50))
    torch.testing.assert_close(leaving, torch.exp(-(density * length).sum(-1)))


def test_an_opaque_sample_has_weight_one_and_hides_the_rest():
    """Transmittance is exclusive; an inclusive product gives such a sample weight 0."""
    weights, leaving = weights_from_density(torch.tensor([[0.0, 1e9, 5.0]]), torch.ones(1, 3))
    assert weights.tolist() == [[0.0, 1.0, 0.0]] and float(leaving) == 0.0


def test_an_endless_last_sample_does_not_disturb_those_before():
    weights, _ = weights_from_density(torch.tensor([[0.3, 0.7, 2.0]]), torch.tensor([[1.0, 1.0, 1e10]]))
    expected = [1 - math.exp(-0.3), math.exp(-0.3) * (1 - math.exp(-0.7)), math.exp(-1.0)]
    assert weights[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_packed_weights_equal_dense_weights():
    g = torch.Generator().manual_seed(1)
    counts = [3, 0, 7, 1, 0]
    ray = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    density, length = 3 * torch.rand(11, generator=g), torch.rand(11, generator=g)
    before = torch.rand(5, generator=g)
    weights, leaving = packed_weights(density, Samples(ray, length, length, torch.tensor(counts), 7), before)
    start = 0
    for i, count in enumerate(counts):
        part = slice(start, start + count)
        dense, left = (
            weights_from_density(density[None, part], length[None, part], before[i : i + 1])
            if count
            else (
                torch.zeros(1, 0),
                before[i : i + 1],
            )
        )
        torch.testing.assert_close(weights[part], dense[0])
        torch.testing.assert_close(leaving[i : i + 1], left)
        start += count


def test_gradient_of_packed_weights():
    ray = torch.tensor([0, 0, 0, 2, 2])
    length = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    density = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1], dtype=torch.float64, requires_grad=True)
    samples = Samples(ray, length, length, torch.tensor([3, 0, 2]), 3)
    assert torch.autograd.gradcheck(lambda d: packed_weights(d, samples), density)


def occupancy_renderer(field, step: float, min_transmittance: float = 1e-4, setup: RaySetup | None = None):
    grid = OccupancyGrid(torch.tensor([[-1.5] * 3, [1.5] * 3]), 30)
    return OccupancyRenderer(field, grid, setup or RaySetup(0.0, 10.0), step, min_transmittance)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_slab_opacity_and_depth_closed_form(scale):
    """Beer-Lambert: opacity 1 - exp(-sigma l); mean depth of an exponential cut at l. Directions of
    any length mean the same world."""
    sigma, low, high = 2.0, -0.5, 0.5
    renderer = occupancy_renderer(Analytic(slab(sigma, low, high)), step=0.001, min_transmittance=1e-9)
    with torch.no_grad():
        out = renderer(rays_along_x(scale=scale), torch.tensor([1.0, 1.0, 1.0]))
    length = high - low
    opacity = 1 - math.exp(-sigma * length)
    mean = 1 / sigma - length * math.exp(-sigma * length) / opacity
    assert float(out.opacity) == pytest.approx(opacity, abs=2e-3)
    assert float(out.depth) == pytest.approx(3.0 + low + mean, abs=2e-3)
    expected = [opacity * c + (1 - opacity) for c in (0.2, 0.5, 0.8)]
    assert out.rgb[0].tolist() == pytest.approx(expected, abs=2e-3)


def test_hierarchical_slab_closed_form():
    field = Analytic(slab(2.0, -0.5, 0.5))
    renderer = HierarchicalRenderer(field, field, RaySetup(0.5, 6.0), n_samples=256, n_importance=512).eval()
    out = renderer(rays_along_x(), torch.tensor([1.0, 1.0, 1.0]))
    assert float(out.opacity) == pytest.approx(1 - math.exp(-2.0), abs=5e-3)
    assert out.queries == 256 + 768


def test_fine_pass_resolves_a_wall_thinner_than_the_coarse_spacing():
    """Walls 0.06 thick, coarse samples 0.087 apart: one sample inside, or none."""
    setup = RaySetup(0.5, 6.0)
    rays = rays_along_x()
    errors = {"coarse": [], "fine": []}
    for low in torch.linspace(0.1, 0.3, 12).tolist():
        wall = Analytic(slab(30.0, low, low + 0.06))
        for name, fine, extra in (("coarse", None, 0), ("fine", wall, 256)):
            out = HierarchicalRenderer(wall, fine, setup, 64, extra).eval()(rays)
            errors[name].append(abs(float(out.opacity) - (1 - math.exp(-1.8))))
    hit = [f for c, f in zip(errors["coarse"], errors["fine"], strict=True) if c < 0.5]  # the coarse pass saw it
    assert len(hit) >= 6
    assert sum(hit) / len(hit) < 0.25 * sum(errors["coarse"]) / 12


def test_jitter_only_in_training():
    field = Analytic(slab(2.0, -0.5, 0.5))
    renderer = HierarchicalRenderer(field, None, RaySetup(0.5, 6.0), 16, 0)
    generator = torch.Generator().manual_seed(0)
    rays = rays_along_x(8)
    assert renderer.train()(rays, generator=generator).rgb.std(0).max() > 1e-3
    assert renderer.eval()(rays, generator=generator).rgb.std(0).max() == 0


def test_early_termination_converges_to_dense_rendering():
    field = Analytic(ball(8.0, 1.0))
    rays = rays_along_x()
    dense = occupancy_renderer(field, 0.01, 1e-12)(rays).rgb
    errors = []
    for threshold in (1e-1, 1e-2, 1e-3, 1e-5):
        out = occupancy_renderer(field, 0.01, threshold)(rays)
        errors.append(float((out.rgb - dense).abs().max()))
        assert errors[-1] <= threshold  # no more can be missing than was left
    assert errors == sorted(errors, reverse=True)


def test_early_termination_saves_queries():
    field = Analytic(ball(100.0, 1.0))
    rays = rays_along_x()
    renderer = occupancy_renderer(field, 0.01, 1e-3)
    assert renderer(rays).queries < 0.25 * len(renderer.march(rays))


def test_skipping_empty_cells_changes_nothing():
    """A ball in a grid that knows about it renders as in a grid that is full."""
    field = Analytic(ball(8.0, 0.7))
    camera = Cameras(
        torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3.0]]]), pinhole(20.0, 16, 16)[None], 16, 16
    )
    full = occupancy_renderer(field, 0.02)
    skipping = occupancy_renderer(field, 0.02)
    centers = skipping.grid.cell_centers(torch.arange(30**3))
    radius = float(skipping.grid.cell.norm()) / 2
    skipping.grid.set_occupied((centers.norm(dim=-1) < 0.7 + radius).view(30, 30, 30))
    a, b = render_image(full, camera), render_image(skipping, camera)
    torch.testing.assert_close(a.rgb, b.rgb, atol=1e-4, rtol=0)  # both end rays at 1e-4 left
    torch.testing.assert_close(a.depth, b.depth, atol=1e-3, rtol=0)
    assert b.queries < 0.5 * a.queries


def test_training_query_equals_front_to_back_rendering():
    field = Analytic(ball(3.0, 1.0))
    renderer = occupancy_renderer(field, 0.05, 1e-9)
    origins = torch.tensor([[-3.0, y, 0.1] for y in torch.linspace(-1.4, 1.4, 9).tolist()])
    rays = make_rays(origins, torch.tensor([[1.0, 0.0, 0.0]]).expand(9, 3), renderer.setup, None)
    background = torch.tensor([0.3, 0.1, 0.0])
    a = renderer(rays, background, renderer.march(rays))
    b = renderer(rays, background)
    torch.testing.assert_close(a.rgb, b.rgb)
    torch.testing.assert_close(a.opacity, b.opacity)
    torch.testing.assert_close(a.depth, b.depth)


def test_chunks_do_not_change_a_picture():
    renderer = occupancy_renderer(Analytic(ball(5.0, 0.8)), 0.05)
    camera = Cameras(
        torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3.0]]]), pinhole(12.0, 11, 13)[None], 11, 13
    )
    whole = render_image(renderer, camera).rgb
    torch.testing.assert_close(render_image(renderer, camera, RenderLimits(rays=17)).rgb, whole)
    torch.testing.assert_close(render_image(renderer, camera, RenderLimits(memory=1)).rgb, whole)


# The worst case: every sample of every ray is occupied, a large network, and one picture.
FRAME = """
import resource, sys
import torch
from rendering.occupancy import OccupancyGrid
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.renderer import RenderLimits, render_image
from rendering.points import FieldOutput
from rendering.rays import RaySetup
from fields.nerf import FieldConfig, make_field
from scenes.scene import Cameras, pinhole
torch.set_num_threads(2)
torch.manual_seed(0)
field = make_field(FieldConfig(depth=4, width=256, density_bias=1000.0))  # opaque: few queries, many samples
grid = OccupancyGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), 32)
renderer = OccupancyRenderer(field, grid, RaySetup(1.0, 6.0), step=3.46 / 200)
pose = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3.0]]])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
render_image(renderer, Cameras(pose, pinhole(10.0, 8, 8)[None], 8, 8))
before = peak()
limits = RenderLimits(memory=int(sys.argv[1]))
picture = render_image(renderer, Cameras(pose, pinhole(400.0, 300, 300)[None], 300, 300), limits)
assert picture.opacity.min() > 0.99
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_frame_stays_within_its_memory_budget():
    budget = 192 * 2**20
    done = subprocess.run([sys.executable, "-c", FRAME, str(budget)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= budget


def test_rays_that_miss_see_the_background_at_the_far_bound():
    setup = RaySetup(0.0, 10.0, background=(0.1, 0.2, 0.3))
    renderer = occupancy_renderer(Analytic(ball(5.0, 0.5)), 0.05, setup=setup)
    rays = make_rays(torch.tensor([[-3.0, 1.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0]]), setup, None)
    out = renderer(rays, torch.tensor(setup.background))
    assert out.rgb[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert float(out.opacity) == 0 and float(out.depth) == pytest.approx(20.0)


def test_ndc_depth_comes_back_in_world_units():
    """An opaque wall at z = -5 in NDC has the world distance of z = -5, on and off the axis."""
    setup = RaySetup(0.0, 1.0, ndc_near=1.0)
    camera = Cameras(torch.eye(4)[None, :3], pinhole(20.0, 20, 20)[None], 20, 20)
    z_ndc = 1 - 2 / 5
    field = Analytic(lambda p: 1e4 * (p[:, 2] > z_ndc).float())
    grid = OccupancyGrid(torch.tensor([[-2.0, -2.0, -1.0], [2.0, 2.0, 1.0]]), 16)
    renderer = OccupancyRenderer(field, grid, setup, step=0.001)
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.3, -0.2, -1.0]])
    rays = make_rays(torch.zeros(2, 3), directions, setup, camera)
    out = renderer(rays)
    assert out.depth.tolist() == pytest.approx((5 * directions.norm(dim=-1)).tolist(), rel=5e-3)
