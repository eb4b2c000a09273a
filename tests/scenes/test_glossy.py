"""The glossy scene: hits, normals and mirrored light against what geometry says."""

import math

import pytest
import torch

from load_procedural import load_procedural_scene
from scenes import glossy


@pytest.fixture(scope="module")
def scene():
    return load_procedural_scene(48, train_views=4, val_views=1, test_views=2, kind="glossy")


def test_rays_end_on_spheres(scene):
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(3, 4000, generator=generator), dim=0) * 4
    directions = torch.nn.functional.normalize(3 * torch.rand(3, 4000, generator=generator) - 1.5 - origins, dim=0)
    distance = glossy.trace(origins, directions)
    hit = distance.isfinite()
    assert 0.1 < hit.float().mean() < 0.9
    points = origins[:, hit] + distance[hit] * directions[:, hit]
    centers, radii = (
        torch.tensor([list(p) for p in part])
        for part in zip(*((s[0][:3], s[0][3:]) for s in glossy.SPHERES), strict=True)
    )
    off = (points.T[:, None] - centers).norm(dim=-1) - radii[:, 0]
    assert off.abs().amin(1).max() < 2e-5 and off.min() > -2e-5  # on one, in none
    normal = glossy.normals(points)
    torch.testing.assert_close(normal.square().sum(0), torch.ones(points.shape[1]))
    assert ((normal * directions[:, hit]).sum(0) < 0).all()


def test_a_spread_surrounding_is_its_mean():
    """What a lobe sees, against a million directions drawn by it."""
    axis, concentration = torch.tensor([0.48, -0.6, 0.64]), 30.0
    u = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    cosine = 1 + torch.log(u + (1 - u) * math.exp(-2 * concentration)) / concentration
    angle = 2 * math.pi * torch.rand(1_000_000, generator=torch.Generator().manual_seed(1))
    first = torch.nn.functional.normalize(torch.linalg.cross(axis, torch.tensor([1.0, 0, 0])), dim=0)
    second = torch.linalg.cross(axis, first)
    sine = (1 - cosine.square()).clamp_min(0).sqrt()
    drawn = axis[:, None] * cosine + sine * (first[:, None] * angle.cos() + second[:, None] * angle.sin())
    mean = glossy.surrounding(drawn, torch.full((1_000_000,), 1e6)).mean(1)
    ours = glossy.surrounding(axis[:, None], torch.tensor([concentration]))[:, 0]
    torch.testing.assert_close(ours, mean, rtol=0.02, atol=2e-3)


def test_the_scene_knows_its_normals(scene):
    assert scene.name == "glossy" and scene.normals.shape == (*scene.images.shape[:3], 3)
    hit = scene.depth.isfinite()
    torch.testing.assert_close(scene.normals[hit].norm(dim=-1), torch.ones(int(hit.sum())))
    assert not scene.normals[~hit].any()
    low, high = scene.aabb
    for (x, y, z, radius), *_ in glossy.SPHERES:
        center = torch.tensor([x, y, z])
        assert (center - radius > low).all() and (center + radius < high).all()


def test_its_mirrors_change_with_the_view(scene):
    """What a place looks like from two sides differs; that of the still life hardly does."""
    point = torch.tensor([[0.0], [0.0], [0.10 + 0.58]])
    views = torch.nn.functional.normalize(torch.tensor([[-0.6, 0.6], [0.5, -0.2], [-0.7, -0.7]]), dim=0)
    seen = glossy.shade(point.expand(3, 2), views)
    assert (seen[:, 0] - seen[:, 1]).abs().max() > 0.15
