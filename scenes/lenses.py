"""Lenses, and photographs as a pinhole would have taken them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from scenes.colmap_lenses import bend
from scenes.exif import STORED, read_header
from scenes.exif import upright as turned
from scenes.images import hidden_share, read_images
from scenes.masks import read_mask, shrink_mask
from scenes.scene import covered, one_size, shrunk
from utils.bounds import FAR_AWAY
from utils.errors import BadInput


@dataclass(frozen=True)
class Lens:
    """A pinhole with distortion, for images of `width` x `height`.

    fx, fy, cx, cy: pixels, from the image's top left corner (a pixel's centre is at +0.5).
    distortion: OpenCV's k1, k2, p1, p2, k3 and then k4 to k6, or for a fisheye k1 to k4; () for none.
    model: of `colmap_lenses`, whose parameters distortion is then.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False
    model: str = ""

    @property
    def is_pinhole(self) -> bool:
        return not self.fisheye and not self.model and not any(self.distortion)

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
    """image: its file, and how it is turned (EXIF's number). c2w: `[3, 4]`, OpenGL axes, the capture's own
    units. mask, hidden: pictures of the same size; where the first is black, or the second is not, pixels are
    to be ignored."""

    image: Path
    lens: Lens
    c2w: np.ndarray
    mask: Path | None = None
    hidden: Path | None = None
    orientation: int = STORED

    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return read_header(self.image).turned(self.orientation)

    def counted(self, shape: tuple[int, int]) -> np.ndarray | None:
        """Bool `[H, W]`, the pixels that masks leave; None: all."""
        kept = None if self.mask is None else read_mask(self.mask, shape)
        if self.hidden is None:
            return kept
        shown = ~read_mask(self.hidden, shape)
        return shown if kept is None else kept & shown


@dataclass
class Pictures:
    """What pinholes saw: images uint8 `[N, H, W, C]`, each in its top left corner; valid bool `[N, H, W]` or None for
    all; K `[N, 3, 3]`; sizes `[N, 2]`, height and width of each."""

    images: np.ndarray
    valid: torch.Tensor | None
    K: torch.Tensor
    sizes: torch.Tensor

    def hidden_share(self) -> float:
        """How much of all pixels' alpha is missing."""
        return hidden_share(self.images, int(self.sizes.prod(1).sum()))


def pixel_notes(pictures: Pictures) -> list[str]:
    """What to say of their pixels."""
    valid, sizes, notes = pictures.valid, pictures.sizes, []
    if valid is not None and (share := 1 - int(valid.sum()) / int(sizes.prod(1).sum())):
        notes.append(f"{share:.1%} of pixels are not learnt from: masked, or outside the photograph once undistorted")
    if not one_size(sizes):
        notes.append(
            f"images of {len(sizes.unique(dim=0))} sizes: each is learnt from and measured at its own, "
            "videos have that of the most"
        )
    return notes


def read_views(views: Sequence[View], factor: float, where: str) -> Pictures:
    """Images as pinholes see them, in a frame of the size of the largest.

    A shrunk pixel is valid if all pixels that it averages are; those beyond an image's own size are not.
    """
    paths = [view.image for view in views]
    full = [view.size() for view in views]
    lenses = [
        view.lens.resized(width, height, f"{where}: {view.image}")
        for view, (height, width) in zip(views, full, strict=True)
    ]
    maps = lru_cache(2)(undistortion_map)  # views of one camera share them; each is as large as four images
    masks: list[np.ndarray | None] = [None] * len(views)

    def prepare(i: int, image: np.ndarray) -> np.ndarray:
        image = turned(image, views[i].orientation)
        good = views[i].counted(image.shape[:2])
        if not lenses[i].is_pinhole:
            columns, rows, inside = maps(lenses[i])
            image = _undistort(image, columns, rows)
            if good is not None:
                straight = _undistort(np.where(good[..., None], 255, [0, 0, 0]).astype(np.uint8), columns, rows)
                inside = inside & (straight[..., 0] == 255)  # of what is interpolated all is good
            good = inside
        if good is not None and not good.all():
            masks[i] = shrink_mask(good, factor)
            if not masks[i].any():
                named = [str(path) for path in (views[i].mask, views[i].hidden) if path is not None]
                mend = f"mend {' and '.join(named)}" if named else "calibrate again"
                raise BadInput(f"{views[i].image}: no pixel is left to learn from; drop the frame, or {mend}")
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
    return Pictures(images, valid, K, sizes)


def undistortion_map(lens: Lens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel `[H, W]` of the pinhole picture: column and row in the photograph, float32, as OpenCV
    counts them (0 at the first pixel's centre), and whether there is anything to see."""
    x = (np.arange(lens.width) + 0.5 - lens.cx) / lens.fx
    y = (np.arange(lens.height) + 0.5 - lens.cy) / lens.fy
    if lens.model:
        parameters = [lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion]
        columns, rows, shown = bend(lens.model, (lens.width, lens.height), parameters, *np.meshgrid(x, y))
        columns, rows = (columns - 0.5).astype(np.float32), (rows - 0.5).astype(np.float32)
        return columns, rows, shown & _within(lens, columns, rows)
    matrix = lens.matrix()
    matrix[:2, 2] -= 0.5
    size = lens.width, lens.height
    distortion = np.array(lens.distortion or (0.0, 0.0, 0.0, 0.0))
    if lens.fisheye:
        maps = cv2.fisheye.initUndistortRectifyMap(matrix, distortion, np.eye(3), matrix, size, cv2.CV_32FC1)
    else:
        maps = cv2.initUndistortRectifyMap(matrix, distortion, None, matrix, size, cv2.CV_32FC1)
    columns, rows = maps
    return columns, rows, _within(lens, columns, rows) & (x**2 + y[:, None] ** 2 < fold_radius(lens) ** 2)


def _within(lens: Lens, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether there are such places in a photograph, as OpenCV counts them."""
    return (columns >= -0.5) & (columns <= lens.width - 0.5) & (rows >= -0.5) & (rows <= lens.height - 0.5)


def fold_radius(lens: Lens) -> float:
    """Where the distortion turns back on itself, at focal length 1: beyond it the model shows things twice.

    The first stationary point of the radius, r (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6), or
    where that has a pole before; for a fisheye, of r (1 + k1 r^2 + ...) of the angle.
    """
    k = np.zeros(8)
    k[: len(lens.distortion)] = lens.distortion
    above, below = ([1, *k[:4]], [1.0]) if lens.fisheye else ([1, *k[:2], k[4]], [1, *k[5:]])
    above, below = np.polynomial.Polynomial(above), np.polynomial.Polynomial(below)  # in powers of r^2
    square = np.polynomial.Polynomial([0.0, 1.0])
    slope = (above + 2 * square * above.deriv()) * below - 2 * square * above * below.deriv()
    turn = math.sqrt(min(first_positive_root(slope), first_positive_root(below)))
    if not lens.fisheye:
        return turn
    return math.tan(turn) if turn < math.pi / 2 else math.inf


def first_positive_root(polynomial: np.polynomial.Polynomial) -> float:
    """inf where there is none."""
    roots = polynomial.trim().roots() if polynomial.trim().degree() else np.zeros(0)
    real = roots[np.abs(roots.imag) < 1e-9].real
    return min(real[real > 0], default=math.inf)


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


def possible_focal(focal: float | np.ndarray, side: float | np.ndarray) -> bool | np.ndarray:
    """Whether a lens may have this focal length, pixels, for images with such a side."""
    return (focal > 1e-3 * side) & (focal < FAR_AWAY)
