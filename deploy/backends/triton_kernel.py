"""A whole field as one fused GPU kernel, in Triton: in int8, and in bfloat16 as its measure.

A block of samples stays on the chip from its encoding to its heads: tensor-core products, then
bias, ReLU and rounding in place; only weights are read in between, and they come from the
second-level cache. Tensor cores multiply signed by signed, so int8 codes are held as `q - 128` and
what that and the zero points subtract is one int32 `shift` an output channel:
    sum_i w[o,i] (q[i] - z[i]) = sum_i w[o,i] (q[i] - 128) + shift[o],  shift[o] = sum_i w[o,i] (128 - z[i])
The integer part is that of the reference of `backends.int8`, bit for bit. Triton is imported where a kernel
is wanted only; with TRITON_INTERPRET=1 it runs on a CPU, slowly, for tests.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

from deploy.backends.int8 import Int8Field
from fields.nerf import HEADS, RadianceField, nerf_graph
from rendering.points import FieldOutput, Points
from run_nerf_helpers import round_up

SAMPLES = 64  # of one program
SMALLEST = 16  # side of a matrix that tensor cores take

# Q_MAX is the largest code, or 0 where activations are floats of TYPE and not codes.


@triton.jit
def _round(steps, zero_point, Q_MAX: tl.constexpr):
    """Multiples of a scale to codes less 128."""
    steps = tl.minimum(tl.maximum(steps, -1024.0), 1024.0)
    steps = (steps + 12582912.0) - 12582912.0  # to the nearest whole number, ties to even: 1.5 * 2^23
    codes = tl.minimum(tl.maximum(steps + zero_point, 0.0), Q_MAX)
    return (codes - 128.0).to(tl.int8)


@triton.jit
def _head(sums, scales, biases, shifts, at, Q_MAX: tl.constexpr):
    """Sums of products to a layer's float output; `at` says where its channels are in the tables."""
    if Q_MAX:
        sums = (sums + tl.load(shifts + at)[None, :]).to(tl.float32) * tl.load(scales + at)[None, :]
    return sums + tl.load(biases + at)[None, :]


@triton.jit
def _hidden(sums, scales, biases, shifts, at, output, RELU: tl.constexpr, Q_MAX: tl.constexpr, TYPE: tl.constexpr):
    """Sums of products to the next layer's input, as `Int8Linear.requantize`."""
    y = _head(sums, scales, biases, shifts, at, Q_MAX)
    if RELU:
        y = tl.maximum(y, 0.0)
    if Q_MAX:
        return _round(tl.div_rn(y, tl.load(output)), tl.load(output + 1), Q_MAX)
    return y.to(TYPE)


@triton.jit
def _encode(x, rows, live, columns, COLUMNS: tl.constexpr, output, Q_MAX: tl.constexpr, TYPE: tl.constexpr):
    """Coordinates `[P, 3]` to their Fourier features `[SAMPLES, COLUMNS]`, rounded."""
    column = tl.arange(0, COLUMNS)
    dimension = tl.load(columns + column).to(tl.int32)
    octave = tl.load(columns + COLUMNS + column)
    wave = tl.load(columns + 2 * COLUMNS + column)
    value = tl.load(x + rows[:, None] * 3 + dimension[None, :], mask=live[:, None], other=0.0)
    angle = value * octave[None, :]
    waved = tl.where(wave[None, :] > 1.5, tl.cos(angle), tl.sin(angle))
    encoded = tl.where(wave[None, :] < 0.5, value, waved)
    if Q_MAX:
        return _round(tl.div_rn(encoded, tl.load(output)), tl.load(output + 1), Q_MAX)
    return encoded.to(TYPE)


@triton.jit
def _product(inputs, weights, offset, K: tl.constexpr, N: tl.constexpr, Q_MAX: tl.constexpr):
    """`inputs [SAMPLES, K]` with the `[K, N]` weights that start at `offset`."""
    k, n = tl.arange(0, K), tl.arange(0, N)
    weight = tl.load(weights + offset + k[:, None] * N + n[None, :])
    if Q_MAX:
        return tl.dot(inputs, weight, out_dtype=tl.int32)
    return tl.dot(inputs, weight, out_dtype=tl.float32)


