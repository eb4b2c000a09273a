"""What is level in a capture: the floor, where there is one under the cameras, and not how they were held."""

import numpy as np
import pytest

from scenes.capture_frame import floor_normal, normalisation
from scenes.poses import look_at

TILT = np.radians(12)
DOWN = np.array([0.0, np.sin(TILT), np.cos(TILT)])  # what is up, if the floor says it


def cameras(count: int = 30) -> np.ndarray:
    """Round the origin at a height of 2, upright by z."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([look_at(np.array([4 * np.cos(a), 4 * np.sin(a), 2]), np.zeros(3)) for a in angles])


def plane(normal: np.ndarray, height: float, count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    flat = np.linalg.svd(normal[None])[2][1:]
    return height * normal + random.uniform(-4, 4, (count, 2)) @ flat + 0.005 * random.normal(size=(count, 3))


CLUTTER = np.random.default_rng(1).uniform(-2, 2, (600, 3))


def test_a_floor_is_level():
    points = np.concatenate([plane(DOWN, -1.5, 500), CLUTTER])
    move = normalisation(cameras(), "here", points)
    np.testing.assert_allclose(move.rotation @ DOWN, [0, 0, 1], atol=2e-3)
    np.testing.assert_allclose(normalisation(cameras(), "here").rotation, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    "points",
    [
        np.concatenate([plane(np.array([1.0, 0, 0]), -3.0, 900), CLUTTER]),  # a wall
        np.concatenate([plane(DOWN, 3.5, 900), CLUTTER]),  # a ceiling
        np.concatenate([plane(DOWN, -1.5, 60), CLUTTER]),  # too little of one
        CLUTTER[:10],
    ],
)
def test_else_the_cameras_say_what_is_up(points):
    np.testing.assert_allclose(normalisation(cameras(), "here", points).rotation, np.eye(3), atol=1e-6)


def test_cameras_held_every_way_say_nothing_of_floors():
    assert floor_normal(plane(DOWN, -1.5, 500), np.array([0.1, 0.0, 0.2]), np.zeros((3, 3)), 4.0) is None
