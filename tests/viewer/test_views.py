"""Where a camera is: in our axes and in viser's, as a picture of any size."""

import math

import numpy as np
import pytest
import torch

from scenes.poses import look_at, orbit_path
from scenes.scene import Cameras, pinhole
from viewer.views import View, from_viser, looked_at, quaternion, rotation, to_viser, up_of

HALF = math.sqrt(0.5)


def random_rotations(count: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(count, 3, 3)))
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
    return q * np.linalg.det(q)[:, None, None]


def test_axes_by_hand():
    """Ours look along -z with y up. A camera turned by nothing looks where viser's does after half a turn about x."""
    unturned = np.eye(3, 4)
    wxyz, position = to_viser(unturned)
    assert np.allclose(np.abs(wxyz), [0, 1, 0, 0]) and np.array_equal(position, [0, 0, 0])

    # At (0, -4, 0), looking at the origin, up is z. Viser's x is right (1, 0, 0), its y down (0, 0, -1), its z ahead
    # (0, 1, 0): a quarter turn about x, clockwise.
    wxyz, position = to_viser(look_at(np.array([0.0, -4.0, 0.0]), np.zeros(3)))
    assert np.allclose(wxyz, [HALF, -HALF, 0, 0]) and np.allclose(position, [0, -4, 0])
    assert np.allclose(rotation(wxyz) @ [0, 0, 1], [0, 1, 0])  # ahead
    assert np.allclose(rotation(wxyz) @ [0, -1, 0], [0, 0, 1])  # up


def test_there_and_back():
    for turn, place in zip(random_rotations(50), np.random.default_rng(1).normal(size=(50, 3)), strict=True):
        c2w = np.concatenate([turn, place[:, None]], axis=1)
        assert np.allclose(from_viser(*to_viser(c2w)), c2w, atol=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_quaternions_of_half_turns(axis):
    """Where w is zero, and formulas that divide by it fail."""
    matrix = -np.eye(3)
    matrix[axis, axis] = 1
    wxyz = quaternion(matrix)
    assert np.allclose(np.abs(wxyz), np.eye(4)[axis + 1]) and np.allclose(rotation(wxyz), matrix)


def test_a_picture_of_a_view_is_that_of_its_camera():
    camera = Cameras(orbit_path(4.0)[3:4], pinhole(55.0, 60, 80)[None], 60, 80)
    view = View.of_camera(camera)
    assert view.fov == pytest.approx(2 * math.atan(30 / 55)) and view.aspect == 80 / 60
    assert view.size(80) == (60, 80) and view.size(40) == (30, 40)
    again = view.camera(60, 80)
    assert torch.equal(again.c2w, camera.c2w) and torch.allclose(again.K, camera.K)
    assert torch.allclose(view.camera(30, 40).K[0, :2], camera.K[0, :2] / 2)


def test_tall_and_tiny_pictures():
    view = View(np.eye(3, 4), 1.0, aspect=0.5)
    assert view.size(100) == (100, 50) and view.size(1) == (2, 2)


def test_what_a_path_looks_at_and_what_is_up():
    path = Cameras(orbit_path(5.0, 30.0, 12, np.array([1.0, 2.0, 3.0])), pinhole(50, 40, 40).repeat(12, 1, 1), 40, 40)
    assert np.allclose(looked_at(path), [1, 2, 3], atol=1e-5) and np.array_equal(up_of(path), [0, 0, 1])
    forward_facing = Cameras(torch.eye(3, 4)[None], path.K[:1], 40, 40)
    assert np.array_equal(up_of(forward_facing), [0, 1, 0])
    assert np.allclose(looked_at(forward_facing), [0, 0, -1])  # of one axis nothing says how far
