"""BitNeRF: a NeRF with ternary or 4-bit weights and 8-bit activations, after BitNet b1.58 (arXiv 2402.17764).

A hidden layer normalises its input (unless told not to), rounds each row of it to int8 by the row's largest magnitude,
and multiplies by weights that are -1, 0 or 1 times one scale a layer:
    W~ = clip(round(W / s), -1, 1),  s = mean |W|        (absmean, eq. 1 and 2 there)
    x~ = round(127 x / max |x|)                           (absmax, a scale of its own each row)
    y  = s max|x| / 127 * sum_i W~[o,i] x~[i] + b[o]
With 3 to 8 bits, W~ is in [-(2^(b-1) - 1), 2^(b-1) - 1] and s one number an output channel
(`fake_quantize.WeightFakeQuantize`).
Gradients go straight through both roundings to latent float weights (Bengio et al. 2013). Batches
and processes share no statistics, so nothing can drift apart when training is spread over several.
"""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

from compressors.compressor import LayerCompressor, layers_of
from compressors.fake_quantize import RoundedLinear, WeightFakeQuantize
from compressors.int8 import replace_submodule
from deploy.backends.low_bit import ACTIVATION_MAX, NORM_EPS, SMALLEST
from deploy.model_file import model_bytes
from deploy.packing import FLOAT, TERNARY, pack, stored_bytes
from fields.nerf import is_hidden
from rendering.renderer import Renderer
from run_nerf_helpers import NeRF
from scenes.scene import Cameras
from training.batches import RayBatches
from utils.parser import within


def ternarize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes in {-1, 0, 1} (still float), of the weights' shape, and their scale, a scalar."""
    scale = weight.abs().mean().clamp_min(SMALLEST)
    return (weight / scale).round().clamp(-1, 1), scale


class _RoundRows(torch.autograd.Function):
    """Each row to 8 bits of its largest magnitude; gradients pass as if nothing had happened."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_min_(SMALLEST).div_(ACTIVATION_MAX)
        return (x / step).round_().mul_(step)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _NormalizeAndRoundRows(torch.autograd.Function):
    """RMSNorm (arXiv 1910.07467, eq. 4), then `_RoundRows`, in few passes over `x [P, N]`.

    With r = 1 / rms(x) and gains g: y = round(r g x). The derivative is that of r g x:
        dx = r (g dy - x r^2 / N * sum_j g_j dy_j x_j),  dg = sum over rows of r x dy.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        precision = torch.promote_types(x.dtype, torch.float32)
        size = torch.linalg.vector_norm(x, 2, -1, keepdim=True, dtype=precision)
        inverse = (size.square_().div_(x.shape[-1]).add_(NORM_EPS)).rsqrt_()
        ctx.save_for_backward(x, gain, inverse)
        scaled = x * gain.to(x.dtype)
        step = (scaled.abs().amax(-1, keepdim=True) * inverse).clamp_min_(SMALLEST).div_(ACTIVATION_MAX)
        return scaled.mul_((inverse / step).to(x.dtype)).round_().mul_(step.to(x.dtype))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, gain, inverse = ctx.saved_tensors
        in_type = gain.to(x.dtype)
        product = gradient * x
        along = (product @ in_type)[:, None] * inverse**3 / x.shape[-1]
        d_gain = (inverse.to(x.dtype).T @ product)[0]
        d_x = (gradient * in_type).mul_(inverse.to(x.dtype)).addcmul_(x, along.to(x.dtype), value=-1)
        return d_x, d_gain.to(gain.dtype)


class BitLinear(RoundedLinear):
    """A linear layer that rounds weights and input.

    bits: of a weight, 2 (ternary) to 8, or 32 for a layer that rounds neither.
    norm: an RMSNorm with learnt gains before it (arXiv 1910.07467); its gains are `norm [in]`.
    rounding: 1 rounds weights fully, 0 not at all; in between is a blend, for starting softly.
    """

    def __init__(self, in_features: int, out_features: int, bits: int = TERNARY, norm: bool = True):
        super().__init__(in_features, out_features)
        self.weight_fake_quant = WeightFakeQuantize(bits)
        self.norm = nn.Parameter(torch.ones(in_features)) if norm else None
        self.rounding = 1.0

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights as integers (still float) and their scale, scalar or `[out]`."""
        if self.bits == TERNARY:
            return ternarize(self.weight)
        return self.weight_fake_quant.integers(self.weight)

    def rounded_weight(self) -> torch.Tensor:
        with torch.no_grad():
            codes, scale = self.codes()
            difference = codes * (scale[:, None] if scale.ndim else scale) - self.weight
        return self.weight + self.rounding * difference

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bits == FLOAT:
            x = x if self.norm is None else F.rms_norm(x, (self.in_features,), self.norm.to(x.dtype), NORM_EPS)
            return F.linear(x, self.weight, self.bias)
        x = _RoundRows.apply(x) if self.norm is None else _NormalizeAndRoundRows.apply(x, self.norm)
        return F.linear(x, self.rounded_weight(), self.bias)


def default_bits(network: NeRF, hidden: int, ends: int) -> dict[str, int]:
    """Bits of the weights of every layer that is used: `hidden` for hidden ones, `ends` for the others."""
    return {name: hidden if is_hidden(name) else ends for name in layers_of(network)}


def to_bitnet(network: NeRF, bits: dict[str, int], norms: bool = True) -> NeRF:
    """Replaces a NeRF's linear layers by BitLinear ones in place, its weights as the latent ones.

    bits: by layer, as `default_bits` has them. norms: whether hidden layers get an RMSNorm. The
    function is not kept then: norms are new, their gains ones. See `calibrate_norms`.
    """
    for name in bits:
        old = network.get_submodule(name)
        norm = norms and is_hidden(name)
        new = BitLinear(old.in_features, old.out_features, bits[name], norm).to(old.weight.device)
        new.weight, new.bias = old.weight, old.bias
        replace_submodule(network, name, new)
    return network


class calibrate_norms:
    """While entered, learns the root mean square of what each norm meets; gains become that on leaving.

    A normalised layer then sees inputs of the size that its float weights were trained for.
    """

    def __init__(self, module: nn.Module):
        self.layers = [layer for layer in bit_layers(module) if layer.norm is not None]

    def __enter__(self) -> "calibrate_norms":
        self.squares = [[] for _ in self.layers]
        self.hooks = [
            layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].float().pow(2).mean()))
            for layer, seen in zip(self.layers, self.squares, strict=True)
        ]
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()
        with torch.no_grad():
            for layer, seen in zip(self.layers, self.squares, strict=True):
                layer.norm.fill_(torch.stack(seen).mean().sqrt().clamp_min(SMALLEST))


def bit_layers(module: nn.Module) -> list[BitLinear]:
    return [layer for layer in module.modules() if isinstance(layer, BitLinear)]


def set_rounding(module: nn.Module, rounding: float) -> None:
    """Sets how much of the weights' rounding every layer of a module applies."""
    for layer in bit_layers(module):
        layer.rounding = rounding


