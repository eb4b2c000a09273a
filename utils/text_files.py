"""Text as editors on any system save it."""

import codecs
from pathlib import Path

WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # in this order: UTF-32's mark begins with UTF-16's
SAVE = "save it as UTF-8"
RENAME = "rename the images to ASCII letters"


def read_text(path: Path, way_out: str = f"{SAVE}, or {RENAME}") -> str:
    """A file's text: UTF-8, with a byte order mark or without. Raises OSError, and ValueError, which says what to do,
    for other encodings."""
    content = path.read_bytes()
    for mark, name in WIDE_MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"its text is in {name}: {SAVE}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        near = content[max(0, error.start - 10) : error.start + 10]
        raise ValueError(f"{near!r} in it is no UTF-8 text: {way_out}") from error
