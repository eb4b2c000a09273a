"""docs/photos_left_out.jpg: the sheet that run_photos.py makes of photographs of which some are spoiled.

python benchmarks/spoiled_photos.py
"""

import sys
import tempfile
from pathlib import Path

import common
from PIL import Image

sys.path.insert(0, str(common.ROOT / "tests"))
from still_life import photograph, spoil  # noqa: E402 (what they show is the tests')

import run_photos  # noqa: E402

SHEET = common.ROOT / "docs" / "photos_left_out.jpg"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures, scene = Path(folder, "pictures"), Path(folder, "scene")
        pictures.mkdir()
        photograph(pictures)
        spoil(pictures)
        run_photos.main([str(pictures), "--out", str(scene)])
        Image.open(scene / run_photos.SHEET).save(SHEET, quality=75)
    print(f"wrote {SHEET.relative_to(common.ROOT)} ({SHEET.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
