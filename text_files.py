"""Text as editors on any system save it."""

import codecs
from pathlib import Path

WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # in this order: UTF-32's mark begins with UTF-16's
RENAME = "rename the images to ASCII letters"


def read_text(path: Path) -> str:
    """A file's text: UTF-8, with a byte order mark or without. Raises OSError, and ValueError, which says what to do,
    for other encodings."""
    content = path.read_bytes()
    for mark, name in WIDE_MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"its text is in {name}: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        near = content[max(0, error.start - 10) : error.start + 10]
        raise ValueError(f"{near!r} in it is no UTF-8 text: save it as UTF-8, or {RENAME}") from error
