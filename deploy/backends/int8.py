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
from deploy.backends.fused_steps import Product, Step, fuse
from deploy.backends.integer_products import unsigned_product
from fields.layer_graph import Add, Concat, LayerGraph, Round, module_key
from fields.nerf import FieldConfig, RadianceField
from rendering.points import FieldOutput, Points
from run_nerf_helpers import Embedder, iterate_chunks

# Rows that go through all layers before the next ones start. 8192 codes of 256 columns are 2 MiB,
# about a core's second-level cache; fewer rows spend their time on calls.
ROWS_IN_CACHE = 8192

# Inputs up to which a sum of products of at most 127 * 255 stays below 2^24, where float32 is exact.
EXACT_INPUTS = 518

# --------------------------------------------------------------------------------------- backends
# A backend prepares a layer once and returns a function from codes [P, in], and what is added to the layer's
# outputs, if anything (and may be overwritten with them), to codes or floats.

Run = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def _reference(layer: "Int8Linear") -> Run:
    """int32 products and sums, exactly as the file's format is defined."""
    product = unsigned_product(layer.weight, layer.input_zero_points)
    return lambda codes, added=None: layer.requantize(product(codes).to(torch.float32), added)


def _torch(layer: "Int8Linear") -> Run:
    """The same integers carried in float32 (of wide layers in float64), for fast matrix products on any device; on
    CUDA as they are. Exact."""
    if layer.weight.device.type == "cuda":
        return _reference(layer)
    kind = torch.float32 if layer.weight.shape[1] <= EXACT_INPUTS else torch.float64
    weight = layer.weight.to(kind).t().contiguous()
    zero_points = layer.input_zero_points.to(kind)

    def run(codes: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        return layer.requantize(((codes.to(kind) - zero_points) @ weight).to(torch.float32), added)

    return run


def _onednn(layer: "Int8Linear") -> Run:
    """oneDNN's int8 product with bias, ReLU, sum and requantisation fused, for CPUs with VNNI or AMX."""
    ops = torch.ops.onednn
    packed = ops.qlinear_prepack(layer.weight, None)
    zeros = torch.zeros(len(layer.scale), dtype=torch.int64)
    # The op knows one input zero point; ours may differ by column, so they go into the bias.
    shift = layer.weight.double() @ layer.input_zero_points.double()
    bias = (layer.bias.double() - layer.scale.double() * shift).float()
    output = 1.0, 0, torch.float32
    if not layer.is_head:
        output = float(layer.output_scale), int(layer.output_zero_point), torch.uint8
    before = packed, layer.scale, zeros
    post_op = "relu" if layer.relu else "none", [], ""
    of_added = (1.0, 0) if layer.added is None else (float(layer.added.scale), int(layer.added.zero_point))

    def run(codes: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        if added is None:
            return ops.qlinear_pointwise(codes, 1.0, 0, *before, bias, *output, *post_op)
        return ops.qlinear_pointwise.binary(
            codes, 1.0, 0, *before, added, bias, *output, *of_added, "sum", 1.0, *post_op
        )  # fmt: skip

    return run


BACKENDS = {"reference": _reference, "torch": _torch, "onednn": _onednn}


# ---------------------------------------------------------------------------------------- network


class Rounding(nn.Module):
    """Floats to codes `round(x / scale) + zero_point` in [0, q_max], and back."""

    def __init__(self, scale: torch.Tensor, zero_point: torch.Tensor, q_max: int):
        super().__init__()
        self.q_max = q_max
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = (x / self.scale).round_().add_(self.zero_point)
        return codes.clamp_(0, self.q_max).to(torch.uint8)

    def quick(self, x: torch.Tensor) -> torch.Tensor:
        """The same in fewer passes, with ties going up; on the CPU."""
        codes = torch.add(self.zero_point + 0.5, x, alpha=1 / float(self.scale))
        return codes.clamp_(0, self.q_max + 0.5).to(torch.uint8)  # which cuts off what is behind the point

    def floats(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes.to(torch.float32) - self.zero_point).mul_(self.scale)


class Int8Linear(nn.Module):
    """A layer in integers: `y = scale[o] sum_i weight[o,i] (q[i] - z[i]) + bias[o]`.

    weight: int8 `[out, in]`. scale, bias: float32 `[out]`; scale is one accumulator unit. rounding: of the output,
    with the ReLU in the clipping; without one (a head, or what is summed in float) `y` is the output. added: the
    rounding of codes that are added to y before that, where codes are.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        input_zero_points: torch.Tensor,
        relu: bool,
        rounding: Rounding | None,
        added: Rounding | None = None,
    ):
        super().__init__()
        self.relu, self.rounding, self.added = relu, rounding, added
        for name in ("weight", "scale", "bias"):
            self.register_buffer(name, tensors[name])
        self.register_buffer("input_zero_points", input_zero_points)  # uint8 [in]
        self.run: Run = _reference(self)

    @property
    def is_head(self) -> bool:
        """Whether it gives floats."""
        return self.rounding is None

    @property
    def output_scale(self) -> torch.Tensor:
        return self.rounding.scale

    @property
    def output_zero_point(self) -> torch.Tensor:
        return self.rounding.zero_point

    @property
    def q_max(self) -> int:
        return self.rounding.q_max

    def requantize(self, accumulator: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Accumulator `[P, out]` (whole numbers) to codes uint8, or to floats. added: codes, or floats."""
        y = accumulator * self.scale + self.bias
        if self.relu:
            y = F.relu(y)
        if added is not None:
            y += added if self.added is None else self.added.floats(added)
        return y if self.rounding is None else self.rounding(y)

    def forward(self, codes: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        return self.run(codes, added)


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
        self.graph, self.steps = graph, fuse(graph)
        self.density_steps = fuse(graph.until(graph.outputs[-1]))
        self.widths = [widths[name] for name in graph.inputs]
        self.q_max = 2**bits - 1
        self.inputs, self.layers, self.roundings = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        zero_points, columns = {}, dict(widths)  # of every tensor
        for name in graph.inputs:
            self.inputs[name] = self._rounding(state, name)
            zero_points[name] = self.inputs[name].zero_point.expand(widths[name])
        for step, _ in self.steps:
            if isinstance(step, Product):
                prefix = f"{step.layer.name}."
                tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                of_inputs = torch.cat([zero_points[source] for source in graph.sources(step.layer.input)])
                rounding = step.rounding and self._rounding(state, step.rounding)
                added = self.codes_of(step.added) if step.added in graph.roundings else None
                layer = Int8Linear(tensors, of_inputs, step.layer.relu, rounding, added)
                self.layers[module_key(step.layer.name)] = layer
                columns[step.name] = len(layer.weight)
            elif isinstance(step, Round | Add):
                columns[step.name] = columns[step.inputs[0]]
                rounding = self._rounding(state, step.name) if isinstance(step, Round) else None
            else:
                continue
            if rounding:
                self.roundings[module_key(step.name)] = rounding
                zero_points[step.name] = rounding.zero_point.expand(columns[step.name])
        self.use_backend(backend)

    def _rounding(self, state: dict[str, torch.Tensor], name: str) -> Rounding:
        return Rounding(state[f"{name}.output_scale"], state[f"{name}.output_zero_point"], self.q_max)

    def codes_of(self, name: str) -> Rounding:
        """What made codes of a tensor."""
        return self.inputs[name] if name in self.inputs else self.roundings[module_key(name)]

    def layer(self, name: str) -> "Int8Linear":
        return self.layers[module_key(name)]

    def use_backend(self, backend: str) -> None:
        """Prepares every layer for a backend of `BACKENDS`, on the device the network is on."""
        self.backend = backend
        for layer in self.layers.values():
            layer.run = BACKENDS[backend](layer)

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        """Encoded positions `[P, input_ch]` float to density before its activation, `[P]`."""
        name = self.graph.inputs[0]
        (head,) = self._execute(self.density_steps, {name: self.inputs[name](pts)}, self.graph.outputs[-1:])
        return head[..., 0 if len(self.graph.outputs) > 1 else 3]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The graph's inputs, float, each by itself or side by side in one tensor as NeRF's forward takes them, to raw
        outputs `[P, C]` float."""
        if len(inputs) < len(self.widths):
            inputs = inputs[0][..., : sum(self.widths)].split(self.widths, dim=-1)
        return self.run(*(stub(part) for stub, part in zip(self.inputs.values(), inputs, strict=True)))

    def run(self, *codes: torch.Tensor) -> torch.Tensor:
        """Codes of the inputs, uint8, to raw outputs `[P, C]` float."""
        given = dict(zip(self.graph.inputs, codes, strict=True))
        outputs = self._execute(self.steps, given, self.graph.outputs)
        return torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]

    def _execute(
        self, steps: list[tuple[Step, list[str]]], tensors: dict[str, torch.Tensor], outputs: tuple[str, ...]
    ) -> list[torch.Tensor]:
        for step, last_used in steps:
            if isinstance(step, Product):
                added = None if step.added is None else tensors[step.added]
                if added is not None and step.added not in last_used:
                    added = added.clone()  # something else needs it as it is
                result = self.layer(step.layer.name)(tensors[step.layer.input], added)
            elif isinstance(step, Concat):
                result = torch.cat([tensors[name] for name in step.inputs], -1)
            elif isinstance(step, Add):
                first, second = (self._in_float(name, tensors[name]) for name in step.inputs)
                result = first + second
            elif self.backend == "onednn":
                result = self.roundings[module_key(step.name)].quick(tensors[step.input])
            else:
                result = self.roundings[module_key(step.name)](tensors[step.input])
            tensors[step.name] = result
            for name in last_used:  # so that the next layer's output may have its memory
                del tensors[name]
        return [tensors[name] for name in outputs]

    def _in_float(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return self.codes_of(name).floats(tensor) if tensor.dtype == torch.uint8 else tensor


class CodeEncoder(nn.Module):
    """`[P, 3]` straight to uint8 codes of its Fourier features.

    All angles are one matrix product and all waves one sine, `cos v = sin(v + pi/2)`; rounding to
    codes happens in place. Against encoding in float first, a code may fall on the other side of a
    tie: the added quarter turn costs the last bit of a large angle.
    """

    def __init__(self, embedder: nn.Module, stub: Rounding):
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
