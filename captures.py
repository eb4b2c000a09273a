"""Photographs with known cameras, of any lens and in any frame, made into a scene.

What nerfstudio's and COLMAP's readers share: lens distortion is taken out, masks are applied, and
the world is moved so that what the cameras look at is the origin, up is z, and cameras stand within
about 4 units: the frame and scale of NeRF's own scenes, for which learning rates and densities are set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from errors import BadInput
from images import image_sizes, read_image, read_images
from scene import (
    Cameras,
    Scene,
    covered,
    depth_range,
    focus_point,
    level_orbit,
    look_at,
    one_size,
    shrunk,
    upright,
)

CAMERA_RADIUS = 4.0  # world units within which nine of ten cameras come to stand
SUBJECT_HALF_BOX, SURROUNDINGS_HALF_BOX = 1.5, 8.0  # world units: images with alpha, and without
LEAST_NEAR = 0.1 * CAMERA_RADIUS  # closer than this nothing is sharp, and floaters would grow there
PATH_FRAMES = 40
# Of the depths and places of the points that cameras see: so many lie beyond on either side, and what
# remains is widened, since points are on surfaces and lie more densely than they reach far.
OUTLIERS, NEAR_SLACK, FAR_SLACK, BOX_SLACK = 0.5, 1.5, 1.25, 0.1  # percent, factors, share of a side
FEWEST_POINTS = 20  # seen by cameras, below which they say nothing


@dataclass(frozen=True)
class Lens:
    """A pinhole with distortion, for images of `width` x `height`.

    fx, fy, cx, cy: pixels, from the image's top left corner (a pixel's centre is at +0.5).
    distortion: OpenCV's k1, k2, p1, p2, k3, or for a fisheye k1 to k4; () for none.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    @property
    def is_pinhole(self) -> bool:
        return not self.fisheye and not any(self.distortion)

    def matrix(self) -> np.ndarray:
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]])

    def resized(self, width: int, height: int, where: str) -> "Lens":
        """The lens for the same picture, which is `where`, at another size. Raises BadInput if the aspect differs."""
        x, y = width / self.width, height / self.height
        if abs(x / y - 1) > 0.01 + 1 / min(width, height):  # each side was rounded to a whole pixel
            raise BadInput(
                f"{where} is {width}x{height}, its camera is for {self.width}x{self.height}, another aspect; use "
                "the images that the cameras were computed from, neither cropped nor turned"
            )
        return replace(self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y)


def checked_lens(lens: Lens, where: str) -> Lens:
    """The lens; raises BadInput, naming `where`, for what no camera has."""
    numbers = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion)
    if not all(map(math.isfinite, numbers)):
        raise BadInput(f"{where}: camera of {list(numbers)}; expected finite numbers: calibrate again")
    if not (lens.fx > 0 and lens.fy > 0 and lens.width > 0 and lens.height > 0):
        raise BadInput(
            f"{where}: image of {lens.width}x{lens.height} and focal length {lens.fx:g}, {lens.fy:g}; "
            "expected pixels, above zero: calibrate again"
        )
    return lens


@dataclass
class View:
    """image: its file. c2w: `[3, 4]`, OpenGL axes, the capture's own units. mask: a picture of the same
    size, black where pixels are to be ignored."""

    image: Path
    lens: Lens
    c2w: np.ndarray
    mask: Path | None = None


@dataclass
class SeenPoints:
    """Surface points `[P, 3]` in the capture's units, and which of them each view sees, `[S_i]` each."""

    positions: np.ndarray
    seen: list[np.ndarray]


