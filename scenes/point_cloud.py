"""PLY files of points, as nerfstudio and others lay them beside a capture: their positions."""

from pathlib import Path

import numpy as np

from scenes.poses import FARTHEST
from utils.errors import BadInput

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": None}
LONGEST_HEADER = 100_000  # bytes


def read_ply_points(path: Path) -> np.ndarray:
    """The vertices at finite places of a PLY file, `[P, 3]` float64. Raises BadInput where it is not a whole one."""
    try:
        content = path.read_bytes()
        order, count, kind, start = _read_header(content)
        if order is None:
            lines = content[start:].decode("ascii").split("\n")[:count]
            rows = np.array([line.split() for line in lines if line.strip()], dtype=np.float64).reshape(-1, len(kind))
            if len(rows) != count:
                raise ValueError(f"{count} vertices wanted, it has {len(rows)}")
            columns = {name: rows[:, i] for i, name in enumerate(kind.names)}
        else:
            if kind.itemsize * count > len(content) - start:  # nothing is reserved for what is not there
                raise ValueError(f"{count} vertices wanted, it has {(len(content) - start) // kind.itemsize}")
            rows = np.frombuffer(content, kind, count, start)
            columns = {name: rows[name] for name in kind.names}
        points = np.stack([columns[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise BadInput(f"{path}: not a whole PLY file of points ({error}); export it again, or drop it") from error
    return points[(np.abs(points) <= FARTHEST).all(-1)]  # nor NaN


def _read_header(content: bytes) -> tuple[str | None, int, np.dtype, int]:
    """Byte order (None: text), number of vertices, what one is, and where they start."""
    end = content.find(b"end_header", 0, LONGEST_HEADER)
    if not content.startswith(b"ply") or end < 0:
        raise ValueError("no PLY header")
    lines = [line.split() for line in content[:end].decode("ascii").splitlines()]
    order, elements, fields, count = "none", [], [], 0
    for words in lines:
        if words[:1] == ["format"]:
            order = words[1]
        elif words[:1] == ["element"]:
            elements.append(words[1])
            if words[1] == "vertex":
                count = int(words[2])
        elif words[:1] == ["property"] and elements == ["vertex"]:
            fields.append((words[2], (ORDERS[order] or "<") + TYPES[words[1]]))
    if count < 1 or elements[:1] != ["vertex"] or not {"x", "y", "z"} <= {name for name, _ in fields}:
        raise ValueError("its first element is not vertices with x, y and z")
    return ORDERS[order], count, np.dtype(fields), content.index(b"\n", end) + 1
