"""Poses: where cameras stand, what they look at, the paths they move on, and which of them are held out."""

import math

import numpy as np
import torch

from utils.bounds import FAR_AWAY
from utils.errors import BadInput

FARTHEST = 1e12  # world units: beyond, a position is damage and not a map coordinate
NEAREST_TO_FAR = 1e-3  # size of a scene over its distance from the origin, below which float32 is too coarse


def look_at(eye: np.ndarray, target: np.ndarray, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """Camera-to-world `[3, 4]` of a camera at `eye` that looks at `target`."""
    backward = _normalize(eye - target)
    right = _normalize(np.cross(up, backward))
    return np.stack([right, np.cross(backward, right), backward, eye], axis=1)


def orbit_path(
    radius: float, elevation: float = 30.0, frames: int = 40, target: np.ndarray | None = None
) -> torch.Tensor:
    """Camera-to-world `[frames, 3, 4]` on a full turn around `target`, z up.

    radius: world units. elevation: degrees above the horizon.
    """
    target = np.zeros(3) if target is None else np.asarray(target, dtype=np.float64)
    up = math.radians(elevation)
    poses = []
    for angle in np.linspace(0, 2 * math.pi, frames, endpoint=False):
        offset = [math.cos(angle) * math.cos(up), math.sin(angle) * math.cos(up), math.sin(up)]
        poses.append(look_at(target + radius * np.array(offset), target))
    return torch.tensor(np.stack(poses), dtype=torch.float32)


def level_orbit(c2w: np.ndarray, target: np.ndarray, frames: int = 40) -> torch.Tensor:
    """Camera-to-world `[frames, 3, 4]` on a turn around `target [3]`, at the cameras' median distance and
    height above it, whichever way is up for them."""
    turn = upright(c2w)
    offset = (c2w[:, :3, 3] - target) @ turn.T
    distance = np.linalg.norm(offset, axis=-1)
    elevation = np.degrees(np.median(np.arcsin(offset[:, 2] / np.maximum(distance, 1e-9))))
    path = orbit_path(float(np.median(distance)), float(np.clip(elevation, -80, 80)), frames)
    path = torch.tensor(turn.T, dtype=torch.float32) @ path
    path[:, :, 3] += torch.tensor(target, dtype=torch.float32)
    return path


def upright(c2w: np.ndarray) -> np.ndarray:
    """The rotation `[3, 3]` that turns what is up for most cameras of `c2w [N, 3, 4]` to z, by the least angle."""
    up = c2w[:, :3, 1].mean(0)
    if np.linalg.norm(up) < 1e-3:
        return np.eye(3)  # no direction is up for most: the world's own z will do
    return turned_up(up)


def turned_up(up: np.ndarray) -> np.ndarray:
    """The rotation `[3, 3]` that turns a direction to z, by the least angle."""
    up = _normalize(up)
    axis, cosine = np.cross(up, [0.0, 0.0, 1.0]), float(up[2])
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def depth_range(c2w: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """The z-depths, world units, between which all of `box [2, 3]` lies, for all of `c2w [N, 3, 4]`.

    Where a camera stands in the box or beside it the nearest is 1/500 of the farthest.
    Raises BadInput where no camera has any of the box in front of it.
    """
    corners = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    depth = ((c2w[:, None, :, 3] - corners) * c2w[:, None, :, 2]).sum(-1)
    far = float(depth.max())
    if not far > 0:
        raise BadInput(
            f"no camera looks towards the box {np.round(box, 3).tolist()}: the poses have other axes than the box; "
            "give --aabb, and look with --plot_cameras"
        )
    return max(float(depth.min()), far / 500), far


def rotation(wxyz: np.ndarray) -> np.ndarray:
    """The matrix `[3, 3]` of a quaternion of any length but zero."""
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def focus_point(c2w: np.ndarray) -> np.ndarray:
    """The point `[3]` nearest to all optical axes of `c2w [N, 3, 4]`, in least squares."""
    direction, origin = c2w[:, :3, 2:3], c2w[:, :3, 3:]
    projector = np.eye(3) - direction @ direction.transpose(0, 2, 1)  # onto each axis' normal plane
    return np.linalg.lstsq(projector.sum(0), (projector @ origin).sum(0), rcond=None)[0][:, 0]


def check_extent(what: str, numbers: np.ndarray, where: str) -> None:
    """Raises BadInput where coordinates are not finite, or so large that float32 and model files do not hold them.

    what: whose they are, in words; where: of which file.
    """
    farthest = np.abs(numbers).max()
    if not farthest <= FAR_AWAY:  # nor is NaN
        raise BadInput(
            f"{where}: {what} reaches {farthest:g} units off; expected {FAR_AWAY:g} at most: mend or scale it"
        )


def check_poses(c2w: np.ndarray, where: str, first: int = 0) -> None:
    """Raises BadInput unless `c2w [N, 3, 4]`, numbered from `first`, are finite, not too far off, and their
    rotations orthonormal."""
    finite = np.isfinite(c2w).all((1, 2))
    distance = np.abs(c2w[:, :, 3]).max(1)
    rotation = np.where(finite[:, None, None], c2w[:, :, :3], np.eye(3)).astype(np.float64)
    with np.errstate(all="ignore"):  # absurd numbers overflow, and are no rotation either
        error = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max((1, 2))
        determinant = np.linalg.det(rotation)
    for i in np.flatnonzero(~finite | ~(distance <= FARTHEST) | ~(error <= 1e-2) | (determinant < 0)):
        pose = f"{where}: pose {first + i}"
        if not finite[i]:
            raise BadInput(f"{pose} holds NaN or infinity; every entry must be finite")
        if distance[i] > FARTHEST:
            raise BadInput(f"{pose} stands {distance[i]:g} units off; drop it")
        raise BadInput(
            f"{pose} is not a rotation (|R'R - 1| = {error[i]:.3g}, det = {determinant[i]:.3g}); "
            "remove scale or mirroring from the matrix"
        )


def near_origin(c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Poses `[N, 3, 4]` whose positions float32 resolves, what was taken from them `[3]`, and notes.

    That is nothing, but for map coordinates, which are large beside the scene: of these, the point looked at.
    """
    eyes = c2w[:, :, 3]
    middle = eyes.mean(0)
    around = np.concatenate([c2w[:, :, :3], (eyes - middle)[..., None]], axis=-1)
    center = focus_point(around)
    extent = max(np.median(np.linalg.norm(around[:, :, 3] - center, axis=-1)), np.abs(around[:, :, 3]).max())
    if not 1e-9 < extent / max(np.abs(eyes).max(), 1e-9) < NEAREST_TO_FAR:  # less is no scene, but one place
        return c2w, np.zeros(3), []
    offset = middle + center
    around[:, :, 3] -= center
    note = (
        f"positions are large numbers, as on a map: {np.round(offset, 3).tolist()} is moved to the origin; --near, "
        "--far and --aabb are in the moved units"
    )
    return around, offset, [note]


def _normalize(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def hold_out(c2w: np.ndarray, llffhold: int) -> dict[str, list[int]]:
    """Splits of views `[N, 3, 4]`: every llffhold-th is a test view; 0: the one nearest the average pose.

    Raises BadInput where none is left to train on.
    """
    views = list(range(len(c2w)))
    if llffhold > 0:
        test = views[::llffhold]
    else:
        test = [int(np.linalg.norm(c2w[:, :, 3] - average_pose(c2w)[:, 3], axis=-1).argmin())]
    train = [view for view in views if view not in test]
    if not train:
        raise BadInput(f"--llffhold {llffhold}: none of {len(views)} views is left to train on; give 8, say")
    return {"train": train, "val": list(test), "test": test}


def average_pose(c2w: np.ndarray) -> np.ndarray:
    """The pose `[3, 4]` at the mean position, along the mean axis, with the mean up, of `[N, 3, 4]`."""
    up, back, center = c2w[:, :, 1].sum(0), c2w[:, :, 2].sum(0), c2w[:, :, 3].mean(0)
    if np.linalg.norm(np.cross(up, back)) < 1e-6 * len(c2w) ** 2:
        up, back = c2w[0, :, 1], c2w[0, :, 2]  # a full ring of cameras has no mean direction
    return look_at(center, center - back, up)


# The authors' scenes: cameras 4.03 units from the origin, everything within +-1.5.
STANDARD_RADIUS, STANDARD_NEAR, STANDARD_FAR, STANDARD_HALF_BOX = 4.03, 2.0, 6.0, 1.5


def bounds_of_cameras(c2w: np.ndarray) -> tuple[float, float, torch.Tensor, np.ndarray, list[str]]:
    """near, far, box, the point looked at, and notes for the user, from where the cameras stand."""
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3], axis=-1)))
    if abs(radius / STANDARD_RADIUS - 1) < 0.1:
        half = STANDARD_HALF_BOX
        box = torch.tensor([[-half] * 3, [half] * 3])
        return STANDARD_NEAR, STANDARD_FAR, box, np.zeros(3), []
    center = focus_point(c2w)
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1)))
    half = STANDARD_HALF_BOX / STANDARD_RADIUS * radius
    near, far = 0.5 * radius, 1.5 * radius
    corners = torch.tensor(np.stack([center - half, center + half]), dtype=torch.float32)
    note = (
        f"cameras stand {radius:.3g} units from {np.round(center, 2).tolist()}: using near {near:.3g}, "
        f"far {far:.3g} and a box of +-{half:.3g}; --near, --far, --aabb change it, --plot_cameras shows it"
    )
    return near, far, corners, center, [note]
