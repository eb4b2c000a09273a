"""Codes of few bits as bytes, exactly: b bits each, or five ternary digits to a byte."""

import numpy as np
import torch
import torch.nn.functional as F

DIGITS_IN_BYTE = 5  # 3^5 = 243
_POWERS_OF_3 = 3 ** torch.arange(DIGITS_IN_BYTE)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack_bits` makes of so many codes."""
    return -(-count * bits // 8)


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes in [-2^(bits-1), 2^(bits-1) - 1], of any shape, as a stream of `bits`-bit two's complements."""
    unsigned = codes.reshape(-1).cpu().numpy().astype(np.int8).view(np.uint8)
    digits = np.unpackbits(unsigned[:, None], axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(digits.reshape(-1), bitorder="little"))


def unpack_bits(packed: torch.Tensor, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    """int8 codes of `shape` from what `pack_bits` made. Raises ValueError where the size is wrong."""
    count = torch.Size(shape).numel()
    _check_size(packed, packed_bytes(count, bits), shape)
    digits = np.unpackbits(packed.cpu().numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    digits = np.concatenate([digits, np.repeat(digits[:, -1:], 8 - bits, axis=1)], axis=1)  # the sign goes on
    codes = np.packbits(digits, axis=1, bitorder="little")[:, 0].view(np.int8)
    return torch.from_numpy(codes.copy()).view(shape).to(packed.device)


def pack_ternary(codes: torch.Tensor) -> torch.Tensor:
    """Codes in {-1, 0, 1} of any shape as bytes, five to a byte in base 3 (1.6 bits each)."""
    digits = codes.reshape(-1).cpu().to(torch.int64) + 1
    digits = F.pad(digits, (0, -len(digits) % DIGITS_IN_BYTE), value=1).view(-1, DIGITS_IN_BYTE)
    return (digits * _POWERS_OF_3).sum(1).to(torch.uint8)


def unpack_ternary(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """int8 codes of `shape` from what `pack_ternary` made. Raises ValueError for an illegal byte."""
    count = torch.Size(shape).numel()
    _check_size(packed, -(-count // DIGITS_IN_BYTE), shape)
    if len(packed) and int(packed.max()) >= 3**DIGITS_IN_BYTE:
        raise ValueError(f"byte {int(packed.max())} is no five ternary digits")
    digits = packed.cpu().to(torch.int64)[:, None] // _POWERS_OF_3 % 3 - 1
    return digits.reshape(-1)[:count].to(torch.int8).view(shape).to(packed.device)


def _check_size(packed: torch.Tensor, expected: int, shape: tuple[int, ...]) -> None:
    if packed.dtype != torch.uint8 or packed.ndim != 1 or len(packed) != expected:
        found = f"{packed.dtype} {tuple(packed.shape)}"
        raise ValueError(f"{found}, expected {expected} bytes for {tuple(shape)}")


TERNARY, FLOAT = 2, 32  # bits of a weight that stand for absmean ternary ones, and for none rounded


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of weights as a file has them."""
    if bits == 8:
        return codes.to(torch.int8)
    return pack_ternary(codes) if bits == TERNARY else pack_bits(codes, bits)


def unpack(stored: torch.Tensor, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    """int8 codes of `shape` from what `pack` made. Raises ValueError where it cannot have made it."""
    if bits == 8:
        return stored
    return unpack_ternary(stored, shape) if bits == TERNARY else unpack_bits(stored, bits, shape)


def stored_bytes(count: int, bits: int) -> int:
    """Bytes that `pack` makes of so many codes."""
    return -(-count // DIGITS_IN_BYTE) if bits == TERNARY else packed_bytes(count, bits)
