"""The whole int8 field as one fused GPU kernel, in Triton.

A block of samples stays on the chip from its encoding to its heads: int8 tensor-core products with
int32 sums, then bias, ReLU and rounding in place; only weights are read in between, and they come
from the second-level cache. Tensor cores multiply signed by signed, so codes are held as `q - 128`
and what that and the zero points subtract is one int32 `shift` an output channel:
    sum_i w[o,i] (q[i] - z[i]) = sum_i w[o,i] (q[i] - 128) + shift[o],  shift[o] = sum_i w[o,i] (128 - z[i])
The integer part is that of `int8_model`'s reference, bit for bit. Triton is imported where a kernel
is wanted only; with TRITON_INTERPRET=1 it runs on a CPU, slowly, for tests.
"""

import torch
import torch.nn as nn
import triton
import triton.language as tl

from int8_model import Int8Field, Int8Linear
from run_nerf_helpers import round_up

SAMPLES = 64  # of one program
SMALLEST = 16  # side of a matrix that tensor cores take


@triton.jit
def _requantize(accumulator, scale, bias, output_scale, output_zero_point, RELU: tl.constexpr, Q_MAX: tl.constexpr):
    """int32 sums to codes less 128, as `Int8Linear.requantize`."""
    y = accumulator.to(tl.float32) * scale[None, :] + bias[None, :]
    if RELU:
        y = tl.maximum(y, 0.0)
    steps = tl.div_rn(y, output_scale)
    steps = tl.minimum(tl.maximum(steps, -1024.0), 1024.0)
    steps = (steps + 12582912.0) - 12582912.0  # to the nearest whole number, ties to even: 1.5 * 2^23
    codes = tl.minimum(tl.maximum(steps + output_zero_point, 0.0), Q_MAX)
    return (codes - 128.0).to(tl.int8)


@triton.jit
def _encode(x, rows, live, columns, COLUMNS: tl.constexpr, scale, zero_point, Q_MAX: tl.constexpr):
    """Coordinates `[P, 3]` to codes less 128 of their Fourier features, `[SAMPLES, COLUMNS]`."""
    column = tl.arange(0, COLUMNS)
    dimension = tl.load(columns + column).to(tl.int32)
    octave = tl.load(columns + COLUMNS + column)
    wave = tl.load(columns + 2 * COLUMNS + column)
    value = tl.load(x + rows[:, None] * 3 + dimension[None, :], mask=live[:, None], other=0.0)
    angle = value * octave[None, :]
    waved = tl.where(wave[None, :] > 1.5, tl.cos(angle), tl.sin(angle))
    encoded = tl.where(wave[None, :] < 0.5, value, waved)
    steps = tl.minimum(tl.maximum(tl.div_rn(encoded, scale), -1024.0), 1024.0)
    steps = (steps + 12582912.0) - 12582912.0
    codes = tl.minimum(tl.maximum(steps + zero_point, 0.0), Q_MAX)
    return (codes - 128.0).to(tl.int8)


@triton.jit
def _product(codes, weights, offset, K: tl.constexpr, N: tl.constexpr):
    """`codes [SAMPLES, K]` with the `[K, N]` weights that start at `offset`."""
    k, n = tl.arange(0, K), tl.arange(0, N)
    weight = tl.load(weights + offset + k[:, None] * N + n[None, :])
    return tl.dot(codes, weight, out_dtype=tl.int32)


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
    LAYERS: tl.constexpr = DEPTH + 4 if USE_VIEWS else DEPTH + 1
    inputs = outputs + 2 * LAYERS
    pts = _encode(positions, rows, live, pts_columns, PTS, tl.load(inputs), tl.load(inputs + 1), Q_MAX)

    sums = _product(pts, weights, 0, PTS, WIDTH)
    offset = PTS * WIDTH
    h = _requantize(
        sums + tl.load(shifts + n)[None, :], tl.load(scales + n), tl.load(biases + n),
        tl.load(outputs), tl.load(outputs + 1), True, Q_MAX,
    )  # fmt: skip
    for layer in tl.static_range(1, DEPTH):
        sums = _product(h, weights, offset, WIDTH, WIDTH)
        offset += WIDTH * WIDTH
        if (SKIP_MASK >> (layer - 1)) & 1:
            sums += _product(pts, weights, offset, PTS, WIDTH)
            offset += PTS * WIDTH
        at = layer * WIDTH + n
        h = _requantize(
            sums + tl.load(shifts + at)[None, :], tl.load(scales + at), tl.load(biases + at),
            tl.load(outputs + 2 * layer), tl.load(outputs + 2 * layer + 1), True, Q_MAX,
        )  # fmt: skip

    # The first head: density where there is a view branch, all four values where there is none.
    m = tl.arange(0, HEAD)
    at = DEPTH * WIDTH + m
    sums = _product(h, weights, offset, WIDTH, HEAD) + tl.load(shifts + at)[None, :]
    offset += WIDTH * HEAD
    y = sums.to(tl.float32) * tl.load(scales + at)[None, :] + tl.load(biases + at)[None, :]
    if not USE_VIEWS:
        tl.store(raw + rows[:, None] * 4 + m[None, :], y, mask=live[:, None] & (m[None, :] < 4))
    else:
        tl.store(raw + rows[:, None] * 4 + 3 + m[None, :], y, mask=live[:, None] & (m[None, :] < 1))
        at = (DEPTH + 1) * WIDTH + n
        sums = _product(h, weights, offset, WIDTH, WIDTH) + tl.load(shifts + at)[None, :]
        offset += WIDTH * WIDTH
        h = _requantize(
            sums, tl.load(scales + at), tl.load(biases + at),
            tl.load(outputs + 2 * (DEPTH + 1)), tl.load(outputs + 2 * (DEPTH + 1) + 1), False, Q_MAX,
        )  # fmt: skip
        views = _encode(directions, rows, live, views_columns, VIEWS, tl.load(inputs + 2), tl.load(inputs + 3), Q_MAX)
        half = tl.arange(0, HALF)
        at = (DEPTH + 2) * WIDTH + half
        sums = _product(h, weights, offset, WIDTH, HALF)
        offset += WIDTH * HALF
        sums += _product(views, weights, offset, VIEWS, HALF) + tl.load(shifts + at)[None, :]
        offset += VIEWS * HALF
        h = _requantize(
            sums, tl.load(scales + at), tl.load(biases + at),
            tl.load(outputs + 2 * (DEPTH + 2)), tl.load(outputs + 2 * (DEPTH + 2) + 1), True, Q_MAX,
        )  # fmt: skip
        at = (DEPTH + 3) * WIDTH + m
        sums = _product(h, weights, offset, HALF, HEAD) + tl.load(shifts + at)[None, :]
        y = sums.to(tl.float32) * tl.load(scales + at)[None, :] + tl.load(biases + at)[None, :]
        tl.store(raw + rows[:, None] * 4 + m[None, :], y, mask=live[:, None] & (m[None, :] < 3))


