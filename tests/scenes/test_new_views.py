"""Cameras that nobody stood at: on the sphere evenly in area, in the box, beside the path; and the same again."""

import numpy as np
import pytest
import torch
from helpers import TINY

from load_scene import load_scene
from options import config_parser
from scenes.new_views import along_path, in_box, new_cameras, on_sphere
from scenes.poses import check_poses, look_at, orbit_path


def dome(count: int = 40, lowest: float = 0.0, highest: float = 0.9, center=(1.0, 2.0, 3.0)) -> np.ndarray:
    """Cameras on a part of a sphere of radius 4, all looking at its middle."""
    poses, center = [], np.array(center)
    for i, height in enumerate(np.repeat(np.linspace(lowest, highest, count), 4)):
        angle, across = 0.3 * (i // 4) + np.pi / 2 * i, np.sqrt(1 - height**2)  # as many on each side
        poses.append(look_at(center + 4 * np.array([across * np.cos(angle), across * np.sin(angle), height]), center))
    return np.stack(poses)


def many(draw, c2w: np.ndarray, count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    drawn = [draw(c2w, np.random.default_rng([0, i])) for i in range(count)]
    return np.stack([pose for pose, _ in drawn]), np.array([zoom for _, zoom in drawn])


def test_on_the_sphere_evenly_in_area():
    """Of a sphere, slices of one height have one area: heights are uniform, and so are angles."""
    poses, zoom = many(on_sphere, dome())
    offset = poses[:, :, 3] - [1.0, 2.0, 3.0]
    assert np.linalg.norm(offset, axis=-1) == pytest.approx(4.0, abs=1e-4)
    heights = offset[:, 2] / 4
    assert heights.min() >= -1e-6 and heights.max() <= 0.9 + 1e-6
    assert np.histogram(heights, 9, (0, 0.9))[0] / 2000 == pytest.approx(1 / 9, abs=0.03)
    angles = np.arctan2(offset[:, 1], offset[:, 0])
    assert np.histogram(angles, 8, (-np.pi, np.pi))[0] / 2000 == pytest.approx(1 / 8, abs=0.03)
    towards = -poses[:, :, 2]
    assert (towards * -offset / 4).sum(-1) == pytest.approx(1.0, abs=1e-4)  # they look at the middle
    assert 0 <= zoom.min() < 0.01 and 0.99 < zoom.max() <= 1
    check_poses(poses, "here")


def test_whichever_way_is_up():
    turned = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # z to x
    c2w = np.concatenate([turned @ dome(center=(0, 0, 0))[:, :, :3], turned @ dome(center=(0, 0, 0))[:, :, 3:]], -1)
    poses, _ = many(on_sphere, c2w, 300)
    heights = poses[:, 0, 3] / 4
    assert heights.min() > -1e-4 and heights.max() < 1 and heights.mean() == pytest.approx(0.45, abs=0.06)


def test_in_the_box_of_forward_facing_cameras():
    random = np.random.default_rng(1)
    c2w = np.stack([look_at(eye, eye + [0, 0.1, -5.0], (0, 1, 0)) for eye in random.uniform(-1, 1, (20, 3))])
    poses, zoom = many(in_box, c2w, 500)
    low, high = c2w[:, :, 3].min(0), c2w[:, :, 3].max(0)
    margin = 0.05 * (high - low) + 1e-9
    assert (poses[:, :, 3] >= low - margin).all() and (poses[:, :, 3] <= high + margin).all()
    assert (poses[:, :, 3].max(0) > high).any() and (zoom == 0).all()
    assert (poses[:, 2, 2] > 0.99).all()  # all look the same way
    check_poses(poses, "here")


def test_near_the_path():
    c2w = orbit_path(3.0, 20.0, 30).double().numpy()
    poses, _ = many(along_path, c2w, 500)
    nearest = np.linalg.norm(poses[:, None, :, 3] - c2w[None, :, :, 3], axis=-1).min(1)
    assert nearest.max() < 1.5 and nearest.mean() > 0.05  # cameras stand 0.6 apart
    check_poses(poses, "here")


def test_a_scene_says_which_and_the_same_comes_again():
    scene = load_scene(config_parser().parse_args(TINY))
    ten, five = new_cameras(scene, 10, seed=3), new_cameras(scene, 5, seed=3)
    assert torch.equal(ten.c2w[:5], five.c2w) and torch.equal(ten.K[:5], five.K)
    assert not torch.equal(new_cameras(scene, 5, seed=4).c2w, five.c2w)
    assert (ten.height, ten.width) == (24, 24) and len(new_cameras(scene, 0)) == 0
    focal = scene.cameras.K[0, 0, 0]
    assert ((ten.K[:, 0, 0] / focal >= 1) & (ten.K[:, 0, 0] / focal <= 2)).all()
    assert torch.equal(ten.K[:, 2], scene.cameras.K[:10, 2])
    assert (new_cameras(scene, 5, seed=3, zoom=1).K[:, 0, 0] == focal).all()
