"""Matrix products of int8 codes with sums in int32, exact on every device.

PyTorch multiplies int32 matrices on the CPU alone. CUDA has `torch._int_mm`, on tensor cores, for
shapes that suit them: more than 16 rows, and widths that are multiples of 8.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from run_nerf_helpers import round_up

LEAST_ROWS, WIDTH_MULTIPLE = 17, 8  # that torch._int_mm takes on CUDA

Product = Callable[[torch.Tensor], torch.Tensor]


def integer_product(weight: torch.Tensor) -> Product:
    """From codes int8 `[P, in]` to their products with `weight`, int8 `[out, in]`: int32 `[P, out]`."""
    if weight.device.type == "cuda":
        return tensor_core_product(weight)
    transposed = weight.to(torch.int32).t().contiguous()
    return lambda codes: codes.to(torch.int32) @ transposed


def tensor_core_product(weight: torch.Tensor, int_mm: Callable[..., torch.Tensor] = torch._int_mm) -> Product:
    """The same by `int_mm`, which is given no shape that CUDA refuses: what is missing is filled with zeros."""
    outputs, inputs = weight.shape
    more_inputs = round_up(inputs, WIDTH_MULTIPLE) - inputs
    padded = F.pad(weight, (0, more_inputs, 0, round_up(outputs, WIDTH_MULTIPLE) - outputs)).contiguous()

    def run(codes: torch.Tensor) -> torch.Tensor:
        more_rows = max(0, LEAST_ROWS - len(codes))
        if more_inputs or more_rows:
            codes = F.pad(codes, (0, more_inputs, 0, more_rows))
        sums = int_mm(codes.contiguous(), padded.t())
        return sums[: len(sums) - more_rows, :outputs]

    return run


def unsigned_product(weight: torch.Tensor, zero_points: torch.Tensor) -> Product:
    """From codes uint8 `[P, in]` to `sum_i weight[o,i] (code[i] - zero_points[i])`: int32 `[P, out]`.

    zero_points: uint8 `[in]`.
    """
    product = integer_product(weight)
    if weight.device.type == "cuda":  # which multiplies nothing wider than int8
        return shifted_product(product, weight, zero_points)
    offset = zero_points.to(torch.int32)
    return lambda codes: product(codes.to(torch.int32) - offset)


def shifted_product(product: Product, weight: torch.Tensor, zero_points: torch.Tensor) -> Product:
    """The same by a product of int8: codes are held 128 lower, and what that takes away is added again, both exact."""
    lifted = 128 - zero_points.to(torch.int32)
    shift = (weight.to(torch.int32) * lifted).sum(1, dtype=torch.int32)
    # Turning the highest bit makes of the byte of q that of q - 128.
    return lambda codes: product((codes ^ 128).view(torch.int8)) + shift
