"""From where a model is seen, in our axes and in viser's.

Ours are OpenGL's: x right, y up, looking along -z. Viser's are OpenCV's: x right, y down, looking along z; it has a
rotation as a quaternion w, x, y, z.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from scenes.poses import focus_point, rotation
from scenes.scene import Cameras, pinhole

OPENCV = np.array([1.0, -1.0, -1.0])  # what turns the axes of one into those of the other, and back


@dataclass(frozen=True, eq=False)
class View:
    """c2w: camera-to-world `[3, 4]`, our axes. fov: of its height, radians. aspect: width over height."""

    c2w: np.ndarray
    fov: float
    aspect: float

    @classmethod
    def of_camera(cls, camera: Cameras) -> "View":
        """Of one camera."""
        fov = 2 * math.atan(0.5 * camera.height / float(camera.K[0, 1, 1]))
        return cls(camera.c2w[0].double().cpu().numpy(), fov, camera.width / camera.height)

    def size(self, longest: float) -> tuple[int, int]:
        """Height and width, pixels, of a picture whose longer side is so long."""
        height, width = min(1.0, 1 / self.aspect), min(1.0, self.aspect)
        return max(2, round(longest * height)), max(2, round(longest * width))

    def camera(self, height: int, width: int) -> Cameras:
        """For a picture of so many pixels."""
        focal = 0.5 * height / math.tan(0.5 * self.fov)
        return Cameras(
            torch.tensor(self.c2w, dtype=torch.float32)[None], pinhole(focal, height, width)[None], height, width
        )


def to_viser(c2w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternion `[4]` and position `[3]` of camera-to-world `[3, 4]`."""
    return quaternion(c2w[:, :3] * OPENCV), c2w[:, 3]


def from_viser(wxyz: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Camera-to-world `[3, 4]` of quaternion `[4]` and position `[3]`."""
    return np.concatenate([rotation(wxyz) * OPENCV, np.asarray(position, np.float64)[:, None]], axis=1)


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """The unit quaternion `[4]`, w not negative, of a rotation `[3, 3]`: the eigenvector of the largest eigenvalue of
    Bar-Itzhack's matrix (2000, eq. 2), which no rotation makes singular."""
    (a, b, c), (d, e, f), (g, h, i) = np.asarray(matrix, np.float64)
    lower = np.array(
        [
            [a + e + i, 0, 0, 0],
            [h - f, a - e - i, 0, 0],
            [c - g, b + d, e - a - i, 0],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    wxyz = np.linalg.eigh(lower)[1][:, -1]  # which reads the lower half
    return -wxyz if wxyz[0] < 0 else wxyz


def up_of(path: Cameras) -> np.ndarray:
    """The world's axis `[3]` nearest to what is up for the cameras of a path: z, or y in forward-facing scenes."""
    mean = path.c2w[:, :, 1].double().mean(0).cpu().numpy()
    axis = np.zeros(3)
    axis[np.abs(mean).argmax()] = np.copysign(1.0, mean[np.abs(mean).argmax()])
    return axis


def looked_at(path: Cameras) -> np.ndarray:
    """What the first camera of a path looks at `[3]`: on its axis, as far as the point that all look at."""
    c2w = path.c2w.double().cpu().numpy()
    eye, ahead = c2w[0, :, 3], -c2w[0, :, 2]
    distance = float((focus_point(c2w) - eye) @ ahead)
    return eye + ahead * (distance if distance > 1e-3 else max(1.0, float(np.linalg.norm(eye))))
