"""Reading, shrinking and writing 8-bit images, with errors a user can act on."""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageCms

from scenes.scene import shrunk
from utils.errors import BadInput
from utils.files import atomic_write

Value = TypeVar("Value")

# Where sizes differ, so many pixels may be empty in the frames of one size that hold them, or as many as are not.
MOST_PADDING = 2**26
EXPORT_AGAIN = "all must be alike: export them again at one size and format"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")  # compared in lower case


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder by name, without hidden ones; none if there is no such folder."""
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    except (OSError, ValueError):  # also where no folder can have that name
        return []
    return sorted(p for p in files if not p.name.startswith("."))  # macOS leaves "._a.png" beside "a.png"


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 `[H, W, 3 or 4]`, four where it has alpha or a transparent colour.

    Whatever else its pixels are (grey, palette, CMYK, ...) becomes RGB; 16 bits are rounded to 8.
    Raises BadInput for a file that is missing, empty or not a whole image.
    """

    def pixels() -> np.ndarray:
        with Image.open(path) as image:
            return _as_bytes(image)

    return decode(path, pixels)


def _as_bytes(image: Image.Image) -> np.ndarray:
    if image.mode == "F" or image.mode.startswith("I"):  # one number a pixel, of more than 8 bits
        levels = np.asarray(image).astype(np.float64)
        full = 1 if image.mode == "F" else 65535
        if not (levels.min() >= 0 and levels.max() <= full):  # nor NaN
            raise ValueError(f"values from {levels.min():g} to {levels.max():g}, expected 0 to {full}")
        grey = np.floor(255 / full * levels + 0.5).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, pixels, from its header. Raises BadInput as `read_image` does."""

    def header() -> tuple[int, int]:
        with Image.open(path) as image:
            return image.height, image.width

    return decode(path, header)


def decode(path: Path, decoder: Callable[[], Value]) -> Value:
    """What `decoder` makes of an image file. Raises BadInput where there is none, or for whatever that raises."""
    try:
        there = path.is_file()
    except OSError:  # a name that is too long for any file
        there = False
    if not there:
        raise BadInput(f"{path}: no such image; the pose file names it, so restore it or drop its frame")
    try:
        if path.stat().st_size == 0:
            raise ValueError("it has 0 bytes")
        return decoder()
    except Exception as error:  # whatever it raises
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise BadInput(f"{path}: not a readable image ({reason}); download or export it again") from error


def read_images(
    paths: Sequence[Path],
    factor: float = 1,
    prepare: Callable[[int, np.ndarray], np.ndarray] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> np.ndarray:
    """Images as uint8 `[N, H, W, C]`, N >= 1, each shrunk by `factor` as soon as it is read.

    prepare: given each image's number and its pixels at full size, returns what to shrink; called in
    several threads. At no time is more than one full-size image a thread in memory. sizes: the files'
    own heights and widths, `image_size` of each, where these may differ: then every image lies in the
    top left corner of the smallest frame that holds each, black beyond. None: all have one size.
    Raises BadInput where sizes differ that must not, or channel counts.
    """
    if sizes is None:
        sizes = image_sizes(paths)
        check_one_size(paths, sizes)
    small = [(shrunk(height, factor), shrunk(width, factor)) for height, width in sizes]
    frame = _frame(paths, sizes, small)

    def read(i: int) -> np.ndarray:
        image = read_image(paths[i])
        return area_downsample(image if prepare is None else prepare(i, image), factor)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(read, range(len(paths)))
        first = next(results)
        images = np.zeros((len(paths), *frame, first.shape[-1]), np.uint8)
        for i, image in enumerate(itertools.chain([first], results)):  # in order, each freed once it is copied
            if image.shape[-1] != first.shape[-1]:
                raise _unlike(paths[i], paths[0])
            images[i, : small[i][0], : small[i][1]] = image
    return images


def hidden_share(images: np.ndarray, pixels: int | None = None) -> float:
    """How much of pictures `[N, H, W, C]` alpha hides, 0 to 1. pixels: of all of them, where their sizes differ."""
    if images.shape[-1] == 3:
        return 0.0
    opaque = sum(int(image[..., 3].sum(dtype=np.int64)) for image in images)
    return 1 - opaque / (255 * (images[..., 0].size if pixels is None else pixels))


def without_idle_alpha(images: np.ndarray, hidden: float) -> tuple[np.ndarray, list[str]]:
    """Images `[N, H, W, C]` without alpha if none of them is `hidden` by it, and notes."""
    if images.shape[-1] == 3 or hidden:
        return images, []
    note = "alpha is 255 in every pixel: it hides nothing, and images are taken as RGB; --random_bkgd has no effect"
    return np.ascontiguousarray(images[..., :3]), [note]


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    return [image_size(path) for path in paths]


def check_one_size(paths: Sequence[Path], sizes: Sequence[tuple[int, int]], way_out: str = EXPORT_AGAIN) -> None:
    """Raises BadInput, which ends with `way_out`, where the files have several `sizes`."""
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            raise _unlike(path, paths[0], way_out)


def _unlike(path: Path, first: Path, way_out: str = EXPORT_AGAIN) -> BadInput:
    found, expected = map(_describe, (path, first))
    return BadInput(f"{path}: image is {found} but {first} is {expected}; {way_out}")


def _describe(path: Path) -> str:
    """Size and channels of an image file, from its header: it may be too large to be decoded in passing."""

    def header() -> str:
        with Image.open(path) as image:
            return f"{image.width}x{image.height} {'RGBA' if image.has_transparency_data else 'RGB'}"

    return decode(path, header)


def _frame(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], small: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Height and width that hold images which become as `small`. Raises BadInput where too much would be empty."""
    height, width = np.max(small, axis=0).tolist()
    pixels = sum(map(math.prod, small))
    if height * width * len(small) - pixels > max(pixels, MOST_PADDING):
        largest = max(range(len(sizes)), key=lambda i: math.prod(sizes[i]))
        found = f"{sizes[largest][1]}x{sizes[largest][0]}"
        raise BadInput(
            f"{paths[largest]}: image is {found}, most are far smaller, and all are kept in frames of "
            f"{width}x{height}, which takes too much memory; shrink the large ones, or drop them"
        )
    return height, width


def area_downsample(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrinks uint8 `[H, W, 3 or 4]` by averaging over each new pixel's area.

    RGBA is averaged premultiplied, which is what compositing first and shrinking afterwards gives;
    averaging straight colours would bleed the colour of invisible pixels into every silhouette.
    """
    if factor == 1:
        return image
    height, width = (shrunk(side, factor) for side in image.shape[:2])
    pixels = image.astype(np.float32)
    if image.shape[-1] == 4:
        pixels[..., :3] *= pixels[..., 3:] / 255
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if image.shape[-1] == 4:
        pixels[..., :3] *= 255 / np.maximum(pixels[..., 3:], 1e-3)
    return pixels.round().clip(0, 255).astype(np.uint8)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 `[H, W, 3 or 4]`, making the folder if need be."""
    atomic_write(path, imageio.imwrite("<bytes>", image, extension=".png"))
