"""The sheet of pictures that were left out."""

import imageio.v2 as imageio
import numpy as np
from PIL import Image

from photographs.contact_sheet import HEIGHT, LINE, LINES, MARGIN, MOST, WIDTH, draw_left_out

CELL = HEIGHT + LINES * LINE + 2 * MARGIN, WIDTH + 2 * MARGIN


def row(source: str, name: str = "", left_out: str = "blurred") -> dict:
    return {"source": source, "name": name, "left_out": left_out}


def test_pictures_stand_as_they_were_held(tmp_path):
    """A portrait that is stored lying, as phones do: its upper half is white."""
    lying = np.zeros((300, 400), np.uint8)
    lying[:, :200] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(lying).save(tmp_path / "phone.jpg", exif=exif)
    rows = [row("phone.jpg", "phone.jpg"), row("good.jpg", "good.jpg", left_out="")]
    assert draw_left_out(rows, tmp_path, tmp_path / "elsewhere", tmp_path / "sheet.png") == 1
    sheet = imageio.imread(tmp_path / "sheet.png")
    assert sheet.shape[:2] == CELL
    middle = sheet[:, CELL[1] // 2, 0]
    assert (middle[MARGIN + 5 : MARGIN + HEIGHT // 2 - 5] > 250).all()
    assert (middle[MARGIN + HEIGHT // 2 + 5 : MARGIN + HEIGHT - 5] < 5).all()


def test_so_many_are_shown(tmp_path):
    rows = [row(f"{i}.jpg") for i in range(MOST + 7)]  # none of them is there
    assert draw_left_out(rows, tmp_path, tmp_path, tmp_path / "sheet.png") == MOST
    assert imageio.imread(tmp_path / "sheet.png").shape[:2] == (MOST // 4 * CELL[0], 4 * CELL[1])
