"""What `--quant` may be: how a float renderer comes to train through rounding, and what file it leaves.

A scheme takes a renderer with float networks and then, in this order: `prepare` puts rounding into
the networks, `calibrate` sets what a few batches can tell, `after_step` is called during training,
`finish` makes the networks what the file will be, and `save` writes it. Its `state_dict` goes into
checkpoints.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import distributed
from batches import RayBatches, render_batch
from bitnet import calibrate_norms, convert_bitnet, round_to_half, set_rounding, to_bitnet
from errors import BadInput
from mixed_precision import choose_bits, measure_costs, quantized_layers
from model_file import HIDDEN, save_bitnet_model, save_int8_model
from packing import packed_bytes
from quantization import convert, fuse, layer_inputs, prepare, remap_state_dict, set_state, synchronize_ranges
from rendering import OccupancyRenderer, networks_of
from scene import Scene

HEADER_SLACK = 256  # bytes by which a file's header may grow with the shapes of packed weights
GRID_SLACK = 0.25  # share by which the packed occupancy grid may grow while training goes on


class Int8Scheme:
    """int8 by quantisation-aware training (`qat`), or by calibration alone (`ptq`)."""

    name, phase = "int8", "qat"

    def __init__(self, args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module):
        self.args, self.scene, self.renderer = args, scene, renderer
        self.weight_bits = {
            f"{name}.{layer}": bits
            for name, network in networks_of(renderer).items()
            for layer, bits in layer_bits(network, args.weight_bits, args.quant_bits).items()
        }

    def prepare(self) -> None:
        for name, field in self.renderer.fields.items():
            bits = {layer: self.weight_bits[f"{name}.{layer}"] for layer in layer_inputs(field.network)}
            field.network = prepare(fuse(field.network), bits, self.args.activation_bits)

    def calibrate(self) -> None:
        """Sets every activation's range to the extremes of a few training batches."""
        set_state(self.renderer, observing=True, quantizing=False, momentum=None)
        run_batches(self.args, self.scene, self.renderer)
        synchronize_ranges(self.renderer)
        set_state(self.renderer, observing=True, quantizing=True)
        if self.args.quant_budget:
            self._fit_budget()

    def _fit_budget(self) -> None:
        """Gives every layer the bits that cost least in a file of `--quant_budget` bytes."""
        batches = RayBatches(self.args, self.scene, next(self.renderer.buffers()).device)
        drawn = [batches.draw(self.renderer, self.args.precrop_iters + 1) for _ in range(self.args.calibration_batches)]
        layers = quantized_layers(self.renderer)
        counts = {name: layer.weight.numel() for name, layer in layers.items()}

        def choose() -> dict[str, int]:
            with tempfile.TemporaryDirectory() as folder:
                size = self.save(Path(folder) / "model.safetensors")
            weights = sum(packed_bytes(counts[name], bits) for name, bits in self.weight_bits.items())
            grid = self.renderer.grid.pack().numel() if isinstance(self.renderer, OccupancyRenderer) else 0
            fixed = size - weights + HEADER_SLACK + round(GRID_SLACK * grid)
            return choose_bits(measure_costs(self.renderer, drawn), counts, self.args.quant_budget, fixed)

        self.weight_bits = distributed.from_main(choose)
        for name, bits in self.weight_bits.items():
            layers[name].weight_fake_quant.bits = bits
        print("bits by layer: " + ", ".join(f"{name} {bits}" for name, bits in self.weight_bits.items()))

    def state_dict(self) -> dict:
        """What a checkpoint must know of the scheme beyond the networks."""
        return {"weight_bits": self.weight_bits}

    def load_state_dict(self, state: dict) -> None:
        """To be called before `prepare`."""
        self.weight_bits = state["weight_bits"]

    def after_step(self, done: float) -> None:
        """done: the share of this phase's steps that are; ranges freeze for the last of them."""
        synchronize_ranges(self.renderer)
        set_state(self.renderer, observing=done < self.args.qat_freeze, quantizing=True)

    def finish(self) -> None:
        set_state(self.renderer, observing=False, quantizing=True)

    def save(self, path: Path) -> int:
        """Converts every network of a prepared renderer and writes the file that renders alone; its bytes."""
        tensors: dict[str, torch.Tensor] = {}
        for name, network in networks_of(self.renderer).items():
            tensors |= remap_state_dict(convert(network), name)
        bits = self.weight_bits, self.args.activation_bits
        return save_int8_model(path, self.renderer, tensors, self.scene.render_path, *bits)


class TernaryScheme:
    """BitNeRF: ternary weights, 8-bit activations by row (`bitnet.py`)."""

    name = phase = "ternary"

    def __init__(self, args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module):
        self.args, self.scene, self.renderer = args, scene, renderer

    def prepare(self) -> None:
        for field in self.renderer.fields.values():
            to_bitnet(field.network, HIDDEN[self.name], self.args.bit_ends)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    def calibrate(self) -> None:
        """Gives norms the gains with which the float weights see inputs of the size they know."""
        set_rounding(self.renderer, 0.0)
        with calibrate_norms(self.renderer):
            run_batches(self.args, self.scene, self.renderer)
        self.after_step(0.0)

    def after_step(self, done: float) -> None:
        """done: the share of this phase's steps that are; rounding grows over the first of them."""
        ramp = self.args.bit_ramp
        set_rounding(self.renderer, 1.0 if done >= ramp else done / ramp)

    def finish(self) -> None:
        set_rounding(self.renderer, 1.0)
        round_to_half(self.renderer)

    def save(self, path: Path) -> int:
        tensors = {
            f"{name}.{key}": value
            for name, network in networks_of(self.renderer).items()
            for key, value in convert_bitnet(network).items()
        }
        return save_bitnet_model(path, self.renderer, tensors, self.scene.render_path, self.name, self.args.bit_ends)


class W4A8Scheme(TernaryScheme):
    """The same with 4-bit weights: the step between int8 and ternary."""

    name = phase = "w4a8"


SCHEMES = {"qat": Int8Scheme, "ptq": Int8Scheme, "w4a8": W4A8Scheme, "ternary": TernaryScheme}


def layer_bits(network: torch.nn.Module, default: int, given: list[str]) -> dict[str, int]:
    """Bits of every layer's weights: `given` as LAYER=BITS, the others `default`.

    Raises BadInput for a layer that the network does not have, or for bits outside [2, 8].
    """
    bits = dict.fromkeys(layer_inputs(network), default)
    for entry in given:
        layer, _, number = entry.partition("=")
        if layer not in bits:
            raise BadInput(f"--quant_bits {entry}: no layer {layer}; the layers are {' '.join(bits)}")
        if number not in "2345678" or len(number) != 1:
            raise BadInput(f"--quant_bits {entry}: bits are a whole number from 2 to 8, as in {layer}=4")
        bits[layer] = int(number)
    return bits


def run_batches(args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module) -> None:
    """Sends `--calibration_batches` training batches through, for whatever observes them."""
    batches = RayBatches(args, scene, next(renderer.buffers()).device)
    renderer.train()
    with torch.no_grad():
        for _ in range(args.calibration_batches):
            render_batch(renderer, batches.draw(renderer, step=args.precrop_iters + 1))
