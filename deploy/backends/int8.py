"""Integer execution of a converted network: one meaning, several backends.

`Int8Network` takes the int8 state dict of `compressors.int8.remap_state_dict` and stands in a
`RadianceField` where a NeRF would. What it computes is defined by `reference`, in plain integer
arithmetic; the other backends give the same codes but for rounding ties. `Int8Field` is the fast
way through it: positions to codes in one pass, rows in blocks that stay in cache between layers.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.profiler import record_function

from deploy.backends.blocks import rows_at_once
from deploy.backends.integer_products import unsigned_product
from fields.layer_graph import LayerGraph, Linear
from fields.nerf import FieldConfig, RadianceField
from rendering.points import FieldOutput, Points
from run_nerf_helpers import Embedder, iterate_chunks

# Rows that go through all layers before the next ones start. 8192 codes of 256 columns are 2 MiB,
# about a core's second-level cache; fewer rows spend their time on calls.
ROWS_IN_CACHE = 8192

# --------------------------------------------------------------------------------------- backends
# A backend prepares a layer once and returns a function from codes [P, in] to codes or floats.


def _reference(layer: "Int8Linear") -> Callable[[torch.Tensor], torch.Tensor]:
    """int32 products and sums, exactly as the file's format is defined."""
    product = unsigned_product(layer.weight, layer.input_zero_points)
    return lambda codes: layer.requantize(product(codes).to(torch.float32))


def _torch(layer: "Int8Linear") -> Callable[[torch.Tensor], torch.Tensor]:
    """The same integers carried in float32, for fast matrix products on any device; on CUDA as they are.

    Exact: a sum of `in` products of at most 127 * 255 stays below 2^24 up to 518 inputs.
    """
    if layer.weight.device.type == "cuda":
        return _reference(layer)
    weight = layer.weight.to(torch.float32).t().contiguous()
    zero_points = layer.input_zero_points.to(torch.float32)

    def run(codes: torch.Tensor) -> torch.Tensor:
        return layer.requantize((codes.to(torch.float32) - zero_points) @ weight)

    return run


def _onednn(layer: "Int8Linear") -> Callable[[torch.Tensor], torch.Tensor]:
    """oneDNN's int8 product with bias, ReLU and requantisation fused, for CPUs with VNNI or AMX."""
    ops = torch.ops.onednn
    packed = ops.qlinear_prepack(layer.weight, None)
    zeros = torch.zeros(len(layer.scale), dtype=torch.int64)
    # The op knows one input zero point; ours may differ by column, so they go into the bias.
    shift = layer.weight.double() @ layer.input_zero_points.double()
    bias = (layer.bias.double() - layer.scale.double() * shift).float()
    if layer.is_head:
        output_scale, output_zero_point, dtype = 1.0, 0, torch.float32
    else:
        output_scale, output_zero_point = float(layer.output_scale), int(layer.output_zero_point)
        dtype = torch.uint8
    post_op = "relu" if layer.relu else "none"

    def run(codes: torch.Tensor) -> torch.Tensor:
        return ops.qlinear_pointwise(
            codes,
            1.0,
            0,
            packed,
            layer.scale,
            zeros,
            bias,
            output_scale,
            output_zero_point,
            dtype,
            post_op,
            [],
            "",
        )

    return run


BACKENDS = {"reference": _reference, "torch": _torch, "onednn": _onednn}


# ---------------------------------------------------------------------------------------- network


