"""The int8 field as ONNX: a QDQ graph with its encodings inside, and ONNX Runtime as a backend.

The graph says what the reference of `backends.int8` says: integers between the layers, heads in float.
Inputs are `positions [P, 3]` and `directions [P, 3]`, float32, of a mip-NeRF instead of positions the
`mean [P, N]` and `variance [P, N]` of what a sample stands for along N axes; outputs `density [P]`
(1/world unit) and `rgb [P, 3]` in [0, 1]. Where QuantizeLinear and DequantizeLinear enclose a Gemm, runtimes run
one int8 kernel (ONNX Runtime, OpenVINO). Codes enter a Gemm as they are (scale 1, zero point 0):
zero points, which differ by column behind a concatenation, are in the int32 bias. TensorRT takes
activations without a zero point and unsigned codes not at all, so it does not fuse these.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from deploy.backends.int8 import Int8Linear, Int8Network
from fields.layer_graph import Concat, Input, Linear
from fields.nerf import FieldConfig, RadianceField
from rendering.points import FieldOutput, Points
from run_nerf_helpers import Embedder
from utils.errors import UserError
from utils.files import atomic_write

OPSET = 17


def _import_onnx():
    try:
        import onnx
    except ImportError as error:
        raise UserError("--export_onnx needs the onnx package: pip install -r requirements-onnx.txt") from error
    return onnx


class _Graph:
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

    def quantize(self, y: str, scale: torch.Tensor, zero_point: torch.Tensor, q_max: int, name: str) -> str:
        """Float to uint8 codes; of fewer than 8 bits, by clipping first."""
        if q_max < 255:
            highest = self.constant(f"{name}.highest", (q_max - zero_point.float()) * scale)
            y = self.add("Min", [y, highest], f"{name}.clipped")
        grid = [self.constant(f"{name}.output_scale", scale), self.constant(f"{name}.output_zero_point", zero_point)]
        return self.add("QuantizeLinear", [y, *grid], f"{name}.codes")

    def linear(self, codes: str, layer: Int8Linear, name: str) -> str:
        """One layer: codes to codes, or to floats if it is a head."""
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
        if layer.is_head:
            return y
        return self.quantize(y, layer.output_scale, layer.output_zero_point, layer.q_max, name)


def integer_bias(layer: Int8Linear) -> torch.Tensor:
    """Bias `[out]` int32 in units of the accumulator, what zero points subtract included."""
    shift = layer.weight.long() @ layer.input_zero_points.long()
    bias = (layer.bias.double() / layer.scale.double()).round()
    return (bias - shift).clamp(-(2**31), 2**31 - 1).to(torch.int32)


def field_to_onnx(field: RadianceField):
    """The ModelProto of a field whose network is an `Int8Network`. Raises UserError without onnx."""
    network, config = field.network, field.config
    graph, made = _Graph(), {}
    for node in network.graph.nodes:
        if isinstance(node, Input):
            made[node.name] = _quantize_input(graph, _encoded(graph, field, node.name), network, node.name)
        elif isinstance(node, Linear):
            made[node.name] = graph.linear(made[node.input], network.layer(node.name), node.name)
        elif isinstance(node, Concat):
            made[node.name] = graph.add("Concat", [made[name] for name in node.inputs], node.name, axis=1)
        else:
            raise UserError(f"--export_onnx: {node.name} adds two tensors, which integers do not")
    outputs = [made[name] for name in network.graph.outputs]
    if len(outputs) == 2:
        raw_rgb, raw_density = outputs
    else:
        raw_rgb, raw_density = (
            _columns(graph, *outputs, 0, 3, "raw_rgb"),
            _columns(graph, *outputs, 3, 4, "raw_density"),
        )
    graph.add("Sigmoid", [raw_rgb], "rgb")
    _activate_density(graph, raw_density, config)
    return _model(graph, input_widths(field))


def input_widths(field: RadianceField) -> dict[str, int]:
    """Columns of the graph's inputs by name, in their order."""
    origin = torch.zeros(1, 3)
    widths = {name: column.shape[1] for name, column in field.queries(Points(origin, origin)).items()}
    return widths if field.config.use_viewdirs else {name: widths[name] for name in widths if name != "directions"}


