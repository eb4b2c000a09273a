"""Where a capture is put in the world, how near and far it reaches, and its video's path."""

from dataclasses import dataclass

import numpy as np
import torch

from scenes.paths import walk
from scenes.poses import depth_range, focus_point, level_orbit, turned_up, upright
from utils.errors import BadInput

CAMERA_RADIUS = 4.0  # world units within which nine of ten cameras come to stand
LEAST_NEAR = 0.1 * CAMERA_RADIUS  # closer than this nothing is sharp, and floaters would grow there
PATH_FRAMES = 40
CUT_OUT = 0.25  # of all pixels' alpha is missing, or more: less is a hole or a corner of a photograph
FARTHEST_BOX = 4  # of the cameras' distance: captures for Instant-NGP state 32 and more times a subject's size
# Of the depths and places of the points that cameras see: so many lie beyond on either side, and what
# remains is widened, since points are on surfaces and lie more densely than they reach far.
OUTLIERS, NEAR_SLACK, FAR_SLACK, BOX_SLACK = 0.5, 1.5, 1.25, 0.1  # percent, factors, share of a side
# A floor: at most so many degrees off level, so thick for the cameras' distance, with such a share of the points.
FLOOR_TILT, FLOOR_THICKNESS, FLOOR_SHARE = 25.0, 0.01, 0.2
FLOOR_SAMPLE, FLOOR_TRIALS = 4000, 2000
FEWEST_POINTS = 20  # seen by cameras, below which they say nothing


@dataclass(frozen=True)
class Similarity:
    """x becomes scale * rotation @ (x - center)."""

    rotation: np.ndarray
    center: np.ndarray
    scale: float

    def points(self, points: np.ndarray) -> np.ndarray:
        """World points `[..., 3]` in the new frame."""
        return self.scale * (points - self.center) @ self.rotation.T

    def poses(self, c2w: np.ndarray) -> np.ndarray:
        """Camera-to-world `[N, 3, 4]` in the new frame."""
        return np.concatenate([self.rotation @ c2w[:, :, :3], self.points(c2w[:, :, 3])[..., None]], axis=-1)

    def box(self, box: np.ndarray) -> np.ndarray:
        """The box `[2, 3]` that holds all of a box's content in the new frame."""
        middle, half = self.points(box.mean(0)), 0.5 * self.scale * np.abs(self.rotation) @ (box[1] - box[0])
        return np.stack([middle - half, middle + half])


def normalisation(c2w: np.ndarray, where: str, points: np.ndarray | None = None) -> Similarity:
    """What moves the point that cameras `[N, 3, 4]` look at to the origin, their mean up to z, and nine of
    ten of them to within CAMERA_RADIUS.

    points: of surfaces `[P, 3]`; where many of them lie on a floor under the cameras, that is what is level. Cameras
    that all look the same way look at no point: then their own middle is the origin.
    Raises BadInput where all stand at one place, from which nothing can be told about depth.
    """
    middle = c2w[:, :, 3].mean(0)  # map coordinates are large numbers: what follows is about their differences
    eyes, ahead = c2w[:, :, 3] - middle, -c2w[:, :, 2]
    spread = np.linalg.norm(eyes, axis=-1).max()
    if not spread > 1e-12 * max(1.0, np.abs(c2w[:, :, 3]).max()):  # float64 resolves 1e-16 of its numbers
        raise BadInput(f"{where}: all cameras stand at one place; a scene needs views from several")
    center = focus_point(np.concatenate([c2w[:, :, :3], eyes[..., None]], axis=-1))
    axes_differ = np.linalg.norm(ahead.mean(0)) < 1 - 1e-4  # by a degree or so
    if not axes_differ or np.median(((center - eyes) * ahead).sum(-1)) < 0:
        center = np.zeros(3)
    radius = float(np.percentile(np.linalg.norm(eyes - center, axis=-1), 90))
    radius = max(radius, 1e-3 * spread)
    floor = None if points is None else floor_normal(points - middle, c2w[:, :3, 1].mean(0), eyes, radius)
    turn = upright(c2w) if floor is None else turned_up(floor)
    return Similarity(turn, middle + center, CAMERA_RADIUS / radius)


