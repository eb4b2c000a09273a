"""Camera paths by hand: the way between cameras, and the file that the run commands read."""

import json
import math

import numpy as np
import pytest
import torch

from load_scene import load_scene
from options import config_parser
from scenes.paths import read_path
from scenes.poses import look_at, orbit_path
from scenes.scene import Cameras, pinhole
from utils.errors import BadInput
from viewer.camera_path import FPS, CameraPath, catmull_rom, same_side
from viewer.views import View, quaternion, rotation

USUAL = Cameras(torch.eye(3, 4)[None], pinhole(100.0, 90, 160)[None], 90, 160)


def path_of(poses, closed: bool = False, fov: float = 0.8) -> CameraPath:
    path = CameraPath()
    path.keys, path.closed = [View(np.asarray(pose, np.float64), fov, 1.6) for pose in poses], closed
    return path


def on_orbit(count: int) -> np.ndarray:
    return orbit_path(4.0, 20.0, count).double().numpy()


@pytest.mark.parametrize("closed", [False, True])
def test_every_camera_is_passed(closed):
    keys = on_orbit(5)
    frames = path_of(keys, closed).frames(seconds=0.5)
    steps = FPS // 2
    assert frames.shape == ((5 if closed else 4) * steps + (not closed), 3, 4)
    assert np.allclose(frames[::steps][:5], keys, atol=1e-6)
    turns = frames[:, :, :3]
    assert np.allclose(turns.transpose(0, 2, 1) @ turns, np.eye(3), atol=1e-9)


def test_even_steps_along_a_line():
    """Where a spline is the line itself."""
    keys = [look_at(np.array([x, -4.0, 0.0]), np.array([x, 0.0, 0.0])) for x in (0.0, 1.0, 2.0, 3.0)]
    eyes = path_of(keys).frames(seconds=0.2)[:, :, 3]
    assert np.allclose(eyes[:, 0], np.linspace(0, 3, 19)) and np.allclose(eyes[:, 1:], [-4, 0])


@pytest.mark.parametrize("closed", [False, True])
def test_no_jump_in_direction_or_speed(closed):
    """Twice as many frames halve each step and quarter the change from one to the next: a kink would stay."""
    changes = []
    for seconds in (1.0, 2.0):
        frames = path_of(on_orbit(6), closed).frames(seconds)
        rows = np.concatenate([frames, frames[:2]]) if closed else frames
        changes.append(np.abs(np.diff(rows, n=2, axis=0)).max())
    assert changes[1] < 0.3 * changes[0]


def test_the_short_way_between_two_signs_of_a_quaternion():
    turns = same_side(np.array([[1.0, 0, 0, 0], [-0.9, 0.1, 0, 0], [0.8, -0.2, 0, 0]]))
    assert np.array_equal(turns, [[1.0, 0, 0, 0], [0.9, -0.1, 0, 0], [0.8, -0.2, 0, 0]])
    a, b = look_at(np.array([4.0, 0.1, 0]), np.zeros(3)), look_at(np.array([4.0, -0.1, 0]), np.zeros(3))
    between = path_of([a, b]).frames(1.0)
    assert all(np.trace(pose[:, :3].T @ a[:, :3]) > 2.99 for pose in between)  # never far from either
    assert np.allclose(rotation(-quaternion(a[:, :3])), a[:, :3])


def test_spline_by_hand():
    """Through 0, 0, 1, 1, with slopes 1/2 at both ends: Hermite's cubic there is t / 2 + 3 t^2 / 2 - t^3."""
    middle = catmull_rom(np.array([[0.0], [0.0], [1.0], [1.0]]), 4)[:, 0]
    assert np.allclose(middle, [0, 0.125 + 0.09375 - 0.015625, 0.5, 0.375 + 0.84375 - 0.421875, 1])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_file_holds_what_was_seen_exactly(tmp_path, count):
    path = path_of(on_orbit(count), fov=0.7)
    file = tmp_path / "camera_path.json"
    file.write_text(json.dumps(path.content(0.4, 90, 160)))
    cameras = read_path(file, USUAL)
    assert torch.equal(cameras.c2w, torch.tensor(path.frames(0.4), dtype=torch.float32))
    assert (cameras.height, cameras.width) == (90, 160)
    assert float(cameras.K[0, 1, 1]) == pytest.approx(45 / math.tan(0.35), rel=1e-6)


def test_run_commands_take_the_file(tmp_path):
    path, file = path_of(on_orbit(4), closed=True), tmp_path / "camera_path.json"
    file.write_text(json.dumps(path.content(0.3, 20, 30)))
    scene = load_scene(config_parser().parse_args(["--procedural_size", "16", "--path", str(file)]))
    assert torch.equal(scene.render_path.c2w, torch.tensor(path.frames(0.3), dtype=torch.float32))
    assert (scene.render_path.height, scene.render_path.width) == (20, 30)


def test_a_path_without_cameras_says_so():
    with pytest.raises(BadInput, match="no camera yet"):
        CameraPath().content(1.0, 10, 10)
