"""Cameras where nobody stood, for pictures that a trained model is to make of a scene.

Each is drawn by itself from a seed and its number, so that more of them begin with the same ones.
"""

import numpy as np
import torch

from scenes.poses import focus_point, look_at, upright
from scenes.scene import Cameras, Scene

WIDER = 1.1  # times the box of forward-facing cameras, and of their axes
NEIGHBOURS = 4  # of a camera on a path, between which and it others stand
SHAKEN = 0.1  # of the distance to that neighbour, and of the angle, radians


def new_cameras(scene: Scene, count: int, seed: int = 0, zoom: float = 2.0) -> Cameras:
    """`count` cameras of the scene's most common size. zoom: the most that they are zoomed by, times the focal length.

    Round an object on empty ground: on the part of the sphere that the scene's own cameras stand on, evenly in area,
    at their distances, zoomed at random. Forward-facing: in the box of the cameras, along axes in that of theirs. Any
    other capture: near its own path, between neighbours.
    """
    own = scene.cameras[scene.splits["train"]]
    c2w = own.c2w.numpy().astype(np.float64)
    draw = in_box if scene.ndc else on_sphere if scene.has_alpha else along_path
    drawn = [draw(c2w, np.random.default_rng([seed, number])) for number in range(count)]
    poses = np.stack([pose for pose, _ in drawn]) if drawn else np.zeros((0, 3, 4))
    cameras = own.along(torch.tensor(poses, dtype=torch.float32))
    for i, (_, share) in enumerate(drawn):
        cameras.K[i, :2, :2] *= 1 + (zoom - 1) * share
    return cameras


def on_sphere(c2w: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """A pose `[3, 4]` among those of `c2w [N, 3, 4]`, which look at one point from all round, and how much of the zoom
    it has, 0 to 1."""
    target, turn = focus_point(c2w), upright(c2w)
    offset = (c2w[:, :, 3] - target) @ turn.T
    radius = np.linalg.norm(offset, axis=-1)
    heights = offset[:, 2] / np.maximum(radius, 1e-9)
    height = random.uniform(heights.min(), heights.max())  # even in area (Archimedes)
    angle = random.uniform(-np.pi, np.pi)
    across = np.sqrt(max(1 - height**2, 1e-6))  # at the very pole there is no up
    direction = np.array([across * np.cos(angle), across * np.sin(angle), height])
    eye = target + random.uniform(radius.min(), radius.max()) * (direction @ turn)
    return look_at(eye, target, tuple(turn[2])), random.uniform(0, 1)


def in_box(c2w: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """The same for cameras that look one way."""

    def within(points: np.ndarray) -> np.ndarray:
        low, high = points.min(0), points.max(0)
        return (low + high) / 2 + WIDER * (high - low) * random.uniform(-0.5, 0.5, 3)

    eye, back = within(c2w[:, :, 3]), within(c2w[:, :, 2])
    return look_at(eye, eye - back, tuple(c2w[:, :, 1].mean(0))), 0.0


def along_path(c2w: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """The same for cameras that stand anywhere: between one of them and a neighbour, and a little off."""
    eyes = c2w[:, :, 3]
    first = random.integers(len(c2w))
    distance = np.linalg.norm(eyes - eyes[first], axis=-1)
    nearest = np.argsort(distance)[1 : 1 + NEIGHBOURS]
    second = random.choice(nearest) if len(nearest) else first
    share, shift, tilt = random.uniform(0, 1), random.normal(size=3), random.normal(size=3)
    eye = (1 - share) * eyes[first] + share * eyes[second] + SHAKEN * distance[second] * shift
    back = (1 - share) * c2w[first, :, 2] + share * c2w[second, :, 2] + SHAKEN * tilt
    up = (1 - share) * c2w[first, :, 1] + share * c2w[second, :, 1]
    return look_at(eye, eye - back, tuple(up)), 0.0