def _encoded(graph: _Graph, field: RadianceField, name: str) -> str:
    """An input of the network, from inputs of the graph."""
    if name == "quant_views":
        return graph.embed("directions", field.embed_views, "embed_views")
    if "mean" in input_widths(field):
        return graph.embed_gaussians("mean", "variance", field.config.multires, "embed_pts")
    return graph.embed("positions", field.embed, "embed_pts")


def _quantize_input(graph: _Graph, x: str, network: Int8Network, name: str) -> str:
    stub = network.inputs[name]
    return graph.quantize(x, stub.scale, stub.zero_point, stub.q_max, name)


def _columns(graph: _Graph, x: str, first: int, last: int, name: str) -> str:
    ends = [graph.constant(f"{name}.{end}", np.array([at], np.int64)) for end, at in (("from", first), ("to", last))]
    return graph.add("Slice", [x, *ends, graph.constant(f"{name}.axis", np.array([1], np.int64))], name)


def _activate_density(graph: _Graph, raw: str, config: FieldConfig) -> None:
    biased = graph.add("Add", [raw, graph.constant("density.bias", np.float32(config.density_bias))], "density.biased")
    activation = "Softplus" if config.density_activation == "softplus" else "Relu"
    active = graph.add(activation, [biased], "density.active")
    column = graph.add(
        "Mul", [active, graph.constant("density.scale", np.float32(config.density_scale))], "density.column"
    )
    graph.add("Squeeze", [column, graph.constant("density.axis", np.array([1], np.int64))], "density")


def _model(graph: _Graph, inputs: dict[str, int]):
    helper, FLOAT = graph.onnx.helper, graph.onnx.TensorProto.FLOAT
    made = helper.make_graph(
        graph.nodes,
        "nerf_qat_field",
        [helper.make_tensor_value_info(name, FLOAT, ["P", width]) for name, width in inputs.items()],
        [
            helper.make_tensor_value_info("density", FLOAT, ["P"]),
            helper.make_tensor_value_info("rgb", FLOAT, ["P", 3]),
        ],
        list(graph.constants.values()),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="NeRF-QAT")
    model.ir_version = 8
    graph.onnx.checker.check_model(model, full_check=True)
    return model


def export_onnx(renderer: nn.Module, path: Path) -> dict[str, int]:
    """Writes each int8 field of a renderer (from `deploy.model_file.load_renderer`), the first to `path`, others beside
    it: a fine one as `NAME_fine.onnx`, proposals as `NAME_proposal_0.onnx`. Returns bytes on disk by file name."""
    sizes = {}
    for name, field in renderer.fields.items():
        beside = path.with_name(f"{path.stem}_{name.removeprefix('network_')}{path.suffix}")
        file = path if name == "network_fn" else beside
        atomic_write(file, field_to_onnx(field).SerializeToString())
        sizes[file.name] = file.stat().st_size
    return sizes


# ---------------------------------------------------------------------------------- ONNX Runtime


class OnnxField(nn.Module):
    """A field that ONNX Runtime executes, in place of a `RadianceField`."""

    def __init__(self, field: RadianceField):
        super().__init__()
        import onnxruntime  # an extra; `choose.select_backend` says where it is missing

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait by spinning would take the cores from torch's between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.config, self.wants_cones, self.queries = field.config, field.wants_cones, field.queries
        self.inputs = list(input_widths(field))
        self.session = onnxruntime.InferenceSession(
            field_to_onnx(field).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, points: Points) -> FieldOutput:
        """As `RadianceField.forward`."""
        queries = self.queries(points)
        feed = {name: queries[name].contiguous().numpy() for name in self.inputs}
        density, rgb = self.session.run(["density", "rgb"], feed)
        return FieldOutput(torch.from_numpy(density), torch.from_numpy(rgb))

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        return self(Points(positions, torch.zeros_like(positions))).density
