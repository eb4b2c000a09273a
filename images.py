"""Reading, shrinking and writing 8-bit images, with errors a user can act on."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageCms

from errors import BadInput

Value = TypeVar("Value")

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
    paths: Sequence[Path], factor: float = 1, prepare: Callable[[int, np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Images of one size as uint8 `[N, H, W, C]`, N >= 1, each shrunk by `factor` as soon as it is read.

    prepare: given each image's number and its pixels at full size, returns what to shrink; called in
    several threads. At no time is more than one full-size image a thread in memory.
    Raises BadInput where sizes or channel counts differ.
    """

    def read(i: int) -> tuple[np.ndarray, tuple[int, ...]]:
        image = read_image(paths[i])
        image = image if prepare is None else prepare(i, image)
        return area_downsample(image, factor), image.shape

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(read, range(len(paths)))
        image, first = next(results)
        images = np.empty((len(paths), *image.shape), np.uint8)
        images[0] = image
        for i, (image, shape) in enumerate(results, start=1):  # in order, each freed once it is copied
            if shape != first:
                raise BadInput(
                    f"{paths[i]}: image is {_describe(shape)} but {paths[0]} is {_describe(first)}; "
                    "all must be alike: export them again at one size and format"
                )
            images[i] = image
    return images


def without_idle_alpha(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Images `[N, H, W, C]` without a channel of alpha that hides nothing in any of them, and notes."""
    if images.shape[-1] == 3 or not all((image[..., 3] == 255).all() for image in images):
        return images, []
    note = "alpha is 255 in every pixel: it hides nothing, and images are taken as RGB; --random_bkgd has no effect"
    return np.ascontiguousarray(images[..., :3]), [note]


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} {'RGBA' if shape[2] == 4 else 'RGB'}"


def area_downsample(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrinks uint8 `[H, W, 3 or 4]` by averaging over each new pixel's area.

    RGBA is averaged premultiplied, which is what compositing first and shrinking afterwards gives;
    averaging straight colours would bleed the colour of invisible pixels into every silhouette.
    """
    if factor == 1:
        return image
    height, width = round(image.shape[0] / factor), round(image.shape[1] / factor)
    pixels = image.astype(np.float32)
    if image.shape[-1] == 4:
        pixels[..., :3] *= pixels[..., 3:] / 255
    pixels = cv2.resize(pixels, (max(1, width), max(1, height)), interpolation=cv2.INTER_AREA)
    if image.shape[-1] == 4:
        pixels[..., :3] *= 255 / np.maximum(pixels[..., 3:], 1e-3)
    return pixels.round().clip(0, 255).astype(np.uint8)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 `[H, W, 3 or 4]`, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, image)
