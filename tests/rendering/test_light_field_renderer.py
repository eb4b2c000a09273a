"""Places on rays by hand, and a light field's renderer: one query a ray, none for rays that meet nothing."""

import math

import pytest
import torch
from helpers import CPU, TINY, make_run, same, whole_and_resumed

from fields.light_field import LightField, LightFieldConfig
from rendering.cones import contract
from rendering.light_field import LightFieldPlan, LightFieldRenderer, PlacesInCells
from rendering.occupancy import OccupancyGrid
from rendering.rays import Rays, RaySetup
from rendering.renderer import make_rays_of, render_image

FLAGS = [
    *TINY, "--no_random_bkgd", "--field", "light_field", "--sampler", "light_field", "--netdepth", "6",
    "--ray_points", "4", "--samples_per_batch", "256",
]  # fmt: skip
NEAR_FAR = [*FLAGS, "--ray_span", "near_far", "--N_rand", "128"]
WHITE = torch.ones(3)


def line_of_cells(occupied: list[int], cells: int = 10) -> OccupancyGrid:
    """Cells of size 1 from x = 0 on, of which some are occupied wherever y and z are."""
    grid = OccupancyGrid(torch.tensor([[0.0, 0, 0], [cells, cells, cells]]), cells)
    there = torch.zeros(cells, cells, cells, dtype=torch.bool)
    there[occupied] = True
    grid.set_occupied(there)
    return grid


def along_x(count: int = 1, direction: float = 1.0) -> Rays:
    """Rays that enter at x = 0, all in the same line of cells."""
    origins = torch.tensor([[-1.0, 4.5, 4.5]]).repeat(count, 1)
    directions = torch.tensor([[direction, 0, 0]]).repeat(count, 1)
    return Rays(origins, directions, directions / direction)


class Colours(LightField):
    """Says where it was asked: the first place's coordinates in [0, 1]."""

    def forward(self, places, viewdirs):
        self.asked = places
        return (places[:, 0] + 1) / 2


def renderer_of(grid: OccupancyGrid | None, points: int, every: int, near=0.0, far=100.0, **more) -> LightFieldRenderer:
    config = LightFieldConfig(depth=4, width=8, points=points, multires=2)
    setup = RaySetup(near, far, background=(1.0, 1.0, 1.0))
    return LightFieldRenderer(Colours(config, config.make_network()), setup, grid, every, **more).eval()


def places_of(grid: OccupancyGrid, rays: Rays, count: int, every: int) -> torch.Tensor:
    places = PlacesInCells(grid, count, every)
    crossing = places.cross(rays, 0.0, 100.0, None, None)
    return places.of(crossing, crossing.counts())


def test_places_by_hand():
    """Cells 2, 3, 6, 7, 8, entered at x = 0 which is t = 1: their middles are at t = 3.5, 4.5, 7.5, 8.5, 9.5."""
    grid, rays = line_of_cells([2, 3, 6, 7, 8]), along_x()
    torch.testing.assert_close(places_of(grid, rays, 5, 1), torch.tensor([[3.5, 4.5, 7.5, 8.5, 9.5]]))
    torch.testing.assert_close(places_of(grid, rays, 2, 1), torch.tensor([[3.5, 4.5]]))
    torch.testing.assert_close(places_of(grid, rays, 3, 2), torch.tensor([[3.5, 7.5, 9.5]]))
    torch.testing.assert_close(places_of(grid, rays, 4, 3), torch.tensor([[3.5, 8.5, 8.5, 8.5]]))  # none is left
    twice = along_x(direction=2.0)
    torch.testing.assert_close(places_of(grid, twice, 2, 1), torch.tensor([[1.75, 2.25]]))


