"""The EXIF tag that says how a photograph is to be turned: heeded where the lens proves it, else said.

COLMAP and nerfstudio ignore the tag, so that their cameras are those of the picture as it is stored;
RealityCapture and others turn first. Only a lens whose width and height fit one of the two tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scenes.images import decode

ORIENTATION_TAG = 0x0112
STORED = 1  # orientation of a picture that is as it is stored; 5 to 8 exchange width and height


@dataclass(frozen=True)
class Header:
    """What an image file says before its pixels: size as stored, pixels, and orientation, 1 to 8."""

    height: int
    width: int
    orientation: int = STORED

    def turned(self, orientation: int) -> tuple[int, int]:
        """Height and width once turned."""
        return (self.width, self.height) if orientation > 4 else (self.height, self.width)


def read_header(path: Path) -> Header:
    """Raises BadInput as `images.read_image` does."""

    def header() -> Header:
        with Image.open(path) as image:
            # Pillow looks for a PNG's tags behind its pixels too, which would decode every one of them.
            absent = image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys()
            tag = STORED if absent else image.getexif().get(ORIENTATION_TAG, STORED)
            return Header(image.height, image.width, tag if tag in range(1, 9) else STORED)

    return decode(path, header)


def heeded_orientations(
    paths: Sequence[Path], lens_sizes: Sequence[tuple[float, float] | None], where: str | Path
) -> tuple[list[int], list[tuple[int, int]], list[str]]:
    """How to turn each photograph, its height and width once it is, and what to say.

    lens_sizes: height and width of what each one's lens is for; None: it does not say.
    """
    headers = [read_header(path) for path in paths]
    found = [_orientation(header, size) for header, size in zip(headers, lens_sizes, strict=True)]
    doubtful = sum(doubt for _, doubt in found)
    note = (
        f"{where}: {doubtful} photographs carry an EXIF orientation, which is not heeded: turn them for good "
        "(mogrify -auto-orient) if their poses were computed from upright pictures"
    )
    orientations = [orientation for orientation, _ in found]
    sizes = [header.turned(orientation) for header, orientation in zip(headers, orientations, strict=True)]
    return orientations, sizes, [note] if doubtful else []


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The picture `[H, W, ...]` turned as the tag says."""
    if orientation > 4:
        image = image.swapaxes(0, 1)
    rows, columns = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return np.ascontiguousarray(image[::rows, ::columns])


def _orientation(header: Header, lens_size: tuple[float, float] | None) -> tuple[int, bool]:
    """The orientation to heed, and whether that is in doubt."""
    tag = header.orientation
    if tag == STORED:
        return STORED, False
    if lens_size is None:
        return STORED, True
    stored, turned = (_same_aspect(lens_size, header.turned(o)) for o in (STORED, tag))
    return (tag, False) if turned and not stored else (STORED, stored and turned)


def _same_aspect(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return abs(a[0] * b[1] / max(a[1] * b[0], 1e-9) - 1) < 0.01 + 1 / min(b)  # sides were rounded to whole pixels
