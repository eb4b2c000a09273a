"""An ONNX graph as it grows, and what fields of every precision put into it: encodings and columns.

`onnx_int8.Int8Graph` and `onnx_low_bit.BitGraph` add the networks.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn as nn

from run_nerf_helpers import Embedder
from utils.errors import UserError


def import_onnx():
    try:
        import onnx
    except ImportError as error:
        raise UserError("--export_onnx needs the onnx package: pip install -r requirements-onnx.txt") from error
    return onnx


class Graph(ABC):
    """Nodes and constants as they are added; every method returns the name of what it made.

    opset, ir_version: the oldest that have all that was added, for runtimes of any age.
    """

    opset, ir_version = 17, 8

    def __init__(self):
        self.onnx = import_onnx()
        self.nodes, self.constants = [], {}

    def constant(self, name: str, value) -> str:
        value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, operation: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(self.onnx.helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def embed(self, x: str, embedder: nn.Module, name: str) -> str:
        """`[P, 3]` to its encoding, laid out as `Embedder` lays it out."""
        if not isinstance(embedder, Embedder):
            return x
        octaves = self.constant(f"{name}.octaves", embedder.freqs[:, None])
        column = self.add("Unsqueeze", [x, self.constant(f"{name}.axis", np.array([1], np.int64))], f"{name}.column")
        angles = self.add("Mul", [column, octaves], f"{name}.angles")  # [P, L, 3]
        waves = [self.add(wave, [angles], f"{name}.{wave}") for wave in ("Sin", "Cos")]
        joined = self.add("Concat", waves, f"{name}.waves", axis=2)  # [P, L, 6]
        flat = self.add("Flatten", [joined], f"{name}.flat", axis=1)
        return self.add("Concat", [x, flat], f"{name}.encoded", axis=1)

    def embed_gaussians(self, mean: str, variance: str, octaves: int, name: str) -> str:
        """Means and variances `[P, N]` to expected sines and cosines, as `rendering.cones.integrated_encoding`."""
        frequency = 2.0 ** torch.arange(octaves)[:, None]
        axis = self.constant(f"{name}.axis", np.array([1], np.int64))
        rows = [self.add("Unsqueeze", [x, axis], f"{name}.{x}") for x in (mean, variance)]  # [P, 1, N]
        angles = self.add("Mul", [rows[0], self.constant(f"{name}.octaves", frequency)], f"{name}.angles")
        halves = self.constant(f"{name}.halves", -0.5 * frequency.square())
        fading = self.add("Exp", [self.add("Mul", [rows[1], halves], f"{name}.exponent")], f"{name}.fading")
        waves = [self.add(wave, [angles], f"{name}.{wave}") for wave in ("Sin", "Cos")]
        faded = [self.add("Mul", [wave, fading], f"{wave}.faded") for wave in waves]
        joined = self.add("Concat", faded, f"{name}.waves", axis=2)  # [P, L, 2 N]
        return self.add("Flatten", [joined], f"{name}.encoded", axis=1)

    @abstractmethod
    def network(self, network: nn.Module, inputs: dict[str, str]) -> list[str]:
        """A whole network's raw outputs, float. inputs: names of what it is given, float, by the names of its own."""

    def columns(self, x: str, first: int, last: int, name: str) -> str:
        ends = [self.constant(f"{name}.{end}", np.array([at], np.int64)) for end, at in (("from", first), ("to", last))]
        return self.add("Slice", [x, *ends, self.constant(f"{name}.axis", np.array([1], np.int64))], name)

    def model(self, inputs: dict[str, int], outputs: dict[str, list]):
        """The ModelProto. inputs: columns by name; outputs: shapes by name."""
        helper, FLOAT = self.onnx.helper, self.onnx.TensorProto.FLOAT
        made = helper.make_graph(
            self.nodes,
            "nerf_qat_field",
            [helper.make_tensor_value_info(name, FLOAT, ["P", width]) for name, width in inputs.items()],
            [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
            list(self.constants.values()),
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", self.opset)], producer_name="NeRF-QAT")
        model.ir_version = self.ir_version
        self.onnx.checker.check_model(model, full_check=True)
        return model
