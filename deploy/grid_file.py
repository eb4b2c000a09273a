"""The cells of an occupancy grid in a model file: a bit each, DEFLATEd, or coded by what their neighbours are."""

import zlib

import numpy as np
import torch

from deploy.coders import make_decoder, make_encoder
from deploy.entropy_coding import code_cells
from utils.errors import BrokenFile

# What a stream of so many bytes is believed to hold: empty cells hardly cost anything.
FREE_CELLS, CELLS_A_BYTE = 320**3, 8192
LARGEST_CODED = 192  # cells on a side: decoding takes 0.1 s for each million


def pack(cells: torch.Tensor) -> torch.Tensor:
    """Boolean cells `[X, Y, Z]` as a byte tensor: one bit each, then DEFLATE."""
    bits = np.packbits(cells.cpu().numpy().reshape(-1))
    return torch.frombuffer(bytearray(zlib.compress(bits.tobytes(), 9)), dtype=torch.uint8)


def unpack(packed: torch.Tensor, resolution: int) -> torch.Tensor:
    """The cells that `pack` packed. Raises BrokenFile where the bytes do not make `resolution`^3."""
    check_bytes(packed)
    expected = (resolution**3 + 7) // 8
    try:
        stream = zlib.decompressobj()
        bits = stream.decompress(packed.numpy().tobytes(), expected)
    except zlib.error as error:
        raise BrokenFile(f"occupancy grid does not decompress ({error})") from error
    if len(bits) != expected or not stream.eof:
        raise BrokenFile(f"occupancy grid does not unfold to the {expected} bytes of {resolution}^3 cells")
    cells = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=resolution**3)
    return torch.from_numpy(cells.view(bool)).view((resolution,) * 3)


def encode(cells: torch.Tensor) -> tuple[str, torch.Tensor]:
    """The coder's name, and the cells as bytes: about half of what `pack` takes."""
    name, coder = make_encoder()
    code_cells(coder, tuple(cells.shape), cells.cpu().numpy())
    return name, torch.frombuffer(bytearray(coder.bytes()), dtype=torch.uint8)


def decode(name: str, packed: torch.Tensor, resolution: int) -> torch.Tensor:
    """The cells that `encode` wrote with a coder of this name. Raises BrokenFile where they are none."""
    check_bytes(packed)
    coder = make_decoder(name, packed.numpy().tobytes(), FREE_CELLS + CELLS_A_BYTE * len(packed))
    coder.expect(resolution**3)
    return torch.from_numpy(code_cells(coder, (resolution,) * 3))


def check_bytes(packed: torch.Tensor) -> None:
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise BrokenFile(f"occupancy is {packed.dtype} {tuple(packed.shape)}, expected uint8 of one dimension")
