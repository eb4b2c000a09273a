"""Masks: pictures that say which pixels of a photograph count."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scenes.images import decode, image_size
from scenes.scene import shrunk
from utils.errors import BadInput


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Bool `[H, W]`: where a mask is not black, whatever its depth, palette or mode; what is transparent is black.

    Raises BadInput where it is not of `shape`, or not readable.
    """
    height, width = image_size(path)
    if (height, width) != shape:  # said before it is decoded: it may be far larger
        raise BadInput(f"{path}: mask is {width}x{height}, its image {shape[1]}x{shape[0]}; export it at that size")
    return decode(path, lambda: _not_black(path))


def _not_black(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        lossy = image.format in ("JPEG", "MPO")
        if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
            levels = np.asarray(image)[..., None]
        elif image.has_transparency_data:
            pixels = np.asarray(image.convert("RGBA"))
            levels = np.where(pixels[..., 3:] > 0, pixels[..., :3], 0)
        else:
            levels = np.asarray(image.convert("RGB"))
    levels = np.nan_to_num(levels.max(-1).astype(np.float64))
    return levels > 0.5 * levels.max() if lossy else levels != 0  # a JPEG's black is not quite black


def shrink_mask(good: np.ndarray, factor: float) -> np.ndarray:
    """Bool `[H, W]` as small as `area_downsample` makes images: false where any part of a pixel is."""
    if factor == 1:
        return good
    height, width = (shrunk(side, factor) for side in good.shape)
    return cv2.resize((~good).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) < 1e-6
