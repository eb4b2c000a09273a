"""Points by matched features, of walls whose place is known."""

import cv2
import numpy as np
import pytest
import torch

from scenes.capture_frame import Similarity
from scenes.captures import framed_scene
from scenes.lenses import Pictures
from scenes.poses import look_at
from scenes.surface_points import Features, matched_points, meetings

SIDE, FOCAL = 160, 160.0
NEAR_WALL, FAR_WALL = -1.0, -3.0  # z of a wall up to x = 0, and of one behind it


def pictures_of_walls(c2w: np.ndarray, side: int = SIDE) -> Pictures:
    """Both walls with a texture of blots, grey."""
    texture = np.random.default_rng(0).uniform(0, 255, (400, 400)).astype(np.float32)
    texture = cv2.GaussianBlur(texture, None, 1.5)
    texture = 255 * (texture - texture.min()) / np.ptp(texture)
    row, column = np.mgrid[:side, :side] + 0.5
    in_camera = np.stack([(column - side / 2) / FOCAL, (side / 2 - row) / FOCAL, -np.ones((side, side))], axis=-1)
    images = []
    for pose in c2w:
        rays = in_camera @ pose[:, :3].T
        near = pose[:, 3] + rays * ((NEAR_WALL - pose[2, 3]) / rays[..., 2])[..., None]
        far = pose[:, 3] + rays * ((FAR_WALL - pose[2, 3]) / rays[..., 2])[..., None]
        hit = np.where(near[..., :1] < 0, near, far)
        at = (200 + 60 * hit[..., :2]).astype(np.float32)
        images.append(cv2.remap(texture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    shades = np.stack(images).round().astype(np.uint8)[..., None].repeat(3, axis=-1)
    K = torch.tensor([[FOCAL, 0, side / 2], [0, FOCAL, side / 2], [0, 0, 1]]).repeat(len(c2w), 1, 1)
    return Pictures(shades, None, K, torch.tensor([[side, side]] * len(c2w)))


def walk(count: int = 6, step: float = 0.15) -> np.ndarray:
    """Poses `[N, 3, 4]` past the walls."""
    eyes = [np.array([step * (i - count / 2), 0.1 * (i % 2), 2.0]) for i in range(count)]
    return np.stack([look_at(eye, np.array([0.0, 0.0, -2.0]), up=(0.0, 1.0, 0.0)) for eye in eyes])


def test_points_lie_on_the_walls():
    c2w = walk()
    pictures = pictures_of_walls(c2w)
    points = matched_points(pictures, c2w)
    assert points.matched and all(len(seen) > 50 for seen in points.seen)
    positions = points.positions
    off_wall = np.where(positions[:, 0] < 0, positions[:, 2] - NEAR_WALL, positions[:, 2] - FAR_WALL)
    assert np.median(np.abs(off_wall)) < 0.02 and np.percentile(np.abs(off_wall), 95) < 0.1
    for pose, K, seen in zip(c2w, pictures.K.numpy(), points.seen, strict=True):
        x, y, z = ((positions[seen] - pose[:, 3]) @ pose[:, :3]).T
        column, row = K[0, 2] - K[0, 0] * x / z, K[1, 2] + K[1, 1] * y / z
        assert (z < 0).all() and ((column > 0) & (column < SIDE) & (row > 0) & (row < SIDE)).all()


def test_what_is_masked_has_no_points():
    c2w = walk()
    pictures = pictures_of_walls(c2w)
    pictures.valid = torch.ones(pictures.images.shape[:3], dtype=torch.bool)
    pictures.valid[:, :, : SIDE // 2] = False
    x = matched_points(pictures, c2w).positions[:, 0]
    assert len(x) > 50 and (x > -0.3).all()


def test_large_pictures_are_looked_at_smaller():
    c2w = walk()
    small = pictures_of_walls(c2w)
    large = np.stack([cv2.resize(image, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC) for image in small.images])
    K = small.K * torch.tensor([5.0, 5.0, 1.0])[:, None]
    points = matched_points(Pictures(large, None, K, small.sizes * 5), c2w).positions
    off_wall = np.where(points[:, 0] < 0, points[:, 2] - NEAR_WALL, points[:, 2] - FAR_WALL)
    assert np.median(np.abs(off_wall)) < 0.02


@pytest.mark.parametrize("kind", ["turned on the spot", "one view", "blank", "other poses"])
def test_nothing_is_said_without_depth(kind):
    c2w = walk()
    if kind == "turned on the spot":
        c2w[:, :, 3] = c2w[0, :, 3]
    pictures = pictures_of_walls(c2w)
    if kind == "one view":
        c2w, pictures = c2w[:1], Pictures(pictures.images[:1], None, pictures.K[:1], pictures.sizes[:1])
    if kind == "blank":
        pictures.images[:] = 200
    if kind == "other poses":
        c2w = walk(step=-0.4) + np.array([0, 0, 0, 0.3]) * np.random.default_rng(1).normal(size=(len(c2w), 3, 1))
    assert matched_points(pictures, c2w) is None


@pytest.mark.parametrize("size", [(1, 1), (4, 3), (2000, 2)])
def test_pictures_of_any_size_are_looked_at(size):
    c2w = walk(4)
    noise = np.random.default_rng(0).integers(0, 256, (4, *size, 4), dtype=np.uint8)
    K = torch.tensor([[50, 0, size[1] / 2], [0, 50, size[0] / 2], [0, 0, 1]]).repeat(4, 1, 1)
    valid = torch.ones(4, *size, dtype=torch.bool)
    assert matched_points(Pictures(noise, valid, K, torch.tensor([size] * 4)), c2w) is None


def test_matched_points_say_where_content_begins_and_not_where_it_ends():
    """The room about the walls may be plain."""
    c2w = walk()
    pictures = pictures_of_walls(c2w)
    points = matched_points(pictures, c2w)
    move = Similarity(np.eye(3), np.zeros(3), 1.0)
    scene = framed_scene("walls", "x", pictures, c2w, move, {}, points=points)
    plain = framed_scene("walls", "x", pictures, c2w, move, {})
    assert scene.near == float(f"{scene.near:.2g}") and 1.7 < scene.near < 2.1  # the near wall's 3, over the slack
    assert scene.near > 2 * plain.near and scene.far == plain.far and torch.equal(scene.aabb, plain.aabb)
    stated = np.array([[-1.0, -1, -3.5], [1, 1, 3]])  # the cameras are in it
    boxed = framed_scene("walls", "x", pictures, c2w, move, {}, points=points, box=stated)
    assert boxed.near == scene.near and np.allclose(boxed.aabb, stated)


def test_rays_meet():
    """At (0, 0, -2): seen from (0, 0, 0) in 2 and from (2, 0, 0) in the root of 8; a second pair misses by 0.1, a
    third meets behind."""

    def features(eye, targets, signs):
        rays = (np.array(targets, float) - eye) * np.array(signs)[:, None]
        return Features(np.zeros((3, 128)), np.array(eye, float), rays / np.linalg.norm(rays, axis=1)[:, None], 0.001)

    at = [0.0, 0.0, -2.0]
    one = features((0, 0, 0), [at] * 3, [1, 1, -1])
    other = features((2, 0, 0), [at, [0.0, 0.1, -2.0], at], [1, 1, -1])
    numbers = np.arange(3)
    of_one, of_other, first, second = meetings(one, other, numbers, numbers)
    assert of_one.tolist() == of_other.tolist() == [0]
    assert first == pytest.approx([2]) and second == pytest.approx([8**0.5])
