"""What a dataset reader hands over: images, cameras, bounds, and a path for the video."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from errors import BadInput

FARTHEST = 1e12  # world units: beyond, a position is damage and not a map coordinate
FAR_OFF = 200  # radii of a scene, beyond which float32 positions are off by more than 1e-5 of it


@dataclass
class Cameras:
    """Pinhole cameras with OpenGL axes (x right, y up, looking along -z).

    c2w: camera-to-world `[N, 3, 4]` float32, world units. K: intrinsics `[N, 3, 3]` in pixels,
    with the principal point measured from the image's top left corner. height, width: pixels.
    """

    c2w: torch.Tensor
    K: torch.Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index) -> "Cameras":
        """The cameras at a slice, list or index tensor; a single number gives one camera of N = 1."""
        if isinstance(index, int):
            index = slice(index, index + 1)
        return Cameras(self.c2w[index], self.K[index], self.height, self.width)

    def to(self, device: torch.device) -> "Cameras":
        return Cameras(self.c2w.to(device), self.K.to(device), self.height, self.width)

    def scaled(self, factor: float) -> "Cameras":
        """Cameras of the same field of view for images `factor` times smaller on each side."""
        height, width = max(1, round(self.height / factor)), max(1, round(self.width / factor))
        K = self.K.clone()
        K[:, 0] *= width / self.width
        K[:, 1] *= height / self.height
        return Cameras(self.c2w, K, height, width)


def pinhole(focal: float, height: int, width: int) -> torch.Tensor:
    """Intrinsics `[3, 3]` of a centred pinhole with `focal` in pixels."""
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


@dataclass
class Scene:
    """A scene as the rest of the code sees it. World units are the dataset's own.

    images: uint8 `[N, H, W, 3 or 4]`; a fourth channel is straight (not premultiplied) alpha.
    splits: view numbers of `train`, `val` and `test`. near, far: along the optical axis, world
    units (for `ndc` scenes: in NDC, 0 and 1). aabb: `[2, 3]`, the box that holds the content, in
    the space the field is queried in. background: colour behind everything, `[3]` in [0, 1].
    depth: exact z-depth `[N, H, W]` where a reader knows it, inf where nothing was hit.
    valid: bool `[N, H, W]`, the pixels to learn from and to measure on; None: all.
    """

    name: str
    images: torch.Tensor
    cameras: Cameras
    splits: dict[str, list[int]]
    near: float
    far: float
    aabb: torch.Tensor
    render_path: Cameras
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ndc: bool = False
    depth: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def has_alpha(self) -> bool:
        return self.images.shape[-1] == 4

    def target(self, views: torch.Tensor) -> torch.Tensor:
        """Float images `[V, H, W, 3]` of some views over the scene's background."""
        return composite_over(self.images[views].float() / 255, torch.tensor(self.background))


def composite_over(rgba: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Straight-alpha colours `[..., 4]` over a background that broadcasts; `[..., 3]` unchanged."""
    if rgba.shape[-1] == 3:
        return rgba
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    return rgb * alpha + background.to(rgb) * (1 - alpha)


# ----------------------------------------------------------------------------------------- poses


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


def focus_point(c2w: np.ndarray) -> np.ndarray:
    """The point `[3]` nearest to all optical axes of `c2w [N, 3, 4]`, in least squares."""
    direction, origin = c2w[:, :3, 2:3], c2w[:, :3, 3:]
    projector = np.eye(3) - direction @ direction.transpose(0, 2, 1)  # onto each axis' normal plane
    return np.linalg.lstsq(projector.sum(0), (projector @ origin).sum(0), rcond=None)[0][:, 0]


def check_poses(c2w: np.ndarray, where: str, called: str = "pose") -> None:
    """Raises BadInput unless `c2w [N, 3, 4]` are finite, not too far off, and their rotations orthonormal.

    called: what one is in messages, before its number.
    """
    for i, pose in enumerate(c2w):
        if not np.isfinite(pose).all():
            raise BadInput(f"{where}: {called} {i} holds NaN or infinity; every entry must be finite")
        if np.abs(pose[:, 3]).max() > FARTHEST:
            raise BadInput(f"{where}: {called} {i} stands {np.abs(pose[:, 3]).max():g} units off; drop it")
        rotation = pose[:, :3].astype(np.float64)
        error = np.abs(rotation.T @ rotation - np.eye(3)).max()
        if error > 1e-2 or np.linalg.det(rotation) < 0:
            raise BadInput(
                f"{where}: {called} {i} is not a rotation (|R'R - 1| = {error:.3g}, det = "
                f"{np.linalg.det(rotation):.3g}); remove scale or mirroring from the matrix"
            )


def far_offset(c2w: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """What to take from positions before they become float32, `[3]`: nothing, or where numbers are large beside
    the scene (map coordinates), its `center`, so that no digits are lost. radius: of the scene."""
    return center if np.abs(c2w[:, :, 3]).max() > FAR_OFF * radius else np.zeros(3)


def _normalize(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)
