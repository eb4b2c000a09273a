"""Text as editors on any system save it."""

import codecs
from pathlib import Path

from errors import BadInput

WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # in this order: UTF-32's mark begins with UTF-16's


def read_text(path: Path) -> str:
    """A file's text: UTF-8, with a byte order mark or without. Raises BadInput for other encodings, and OSError."""
    content = path.read_bytes()
    for mark, name in WIDE_MARKS.items():
        if content.startswith(mark):
            raise BadInput(f"{path}: text is in {name}; expected UTF-8: save it again with that encoding")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}: byte {content[error.start]:#04x} at {error.start} is no UTF-8 text; save it again with that "
            "encoding, and give images whose names are not ASCII other names"
        ) from error