def capture_scene(
    name: str,
    where: str,
    views: Sequence[View],
    splits: dict[str, list[int]],
    factor: float = 1,
    white_background: bool = False,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
    points: SeenPoints | None = None,
) -> Scene:
    """A scene of `views`, undistorted, shrunk by `factor`, and moved as the module's first lines say.

    where: the file to name in messages. near, far: in the new units; by default from `points`, or,
    where there are none, from where the cameras stand. Raises BadInput as the image readers do.
    """
    if not factor >= 1:
        raise BadInput(f"--factor {factor:g}: images can only be made smaller; give 1 or more")
    images, valid, K, sizes = read_views(views, factor, where)
    if images.shape[-1] == 3 and needs_alpha:
        raise BadInput(
            f"{views[0].image}: image is RGB, but --white_bkgd and --random_bkgd need RGBA; leave them out, "
            "or give the images an alpha channel"
        )
    c2w = np.stack([view.c2w for view in views]).astype(np.float64)
    move = normalisation(c2w, where)
    c2w = move.poses(c2w)
    notes = [
        f"moved {np.round(move.center, 3).tolist()} to the origin, up to z, and scaled by {move.scale:.4g}: cameras "
        "stand within about 4 units; --near, --far and --aabb are in these units, --plot_cameras shows them"
    ]
    half = SUBJECT_HALF_BOX if images.shape[-1] == 4 else SURROUNDINGS_HALF_BOX
    bounds = None if points is None else bounds_of_points(c2w, move.points(points.positions), points.seen)
    if bounds is None:
        box = np.array([[-half] * 3, [half] * 3])
        scene_near, scene_far = depth_range(c2w, box)
        scene_near = min(max(scene_near, LEAST_NEAR), 0.5 * scene_far)
        notes.append(f"where content ends is not known: box of +-{half:g}, near {scene_near:.3g}, far {scene_far:.3g}")
        if np.median((c2w[:, :, 3] * c2w[:, :, 2]).sum(-1)) < 0.1 * CAMERA_RADIUS:
            notes.append("cameras look at no common point, so that box is a guess: give --near, --far and --aabb")
    else:
        scene_near, scene_far, box = bounds
    if valid is not None and (share := 1 - int(valid.sum()) / int(sizes.prod(1).sum())):
        notes.append(f"{share:.1%} of pixels are not learnt from: masked, or outside the photograph once undistorted")
    if not one_size(sizes):
        notes.append(
            f"images of {len(sizes.unique(dim=0))} sizes: each is learnt from and measured at its own, "
            "videos have that of the most"
        )
    cameras = Cameras.of_sizes(torch.tensor(c2w, dtype=torch.float32), K, sizes)
    return Scene(
        name=name,
        images=torch.from_numpy(images),
        cameras=cameras,
        splits=splits,
        near=scene_near if near is None else near,
        far=scene_far if far is None else far,
        aabb=torch.tensor(box, dtype=torch.float32),
        render_path=cameras.along(camera_path(c2w)),
        background=(1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0),
        valid=valid,
        notes=notes,
    )


# ----------------------------------------------------------------------------- lenses and masks


