"""A camera path set by hand: a few cameras, and a smooth way through them that a file holds frame by frame."""

import math

import numpy as np

from scenes.poses import rotation
from utils.errors import BadInput
from viewer.views import View, quaternion

FPS = 30  # as `evaluation.videos` writes them


class CameraPath:
    """keys: the cameras that it passes, in order. closed: whether it comes back to the first."""

    def __init__(self):
        self.keys: list[View] = []
        self.closed = False

    def frames(self, seconds: float) -> np.ndarray:
        """Camera-to-world `[F, 3, 4]`, with as many frames from one key to the next as fill `seconds`.

        Positions and quaternions are Catmull-Rom splines, which pass each key without a jump in direction or speed.
        Raises BadInput where there is no key.
        """
        if not self.keys:
            raise BadInput("the path has no camera yet; add one")
        poses = np.stack([key.c2w for key in self.keys])
        if len(poses) == 1:
            return poses
        last = len(poses) - 1
        order = [last, *range(last + 1), 0, 1] if self.closed else [0, *range(last + 1), last]
        eyes, turns = poses[order, :, 3], same_side(np.stack([quaternion(poses[i, :, :3]) for i in order]))
        knots = np.concatenate([eyes, turns], axis=1)
        if not self.closed:  # straight at its ends
            knots[0], knots[-1] = 2 * knots[1] - knots[2], 2 * knots[-2] - knots[-3]
        rows = catmull_rom(knots, max(1, round(seconds * FPS)))
        frames = [np.concatenate([rotation(row[3:]), row[:3, None]], axis=1) for row in rows]
        return np.stack(frames[:-1] if self.closed else frames)

    def content(self, seconds: float, height: int, width: int) -> dict:
        """What a file of it holds, as `scenes.paths.read_path` and nerfstudio read it: a pose a frame, and the first
        key's field of view, for pictures of so many pixels."""
        frames = self.frames(seconds)
        fov = math.degrees(self.keys[0].fov)
        poses = [[*pose.reshape(-1).tolist(), 0.0, 0.0, 0.0, 1.0] for pose in frames]
        return {
            "camera_type": "perspective",
            "render_height": height,
            "render_width": width,
            "fps": FPS,
            "seconds": len(frames) / FPS,
            "is_cycle": self.closed,
            "camera_path": [{"camera_to_world": pose, "fov": fov, "aspect": width / height} for pose in poses],
        }


def same_side(turns: np.ndarray) -> np.ndarray:
    """Quaternions `[N, 4]` of the same rotations, each on the side of the one before: q and -q are one rotation, and
    the way between them is none."""
    signs = np.copysign(1.0, (turns[1:] * turns[:-1]).sum(-1))
    return turns * np.cumprod([1.0, *signs])[:, None]


def catmull_rom(knots: np.ndarray, steps: int) -> np.ndarray:
    """Rows `[(N - 3) * steps + 1, C]` of a uniform Catmull-Rom spline from the second of knots `[N, C]` to the last but
    one, `steps` from each to the next."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    rows = []
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        rows.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate([*rows, knots[-2:-1]])
