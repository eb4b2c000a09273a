"""Rendering a BitNeRF from its file: integer products, scales by row.

`reference` says what the file means: int8 codes of activations and weights, int32 sums, and floats
only for norms, scales, biases and ReLU. `torch` carries the same integers in float32; `onednn` is
the CPU's int8 product.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F

from deploy.backends.int8 import rows_at_once
from deploy.backends.integer_products import integer_product
from deploy.packing import FLOAT, TERNARY, stored_bytes, unpack
from fields.nerf import FieldConfig, RadianceField, is_hidden, skeleton
from run_nerf_helpers import iterate_chunks, join
from utils.checks import check_tensors
from utils.errors import BrokenFile

ACTIVATION_MAX = 127
SMALLEST = 1e-5  # of a scale: a row of zeros, or weights of zeros, stay zeros
NORM_EPS = 1e-6
ROWS_IN_CACHE = 2048  # floats of 256 columns in and out, and their codes: what fits beside each other


def _reference(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    product = integer_product(weight)
    return lambda codes: product(codes.to(torch.int8)).float()


def _torch(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Exact: sums of products of at most 127 * 127 stay below 2^24 up to 1040 inputs."""
    if weight.device.type == "cuda":
        return _reference(weight)
    weight = weight.float().t().contiguous()
    return lambda codes: codes @ weight


def _onednn(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """oneDNN takes unsigned codes: they are held 128 higher, with 128 as the zero point."""
    ops, outputs = torch.ops.onednn, len(weight)
    packed = ops.qlinear_prepack(weight, None)
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)

    def run(codes: torch.Tensor) -> torch.Tensor:
        codes = codes.add_(128).to(torch.uint8)
        return ops.qlinear_pointwise(
            codes, 1.0, 128, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # fmt: skip

    return run


PRODUCTS = {"reference": _reference, "torch": _torch, "onednn": _onednn}


class RowQuantizedLinear(nn.Module):
    """`y = scale[o] * step * sum_i w[o,i] q[i] + bias[o]`, q the row in steps of max|x| / 127.

    weight: int8 codes `[out, in]`, or float32 for a layer that is not quantised. norm: gains `[in]`
    of an RMSNorm before it, or None. Its division by the root mean square cancels in the codes and
    is left for the row's step.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], weight: torch.Tensor, backend: str):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", tensors.get("scale"))
        self.register_buffer("bias", tensors["bias"].float())
        self.register_buffer("norm", tensors["norm"].float() if "norm" in tensors else None)
        self.product = PRODUCTS[backend](weight) if self.scale is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.product is None:
            return F.linear(x, self.weight, self.bias)
        size = 1.0
        if self.norm is not None:
            length = torch.linalg.vector_norm(x, 2, -1, keepdim=True)
            size = (length.square_().div_(x.shape[-1]).add_(NORM_EPS)).rsqrt_()
            x = x * self.norm
        step = (x.abs().amax(-1, keepdim=True) * size).clamp_min_(SMALLEST).div_(ACTIVATION_MAX)
        sums = self.product((x * (size / step)).round_())
        return torch.addcmul(self.bias, sums.mul_(self.scale), step)


class BitNetwork(nn.Module):
    """A whole BitNeRF, with NeRF's interface: encoded `[P, C]` floats to raw `[P, 4]`."""

    def __init__(
        self, config: FieldConfig, state: dict[str, torch.Tensor], bits: dict[str, int], backend: str = "reference"
    ):
        """bits: of every layer's weights. state: what `expected_tensors` describes.

        Raises BrokenFile where it is anything else.
        """
        super().__init__()
        norms = any(key.endswith(".norm") for key in state)
        check_tensors("BitNeRF", state, expected_tensors(config, bits, norms))
        self.config = config
        self.skips = tuple(i for i in config.skips if i < config.depth - 1)
        self.layers = nn.ModuleDict()
        bare = skeleton(config)
        for name in bits:
            prefix = f"{name}."
            tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            weight = tensors["weight"]
            if bits[name] != FLOAT:
                try:
                    weight = unpack(weight, bits[name], tuple(bare.get_submodule(name).weight.shape))
                except ValueError as error:
                    raise BrokenFile(f"BitNeRF: {name}.weight: {error}") from error
            self.layers[name.replace(".", "_")] = RowQuantizedLinear(tensors, weight, backend)

    def trunk(self, pts: torch.Tensor) -> torch.Tensor:
        h = pts
        for i in range(self.config.depth):
            h = join(h, torch.relu_(self.layers[f"pts_linears_{i}"](h)), self.config.residual and i > 0)
            if i in self.skips:
                h = torch.cat([pts, h], -1)
        return h

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        h = self.trunk(pts)
        return (
            self.layers["alpha_linear"](h)[:, 0] if self.config.use_viewdirs else self.layers["output_linear"](h)[:, 3]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pts, views = torch.split(x, [self.config.input_ch, self.config.input_ch_views], dim=-1)
        h = self.trunk(pts)
        if not self.config.use_viewdirs:
            return self.layers["output_linear"](h)
        alpha = self.layers["alpha_linear"](h)
        h = torch.cat([self.layers["feature_linear"](h), views], -1)
        h = torch.relu_(self.layers["views_linears_0"](h))
        return torch.cat([self.layers["rgb_linear"](h), alpha], -1)


class BitField(RadianceField):
    """A `RadianceField` over a BitNetwork, so many rows at a time as stay in cache."""

    def forward(self, positions: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = rows_at_once(positions, ROWS_IN_CACHE)
        parts = [super(BitField, self).forward(positions[c], directions[c]) for c in _chunks(positions, rows)]
        return torch.cat([density for density, _ in parts]), torch.cat([rgb for _, rgb in parts])


def _chunks(positions: torch.Tensor, rows: int) -> list[slice]:
    return list(iterate_chunks(len(positions), rows)) or [slice(0, 0)]


# ------------------------------------------------------------------------------------- the tensors


def expected_tensors(
    config: FieldConfig, bits: dict[str, int], norms: bool
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name, type and shape of every tensor in the file of such a network, whose layers `bits` names."""
    bare, expected = skeleton(config), {}
    for name, number in bits.items():
        outputs, inputs = bare.get_submodule(name).weight.shape
        if number == FLOAT:
            expected[f"{name}.weight"] = (torch.float32, (outputs, inputs))
        else:
            packed = (torch.uint8, (stored_bytes(outputs * inputs, number),))
            expected[f"{name}.weight"] = (torch.int8, (outputs, inputs)) if number == 8 else packed
            expected[f"{name}.scale"] = (torch.float32, () if number == TERNARY else (outputs,))
        expected[f"{name}.bias"] = (torch.float16, (outputs,))
        if norms and is_hidden(name):
            expected[f"{name}.norm"] = (torch.float16, (inputs,))
    return expected
