"""What every compressor is: how a trained field comes to train through rounding, and the file it leaves.

A compressor takes a renderer with float fields and then, in this order: `prepare` puts rounding into
the networks, `calibrate` sets what a few batches can tell, `after_step` is called during training,
`finish` makes the networks what the file will be, and `to_bytes` is that file. Its `state_dict` goes into
checkpoints. A new one is a module of its own and a line in `kinds.py`.
"""

import argparse
from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from compressors.bit_budget import choose_bits, measure_costs, quantized_layers
from deploy.nerf_file import check_weight_bits
from deploy.packing import packed_bytes
from fields.nerf import graph_of
from rendering.renderer import Renderer, Rendering
from scenes.scene import Cameras
from training.batches import Batch, RayBatches, render_batch
from utils import distributed
from utils.checks import WAY_OUT
from utils.errors import BadInput, BrokenFile
from utils.parser import positive

HEADER_SLACK = 256  # bytes by which a file's header may grow with the shapes of packed weights
GRID_SLACK = 0.25  # share by which the packed occupancy grid may grow while training goes on


class Compressor(ABC):
    """name: of the file and of what it holds. phase: of its training, in checkpoints. calibrated_file: written before
    training goes on through the rounding, if any.

    render_path: the video's cameras, for the file. steps: of training through the rounding. has_float: whether there
    is a float model to compare with.
    """

    name: ClassVar[str]
    phase: ClassVar[str]
    calibrated_file: ClassVar[str | None] = None

    def __init__(self, renderer: Renderer, render_path: Cameras, steps: int, has_float: bool = True):
        self.renderer, self.render_path, self.steps, self.has_float = renderer, render_path, steps, has_float

    @property
    def file(self) -> str:
        return f"model_{self.name}.safetensors"

    def files(self) -> dict[str, str | None]:
        """The models to measure and their files; None: the trained networks, rounding in float."""
        files = {"float32": "model_float32.safetensors"} if self.has_float else {}
        files |= self.calibrated_files()
        if self.steps:
            files["fake_quant"] = None  # what the file should match
        return files | {self.name: self.file}

    def calibrated_files(self) -> dict[str, str]:
        return {f"{self.name}_ptq": self.calibrated_file} if self.calibrated_file else {}

    @abstractmethod
    def prepare(self) -> None:
        """Puts rounding into the networks."""

    @abstractmethod
    def calibrate(self, batches: RayBatches) -> None:
        """Sets what training rays can tell before training goes on. batches: fresh ones."""

    def after_step(self, done: float) -> None:  # noqa: B027 (not all do anything)
        """done: the share of its steps that are."""

    def losses(self, batch: Batch, rendering: Rendering, step: int) -> dict[str, torch.Tensor]:
        """Of its training, beside the error of the pictures, by name."""
        return {}

    @abstractmethod
    def finish(self) -> None:
        """Makes the networks what the file will be."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The file that renders alone, as things stand."""

    @abstractmethod
    def state_dict(self) -> dict:
        """What a checkpoint must know beyond the networks."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """To be called before `prepare`. Raises BrokenFile for what cannot be."""

    @classmethod
    @abstractmethod
    def from_flags(
        cls, args: argparse.Namespace, renderer: Renderer, render_path: Cameras, has_float: bool
    ) -> "Compressor":
        """As the flags describe it. Raises BadInput where they do not fit the renderer's networks."""


