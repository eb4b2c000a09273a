"""What a dataset reader hands over: images, cameras, bounds, and a path for the video."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from utils.bounds import FAR_AWAY
from utils.errors import BadInput

FARTHEST = 1e12  # world units: beyond, a position is damage and not a map coordinate
NEAREST_TO_FAR = 1e-3  # size of a scene over its distance from the origin, below which float32 is too coarse


@dataclass
class Cameras:
    """Pinhole cameras with OpenGL axes (x right, y up, looking along -z).

    c2w: camera-to-world `[N, 3, 4]` float32, world units. K: intrinsics `[N, 3, 3]` in pixels,
    with the principal point measured from the image's top left corner. height, width: pixels, of
    all images, or where these differ of the frame in whose top left corner each of them lies.
    sizes: height and width of each image `[N, 2]`, int64 and always on the CPU; None: all fill the frame.
    """

    c2w: torch.Tensor
    K: torch.Tensor
    height: int
    width: int
    sizes: torch.Tensor | None = None

    def __post_init__(self):
        if self.sizes is None:
            self.sizes = torch.tensor([self.height, self.width]).expand(len(self.c2w), 2)

    @classmethod
    def of_sizes(cls, c2w: torch.Tensor, K: torch.Tensor, sizes: torch.Tensor) -> "Cameras":
        """Cameras whose images have `sizes [N, 2]`, in the smallest frame that holds each."""
        return cls(c2w, K, *sizes.amax(0).tolist(), sizes)

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index) -> "Cameras":
        """The cameras at a slice, list or index tensor, in the same frame as all; a single number gives one
        camera of N = 1, and its image alone."""
        if isinstance(index, int):
            return Cameras(self.c2w[index, None], self.K[index, None], *self.size(index))
        return Cameras(self.c2w[index], self.K[index], self.height, self.width, self.sizes[index])

    def size(self, view: int) -> tuple[int, int]:
        """Height and width of one image, pixels."""
        height, width = self.sizes[view].tolist()
        return height, width

    def to(self, device: torch.device) -> "Cameras":
        return Cameras(self.c2w.to(device), self.K.to(device), self.height, self.width, self.sizes)

    def scaled(self, factor: float) -> "Cameras":
        """Cameras of one size and of the same field of view, for images `factor` times smaller on each side."""
        height, width = shrunk(self.height, factor), shrunk(self.width, factor)
        K = self.K.clone()
        K[:, 0] *= width / self.width
        K[:, 1] *= height / self.height
        return Cameras(self.c2w, K, height, width)

    def along(self, path: torch.Tensor) -> "Cameras":
        """Cameras at the poses of a path `[F, 3, 4]`: each the first here of the most common size."""
        sizes = list(map(tuple, self.sizes.tolist()))
        usual = most_common(sizes)
        return Cameras(path, self.K[sizes.index(usual), None].repeat(len(path), 1, 1), *usual)


def one_size(sizes: torch.Tensor) -> bool:
    """Whether all images of `sizes [N, 2]` have one."""
    return bool((sizes == sizes[0]).all())


def covered(sizes: torch.Tensor) -> torch.Tensor | None:
    """Which pixels `[N, H, W]` of the frame that images of `sizes [N, 2]` lie in are theirs; None: all."""
    if one_size(sizes):
        return None
    height, width = sizes.amax(0).tolist()
    in_rows, in_columns = torch.arange(height) < sizes[:, :1], torch.arange(width) < sizes[:, 1:]
    return in_rows[:, :, None] & in_columns[:, None]


def most_common(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size that most images have, the first of those that are as common."""
    return Counter(sizes).most_common(1)[0][0]


def shrunk(side: int, factor: float) -> int:
    """A side of an image, pixels, once it is `factor` times smaller."""
    return max(1, round(side / factor))


def pinhole(focal: float, height: int, width: int) -> torch.Tensor:
    """Intrinsics `[3, 3]` of a centred pinhole with `focal` in pixels."""
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


@dataclass
class Scene:
    """A scene as the rest of the code sees it. World units are the dataset's own.

    images: uint8 `[N, H, W, 3 or 4]`; a fourth channel is straight (not premultiplied) alpha. Where
    the views differ in size each lies in its top left corner, and what is beyond is not valid.
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

    def picture(self, view: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`target` of one view at its own size `[h, w, 3]`, and its valid pixels `[h, w]`; None: all."""
        height, width = self.cameras.size(view)
        target = self.target(torch.tensor([view]))[0, :height, :width]
        return target, None if self.valid is None else self.valid[view, :height, :width]


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


def check_extent(what: str, numbers: np.ndarray, where: str) -> None:
    """Raises BadInput where coordinates are not finite, or so large that float32 and model files do not hold them.

    what: whose they are, in words; where: of which file.
    """
    farthest = np.abs(numbers).max()
    if not farthest <= FAR_AWAY:  # nor is NaN
        raise BadInput(
            f"{where}: {what} reaches {farthest:g} units off; expected {FAR_AWAY:g} at most: mend or scale it"
        )


def possible_focal(focal: float | np.ndarray, side: float | np.ndarray) -> bool | np.ndarray:
    """Whether a lens may have this focal length, pixels, for images with such a side."""
    return (focal > 1e-3 * side) & (focal < FAR_AWAY)


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
