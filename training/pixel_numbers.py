"""Which of all training pixels are drawn: as numbers, and as bits for a checkpoint."""

import torch
import torch.nn.functional as F


def pixel_numbers(chosen: torch.Tensor) -> torch.Tensor:
    """The flat numbers, ascending, of the true entries of `chosen [V, H, W]`, for `RayBatches.keep_only`.

    int32 as long as that suffices. Works a view at a time: nowhere near 8 bytes for every pixel of all.
    """
    kind = torch.int32 if chosen.numel() < 2**31 else torch.int64
    pixels = chosen[0].numel()
    views = [view.reshape(-1).nonzero()[:, 0] + i * pixels for i, view in enumerate(chosen)]
    return torch.cat([numbers.to(kind) for numbers in views])


def packed_bits(bits: torch.Tensor) -> torch.Tensor:
    """Booleans of any shape as uint8, eight in each, the first in the highest bit, as `np.packbits` has them."""
    flat = F.pad(bits.reshape(-1), (0, -bits.numel() % 8)).view(-1, 8)
    packed = torch.zeros(len(flat), dtype=torch.uint8, device=bits.device)
    for place in range(8):
        packed |= flat[:, place].to(torch.uint8) << (7 - place)
    return packed
