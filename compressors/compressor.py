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

from compressors.bit_budget import choose_bits, measure_costs, quantized_layers
from compressors.fake_quantize import convert, fuse, prepare, remap_state_dict, set_state, synchronize_ranges
from compressors.low_bit import calibrate_norms, convert_bitnet, default_bits, round_to_half, set_rounding, to_bitnet
from deploy.description import check_weight_bits
from deploy.model_file import save_bitnet_model, save_int8_model
from deploy.packing import FLOAT, TERNARY, packed_bytes, stored_bytes
from fields.nerf import layer_inputs
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.renderer import networks_of
from scenes.scene import Scene
from training.batches import RayBatches, render_batch
from training.checkpoint_checks import WAY_OUT
from utils import distributed
from utils.errors import BadInput, BrokenFile

HEADER_SLACK = 256  # bytes by which a file's header may grow with the shapes of packed weights
GRID_SLACK = 0.25  # share by which the packed occupancy grid may grow while training goes on
ENDS = {"ternary": TERNARY, "int4": 4, "int8": 8, "float": FLOAT}  # --bit_ends as bits of a weight


class Scheme:
    """What all schemes share: bits by layer, given or chosen under `--quant_budget`.

    weight_bits: of every layer, its network's name in front.
    """

    name: str  # of the file and of what it holds
    phase: str  # in checkpoints
    calibrated_file: str | None = None  # written before training goes on through the rounding
    extra_loss = None  # of that training, as `Phase` has it
    packed_bytes = staticmethod(packed_bytes)  # of so many weights of so many bits

    def __init__(self, args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module):
        self.args, self.scene, self.renderer = args, scene, renderer
        self.weight_bits = {
            f"{name}.{layer}": bits
            for name, network in networks_of(renderer).items()
            for layer, bits in layer_bits(self.default_bits(network), args.quant_bits).items()
        }

    @property
    def steps(self) -> int:
        """Of training through the rounding."""
        return self.args.qat_iters if self.args.quant != "ptq" else 0

    def files(self) -> dict[str, str | None]:
        """The models to measure and their files; None: the trained networks, rounding in float."""
        files = {"float32": "model_float32.safetensors"} if trains_in_float(self.args) else {}
        if self.calibrated_file:
            files[f"{self.name}_ptq"] = self.calibrated_file
        if self.steps:
            files["fake_quant"] = None  # what the file should match
        return files | {self.name: f"model_{self.name}.safetensors"}

    def bits_of(self, network: str) -> dict[str, int]:
        """Bits by layer of one network."""
        prefix = f"{network}."
        return {k.removeprefix(prefix): bits for k, bits in self.weight_bits.items() if k.startswith(prefix)}

    def state_dict(self) -> dict:
        """What a checkpoint must know of the scheme beyond the networks."""
        return {"weight_bits": self.weight_bits}

    def load_state_dict(self, state: dict) -> None:
        """To be called before `prepare`. Raises BrokenFile for bits that no layer here can have."""
        weight_bits = state.get("weight_bits", self.weight_bits)  # absent before bits were by layer
        check_weight_bits(weight_bits, self.name)
        if weight_bits.keys() != self.weight_bits.keys():
            raise BrokenFile(f"weight_bits of other layers; give the flags it was trained with, or {WAY_OUT}")
        self.weight_bits = weight_bits

    def fit_budget(self) -> None:
        """Gives every layer the bits that cost least in a file of `--quant_budget` bytes."""
        batches = RayBatches(self.args, self.scene, self.renderer.device)
        drawn = [batches.draw(self.renderer, self.args.precrop_iters + 1) for _ in range(self.args.calibration_batches)]
        layers = quantized_layers(self.renderer)
        counts = {name: layer.weight.numel() for name, layer in layers.items()}

        def choose() -> dict[str, int]:
            with tempfile.TemporaryDirectory() as folder:
                size = self.save(Path(folder) / "model.safetensors")
            weights = sum(self.packed_bytes(counts[name], layer.bits) for name, layer in layers.items())
            grid = self.renderer.grid.pack().numel() if isinstance(self.renderer, OccupancyRenderer) else 0
            fixed = size - weights + HEADER_SLACK + round(GRID_SLACK * grid)
            costs = measure_costs(self.renderer, drawn)
            return choose_bits(costs, counts, self.args.quant_budget, fixed, self.packed_bytes)

        chosen = distributed.from_main(choose)
        self.weight_bits |= chosen
        for name, bits in chosen.items():
            layers[name].bits = bits
        print("bits by layer: " + ", ".join(f"{name} {bits}" for name, bits in self.weight_bits.items()))


class Int8Scheme(Scheme):
    """int8 by quantisation-aware training (`qat`), or by calibration alone (`ptq`)."""

    name, phase = "int8", "qat"
    calibrated_file = "model_int8_ptq.safetensors"

    def default_bits(self, network: torch.nn.Module) -> dict[str, int]:
        return dict.fromkeys(layer_inputs(network), self.args.weight_bits)

    def prepare(self) -> None:
        for name, field in self.renderer.fields.items():
            field.network = prepare(fuse(field.network), self.bits_of(name), self.args.activation_bits)

    def calibrate(self) -> None:
        """Sets every activation's range to the extremes of a few training batches."""
        set_state(self.renderer, observing=True, quantizing=False, momentum=None)
        run_batches(self.args, self.scene, self.renderer)
        synchronize_ranges(self.renderer)
        set_state(self.renderer, observing=True, quantizing=True)
        if self.args.quant_budget:
            self.fit_budget()

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


class TernaryScheme(Scheme):
    """BitNeRF: ternary weights, 8-bit activations by row (`bitnet.py`)."""

    name = phase = "ternary"
    hidden = TERNARY
    packed_bytes = staticmethod(stored_bytes)

    def default_bits(self, network: torch.nn.Module) -> dict[str, int]:
        return default_bits(network, self.hidden, ENDS[self.args.bit_ends])

    def prepare(self) -> None:
        for name, field in self.renderer.fields.items():
            to_bitnet(field.network, self.bits_of(name), norms=not self.args.no_bit_norm)

    def calibrate(self) -> None:
        """Gives norms the gains with which the float weights see inputs of the size they know."""
        set_rounding(self.renderer, 0.0)
        if not self.args.no_bit_norm:
            with calibrate_norms(self.renderer):
                run_batches(self.args, self.scene, self.renderer)
        if self.args.quant_budget:
            set_rounding(self.renderer, 1.0)
            self.fit_budget()
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
        cameras = self.scene.render_path
        return save_bitnet_model(path, self.renderer, tensors, cameras, self.name, self.weight_bits)


class W4A8Scheme(TernaryScheme):
    """The same with 4-bit weights: the step between int8 and ternary."""

    name = phase = "w4a8"
    hidden = 4


SCHEMES = {"qat": Int8Scheme, "ptq": Int8Scheme, "w4a8": W4A8Scheme, "ternary": TernaryScheme}


def trains_in_float(args: argparse.Namespace) -> bool:
    """Whether there is a float model before the rounding begins, or only untrained networks."""
    return bool(args.ft_path or args.N_iters)


def layer_bits(default: dict[str, int], given: list[str]) -> dict[str, int]:
    """Bits of every layer's weights: `given` as LAYER=BITS, the others `default`.

    Raises BadInput for a layer that the network does not have, or for bits outside [2, 8].
    """
    bits = dict(default)
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
    batches = RayBatches(args, scene, renderer.device)
    renderer.train()
    with torch.no_grad():
        for _ in range(args.calibration_batches):
            render_batch(renderer, batches.draw(renderer, step=args.precrop_iters + 1))
