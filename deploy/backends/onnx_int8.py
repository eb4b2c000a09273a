"""An int8 network as ONNX: a QDQ graph.

The graph says what the reference of `backends.int8` says: integers between the layers, heads in float.
Where QuantizeLinear and DequantizeLinear enclose a Gemm, runtimes run one int8 kernel (ONNX Runtime,
OpenVINO). Codes enter a Gemm as they are (scale 1, zero point 0): zero points, which differ by column
behind a concatenation, are in the int32 bias. That has no zero point of its own: WebGPU builds of
runtimes refuse one. TensorRT takes activations without a zero point and unsigned codes not at all, so
it does not fuse these.
"""

import numpy as np
import torch

from deploy.backends.fused_steps import Product
from deploy.backends.int8 import Int8Linear, Int8Network, Rounding
from deploy.backends.onnx_graph import Graph
from fields.layer_graph import Add, Concat


class Int8Graph(Graph):
    """With an `Int8Network`, quantised linearly."""

    def quantize(self, y: str, scale: torch.Tensor, zero_point: torch.Tensor, q_max: int, name: str) -> str:
        """Float to uint8 codes; of fewer than 8 bits, by clipping first."""
        if q_max < 255:
            highest = self.constant(f"{name}.highest", (q_max - zero_point.float()) * scale)
            y = self.add("Min", [y, highest], f"{name}.clipped")
        grid = [self.constant(f"{name}.output_scale", scale), self.constant(f"{name}.output_zero_point", zero_point)]
        return self.add("QuantizeLinear", [y, *grid], f"{name}.codes")

    def product(self, codes: str, layer: Int8Linear, name: str, added: str | None = None) -> str:
        """One layer: codes to codes, or to floats if it rounds nothing. added: floats that its output is added to."""
        unit = [self.constant(f"{name}.unit", np.float32(1)), self.constant(f"{name}.zero", np.uint8(0))]
        x = self.add("DequantizeLinear", [codes, *unit], f"{name}.input")
        scale = self.constant(f"{name}.scale", layer.scale)
        zeros = self.constant(f"{name}.weight_zeros", np.zeros(len(layer.weight), np.int8))
        weight = self.constant(f"{name}.weight", layer.weight)
        weight = self.add("DequantizeLinear", [weight, scale, zeros], f"{name}.weight_float", axis=0)
        bias = self.constant(f"{name}.bias", integer_bias(layer))
        bias = self.add("DequantizeLinear", [bias, scale], f"{name}.bias_float", axis=0)
        y = self.add("Gemm", [x, weight, bias], f"{name}.y", transB=1)
        if layer.relu:
            y = self.add("Relu", [y], f"{name}.relu")
        if added is not None:
            y = self.add("Add", [y, added], f"{name}.sum")
        return self.round(y, layer.rounding, name) if layer.rounding else y

    def round(self, y: str, rounding: Rounding, name: str) -> str:
        return self.quantize(y, rounding.scale, rounding.zero_point, rounding.q_max, name)

    def network(self, network: Int8Network, inputs: dict[str, str]) -> list[str]:
        made = {name: self.round(x, network.inputs[name], name) for name, x in inputs.items()}

        def in_float(name: str) -> str:
            if name not in network.graph.roundings:
                return made[name]
            rounding, x = network.codes_of(name), f"{name}.floats"
            grid = [self.constant(f"{x}.scale", rounding.scale), self.constant(f"{x}.zero_point", rounding.zero_point)]
            return self.add("DequantizeLinear", [made[name], *grid], f"{x}.{len(self.nodes)}")

        for step, _ in network.steps:
            if isinstance(step, Product):
                layer, added = step.layer, step.added and in_float(step.added)
                made[step.name] = self.product(made[layer.input], network.layer(layer.name), layer.name, added)
            elif isinstance(step, Concat):
                made[step.name] = self.add("Concat", [made[name] for name in step.inputs], step.name, axis=1)
            elif isinstance(step, Add):
                made[step.name] = self.add("Add", [in_float(name) for name in step.inputs], step.name)
            else:
                made[step.name] = self.round(made[step.input], network.codes_of(step.name), step.name)
        return [made[name] for name in network.graph.outputs]


def integer_bias(layer: Int8Linear) -> torch.Tensor:
    """Bias `[out]` int32 in units of the accumulator, what zero points subtract included."""
    shift = layer.weight.long() @ layer.input_zero_points.long()
    bias = (layer.bias.double() / layer.scale.double()).round()
    return (bias - shift).clamp(-(2**31), 2**31 - 1).to(torch.int32)
