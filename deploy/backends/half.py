"""Networks with weights of 16 bits: products in 16 bits where the device has them, all else in float32."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from fields.field import Trainable

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # by precision of a file


class HalfLinear(nn.Module):
    """A linear layer with weight and bias of 16 bits. Sums are of float32; each result is rounded to 16 bits once."""

    def __init__(self, linear: nn.Linear, kind: torch.dtype):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(kind))
        self.register_buffer("bias", linear.bias.detach().to(kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).float()


def multiplies(kind: torch.dtype, device: torch.device) -> bool:
    """Whether a device has products of this kind that are worth their while."""
    if device.type != "cpu":
        return True
    kinds = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    return bool(getattr(torch.ops.mkldnn, kinds[kind])())


def in_16_bits(field: Trainable, kind: torch.dtype, device: torch.device) -> Trainable:
    """A field of float32 whose weights came from `kind`, to be executed in it, on a device. Where that has no such
    products the weights stay as they are: of float32, with the values of the file."""
    field = field.to(device)
    if kind == torch.float32 or not multiplies(kind, device):
        return field
    network = field.network
    for node in network.graph.linears:
        parent, _, child = node.name.rpartition(".")
        linear = network.get_submodule(node.name)
        setattr(network.get_submodule(parent), child, HalfLinear(linear, kind))
    return field
