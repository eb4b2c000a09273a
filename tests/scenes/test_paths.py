"""Walks past photographs: smooth, even, no nearer than they were; and paths of files."""

import json
import math

import numpy as np
import pytest
import torch

from scenes.paths import read_path, short_tour, spiral, visiting_order, walk
from scenes.poses import look_at
from scenes.scene import Cameras
from utils.errors import BadInput


def around(angles, radius=4.0, height=1.0):
    """Cameras on a ring that look at the origin, `[N, 3, 4]`."""
    eyes = [np.array([radius * math.cos(a), radius * math.sin(a), height]) for a in angles]
    return np.stack([look_at(eye, np.zeros(3)) for eye in eyes])


ARC = around(np.linspace(0, 2, 25))


def test_a_walk_along_an_arc_is_that_arc():
    path = walk(ARC, 30)
    eyes = path[:, :, 3]
    assert path.shape == (30, 3, 4)
    np.testing.assert_allclose(np.linalg.norm(eyes[:, :2], axis=-1), 4, atol=0.05)
    np.testing.assert_allclose(eyes[0], ARC[0, :, 3], atol=0.02)
    np.testing.assert_allclose(eyes[-1], ARC[-1, :, 3], atol=0.02)
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=-1)
    assert steps.max() < 1.05 * steps.min()
    np.testing.assert_allclose((eyes * path[:, :, 2]).sum(-1), np.linalg.norm(eyes, axis=-1), rtol=1e-3)


def test_a_shaking_hand_is_smoothed_and_comes_no_nearer():
    random = np.random.default_rng(0)
    shaken = ARC.copy()
    shaken[:, :, 3] += 0.2 * random.normal(size=(25, 3))
    shaken = np.stack([look_at(eye, np.zeros(3)) for eye in shaken[:, :, 3]])
    path = walk(shaken, 60)

    def roughness(eyes):
        return np.linalg.norm(np.diff(eyes, n=2, axis=0), axis=-1).mean() / np.linalg.norm(np.diff(eyes, axis=0))

    assert roughness(path[:, :, 3]) < 0.15 * roughness(shaken[:, :, 3])
    nearest = np.linalg.norm(shaken[:, :, 3], axis=-1).min()
    assert np.linalg.norm(path[:, :, 3], axis=-1).min() > 0.98 * nearest


def test_a_ring_is_closed():
    ring = around(np.linspace(0, 2 * np.pi, 24, endpoint=False))
    eyes = walk(ring, 40)[:, :, 3]
    steps = np.linalg.norm(np.diff(eyes, axis=0, append=eyes[:1]), axis=-1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.03)
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=-1), math.sqrt(17), rtol=1e-2)  # chords would cut in


def test_photographs_in_no_order_are_passed_on_a_short_tour():
    mixed = np.random.default_rng(1).permutation(len(ARC))
    order = mixed[visiting_order(ARC[mixed][:, :, 3])]
    assert order.tolist() in (list(range(25)), list(range(25))[::-1])
    ours, own = walk(ARC[mixed], 20)[:, :, 3], walk(ARC, 20)[:, :, 3]
    assert min(np.abs(ours - own).max(), np.abs(ours[::-1] - own).max()) < 1e-6


def test_an_order_that_is_nearly_the_shortest_is_kept():
    there_and_back = np.concatenate([ARC, ARC[::-1] + 1e-3])
    assert visiting_order(there_and_back[:, :, 3]).tolist() == list(range(50))


def test_a_tour_undoes_crossings():
    square = np.array([[0, 0], [2, 0], [0, 1], [2, 1], [1, 0], [1, 1.0]])
    distance = np.linalg.norm(square[:, None] - square, axis=-1)
    order = short_tour(distance)
    assert sorted(order) == list(range(6))
    assert distance[order[:-1], order[1:]].sum() == pytest.approx(5)


def test_cameras_that_look_about_look_on():
    """From one place outwards: no path goes through what is behind."""
    eyes = np.stack([[0.1 * i, 0.0, 0.0] for i in range(12)])
    outward = np.stack([look_at(eye, eye + [0, 5, 0]) for eye in eyes])
    path = walk(outward, 10)
    np.testing.assert_allclose(path[:, :, 2], np.tile([0, -1, 0], (10, 1)), atol=1e-6)


def test_a_spiral_stays_about_the_mean_and_looks_where_all_do():
    path = spiral(around(np.linspace(-0.3, 0.3, 9)), 24)
    eyes = path[:, :, 3]
    assert np.abs(eyes - eyes.mean(0)).max() < 1.5
    back = eyes / np.linalg.norm(eyes, axis=-1, keepdims=True)
    assert (back * path[:, :, 2]).sum(-1).min() > 0.98


USUAL = Cameras(torch.eye(4)[None, :3], torch.tensor([[[50.0, 0, 40], [0, 50, 30], [0, 0, 1]]]), 60, 80)
POSE = [1.0, 0, 0, 2, 0, 1, 0, 3, 0, 0, 1, 4, 0, 0, 0, 1]


def written(folder, **content):
    (folder / "path.json").write_text(json.dumps(content))
    return folder / "path.json"


def test_a_viewers_path_is_read(tmp_path):
    frames = [{"camera_to_world": POSE, "fov": 90.0}] * 3
    cameras = read_path(written(tmp_path, render_height=100, render_width=200, camera_path=frames), USUAL)
    assert (len(cameras), cameras.height, cameras.width) == (3, 100, 200)
    assert cameras.c2w[0].tolist() == [[1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 1, 4]]
    torch.testing.assert_close(cameras.K[0], torch.tensor([[50.0, 0, 100], [0, 50, 50], [0, 0, 1]]))
    own = read_path(written(tmp_path, camera_path=[{"camera_to_world": POSE}]), USUAL)
    assert torch.equal(own.K, USUAL.K) and (own.height, own.width) == (60, 80)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "camera_path"),
        ({"camera_path": []}, "camera path"),
        ({"camera_path": [{"camera_to_world": POSE[:9]}]}, "4 rows of 4"),
        ({"camera_path": [{"camera_to_world": [2 * x for x in POSE]}]}, "rotation"),
        ({"camera_path": [{"camera_to_world": POSE, "fov": 0.1}]}, "degrees"),
        ({"camera_path": [{"camera_to_world": POSE}], "render_width": 10**6}, "8192"),
    ],
)
def test_what_is_no_path_is_said(tmp_path, content, says):
    with pytest.raises(BadInput, match=says):
        read_path(written(tmp_path, **content), USUAL)
    with pytest.raises(BadInput, match="no such file"):
        read_path(tmp_path / "nowhere.json", USUAL)