def _power_of_two(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


class TritonField(nn.Module):
    """An int8 field run by the kernel above, in place of an `Int8Field`."""

    def __init__(self, field: Int8Field):
        super().__init__()
        self.config, self.activate_density = field.config, field.activate_density
        network, config = field.network, field.config
        self.width, self.half = _power_of_two(config.width), _power_of_two(config.width // 2)
        self.pts, self.views = _power_of_two(config.input_ch), _power_of_two(max(1, config.input_ch_views))
        self.q_max = network.q_max
        self.skip_mask = sum(1 << i for i in network.skips)
        names = [f"pts_linears_{i}" for i in range(config.depth)]
        names += (
            ["alpha_linear", "feature_linear", "views_linears_0", "rgb_linear"]
            if config.use_viewdirs
            else ["output_linear"]
        )
        layers: list[Int8Linear] = [network.layers[name] for name in names]
        parts = []
        for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
            outputs = self.half if name == "views_linears_0" else SMALLEST if layer.is_head else self.width
            weight = layer.weight.t()
            if number == 0:
                blocks = [(weight, self.pts)]
            elif name.startswith("pts_") and number - 1 in network.skips:  # ours: positions come first
                blocks = [(weight[config.input_ch :], self.width), (weight[: config.input_ch], self.pts)]
            elif name == "views_linears_0":
                blocks = [(weight[: config.width], self.width), (weight[config.width :], self.views)]
            else:
                blocks = [(weight, self.half if name == "rgb_linear" else self.width)]
            parts += [_padded(block, inputs, outputs).reshape(-1) for block, inputs in blocks]
        self.register_buffer("weights", torch.cat(parts))
        shifts = [layer.weight.long() @ (128 - layer.input_zero_points.long()) for layer in layers]
        self.register_buffer("scales", _table([layer.scale for layer in layers], self.width))
        self.register_buffer("biases", _table([layer.bias for layer in layers], self.width))
        self.register_buffer("shifts", _table(shifts, self.width).to(torch.int32))  # of int64: exact
        outputs = [(1.0, 0.0) if n.is_head else (float(n.output_scale), float(n.output_zero_point)) for n in layers]
        for stub in ("quant_pts", "quant_views"):
            if stub in network.inputs:
                outputs.append((float(network.inputs[stub].scale), float(network.inputs[stub].zero_point)))
        self.register_buffer("outputs", torch.tensor(outputs, dtype=torch.float32))
        octaves = config.i_embed == 0
        self.register_buffer("pts_columns", _columns(config.multires * octaves, self.pts))
        self.register_buffer("views_columns", _columns(config.multires_views * octaves, self.views))
        self.to(layers[0].weight.device)

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

    def forward(self, positions: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `RadianceField.forward`."""
        raw = self.raw(positions, directions)
        return self.activate_density(raw[:, 3]), torch.sigmoid(raw[:, :3])

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        return self(positions, positions)[0]


def _padded(weight: torch.Tensor, inputs: int, outputs: int) -> torch.Tensor:
    """int8 `[in, out]` with zeros up to `[inputs, outputs]`: a zero weight makes any code harmless."""
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