@pytest.mark.parametrize(("count", "every"), [(5, 2), (2, 1), (4, 3)])
def test_places_of_many_rays_are_those_of_each(count, every):
    generator = torch.Generator().manual_seed(0)
    grid = OccupancyGrid(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]), 40)
    there = torch.rand(5, 5, 5, generator=generator) < 0.1  # blocks of cells, some of which hold holes
    there = there.repeat_interleave(8, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    grid.set_occupied(there & (torch.rand(40, 40, 40, generator=generator) < 0.6))
    origins = torch.randn(300, 3, generator=generator) * 2
    directions = 0.4 * torch.randn(300, 3, generator=generator) - origins
    rays = Rays(origins, directions, torch.nn.functional.normalize(directions, dim=-1))
    places = PlacesInCells(grid, count, every)
    crossing = places.cross(rays, 0.0, 10.0, None, None)
    counts = crossing.counts()
    together = places.of(crossing, counts)
    assert 0 < int((counts == 0).sum()) < 300
    whole = grid.cross(origins, directions, 0.0, 10.0, places.step)
    listed = whole.all_samples()
    finished = listed.counts >= (count - 1) * every + 1
    assert finished.any() and not finished.all()
    for ray in range(300):
        own = listed.t[listed.ray == ray]
        if len(own):
            wanted = own[::every][:count]
            wanted = torch.cat([wanted, wanted[-1:].expand(count - len(wanted))])
            torch.testing.assert_close(together[ray], wanted)
        else:
            assert not together[ray].any()


def test_a_plan_with_room_for_more_finds_the_same():
    grid = line_of_cells([2, 3, 6, 7, 8])
    renderer, rays = renderer_of(grid, 3, 2), along_x(7)
    exact = LightFieldPlan(renderer, rays, None, None)
    roomy = LightFieldPlan(renderer, rays, None, 64)
    assert roomy.counts().tolist() == exact.counts().tolist() == [1] * 7
    a, b = (plan.samples(plan.counts(), 7, 1) for plan in (exact, roomy))
    assert torch.equal(a.ray, b.ray) and torch.equal(a.t, b.t)


def test_rays_beside_the_cells_are_background_and_ask_nothing():
    renderer, rays = renderer_of(line_of_cells([2]), 2, 1), along_x(3)
    rays.origins[1, 1] = 50.0
    seen = renderer(rays, WHITE)
    assert seen.queries == 2 and seen.opacity.tolist() == [1, 0, 1]
    assert seen.depth.tolist() == [3.5, 100.0, 3.5]
    torch.testing.assert_close(seen.rgb[1], WHITE)
    torch.testing.assert_close(seen.rgb[0], torch.tensor([0.25, 0.45, 0.45]))  # (2.5, 4.5, 4.5) of ten
    assert renderer.meets(rays).tolist() == [True, False, True]
    nothing = renderer(rays[1:2], None)
    assert nothing.queries == 0 and not nothing.rgb.any()


def test_a_ray_is_what_it_is_alone():
    """No ray's colour depends on the others of its batch, as it does where activations are scaled by the batch."""
    _, _, renderer = make_run(FLAGS)
    camera = make_run(FLAGS)[1].cameras[0]
    renderer.eval()
    rays = make_rays_of(renderer, camera)
    with torch.no_grad():
        whole = renderer(rays, WHITE).rgb
        for i in torch.arange(0, len(rays), 37).tolist():
            torch.testing.assert_close(renderer(rays[i : i + 1], WHITE).rgb[0], whole[i], atol=1e-6, rtol=0)


def test_even_places_reach_from_near_to_far_and_shifted_ones_stay_between():
    renderer = renderer_of(None, 5, 1, near=2.0, far=6.0)
    rays = along_x(1000)
    t = renderer._find(rays, None).t
    torch.testing.assert_close(t[0], torch.tensor([2.0, 3, 4, 5, 6]))
    shifted = renderer.train()._find(rays, torch.Generator().manual_seed(0)).t
    assert (shifted - t).abs().max() <= 0.5 and (shifted[:, 1:-1] - t[:, 1:-1]).abs().max() > 0.49
    assert shifted.min() == 2 and shifted.max() == 6
    assert (shifted.diff(dim=1) >= 0).all()
    assert torch.equal(renderer_of(None, 5, 1, 2.0, 6.0, perturb=False).train()._find(rays, None).t, t)


def test_even_places_in_disparity_and_contracted():
    renderer = renderer_of(None, 3, 1, near=1.0, far=1000.0, curve="reciprocal", ball=2.0)
    rays = along_x()
    t = renderer._find(rays, None).t
    torch.testing.assert_close(t, torch.tensor([[1.0, 2 / (1 + 1e-3), 1000.0]]))
    at = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    renderer(rays, None)
    torch.testing.assert_close(renderer.field.asked, contract((at / 2).view(-1, 3)).view(at.shape))
    assert renderer.field.asked.norm(dim=-1).max() < 2


@pytest.mark.parametrize("flags", [FLAGS, NEAR_FAR], ids=["occupied", "near_far"])
def test_resume_is_bit_for_bit(scene, tmp_path, flags):
    a, b = whole_and_resumed(scene, tmp_path, flags)
    assert same(a["network_fn_state_dict"], b["network_fn_state_dict"])


@pytest.mark.parametrize("flags", [FLAGS, NEAR_FAR], ids=["occupied", "near_far"])
def test_a_description_makes_it_again(flags):
    _, scene, renderer = make_run(flags)
    described = renderer.describe()
    LightFieldRenderer.check(described)
    again = LightFieldRenderer.from_description(described, renderer.fields, renderer.setup, renderer.tensors())
    pictures = [render_image(one.eval(), scene.cameras[0]) for one in (renderer, again)]
    assert torch.equal(pictures[0].rgb, pictures[1].rgb) and torch.equal(pictures[0].depth, pictures[1].depth)
    assert math.isfinite(float(pictures[0].depth.max())) and renderer.device == CPU