class LayerCompressor(Compressor):
    """What compressors of layered networks share: bits by layer, given or chosen under a budget.

    given_bits: as LAYER=BITS, of single layers. budget: bytes of the file, for which bits are chosen. calibration:
    batches that set what is calibrated. weight_bits: of every layer, its network's name in front.
    """

    packed_bytes = staticmethod(packed_bytes)  # of so many weights of so many bits

    def __init__(
        self,
        renderer: Renderer,
        render_path: Cameras,
        steps: int,
        has_float: bool = True,
        given_bits: tuple[str, ...] = (),
        budget: int | None = None,
        calibration: int = 16,
    ):
        super().__init__(renderer, render_path, steps, has_float)
        self.budget, self.calibration = budget, calibration
        defaults = {name: self.default_bits(network) for name, network in renderer.networks.items()}
        self.weight_bits = bits_by_layer(defaults, given_bits)

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add(
            "--quant_bits",
            nargs="+",
            default=[],
            metavar="LAYER=BITS",
            help="other bits for the weights of single layers, such as pts_linears.0=8 rgb_linear=8",
        )
        add(
            "--quant_budget",
            type=positive(int),
            help="bytes that the file may have: bits are chosen by layer, by what each one's rounding costs",
        )
        add(
            "--calibration_batches",
            type=positive(int),
            default=16,
            help="batches that set the first activation ranges",
        )

    @abstractmethod
    def default_bits(self, network: torch.nn.Module) -> dict[str, int]:
        """Bits of the weights of every layer that is used."""

    def bits_of(self, network: str) -> dict[str, int]:
        """Bits by layer of one network."""
        prefix = f"{network}."
        return {k.removeprefix(prefix): bits for k, bits in self.weight_bits.items() if k.startswith(prefix)}

    def state_dict(self) -> dict:
        return {"weight_bits": self.weight_bits}

    def load_state_dict(self, state: dict) -> None:
        weight_bits = state.get("weight_bits", self.weight_bits)  # absent before bits were by layer
        check_weight_bits(weight_bits, self.name)
        if weight_bits.keys() != self.weight_bits.keys():
            raise BrokenFile(f"weight_bits of other layers; give the flags it was trained with, or {WAY_OUT}")
        self.weight_bits = weight_bits

    def send_through(self, drawn: list[Batch]) -> None:
        """Renders batches as in training, for whatever observes them."""
        self.renderer.train()
        with torch.no_grad():
            for batch in drawn:
                render_batch(self.renderer, batch)

    def fit_budget(self, drawn: list[Batch]) -> None:
        """Gives every layer the bits that cost least, on these batches, in a file of so many bytes."""
        layers = quantized_layers(self.renderer)
        counts = {name: layer.weight.numel() for name, layer in layers.items()}

        def choose() -> dict[str, int]:
            weights = sum(self.packed_bytes(counts[name], layer.bits) for name, layer in layers.items())
            grid = sum(tensor.nbytes for tensor in self.renderer.tensors().values())
            fixed = len(self.to_bytes()) - weights + HEADER_SLACK + round(GRID_SLACK * grid)
            costs = measure_costs(self.renderer, drawn)
            return choose_bits(costs, counts, self.budget, fixed, self.packed_bytes)

        chosen = distributed.from_main(choose)
        self.weight_bits |= chosen
        for name, bits in chosen.items():
            layers[name].bits = bits
        print("bits by layer: " + ", ".join(f"{name} {bits}" for name, bits in self.weight_bits.items()))


def layers_of(network: torch.nn.Module) -> list[str]:
    """The names of a NeRF's linear layers that are used, in the order in which they are."""
    return [layer.name for layer in graph_of(network).linears]


def bits_by_layer(defaults: dict[str, dict[str, int]], given: tuple[str, ...]) -> dict[str, int]:
    """Bits of every layer's weights, its network's name in front: `given` as LAYER=BITS, for all networks that have the
    layer, or as NETWORK.LAYER=BITS; the others as in `defaults`, by network and layer.

    Raises BadInput for a layer that no network has, or for bits outside [2, 8].
    """
    bits = {f"{name}.{layer}": number for name, layers in defaults.items() for layer, number in layers.items()}
    for entry in given:
        layer, _, number = entry.partition("=")
        named = [place for place in bits if place == layer or place.partition(".")[2] == layer]
        if not named:
            known = " ".join(dict.fromkeys(layer for layers in defaults.values() for layer in layers))
            raise BadInput(f"--quant_bits {entry}: no layer {layer}; the layers are {known}")
        if number not in "2345678" or len(number) != 1:
            raise BadInput(f"--quant_bits {entry}: bits are a whole number from 2 to 8, as in {layer}=4")
        bits |= dict.fromkeys(named, int(number))
    return bits