@triton.jit
def _field_kernel(
    positions, directions, raw, num_samples,
    weights, scales, biases, shifts, outputs, pts_columns, views_columns,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr, PTS: tl.constexpr, VIEWS: tl.constexpr, HALF: tl.constexpr,
    SKIP_MASK: tl.constexpr, USE_VIEWS: tl.constexpr, Q_MAX: tl.constexpr, SAMPLES: tl.constexpr,
    HEAD: tl.constexpr,
):  # fmt: skip
    """One program takes SAMPLES rows from coordinates to raw `[P, 4]`.

    scales, biases, shifts: `[layers, WIDTH]`. outputs: `[layers + 2, 2]`, each layer's output scale
    and zero point, then those of encoded positions and directions.
    """
    rows = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    live = rows < num_samples
    n = tl.arange(0, WIDTH)
    TYPE: tl.constexpr = weights.dtype.element_ty
    LAYERS: tl.constexpr = DEPTH + 4 if USE_VIEWS else DEPTH + 1
    inputs = outputs + 2 * LAYERS
    pts = _encode(positions, rows, live, pts_columns, PTS, inputs, Q_MAX, TYPE)

    sums = _product(pts, weights, 0, PTS, WIDTH, Q_MAX)
    offset = PTS * WIDTH
    h = _hidden(sums, scales, biases, shifts, n, outputs, True, Q_MAX, TYPE)
    for layer in tl.static_range(1, DEPTH):
        sums = _product(h, weights, offset, WIDTH, WIDTH, Q_MAX)
        offset += WIDTH * WIDTH
        if (SKIP_MASK >> (layer - 1)) & 1:
            sums += _product(pts, weights, offset, PTS, WIDTH, Q_MAX)
            offset += PTS * WIDTH
        h = _hidden(sums, scales, biases, shifts, layer * WIDTH + n, outputs + 2 * layer, True, Q_MAX, TYPE)

    # The first head: density where there is a view branch, all four values where there is none.
    m = tl.arange(0, HEAD)
    y = _head(_product(h, weights, offset, WIDTH, HEAD, Q_MAX), scales, biases, shifts, DEPTH * WIDTH + m, Q_MAX)
    offset += WIDTH * HEAD
    if not USE_VIEWS:
        tl.store(raw + rows[:, None] * 4 + m[None, :], y, mask=live[:, None] & (m[None, :] < 4))
    else:
        tl.store(raw + rows[:, None] * 4 + 3 + m[None, :], y, mask=live[:, None] & (m[None, :] < 1))
        layer = DEPTH + 1
        sums = _product(h, weights, offset, WIDTH, WIDTH, Q_MAX)
        offset += WIDTH * WIDTH
        h = _hidden(sums, scales, biases, shifts, layer * WIDTH + n, outputs + 2 * layer, False, Q_MAX, TYPE)

        layer = DEPTH + 2
        views = _encode(directions, rows, live, views_columns, VIEWS, inputs + 2, Q_MAX, TYPE)
        sums = _product(h, weights, offset, WIDTH, HALF, Q_MAX)
        offset += WIDTH * HALF
        sums += _product(views, weights, offset, VIEWS, HALF, Q_MAX)
        offset += VIEWS * HALF
        at = layer * WIDTH + tl.arange(0, HALF)
        h = _hidden(sums, scales, biases, shifts, at, outputs + 2 * layer, True, Q_MAX, TYPE)

        sums = _product(h, weights, offset, HALF, HEAD, Q_MAX)
        y = _head(sums, scales, biases, shifts, (DEPTH + 3) * WIDTH + m, Q_MAX)
        tl.store(raw + rows[:, None] * 4 + m[None, :], y, mask=live[:, None] & (m[None, :] < 3))