def floor_normal(points: np.ndarray, up: np.ndarray, eyes: np.ndarray, radius: float) -> np.ndarray | None:
    """The normal `[3]` of the floor that points `[P, 3]` lie on, where there is one: a plane nearly level for cameras
    at `eyes [N, 3]`, whose mean up is `up`, and below them. radius: how far off these stand."""
    if len(points) < FEWEST_POINTS or np.linalg.norm(up) < 0.5:  # of cameras turned every way nothing is up
        return None
    up = up / np.linalg.norm(up)
    random = np.random.default_rng(0)
    some = points if len(points) <= FLOOR_SAMPLE else points[random.choice(len(points), FLOOR_SAMPLE, replace=False)]
    corners = some[random.integers(0, len(some), (FLOOR_TRIALS, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=-1)
    normals = normals / np.maximum(lengths, 1e-12)[:, None]
    normals = normals * np.where(normals @ up < 0, -1, 1)[:, None]
    level = (lengths > 0) & (normals @ up > np.cos(np.radians(FLOOR_TILT)))
    if not level.any():
        return None
    normals, heights = normals[level], (normals[level] * corners[level, 0]).sum(-1)
    near = np.abs(some @ normals.T - heights) < FLOOR_THICKNESS * radius
    best = int(near.sum(0).argmax())
    on_it = some[near[:, best]]
    below = (eyes @ normals[best] > heights[best]).mean() > 0.9
    if len(on_it) < FLOOR_SHARE * len(some) or not below:
        return None
    normal = np.linalg.svd(on_it - on_it.mean(0), full_matrices=False)[2][-1]  # of all of them, not of three
    return normal * np.sign(normal @ up)


def usable_box(
    box: np.ndarray | None, center: np.ndarray, reach: float, where: str
) -> tuple[np.ndarray | None, list[str]]:
    """A box `[2, 3]` that a file, `where`, states (None: it states none), up to `reach` from `center` along each axis;
    None where `center` is not in it. And notes."""
    if box is None:
        return None, []
    if not ((box[0] < center) & (center < box[1])).all():
        return None, [f"{where}: its bounds {np.round(box, 2).tolist()} leave out what cameras look at; not heeded"]
    usable = np.stack([np.maximum(box[0], center - reach), np.minimum(box[1], center + reach)])
    if (usable == box).all():
        return box, []
    note = (
        f"{where}: its bounds {np.round(box, 2).tolist()} are wider than a grid resolves well, and are taken up to "
        f"+-{reach:.3g}; --aabb sets others"
    )
    return usable, [note]


def bounds_of_box(c2w: np.ndarray, box: np.ndarray, least_near: float) -> tuple[float, float]:
    """near and far at which all of `box [2, 3]` lies; near is `least_near` where cameras stand in it."""
    near, far = depth_range(c2w, box)
    return min(max(near, least_near), 0.5 * far), far


def bounds_of_points(
    c2w: np.ndarray, points: np.ndarray, seen: list[np.ndarray]
) -> tuple[float, float, np.ndarray] | None:
    """near, far and box `[2, 3]` of what cameras `[N, 3, 4]` see of `points [P, 3]`; None if too little.

    Each point counts once for each view that sees it: what many look at matters more than a stray one.
    """
    depth = np.concatenate([(pose[:, 3] - points[one]) @ pose[:, 2] for pose, one in zip(c2w, seen, strict=True)])
    places = points[np.concatenate(seen)]
    places, depth = places[depth > 0], depth[depth > 0]
    if len(depth) < FEWEST_POINTS:
        return None
    near, far = np.percentile(depth, [OUTLIERS, 100 - OUTLIERS])
    box = np.percentile(places, [OUTLIERS, 100 - OUTLIERS], axis=0)
    margin = BOX_SLACK * (box[1] - box[0]).clip(0.1 * (box[1] - box[0]).max())  # a flat scene has some depth
    near, far = float(near) / NEAR_SLACK, float(far) * FAR_SLACK
    return max(near, far / 1000), far, box + np.stack([-margin, margin])


def camera_path(c2w: np.ndarray) -> torch.Tensor:
    """Camera-to-world `[F, 3, 4]` of the video: once round where cameras `[N, 3, 4]` surround the origin,
    else a walk along them."""
    eyes = c2w[:, :, 3]
    outside = (eyes * c2w[:, :, 2]).sum(-1) > 0  # those that have the origin in front of them
    azimuth = np.sort(np.arctan2(eyes[outside, 1], eyes[outside, 0]))
    gaps = np.diff(azimuth, append=azimuth[:1] + 2 * np.pi)
    if outside.mean() > 0.8 and gaps.max() < np.radians(100):
        return level_orbit(c2w, np.zeros(3), PATH_FRAMES)
    return torch.tensor(walk(c2w, PATH_FRAMES), dtype=torch.float32)
