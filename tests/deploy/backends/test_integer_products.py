"""Products of codes against NumPy's, and the shapes that CUDA takes, kept to without a GPU."""

import numpy as np
import pytest
import torch

from deploy.backends.integer_products import integer_product, shifted_product, tensor_core_product, unsigned_product


def cuda_int_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`torch._int_mm`, with what it refuses on CUDA refused (PyTorch's checks in Blas.cpp)."""
    assert a.dtype == b.dtype == torch.int8 and a.is_contiguous()
    assert a.shape[0] > 16, "self.size(0) needs to be greater than 16"
    assert a.shape[1] > 0 and a.shape[1] % 8 == 0, "self.size(1) needs to be a multiple of 8"
    assert b.shape[1] > 0 and b.shape[1] % 8 == 0, "mat2.size(1) needs to be a multiple of 8"
    return torch._int_mm(a, b)


def random_bytes(kind: torch.dtype, *shape: int) -> torch.Tensor:
    low, high = (-127, 128) if kind == torch.int8 else (0, 256)
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.int64).to(
        kind
    )


def exact(weight: torch.Tensor, codes: torch.Tensor, zero_points=0) -> np.ndarray:
    return (codes.numpy().astype(np.int64) - np.asarray(zero_points).astype(np.int64)) @ weight.numpy().astype(
        np.int64
    ).T


@pytest.mark.parametrize("rows", [0, 1, 16, 17, 40])
@pytest.mark.parametrize("outputs, inputs", [(1, 63), (3, 128), (256, 319), (8, 8), (128, 283)])
def test_products_are_exact_in_shapes_that_cuda_takes(rows, outputs, inputs):
    weight, codes = random_bytes(torch.int8, outputs, inputs), random_bytes(torch.int8, rows, inputs)
    for product in (integer_product(weight), tensor_core_product(weight, cuda_int_mm)):
        sums = product(codes)
        assert sums.dtype == torch.int32 and np.array_equal(sums.numpy(), exact(weight, codes))


@pytest.mark.parametrize("rows", [1, 40])
def test_codes_held_lower_mean_the_same(rows):
    """As a GPU has them, and as the CPU has them, against 64-bit integers; the extremes among them."""
    weight, codes, zero_points = (
        random_bytes(torch.int8, 5, 63), random_bytes(torch.uint8, rows, 63), random_bytes(torch.uint8, 63)
    )  # fmt: skip
    codes[0, :4] = torch.tensor([0, 127, 128, 255])
    zero_points[:2] = torch.tensor([0, 255])
    there = shifted_product(tensor_core_product(weight, cuda_int_mm), weight, zero_points)
    for product in (unsigned_product(weight, zero_points), there):
        assert np.array_equal(product(codes).numpy(), exact(weight, codes, zero_points))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_products_on_a_gpu_are_the_cpus():
    weight, codes, zero_points = (
        random_bytes(torch.int8, 3, 63),
        random_bytes(torch.uint8, 5, 63),
        random_bytes(torch.uint8, 63),
    )
    there = unsigned_product(weight.cuda(), zero_points.cuda())(codes.cuda())
    assert torch.equal(there.cpu(), unsigned_product(weight, zero_points)(codes))
