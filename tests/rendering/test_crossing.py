"""Samples that grow with their cones: which points are taken together, and what files and renderers make of it."""

import pytest
import torch
from helpers import CPU, TINY, make_run, run

import run_nerf
from deploy.model_file import load_renderer
from rendering.occupancy import OccupancyGrid
from rendering.queries import widths_of_pixels
from rendering.rays import PIXEL_RADIUS, Rays
from rendering.renderer import render_image

BOX = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
STEP = 0.05


def some_rays(count: int = 40) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 3
    towards = torch.rand(count, 3, generator=generator) - 0.5 - origins
    directions = 1.3 * torch.nn.functional.normalize(towards, dim=-1)
    return Rays(origins, directions, directions / 1.3, torch.full((count,), 0.01))


def crossed(together: float | None):
    grid = OccupancyGrid(BOX, 16)
    grid.set_occupied(torch.rand((16,) * 3, generator=torch.Generator().manual_seed(1)) < 0.2)
    rays = some_rays()
    longest = None if together is None else (lambda ray, t: torch.full_like(t, together * STEP))
    return grid.cross(rays.origins, rays.directions, 0.0, 10.0, STEP, longest=longest).all_samples()


@pytest.mark.parametrize("together", [1, 2, 4, 8])
def test_groups_with_anything_in_them_are_one_sample(together):
    """Each sample covers every point that lay in a cell, once, and lies in the middle of its group."""
    single, merged = crossed(None), crossed(together + 0.5)
    assert torch.equal(merged.length, torch.full_like(merged.length, together * STEP))
    dt = STEP / 1.3
    reach = 0.5 * together * dt
    same_ray = single.ray[:, None] == merged.ray
    covers = same_ray & ((single.t[:, None] - merged.t).abs() < reach + 1e-4 * dt)
    assert (covers.sum(1) == 1).all()
    assert (covers.sum(0) >= 1).all() and (covers.sum(0) <= together).all()
    assert len(merged) < len(single) or together == 1
    assert (merged.counts == torch.bincount(merged.ray, minlength=40)).all()


def test_no_more_than_a_run_is_taken_together():
    assert torch.equal(crossed(1000).length, crossed(8).length)
    assert torch.equal(crossed(0.1).t, crossed(None).t)


def test_pixels_widen_with_distance_and_in_ndc_do_not():
    rays = some_rays(2)
    rays.radii = PIXEL_RADIUS * torch.tensor([0.01, 0.02])
    ray, t = torch.tensor([0, 1, 1]), torch.tensor([2.0, 2.0, 5.0])
    torch.testing.assert_close(widths_of_pixels(rays, 3.0, False)(ray, t), torch.tensor([0.06, 0.12, 0.30]))
    torch.testing.assert_close(widths_of_pixels(rays, 3.0, True)(ray, t), torch.tensor([0.03, 0.06, 0.06]))


def test_a_file_renders_with_the_samples_it_was_trained_with(tmp_path):
    flags = [*TINY, "--cone_steps", "3", "--N_iters", "20", "--basedir", tmp_path, "--expname", "c"]
    assert run(run_nerf, *flags) == 0
    loaded, path, metadata = load_renderer(tmp_path / "c" / "model_float32.safetensors", CPU)
    assert metadata["sampler"]["cone_steps"] == 3 == loaded.cone_steps
    _, _, fixed = make_run(TINY)
    fixed.field, fixed.grid = loaded.field, loaded.grid
    long, short = (render_image(renderer, path[0]) for renderer in (loaded, fixed))
    assert long.queries < 0.8 * short.queries
    assert (long.rgb - short.rgb).abs().mean() < 0.05
