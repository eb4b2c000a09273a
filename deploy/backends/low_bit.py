"""Rendering a BitNeRF from its file: integer products, scales by row.

`reference` says what the file means: int8 codes of activations and weights, int32 sums, and floats
only for norms, scales, biases and ReLU. `torch` carries the same integers in float32; `onednn` is
the CPU's int8 product.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F

from deploy.backends.integer_products import integer_product
from fields.layer_graph import LayerGraph, Linear, module_key

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

    def __init__(self, tensors: dict[str, torch.Tensor], backend: str):
        super().__init__()
        self.register_buffer("weight", tensors["weight"])
        self.register_buffer("scale", tensors.get("scale"))
        self.register_buffer("bias", tensors["bias"].float())
        self.register_buffer("norm", tensors["norm"].float() if "norm" in tensors else None)
        self.product = PRODUCTS[backend](self.weight) if self.scale is not None else None

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
    """A whole BitNeRF, as its layer graph says, with NeRF's interface: encoded `[P, C]` floats to raw `[P, 4]`."""

    def __init__(
        self,
        graph: LayerGraph,
        widths: dict[str, int],
        tensors: dict[str, dict[str, torch.Tensor]],
        backend: str = "reference",
    ):
        """widths: columns of each input. tensors: of each layer, `weight` unpacked, `scale` where it is rounded,
        `bias`, and `norm` where there is one."""
        super().__init__()
        self.graph, self.density_graph = graph, graph.until(graph.outputs[-1])
        self.widths = [widths[name] for name in graph.inputs]
        self.layers = nn.ModuleDict(
            {module_key(name): RowQuantizedLinear(of_layer, backend) for name, of_layer in tensors.items()}
        )

    def layer(self, name: str) -> RowQuantizedLinear:
        return self.layers[module_key(name)]

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        (head,) = self.density_graph.run({self.graph.inputs[0]: pts}, self._execute)
        return head[:, 0 if len(self.graph.outputs) > 1 else 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x[..., : sum(self.widths)].split(self.widths, dim=-1)
        outputs = self.graph.run(dict(zip(self.graph.inputs, parts, strict=True)), self._execute)
        return torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]

    def _execute(self, node: Linear, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(node.name)(x)
        return torch.relu_(y) if node.relu else y
