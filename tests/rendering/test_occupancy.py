"""The grid and its sampler: nothing missed, nothing extra, exact round trips."""

import numpy as np
import pytest
import torch

from rendering.crossing import Samples, true_places
from rendering.occupancy import OccupancyGrid
from run_nerf_helpers import get_rays
from scenes.poses import look_at
from scenes.scene import Cameras, pinhole

BOX = torch.tensor([[-1.0, -0.5, -1.0], [1.0, 1.5, 0.5]])


def random_grid(seed: int, share: float = 0.05) -> OccupancyGrid:
    grid = OccupancyGrid(BOX, 16)
    grid.set_occupied(torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(seed)) < share)
    return grid


def march(grid: OccupancyGrid, *args) -> Samples:
    return grid.cross(*args).all_samples()


def random_rays(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    targets = torch.rand(count, 3, generator=g) - 0.5
    return origins, (targets - origins) * (0.3 + torch.rand(count, 1, generator=g))


@pytest.mark.parametrize("seed", range(4))
def test_march_finds_exactly_the_points_of_a_plain_loop(seed):
    grid = random_grid(seed)
    origins, directions = random_rays(40, seed)
    step = 0.03
    jitter = torch.rand(40, generator=torch.Generator().manual_seed(seed))
    samples = march(grid, origins, directions, 0.0, 100.0, step, jitter)
    low, high = BOX.numpy().astype(np.float64)
    found = {(int(r), round(float(t), 3)) for r, t in zip(samples.ray, samples.t, strict=True)}
    expected, borderline = set(), set()
    for r in range(40):
        o, d = origins[r].double().numpy(), directions[r].double().numpy()
        a, b = (low - o) / d, (high - o) / d
        t_in, t_out = max(np.minimum(a, b).max(), 0.0), np.maximum(a, b).min()
        dt = step / np.linalg.norm(d)
        for k in range(2000):
            t = t_in + (k + float(jitter[r])) * dt
            if t >= t_out:
                break
            cell = (o + t * d - low) / (high - low) * 16
            index = np.clip(np.floor(cell).astype(int), 0, 15)
            key = (r, round(t, 3))
            if np.abs(cell - np.round(cell)).min() < 1e-3 or t_out - t < 1e-4:
                borderline.add(key)
            elif grid.occupied[tuple(index)]:
                expected.add(key)
    assert len(expected) > 20

    def near(key, keys):
        return any((key[0], round(key[1] + e, 3)) in keys for e in (-0.001, 0.0, 0.001))

    assert all(near(key, found) for key in expected)
    assert all(near(key, expected | borderline) for key in found)


def test_samples_are_sorted_and_stand_for_a_step():
    grid = random_grid(0, share=0.3)
    samples = march(grid, *random_rays(50, 0), 0.0, 100.0, 0.02)
    assert (samples.ray.diff() >= 0).all()
    same_ray = samples.ray.diff() == 0
    assert (samples.t.diff()[same_ray] > 0).all()
    assert (samples.length == 0.02).all()


def test_march_respects_near_and_far():
    grid = OccupancyGrid(BOX, 8)
    origins, directions = torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    samples = march(grid, origins, directions, 1.2, 1.6, 0.01)
    assert samples.t.min() >= 1.2 and samples.t.max() < 1.6
    assert len(samples) == pytest.approx(0.4 * 2 / 0.01, abs=1)


def test_rays_parallel_to_an_axis_and_outside_the_box():
    grid = OccupancyGrid(BOX, 8)
    origins = torch.tensor([[-3.0, 0.0, 0.0], [-3.0, 9.0, 0.0], [3.0, 0.0, 0.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    samples = march(grid, origins, directions, 0.0, 100.0, 0.1)
    assert set(samples.ray.tolist()) == {0}
    assert len(samples) == 20


def test_march_of_an_empty_grid_is_empty():
    grid = OccupancyGrid(BOX, 8)
    grid.set_occupied(torch.zeros(8, 8, 8, dtype=torch.bool))
    assert len(march(grid, *random_rays(5, 0), 0.0, 100.0, 0.1)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_looking_only_where_cells_are_occupied_misses_nothing(seed):
    """One small cluster in a large grid, against the same grid told that its far corners are occupied too."""
    grid, wide = OccupancyGrid(BOX, 16), OccupancyGrid(BOX, 16)
    occupied = torch.zeros(16, 16, 16, dtype=torch.bool)
    occupied[5:9, 10:12, 3:8] = random_grid(seed, share=0.5).occupied[5:9, 10:12, 3:8]
    grid.set_occupied(occupied)
    wide.set_occupied(occupied)
    wide.occupied[0, 0, 0] = wide.occupied[-1, -1, -1] = True
    rays, jitter = random_rays(400, seed), torch.rand(400, generator=torch.Generator().manual_seed(seed))
    near, far = march(grid, *rays, 0.0, 100.0, 0.02, jitter), march(wide, *rays, 0.0, 100.0, 0.02, jitter)
    points = rays[0][far.ray] + far.t[:, None] * rays[1][far.ray]
    inner = grid.holds(points)
    assert 100 < len(near) <= len(far)
    assert torch.equal(near.t, far.t[inner]) and torch.equal(near.ray, far.ray[inner])  # bit for bit
    assert torch.equal(near.counts, torch.bincount(near.ray, minlength=400)) and near.most == near.counts.max()
    low, high = grid._occupied_box()
    assert (low > BOX[0]).all() and (high < BOX[1]).all()


def test_a_box_of_occupied_cells_follows_them():
    grid = OccupancyGrid(BOX, 16)
    rays = random_rays(50, 0)
    whole = len(march(grid, *rays, 0.0, 100.0, 0.05))
    grid.update(lambda points: 1e3 * (points[:, 0] > 0.5), 0.05)
    part = march(grid, *rays, 0.0, 100.0, 0.05)
    assert 0 < len(part) < whole
    assert (rays[0][part.ray, 0] + part.t * rays[1][part.ray, 0]).min() >= 0.5 - 1e-5
    grid.load_state_dict(OccupancyGrid(BOX, 16).state_dict())
    assert len(march(grid, *rays, 0.0, 100.0, 0.05)) == whole


def test_the_first_true_places(monkeypatch):
    mask = torch.tensor([False, True, True, False, True])
    assert true_places(mask).tolist() == [1, 2, 4]
    listed = torch.nonzero_static(mask, size=5, fill_value=0)[:, 0]  # what a device gives, which is not asked how many
    assert listed.tolist() == [1, 2, 4, 0, 0]


def test_cell_centers_and_flat_index_are_inverse():
    grid = OccupancyGrid(BOX, 7)
    index = torch.arange(7**3)
    assert torch.equal(grid.flat_index(grid.cell_centers(index)), index)


def test_holds_is_what_march_samples():
    grid = random_grid(1)
    origins, directions = random_rays(50, 2)
    samples = march(grid, origins, directions, 0.0, 100.0, 0.03)
    points = origins[samples.ray] + samples.t[:, None] * directions[samples.ray]
    assert len(points) > 100 and grid.holds(points).all()
    outside = grid.aabb[1] + torch.tensor([[0.1, 0, 0], [0, 1e9, 0]])
    assert not grid.holds(torch.cat([outside, 2 * grid.aabb[0] - outside])).any()


def ball_views(radius: float, size: int = 48) -> tuple[Cameras, torch.Tensor]:
    """Silhouettes of a ball at the origin, from the ray's distance to the centre."""
    eyes = [[3, 0.2, 0.1], [-3, 0.3, 0.5], [0.2, 3, -0.4], [0.1, -3, 0.2], [0.3, 0.1, 3], [1.8, 1.7, 1.6]]
    c2w = torch.tensor(np.stack([look_at(np.array(e, float), np.zeros(3)) for e in eyes]), dtype=torch.float32)
    K = pinhole(36.0, size, size).expand(len(eyes), 3, 3)
    alpha = []
    for pose, intrinsics in zip(c2w, K, strict=True):
        o, d = get_rays(size, size, intrinsics, pose)
        d = torch.nn.functional.normalize(d, dim=-1)
        alpha.append((torch.linalg.cross(o.reshape(-1, 3), d.reshape(-1, 3)).norm(dim=-1) < radius).view(size, size))
    return Cameras(c2w, K, size, size), torch.stack(alpha).to(torch.uint8) * 255


def test_carving_keeps_the_object_and_clears_the_rest():
    grid = OccupancyGrid(torch.tensor([[-1.2] * 3, [1.2] * 3]), 32)
    cameras, alpha = ball_views(0.6)
    grid.carve(cameras, alpha)
    distance = grid.cell_centers(torch.arange(32**3)).norm(dim=-1).view(32, 32, 32)
    assert grid.occupied[distance < 0.6].all()
    assert not grid.occupied[distance > 1.15].any()
    hull = float(grid.occupied.float().sum()) / float((distance < 0.6).float().sum())
    assert hull < 2.2  # six views of a ball, and a cell and a pixel of slack
    box = grid.bounding_box()
    assert (box[0] <= -0.6).all() and (box[1] >= 0.6).all() and (box.abs() < 1.0).all()


def test_carving_with_cameras_inside_the_box():
    """Cells right before a camera are left to the other views; those that none sees are dropped."""
    grid = OccupancyGrid(torch.tensor([[-4.0] * 3, [4.0] * 3]), 40)
    cameras, alpha = ball_views(0.6)
    grid.carve(cameras, alpha)
    distance = grid.cell_centers(torch.arange(40**3)).norm(dim=-1).view(40, 40, 40)
    assert grid.occupied[distance < 0.6].all()
    assert grid.occupied[(distance > 1.2) & (distance < 1.6)].float().mean() < 0.2
    grid.set_occupied(torch.ones(40, 40, 40, dtype=torch.bool))
    grid.carve(cameras[0], alpha[:1])  # the eye at x = 3
    behind = grid.cell_centers(torch.arange(40**3))[:, 0].view(40, 40, 40) > 3.2
    assert not grid.occupied[behind].any()


def test_update_finds_a_ball_and_forgets_it_again():
    grid = OccupancyGrid(torch.tensor([[-1.0] * 3, [1.0] * 3]), 16)
    generator = torch.Generator().manual_seed(0)
    grid.update(lambda p: 50.0 * (p.norm(dim=-1) < 0.5), step=0.05, generator=generator)
    distance = grid.cell_centers(torch.arange(16**3)).norm(dim=-1).view(16, 16, 16)
    assert grid.occupied[distance < 0.4].all() and not grid.occupied[distance > 0.62].any()
    for _ in range(60):
        grid.update(lambda p: torch.zeros(len(p)), step=0.05, generator=generator)
    assert not grid.occupied.any()


def test_update_never_reoccupies_what_was_carved():
    grid = random_grid(3)
    allowed = grid.allowed.clone()
    grid.update(lambda p: torch.full((len(p),), 100.0), step=0.05)
    assert torch.equal(grid.occupied, allowed)


def test_threshold_is_the_opacity_of_one_sample():
    grid = OccupancyGrid(BOX, 4)
    step, alpha = 0.05, 0.1
    density = -np.log(1 - alpha) / step
    grid.update(lambda p: torch.full((len(p),), 0.99 * density), step, alpha)
    assert not grid.occupied.any()
    grid.update(lambda p: torch.full((len(p),), 1.01 * density), step, alpha)
    assert grid.occupied.all()


def test_state_dict_round_trip_marches_the_same():
    grid, other = random_grid(5), OccupancyGrid(BOX, 16)
    rays = random_rays(30, 5)
    march(other, *rays, 0.0, 100.0, 0.05)  # fills the derived grid, which loading must drop
    other.load_state_dict(grid.state_dict())
    assert torch.equal(march(grid, *rays, 0.0, 100.0, 0.05).t, march(other, *rays, 0.0, 100.0, 0.05).t)
