"""The int8 field as ONNX: a QDQ graph with its encodings inside.

The graph says what the reference of `backends.int8` says: integers between the layers, heads in float.
Inputs are `positions [P, 3]` and `directions [P, 3]`, float32, of a mip-NeRF instead of positions the
`mean [P, N]` and `variance [P, N]` of what a sample stands for along N axes; outputs `density [P]`
(1/world unit) and `rgb [P, 3]` in [0, 1]. Where QuantizeLinear and DequantizeLinear enclose a Gemm, runtimes run
one int8 kernel (ONNX Runtime, OpenVINO). Codes enter a Gemm as they are (scale 1, zero point 0):
zero points, which differ by column behind a concatenation, are in the int32 bias. TensorRT takes
activations without a zero point and unsigned codes not at all, so it does not fuse these.
"""

import numpy as np
import torch
import torch.nn as nn

from deploy.backends.fused_steps import Product
from deploy.backends.int8 import Int8Linear, Int8Network, Rounding
from fields.layer_graph import Add, Concat
from fields.nerf import FieldConfig, RadianceField
from rendering.points import Points
from run_nerf_helpers import Embedder
from utils.errors import UserError

OPSET = 17


def _import_onnx():
    try:
        import onnx
    except ImportError as error:
        raise UserError("--export_onnx needs the onnx package: pip install -r requirements-onnx.txt") from error
    return onnx


class Graph:
    """Nodes and constants as they are added; every method returns the name of what it made."""

    def __init__(self):
        self.onnx = _import_onnx()
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

    def columns(self, x: str, first: int, last: int, name: str) -> str:
        ends = [self.constant(f"{name}.{end}", np.array([at], np.int64)) for end, at in (("from", first), ("to", last))]
        return self.add("Slice", [x, *ends, self.constant(f"{name}.axis", np.array([1], np.int64))], name)

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
        """A whole network. inputs: names of what it is given, float, by the names of its own inputs."""
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
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="NeRF-QAT")
        model.ir_version = 8
        self.onnx.checker.check_model(model, full_check=True)
        return model


def integer_bias(layer: Int8Linear) -> torch.Tensor:
    """Bias `[out]` int32 in units of the accumulator, what zero points subtract included."""
    shift = layer.weight.long() @ layer.input_zero_points.long()
    bias = (layer.bias.double() / layer.scale.double()).round()
    return (bias - shift).clamp(-(2**31), 2**31 - 1).to(torch.int32)


def field_to_onnx(field: RadianceField):
    """The ModelProto of a field whose network is an `Int8Network`. Raises UserError without onnx."""
    network, config, graph = field.network, field.config, Graph()
    inputs = {name: _encoded(graph, field, name) for name in network.graph.inputs}
    outputs = graph.network(network, inputs)
    if len(outputs) == 2:
        raw_rgb, raw_density = outputs
    else:
        raw_rgb, raw_density = (
            graph.columns(*outputs, 0, 3, "raw_rgb"),
            graph.columns(*outputs, 3, 4, "raw_density"),
        )
    graph.add("Sigmoid", [raw_rgb], "rgb")
    _activate_density(graph, raw_density, config)
    return graph.model(input_widths(field), {"density": ["P"], "rgb": ["P", 3]})


def input_widths(field: RadianceField) -> dict[str, int]:
    """Columns of the graph's inputs by name, in their order."""
    origin = torch.zeros(1, 3)
    widths = {name: column.shape[1] for name, column in field.queries(Points(origin, origin)).items()}
    return widths if field.config.use_viewdirs else {name: widths[name] for name in widths if name != "directions"}


def _encoded(graph: Graph, field: RadianceField, name: str) -> str:
    """An input of the network, from inputs of the graph."""
    if name == "quant_views":
        return graph.embed("directions", field.embed_views, "embed_views")
    if "mean" in input_widths(field):
        return graph.embed_gaussians("mean", "variance", field.config.multires, "embed_pts")
    return graph.embed("positions", field.embed, "embed_pts")


def _activate_density(graph: Graph, raw: str, config: FieldConfig) -> None:
    biased = graph.add("Add", [raw, graph.constant("density.bias", np.float32(config.density_bias))], "density.biased")
    activation = "Softplus" if config.density_activation == "softplus" else "Relu"
    active = graph.add(activation, [biased], "density.active")
    column = graph.add(
        "Mul", [active, graph.constant("density.scale", np.float32(config.density_scale))], "density.column"
    )
    graph.add("Squeeze", [column, graph.constant("density.axis", np.array([1], np.int64))], "density")
