"""A BitNeRF as ONNX: each row rounded to int8 by its largest magnitude, then a product of integers.

The graph says what `reference` of `backends.low_bit` says, step by step. Activations and weights are codes about
zero, so a MatMulInteger needs no zero point. Ternary weights are stored as INT2 (opset 25) and those of 3 or 4 bits as
INT4 (opset 21); a Cast widens them to the int8 that a MatMulInteger takes. ONNX Runtime does so once, as it loads, and
packs them for its int8 kernel: such a file is small, and runs as one of int8.
"""

import numpy as np
import torch

from deploy.backends.low_bit import ACTIVATION_MAX, NORM_EPS, SMALLEST, BitNetwork, RowQuantizedLinear
from deploy.backends.onnx_graph import Graph
from fields.layer_graph import Add, Concat, Input, Linear

# Types of weights from narrow to wide: the largest magnitude of a code, and the opset and IR version that have it.
NARROW = {"INT2": (1, 25, 13), "INT4": (7, 21, 10)}


class BitGraph(Graph):
    """With a `BitNetwork`."""

    opset = 18  # from which on reductions take their axes as an input

    def network(self, network: BitNetwork, inputs: dict[str, str]) -> list[str]:
        made = dict(inputs)
        for node in network.graph.nodes:
            if isinstance(node, Input):
                continue
            if isinstance(node, Linear):
                y = self.linear(made[node.input], network.layer(node.name), node.name)
                made[node.name] = self.add("Relu", [y], f"{node.name}.relu") if node.relu else y
            elif isinstance(node, Concat):
                made[node.name] = self.add("Concat", [made[name] for name in node.inputs], node.name, axis=1)
            elif isinstance(node, Add):
                made[node.name] = self.add("Add", [made[name] for name in node.inputs], node.name)
            else:  # a Round is of codes between layers; here layers round what they are given
                made[node.name] = made[node.input]
        return [made[name] for name in network.graph.outputs]

    def linear(self, x: str, layer: RowQuantizedLinear, name: str) -> str:
        """One layer, floats `[P, in]` to floats `[P, out]`."""
        bias = self.constant(f"{name}.bias", layer.bias)
        if layer.scale is None:  # not quantised
            return self.add("Gemm", [x, self.constant(f"{name}.weight", layer.weight), bias], f"{name}.y", transB=1)
        codes, step = self.round_rows(x, layer, name)
        sums = self.add("MatMulInteger", [codes, self.weight(layer.weight.T, name)], f"{name}.sums")
        sums = self.add("Cast", [sums], f"{name}.sums_float", to=self.onnx.TensorProto.FLOAT)
        y = self.add("Mul", [sums, self.constant(f"{name}.scale", layer.scale)], f"{name}.scaled")
        return self.add("Add", [self.add("Mul", [y, step], f"{name}.stepped"), bias], f"{name}.y")

    def round_rows(self, x: str, layer: RowQuantizedLinear, name: str) -> tuple[str, str]:
        """int8 codes `[P, in]` of a layer's input, and each row's step `[P, 1]`."""
        size, axis = None, self.constant("axis", np.array([1], np.int64))
        if layer.norm is not None:
            squares = self.add("Mul", [x, x], f"{name}.squares")
            mean = self.add("ReduceMean", [squares, axis], f"{name}.mean_square", keepdims=1)
            padded = self.add("Add", [mean, self.number("norm_eps", NORM_EPS)], f"{name}.padded")
            size = self.add("Reciprocal", [self.add("Sqrt", [padded], f"{name}.rms")], f"{name}.size")
            x = self.add("Mul", [x, self.constant(f"{name}.norm", layer.norm)], f"{name}.gained")
        largest = self.add("ReduceMax", [self.add("Abs", [x], f"{name}.abs"), axis], f"{name}.largest", keepdims=1)
        if size is not None:
            largest = self.add("Mul", [largest, size], f"{name}.largest_normed")
        at_least = self.add("Max", [largest, self.number("smallest", SMALLEST)], f"{name}.at_least")
        step = self.add("Div", [at_least, self.number("activation_max", ACTIVATION_MAX)], f"{name}.step")
        per_unit = self.add("Div", [size or self.number("one", 1), step], f"{name}.per_unit")
        rounded = self.add("Round", [self.add("Mul", [x, per_unit], f"{name}.in_steps")], f"{name}.rounded")
        return self.add("Cast", [rounded], f"{name}.codes", to=self.onnx.TensorProto.INT8), step

    def weight(self, codes: torch.Tensor, name: str) -> str:
        """int8 codes `[in, out]`, stored in the narrowest type that holds them."""
        largest = int(codes.int().abs().max())  # of -128 int8 has no magnitude
        narrow = next((kind for kind, (held, _, _) in NARROW.items() if largest <= held), None)
        if narrow is None:
            return self.constant(f"{name}.weight", codes)
        _, opset, ir_version = NARROW[narrow]
        self.opset, self.ir_version = max(self.opset, opset), max(self.ir_version, ir_version)
        kind = self.onnx.helper.tensor_dtype_to_np_dtype(getattr(self.onnx.TensorProto, narrow))
        stored = self.constant(f"{name}.weight", codes.cpu().numpy().astype(kind))
        return self.add("Cast", [stored], f"{name}.weight_int8", to=self.onnx.TensorProto.INT8)

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.float32(value))
