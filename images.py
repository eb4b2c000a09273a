"""Reading, shrinking and writing 8-bit images, with errors a user can act on."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import imageio.v3 as imageio
import numpy as np
from PIL import Image

from checkpoints import atomic_write
from errors import BadInput

Value = TypeVar("Value")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")  # compared in lower case


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder by name, without hidden ones; none if there is no such folder."""
    if not folder.is_dir():
        return []
    files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(p for p in files if not p.name.startswith("."))  # macOS leaves "._a.png" beside "a.png"


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 `[H, W, 3 or 4]`. Grey becomes RGB (with alpha, RGBA); 16-bit is rounded to 8.

    Raises BadInput for a file that is missing, empty or not a whole image.
    """
    # Told which plugin, or else it tries video, DICOM, TIFF, ...
    image = _decode(path, lambda: np.asarray(imageio.imread(path, plugin="pillow")))
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    elif image.ndim == 3 and image.shape[-1] == 2:
        image = image[..., [0, 0, 0, 1]]
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise BadInput(f"{path}: image of shape {image.shape}; expected RGB or RGBA")
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise BadInput(f"{path}: image of type {image.dtype}; expected 8 or 16 bits per channel")
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, pixels, from its header. Raises BadInput as `read_image` does."""

    def header() -> tuple[int, int]:
        with Image.open(path) as image:
            return image.height, image.width

    return _decode(path, header)


def _decode(path: Path, decoder: Callable[[], Value]) -> Value:
    try:
        there = path.is_file()
    except OSError:  # a name that is too long for any file
        there = False
    if not there:
        raise BadInput(f"{path}: no such image; the pose file names it, so restore it or drop its frame")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: image has 0 bytes; download or export it again")
    try:
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
        shape = image.shape
        return area_downsample(image if prepare is None else prepare(i, image), factor), shape

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
    atomic_write(path, imageio.imwrite("<bytes>", image, extension=".png"))