def _power_of_two(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


class _FusedField(nn.Module):
    """Weights laid out for the kernel above, and a field's interface around it.

    q_max: the largest code, 0 for floats, which then are of `dtype`.
    """

    def __init__(self, field: RadianceField, layers: dict[str, nn.Module], q_max: int, dtype: torch.dtype):
        super().__init__()
        config = field.config
        self.config, self.activate_density, self.q_max = config, field.activate_density, q_max
        self.width, self.half = _power_of_two(config.width), _power_of_two(config.width // 2)
        self.pts, self.views = _power_of_two(config.input_ch), _power_of_two(max(1, config.input_ch_views))
        skips = [i for i in config.skips if i < config.depth - 1]
        self.skip_mask = sum(1 << i for i in skips)
        parts = []
        for number, (name, layer) in enumerate(layers.items()):
            is_head = name in HEADS
            outputs = self.half if name == "views_linears.0" else SMALLEST if is_head else self.width
            weight = layer.weight.detach().t()
            if number == 0:
                blocks = [(weight, self.pts)]
            elif name.startswith("pts_") and number - 1 in skips:  # in the file positions come first
                blocks = [(weight[config.input_ch :], self.width), (weight[: config.input_ch], self.pts)]
            elif name == "views_linears.0":
                blocks = [(weight[: config.width], self.width), (weight[config.width :], self.views)]
            else:
                blocks = [(weight, self.half if name == "rgb_linear" else self.width)]
            parts += [_padded(block, inputs, outputs).reshape(-1) for block, inputs in blocks]
        self.register_buffer("weights", torch.cat(parts).to(dtype))
        self.register_buffer("biases", _table([layer.bias.detach().float() for layer in layers.values()], self.width))
        # What only codes need; a kernel wants some tensor either way.
        self.register_buffer("scales", torch.ones(1))
        self.register_buffer("shifts", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("outputs", torch.zeros(2 * (len(layers) + 2)))
        octaves = config.i_embed == 0
        self.register_buffer("pts_columns", _columns(config.multires * octaves, self.pts))
        self.register_buffer("views_columns", _columns(config.multires_views * octaves, self.views))

    def raw(self, positions: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Raw network output `[P, 4]`, float32."""
        raw = positions.new_empty(len(positions), 4)
        if len(positions) == 0:
            return raw
        grid = (round_up(len(positions), SAMPLES) // SAMPLES,)
        _field_kernel[grid](
            positions.contiguous(), directions.contiguous(), raw, len(positions),
            self.weights, self.scales, self.biases, self.shifts, self.outputs, self.pts_columns, self.views_columns,
            DEPTH=self.config.depth, WIDTH=self.width, PTS=self.pts, VIEWS=self.views, HALF=self.half,
            SKIP_MASK=self.skip_mask, USE_VIEWS=self.config.use_viewdirs, Q_MAX=self.q_max, SAMPLES=SAMPLES,
            HEAD=SMALLEST,
        )  # fmt: skip
        return raw

    def forward(self, points: Points) -> FieldOutput:
        """As `RadianceField.forward`."""
        raw = self.raw(points.positions, points.directions)
        return FieldOutput(self.activate_density(raw[:, 3]), torch.sigmoid(raw[:, :3]))

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        return self(Points(positions, positions)).density


class TritonField(_FusedField):
    """An int8 field, in place of an `Int8Field`."""

    def __init__(self, field: Int8Field):
        network = field.network
        if network.graph != nerf_graph(field.config.depth, field.config.skips, field.config.use_viewdirs):
            raise ValueError("the fused kernel knows a NeRF's topology only")
        layers = {node.name: network.layer(node.name) for node in network.graph.linears}
        super().__init__(field, layers, network.q_max, torch.int8)
        shifts = [layer.weight.long() @ (128 - layer.input_zero_points.long()) for layer in layers.values()]
        self.shifts = _table(shifts, self.width).to(torch.int32)  # of int64: exact
        self.scales = _table([layer.scale for layer in layers.values()], self.width)
        outputs = [
            (1.0, 0.0) if layer.is_head else (float(layer.output_scale), float(layer.output_zero_point))
            for layer in layers.values()
        ]
        outputs += [(float(stub.scale), float(stub.zero_point)) for stub in network.inputs.values()]
        self.outputs = torch.tensor(outputs, dtype=torch.float32)
        self.to(self.weights.device)


class TritonFloatField(_FusedField):
    """A float field in bfloat16 (or float16) with float32 sums: what fused int8 has to beat."""

    def __init__(self, field: RadianceField, dtype: torch.dtype = torch.bfloat16):
        super().__init__(
            field, {node.name: field.network.get_submodule(node.name) for node in field.config.graph.linears}, 0, dtype
        )
        self.to(self.weights.device)


def _padded(weight: torch.Tensor, inputs: int, outputs: int) -> torch.Tensor:
    """Weights `[in, out]` with zeros up to `[inputs, outputs]`: a zero weight makes any code harmless."""
    return torch.nn.functional.pad(weight, (0, outputs - weight.shape[1], 0, inputs - weight.shape[0])).contiguous()


def _table(vectors: list[torch.Tensor], width: int) -> torch.Tensor:
    """Vectors of up to `width` entries as rows, zeros behind them."""
    return torch.stack([torch.nn.functional.pad(v, (0, width - len(v))) for v in vectors])


def _columns(octaves: int, count: int) -> torch.Tensor:
    """For each encoded column: which coordinate, its octave, and 0, 1 or 2 for itself, sine, cosine."""
    dimension, octave, wave = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    for column in range(min(count, 3 + 6 * octaves)):
        dimension[column] = column % 3
        if column >= 3:
            octave[column] = 2.0 ** ((column - 3) // 6)
            wave[column] = 1 + (column - 3) % 6 // 3
    return torch.stack([dimension, octave, wave])