def read_views(
    views: Sequence[View], factor: float, where: str
) -> tuple[np.ndarray, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Images uint8 `[N, H, W, C]` as pinholes see them, valid bool `[N, H, W]` or None for all, K `[N, 3, 3]`,
    and heights and widths `[N, 2]`, of which the images' frame is the largest.

    A shrunk pixel is valid if all pixels that it averages are; those beyond an image's own size are not.
    """
    paths = [view.image for view in views]
    full = image_sizes(paths)
    lenses = [
        view.lens.resized(width, height, f"{where}: {view.image}")
        for view, (height, width) in zip(views, full, strict=True)
    ]
    maps = lru_cache(2)(undistortion_map)  # views of one camera share them; each is as large as four images
    masks: list[np.ndarray | None] = [None] * len(views)

    def prepare(i: int, image: np.ndarray) -> np.ndarray:
        good = None if views[i].mask is None else _read_mask(views[i].mask, image.shape[:2])
        if not lenses[i].is_pinhole:
            columns, rows, inside = maps(lenses[i])
            image = _undistort(image, columns, rows)
            if good is not None:
                straight = _undistort(np.where(good[..., None], 255, [0, 0, 0]).astype(np.uint8), columns, rows)
                inside = inside & (straight[..., 0] == 255)  # of what is interpolated all is good
            good = inside
        if good is not None and not good.all():
            masks[i] = _shrink_mask(good, factor)
            if not masks[i].any():
                raise BadInput(f"{views[i].image}: no pixel is left to learn from; drop the frame, or mend its mask")
        return image

    images = read_images(paths, factor, prepare, full)
    sizes = torch.tensor([[shrunk(side, factor) for side in size] for size in full])
    scales = np.ones((len(views), 3, 1))
    scales[:, :2, 0] = (sizes.numpy() / full)[:, ::-1]  # x before y
    K = torch.tensor(np.stack([lens.matrix() for lens in lenses]) * scales, dtype=torch.float32)
    valid = covered(sizes)
    if any(mask is not None for mask in masks):
        valid = torch.ones(images.shape[:3], dtype=torch.bool) if valid is None else valid
        for whole, (height, width), mask in zip(valid, sizes.tolist(), masks, strict=True):
            if mask is not None:
                whole[:height, :width] = torch.from_numpy(mask)
    return images, valid, K, sizes


def undistortion_map(lens: Lens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel `[H, W]` of the pinhole picture: column and row in the photograph, float32, as OpenCV
    counts them (0 at the first pixel's centre), and whether there is anything to see."""
    matrix = lens.matrix()
    matrix[:2, 2] -= 0.5
    size = lens.width, lens.height
    distortion = np.array(lens.distortion or (0.0, 0.0, 0.0, 0.0))
    if lens.fisheye:
        maps = cv2.fisheye.initUndistortRectifyMap(matrix, distortion, np.eye(3), matrix, size, cv2.CV_32FC1)
    else:
        maps = cv2.initUndistortRectifyMap(matrix, distortion, None, matrix, size, cv2.CV_32FC1)
    columns, rows = maps
    inside = (columns >= -0.5) & (columns <= lens.width - 0.5) & (rows >= -0.5) & (rows <= lens.height - 0.5)
    x = (np.arange(lens.width) + 0.5 - lens.cx) / lens.fx
    y = (np.arange(lens.height) + 0.5 - lens.cy) / lens.fy
    inside &= x**2 + y[:, None] ** 2 < fold_radius(lens) ** 2
    return columns, rows, inside


def fold_radius(lens: Lens) -> float:
    """Where the distortion turns back on itself, at focal length 1: beyond it the model shows things twice.

    The radial polynomials' first stationary point: r (1 + k1 r^2 + k2 r^4 + ...) of the radius, or, for
    a fisheye, of the angle.
    """
    k = lens.distortion if lens.fisheye else (*lens.distortion[:2], *lens.distortion[4:5])
    slope = [1.0, *((2 * i + 3) * value for i, value in enumerate(k))]  # in powers of r^2
    roots = np.roots(slope[::-1])
    real = roots[np.abs(roots.imag) < 1e-9].real
    turn = math.sqrt(min(real[real > 0], default=math.inf))
    if not lens.fisheye:
        return turn
    return math.tan(turn) if turn < math.pi / 2 else math.inf


def _undistort(image: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """RGBA is resampled premultiplied, so that what is invisible does not bleed in."""
    border = cv2.BORDER_REPLICATE  # the outer half of the border's pixels; beyond, nothing is valid
    if image.shape[-1] == 3:
        return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=border)
    pixels = image.astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    pixels = cv2.remap(pixels, columns, rows, cv2.INTER_LINEAR, borderMode=border)
    pixels[..., :3] *= 255 / np.maximum(pixels[..., 3:], 1e-3)
    return pixels.round().clip(0, 255).astype(np.uint8)


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Bool `[H, W]`, true where a pixel counts."""
    mask = read_image(path)
    if mask.shape[:2] != shape:
        raise BadInput(
            f"{path}: mask is {mask.shape[1]}x{mask.shape[0]}, its image {shape[1]}x{shape[0]}; export it at that size"
        )
    return mask[..., 0] >= 128


def _shrink_mask(good: np.ndarray, factor: float) -> np.ndarray:
    """Bool `[H, W]` as small as `area_downsample` makes images: false where any part of a pixel is."""
    if factor == 1:
        return good
    height, width = (shrunk(side, factor) for side in good.shape)
    return cv2.resize((~good).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) < 1e-6


# ------------------------------------------------------------------------------ frame and bounds


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


def normalisation(c2w: np.ndarray, where: str) -> Similarity:
    """What moves the point that cameras `[N, 3, 4]` look at to the origin, their mean up to z, and nine of
    ten of them to within CAMERA_RADIUS.

    Cameras that all look the same way look at no point: then their own middle is the origin.
    Raises BadInput where all stand at one place, from which nothing can be told about depth.
    """
    eyes, ahead = c2w[:, :, 3], -c2w[:, :, 2]
    if not np.abs(eyes).max() < 1e9:
        raise BadInput(f"{where}: a camera stands {np.abs(eyes).max():g} units off; drop its frame")
    spread = np.linalg.norm(eyes - eyes.mean(0), axis=-1).max()
    if not spread > 1e-6 * max(1.0, np.abs(eyes).max()):
        raise BadInput(f"{where}: all cameras stand at one place; a scene needs views from several")
    center = focus_point(c2w)
    axes_differ = np.linalg.norm(ahead.mean(0)) < 1 - 1e-4  # by a degree or so
    if not axes_differ or np.median(((center - eyes) * ahead).sum(-1)) < 0:
        center = eyes.mean(0)
    radius = float(np.percentile(np.linalg.norm(eyes - center, axis=-1), 90))
    return Similarity(upright(c2w), center, CAMERA_RADIUS / max(radius, 1e-3 * spread))


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
    else along the cameras themselves, in their order."""
    eyes = c2w[:, :, 3]
    outside = (eyes * c2w[:, :, 2]).sum(-1) > 0  # those that have the origin in front of them
    azimuth = np.sort(np.arctan2(eyes[outside, 1], eyes[outside, 0]))
    gaps = np.diff(azimuth, append=azimuth[:1] + 2 * np.pi)
    if outside.mean() > 0.8 and gaps.max() < np.radians(100):
        return level_orbit(c2w, np.zeros(3), PATH_FRAMES)
    path = []
    for place in np.linspace(0, len(c2w) - 1, PATH_FRAMES):
        i = min(int(place), len(c2w) - 2) if len(c2w) > 1 else 0
        between = place - i
        pose = (1 - between) * c2w[i] + between * c2w[min(i + 1, len(c2w) - 1)]
        if np.linalg.norm(np.cross(pose[:, 1], pose[:, 2])) < 1e-3:
            pose = c2w[i]  # neighbours that look opposite ways have nothing between them
        path.append(look_at(pose[:, 3], pose[:, 3] - pose[:, 2], pose[:, 1]))
    return torch.tensor(np.stack(path), dtype=torch.float32)
