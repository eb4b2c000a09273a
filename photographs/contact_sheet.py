"""The pictures that were left out on one sheet, each with what is wrong with it."""

import textwrap
from pathlib import Path

import cv2
import numpy as np

from scenes.exif import read_header, upright
from scenes.images import read_image, write_png
from utils.errors import BadInput

COLUMNS, MOST = 4, 40  # pictures in a row, and on a sheet
WIDTH, HEIGHT, MARGIN, LINE = 280, 190, 10, 17  # pixels
LINES, LETTERS = 4, 36  # of text under each
PAPER, EMPTY, INK = 255, 225, (40, 40, 40)


def draw_left_out(rows: list[dict], images: Path, source: Path, path: Path) -> int:
    """How many are on it, MOST at most. rows: of `photos.json`. images: the folder of those that were tried; source:
    that of all."""
    left_out = [row for row in rows if row["left_out"]]
    cells = [cell(row, images / row["name"] if row["name"] else source / row["source"]) for row in left_out[:MOST]]
    cells += [np.full_like(cells[0], PAPER)] * (-len(cells) % min(COLUMNS, len(cells)))
    wide = min(COLUMNS, len(left_out))
    write_png(path, np.concatenate([np.concatenate(cells[i : i + wide], 1) for i in range(0, len(cells), wide)]))
    return len(left_out[:MOST])


def cell(row: dict, file: Path) -> np.ndarray:
    """A picture as large as fits, `[H, W, 3]`, with its name and what is wrong with it."""
    canvas = np.full((HEIGHT + LINES * LINE + 2 * MARGIN, WIDTH + 2 * MARGIN, 3), PAPER, np.uint8)
    try:
        image = upright(read_image(file)[..., :3], read_header(file).orientation)  # as a viewer shows it
    except (BadInput, OSError):
        image = np.full((HEIGHT, WIDTH, 3), EMPTY, np.uint8)  # it is what is wrong
    scale = min(HEIGHT / image.shape[0], WIDTH / image.shape[1])
    size = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    left = MARGIN + (WIDTH - size[0]) // 2
    canvas[MARGIN + HEIGHT - size[1] : MARGIN + HEIGHT, left : left + size[0]] = shown
    words = textwrap.wrap(f"{row['source']}: {row['left_out']}", LETTERS, max_lines=LINES, placeholder=" ...")
    for number, words_of_line in enumerate(words):
        at = (MARGIN, MARGIN + HEIGHT + (number + 1) * LINE)
        cv2.putText(canvas, words_of_line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return canvas