# ---------------------------------------------------------------------------------- to a file


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Rounds biases and norms to float16, as the file has them."""
    for layer in bit_layers(module):
        for parameter in (layer.bias, layer.norm):
            if parameter is not None:
                parameter.copy_(parameter.half())


@torch.no_grad()
def convert_bitnet(network: NeRF) -> dict[str, torch.Tensor]:
    """A BitNeRF as the tensors of its file; no float copy of a rounded weight.

    `weight`: uint8, packed, ternary or of less than 8 bits; int8 `[out, in]` of 8 bits; float32 where
    not rounded. `scale`: float32, a scalar for a ternary layer, `[out]` for an integer one. `bias`,
    and `norm` where there is one: float16.
    """
    state: dict[str, torch.Tensor] = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, BitLinear):
            continue
        if layer.bits == FLOAT:
            state[f"{name}.weight"] = layer.weight.float()
        else:
            codes, scale = layer.codes()
            state[f"{name}.weight"] = pack(codes, layer.bits)
            state[f"{name}.scale"] = scale.float()
        state[f"{name}.bias"] = layer.bias.half()
        if layer.norm is not None:
            state[f"{name}.norm"] = layer.norm.half()
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


# ---------------------------------------------------------------------------------- as compressors


ENDS = {"ternary": TERNARY, "int4": 4, "int8": 8, "float": FLOAT}  # --bit_ends as bits of a weight


class TernaryCompressor(LayerCompressor):
    """BitNeRF: ternary weights, 8-bit activations by row.

    ends: bits of the first layer and of the heads. norms: whether hidden layers get an RMSNorm. ramp: the share of the
    steps over which the weights' rounding grows from none to full.
    """

    name = phase = "ternary"
    hidden = TERNARY
    packed_bytes = staticmethod(stored_bytes)

    def __init__(self, *args, ends: int = 8, norms: bool = True, ramp: float = 0.0, **options):
        self.ends, self.norms, self.ramp = ends, norms, ramp
        super().__init__(*args, **options)

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add(
            "--bit_ends",
            default="int8",
            choices=["int8", "int4", "float", "ternary"],
            help="w4a8, ternary: precision of the first layer and of the two heads",
        )
        add(
            "--bit_ramp",
            type=within(float, 0, 1),
            default=0.0,
            help="w4a8, ternary: share of the steps over which the weights' rounding grows from none to full; 0: none",
        )
        add("--no_bit_norm", action="store_true", help="w4a8, ternary: no RMSNorm before hidden layers")

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, renderer: Renderer, render_path: Cameras, has_float: bool
    ) -> "TernaryCompressor":
        return cls(
            renderer,
            render_path,
            args.qat_iters,
            has_float,
            given_bits=tuple(args.quant_bits),
            budget=args.quant_budget,
            calibration=args.calibration_batches,
            ends=ENDS[args.bit_ends],
            norms=not args.no_bit_norm,
            ramp=args.bit_ramp,
        )

    def default_bits(self, network: nn.Module) -> dict[str, int]:
        return default_bits(network, self.hidden, self.ends)

    def prepare(self) -> None:
        for name, field in self.renderer.fields.items():
            to_bitnet(field.network, self.bits_of(name), self.norms)

    def calibrate(self, batches: RayBatches) -> None:
        """Gives norms the gains with which the float weights see inputs of the size they know."""
        drawn = batches.draw_some(self.renderer, self.calibration) if self.norms or self.budget else []
        set_rounding(self.renderer, 0.0)
        if self.norms:
            with calibrate_norms(self.renderer):
                self.send_through(drawn)
        if self.budget:
            set_rounding(self.renderer, 1.0)
            self.fit_budget(drawn)
        self.after_step(0.0)

    def after_step(self, done: float) -> None:
        """Rounding grows over the first steps."""
        set_rounding(self.renderer, 1.0 if done >= self.ramp else done / self.ramp)

    def finish(self) -> None:
        set_rounding(self.renderer, 1.0)
        round_to_half(self.renderer)

    def to_bytes(self) -> bytes:
        tensors = {
            f"{name}.{key}": value
            for name, network in self.renderer.networks.items()
            for key, value in convert_bitnet(network).items()
        }
        precision = {"precision": self.name, "weight_bits": self.weight_bits}
        return model_bytes(self.renderer, self.render_path, tensors, precision)


class W4A8Compressor(TernaryCompressor):
    """The same with 4-bit weights: the step between int8 and ternary."""

    name = phase = "w4a8"
    hidden = 4
