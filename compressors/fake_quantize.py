"""Fake quantisation: rounding as int8 will round, in float, with gradients that pass straight through.

Arithmetic is Jacob et al. 2018 (arXiv 1712.05877): activations are
unsigned with a scale and zero point per tensor, weights symmetric with a scale per output channel,
    x = s_x (q_x - z_x),   w[o] = s_w[o] q_w[o],   y[o] = s_x s_w[o] sum_i q_w[o,i] (q_x[i] - z_x) + b[o].
The two heads (density and colour) have int8 inputs and weights and keep their output in float:
8-bit density logits would band visibly.
"""

from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F

from utils import distributed

# While training with fake quantisation, ranges follow the batches' extremes this slowly.
RANGE_MOMENTUM = 0.01


# ------------------------------------------------------------------------------ fake quantisation


class _RoundToGrid(torch.autograd.Function):
    """Rounds to `scale * (q - zero_point)`, q in [0, q_max]; the gradient passes where q was not
    clipped (straight-through estimator, Bengio et al. 2013).

    zero_point: None stands for 0. Few passes over memory are what makes this fast: bounds are plain
    numbers in units of codes, so clipping and its mask in the backward pass are one kernel each.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, q_max: int):
        codes = x / scale if zero_point is None else (x / scale).add_(zero_point)
        ctx.save_for_backward(codes)
        ctx.q_max = q_max
        rounded = codes.clamp(0, q_max).round_()
        return rounded.mul_(scale) if zero_point is None else rounded.sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (codes,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, codes, -0.5, ctx.q_max + 0.5), None, None, None


class FakeQuantize(nn.Module):
    """Observes the range of an activation and rounds it to `bits` unsigned levels.

    after_relu: the range starts at 0, so clipping is the ReLU itself and no separate one is needed.
    observing: ranges follow what passes (in training mode only). quantizing: values are rounded.
    momentum: None takes the extremes of all batches seen (calibration), else a moving average.
    """

    def __init__(self, bits: int, after_relu: bool):
        super().__init__()
        self.bits, self.after_relu = bits, after_relu
        self.observing, self.quantizing = True, False
        self.momentum: float | None = None
        self.register_buffer("min_val", torch.zeros(()))
        self.register_buffer("max_val", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))

    @property
    def q_max(self) -> int:
        return 2**self.bits - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing and self.training:
            self._observe(x.detach())
        if self.quantizing:
            return _RoundToGrid.apply(x, self.scale, None if self.after_relu else self.zero_point, self.q_max)
        return F.relu(x) if self.after_relu else x

    def _observe(self, x: torch.Tensor) -> None:
        low, high = (bound.float() for bound in torch.aminmax(x))
        low, high = low.clamp_max(0), high.clamp_min(0)  # zero is always a level
        if self.momentum is None:
            low, high = torch.minimum(low, self.min_val), torch.maximum(high, self.max_val)
        else:
            low = torch.lerp(self.min_val, low, self.momentum)
            high = torch.lerp(self.max_val, high, self.momentum)
        self.set_range(torch.zeros_like(low) if self.after_relu else low, high)

    def set_range(self, low: torch.Tensor, high: torch.Tensor) -> None:
        self.min_val.copy_(low)
        self.max_val.copy_(high)
        self.scale.copy_(((self.max_val - self.min_val) / self.q_max).clamp_min(1e-8))
        self.zero_point.copy_((-self.min_val / self.scale).round().clamp(0, self.q_max))


# The step, in standard deviations, with which a symmetric uniform quantiser of so many bits loses least of
# a normal distribution (Max 1960 tabulates even numbers of levels; ours are odd: 3, 7, 15, 31).
BEST_STEP = {2: 1.2240, 3: 0.6508, 4: 0.3534, 5: 0.1932}


class WeightFakeQuantize(nn.Module):
    """Rounds weights to `bits` symmetric levels per output channel, [-(2^(b-1) - 1), 2^(b-1) - 1].

    Levels reach to the largest weight of a channel; with few bits, where a coarse step for all
    costs more than clipping a few, only as far as is best for normally distributed weights.
    """

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    @property
    def q_max(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def integers(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels `[out, in]` (still float) and scales `[out]`; an all-zero row gets a tiny scale."""
        scale = weight.abs().amax(1) / self.q_max
        if self.bits in BEST_STEP:
            scale = torch.minimum(scale, BEST_STEP[self.bits] * weight.square().mean(1).sqrt())
        scale = scale.clamp_min(1e-12)
        return (weight / scale[:, None]).round().clamp(-self.q_max, self.q_max), scale

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        levels, scale = self.integers(weight.detach())
        return weight + (levels * scale[:, None] - weight).detach()  # straight-through


class RoundedLinear(nn.Linear):
    """A linear layer with a `weight_fake_quant`; `bits` of a weight may be changed at any time."""

    @property
    def bits(self) -> int:
        return self.weight_fake_quant.bits

    @bits.setter
    def bits(self, bits: int) -> None:
        self.weight_fake_quant.bits = bits


class QATLinear(RoundedLinear):
    """A linear layer, with its ReLU if it has one, whose weights and output are fake-quantised.

    Its input may be a concatenation of activations with scales of their own. In integers
    `y = sum_j w_j s_j (q_j - z_j)`, so the weights that are rounded are the `w_j s_j`, relative to
    the largest of the scales: `fold` is `s_j / s_max`, one number an input column.
    """

    has_relu = True  # of its own, if there is one behind it

    def __init__(self, linear: nn.Linear, weight_bits: int, output: nn.Module):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_fake_quant = WeightFakeQuantize(weight_bits)
        self.activation_post_process = output
        self.inputs: tuple[tuple[FakeQuantize, int], ...] = ()  # in a tuple: not registered twice

    def input_scale(self) -> torch.Tensor:
        """The largest scale of the inputs, to which the others are folded."""
        return torch.stack([source.scale for source, _ in self.inputs]).max()

    def fold(self) -> torch.Tensor:
        """`s_j / s_max` for each input column, `[in]`; ones where there is a single input."""
        scales = torch.cat([source.scale.expand(width) for source, width in self.inputs])
        return scales / self.input_scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if self.inputs[0][0].quantizing:
            if len(self.inputs) == 1:
                weight = self.weight_fake_quant(weight)
            else:
                fold = self.fold()
                weight = self.weight_fake_quant(weight * fold) / fold
        return self.activation_post_process(F.linear(x, weight, self.bias))


def fake_quantizers(module: nn.Module) -> Iterator[FakeQuantize]:
    return (m for m in module.modules() if isinstance(m, FakeQuantize))


def set_state(module: nn.Module, observing: bool, quantizing: bool, momentum: float | None = RANGE_MOMENTUM) -> None:
    """Switches all fake-quantisers of a prepared network, or of anything that holds some."""
    for quantizer in fake_quantizers(module):
        quantizer.observing, quantizer.quantizing, quantizer.momentum = observing, quantizing, momentum


def synchronize_ranges(module: nn.Module) -> None:
    """Widens all ranges that are still moving to those of any process, as one batch would have them.

    A moving average of extremes is monotone in them, so the extreme of the averages is the average
    of the extremes.
    """
    if distributed.world_size() == 1:
        return
    observing = [quantizer for quantizer in fake_quantizers(module) if quantizer.observing]
    if observing:
        low = torch.stack([quantizer.min_val for quantizer in observing])
        high = torch.stack([quantizer.max_val for quantizer in observing])
        for quantizer, *bounds in zip(observing, *distributed.widest(low, high), strict=True):
            quantizer.set_range(*bounds)