class Int8Linear(nn.Module):
    """A layer in integers: `y = scale[o] sum_i weight[o,i] (q[i] - z[i]) + bias[o]`.

    weight: int8 `[out, in]`. scale, bias: float32 `[out]`; scale is one accumulator unit. The
    output is rounded to codes `round(y / output_scale) + output_zero_point` in [0, 2^bits - 1],
    with the ReLU in the clipping; a head has no output scale and returns `y` in float.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], input_zero_points: torch.Tensor, relu: bool, bits: int):
        super().__init__()
        self.relu, self.q_max = relu, 2**bits - 1
        for name in ("weight", "scale", "bias"):
            self.register_buffer(name, tensors[name])
        self.register_buffer("output_scale", tensors.get("output_scale"))
        self.register_buffer("output_zero_point", tensors.get("output_zero_point"))
        self.register_buffer("input_zero_points", input_zero_points)  # uint8 [in]
        self.run: Callable[[torch.Tensor], torch.Tensor] = _reference(self)

    @property
    def is_head(self) -> bool:
        return self.output_scale is None

    def requantize(self, accumulator: torch.Tensor) -> torch.Tensor:
        """Accumulator `[P, out]` (whole numbers) to codes uint8, or to floats if this is a head."""
        y = accumulator * self.scale + self.bias
        if self.is_head:
            return y
        if self.relu:
            y = F.relu(y)
        codes = (y / self.output_scale).round() + self.output_zero_point
        return codes.clamp(0, self.q_max).to(torch.uint8)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.run(codes)


class Int8Network(nn.Module):
    """A whole network in integers, as its layer graph says, with NeRF's own interface."""

    def __init__(
        self,
        graph: LayerGraph,
        widths: dict[str, int],
        state: dict[str, torch.Tensor],
        bits: int,
        backend: str = "reference",
    ):
        """widths: columns of each input. state: as `deploy.nerf_file.int8_tensors` says. bits: of activations."""
        super().__init__()
        self.graph, self.density_graph = graph, graph.until(graph.outputs[-1])
        self.widths = [widths[name] for name in graph.inputs]
        self.q_max = 2**bits - 1
        self.inputs, self.layers = nn.ModuleDict(), nn.ModuleDict()
        zero_points = {}
        for name in graph.inputs:
            scale, zero_point = state[f"{name}.output_scale"], state[f"{name}.output_zero_point"]
            self.inputs[name] = _Input(scale, zero_point, self.q_max)
            zero_points[name] = zero_point.expand(widths[name])
        for node in graph.linears:
            prefix = f"{node.name}."
            tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            columns = torch.cat([zero_points[source] for source in graph.sources(node.input)])
            self.layers[node.name.replace(".", "_")] = layer = Int8Linear(tensors, columns, node.relu, bits)
            if not layer.is_head:
                zero_points[node.name] = layer.output_zero_point.expand(len(layer.weight))
        self.use_backend(backend)

    def layer(self, name: str) -> "Int8Linear":
        return self.layers[name.replace(".", "_")]

    def use_backend(self, backend: str) -> None:
        """Prepares every layer for a backend of `BACKENDS`, on the device the network is on."""
        self.backend = backend
        for layer in self.layers.values():
            layer.run = BACKENDS[backend](layer)

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        """Encoded positions `[P, input_ch]` float to density before its activation, `[P]`."""
        name = self.graph.inputs[0]
        (head,) = self.density_graph.run({name: self.inputs[name](pts)}, self._execute)
        return head[..., 0 if len(self.graph.outputs) > 1 else 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[P, input_ch + input_ch_views]` float to raw `[P, 4]` float, as NeRF's forward."""
        parts = x[..., : sum(self.widths)].split(self.widths, dim=-1)
        return self.run(*(stub(part) for stub, part in zip(self.inputs.values(), parts, strict=True)))

    def run(self, *codes: torch.Tensor) -> torch.Tensor:
        """Codes of the inputs, uint8, to raw `[P, 4]` float."""
        outputs = self.graph.run(dict(zip(self.graph.inputs, codes, strict=True)), self._execute)
        return torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]

    def _execute(self, node: Linear, codes: torch.Tensor) -> torch.Tensor:
        return self.layer(node.name)(codes)  # which has the ReLU in its rounding


class _Input(nn.Module):
    """Float inputs to codes."""

    def __init__(self, scale: torch.Tensor, zero_point: torch.Tensor, q_max: int):
        super().__init__()
        self.q_max = q_max
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x / self.scale).round() + self.zero_point).clamp(0, self.q_max).to(torch.uint8)


class CodeEncoder(nn.Module):
    """`[P, 3]` straight to uint8 codes of its Fourier features.

    All angles are one matrix product and all waves one sine, `cos v = sin(v + pi/2)`; rounding to
    codes happens in place. Against encoding in float first, a code may fall on the other side of a
    tie: the added quarter turn costs the last bit of a large angle.
    """

    def __init__(self, embedder: nn.Module, stub: _Input):
        super().__init__()
        self.stub = stub
        octaves = embedder.freqs.tolist() if isinstance(embedder, Embedder) else []
        frequency = torch.cat([torch.eye(3)] + [octave * torch.eye(3).repeat(1, 2) for octave in octaves], -1)
        phase = torch.cat([torch.zeros(3)] + [torch.tensor([0.0] * 3 + [torch.pi / 2] * 3) for _ in octaves])
        self.register_buffer("frequency", frequency, persistent=False)  # [3, 3 + 6 L]
        self.register_buffer("phase", phase, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = torch.addmm(self.phase, x, self.frequency)
        encoded[:, 3:].sin_()
        codes = encoded.div_(self.stub.scale).round_().add_(self.stub.zero_point)
        return codes.clamp_(0, self.stub.q_max).to(torch.uint8)


class Int8Field(RadianceField):
    """A NeRF of integers from the encoding to the heads; see `RadianceField`."""

    def __init__(self, config: FieldConfig, network: Int8Network):
        super().__init__(config, network)
        self.encode_pts = CodeEncoder(self.embed, network.inputs["quant_pts"])
        if config.use_viewdirs:
            self.encode_views = CodeEncoder(self.embed_views, network.inputs["quant_views"])

    def forward(self, points: Points) -> FieldOutput:
        positions, directions = points.positions, points.directions
        density, rgb = positions.new_empty(len(positions)), positions.new_empty(len(positions), 3)
        for rows in iterate_chunks(len(positions), rows_at_once(positions, ROWS_IN_CACHE)):
            with record_function("encoding"):
                codes = [self.encode_views(directions[rows])] if self.config.use_viewdirs else []
                codes.insert(0, self.encode_pts(positions[rows]))
            with record_function("network"):
                raw = self.network.run(*codes)
            density[rows] = self.activate_density(raw[:, 3])
            torch.sigmoid(raw[:, :3], out=rgb[rows])
        return FieldOutput(density, rgb)
