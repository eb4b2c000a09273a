"""int8: NeRF_qat -> fused -> prepared -> trained through its rounding, or calibrated alone -> converted.

The steps carry the names of PyTorch's eager-mode quantisation, but nothing is imported from
`torch.ao`, which is deprecated.
"""

import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

from compressors.compressor import LayerCompressor, layers_of
from compressors.fake_quantize import FakeQuantize, QATLinear, set_state, synchronize_ranges
from deploy.model_file import model_bytes
from deploy.packing import pack_bits
from fields.layer_graph import Input, LayerGraph, Linear, Round
from fields.nerf import graph_of
from rendering.renderer import Renderer
from run_nerf_helpers import NeRF_qat
from scenes.scene import Cameras
from training.batches import RayBatches
from utils.parser import within


class Int8Compressor(LayerCompressor):
    """int8 by quantisation-aware training (`qat`), or by calibration alone (`ptq`), with no steps.

    bits, activation_bits: of weights and of activations. freeze: the share of the steps after which ranges are frozen.
    """

    name, phase = "int8", "qat"
    calibrated_file = "model_int8_ptq.safetensors"

    def __init__(self, *args, bits: int = 8, activation_bits: int = 8, freeze: float = 0.75, **options):
        self.bits, self.activation_bits, self.freeze = bits, activation_bits, freeze
        super().__init__(*args, **options)

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add(
            "--weight_bits",
            type=int,
            default=8,
            choices=range(2, 9),
            metavar="{2..8}",
            help="int8: bits of a weight",
        )
        add(
            "--activation_bits",
            type=int,
            default=8,
            choices=range(2, 9),
            metavar="{2..8}",
            help="int8: bits of an activation",
        )
        add(
            "--qat_freeze",
            type=within(float, 0, 1),
            default=0.75,
            help="int8: share of these steps after which ranges are frozen",
        )

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, renderer: Renderer, render_path: Cameras, has_float: bool
    ) -> "Int8Compressor":
        return cls(
            renderer,
            render_path,
            args.qat_iters if args.quant != "ptq" else 0,
            has_float,
            given_bits=tuple(args.quant_bits),
            budget=args.quant_budget,
            calibration=args.calibration_batches,
            bits=args.weight_bits,
            activation_bits=args.activation_bits,
            freeze=args.qat_freeze,
        )

    def default_bits(self, network: nn.Module) -> dict[str, int]:
        return dict.fromkeys(layers_of(network), self.bits)

    def prepare(self) -> None:
        for name, field in self.renderer.fields.items():
            field.network = prepare(fuse(field.network), self.bits_of(name), self.activation_bits)

    def calibrate(self, batches: RayBatches) -> None:
        """Sets every activation's range to the extremes of a few training batches."""
        drawn = batches.draw_some(self.renderer, self.calibration)
        set_state(self.renderer, observing=True, quantizing=False, momentum=None)
        self.send_through(drawn)
        synchronize_ranges(self.renderer)
        set_state(self.renderer, observing=True, quantizing=True)
        if self.budget:
            self.fit_budget(drawn)

    def after_step(self, done: float) -> None:
        """Ranges freeze for the last steps."""
        synchronize_ranges(self.renderer)
        set_state(self.renderer, observing=done < self.freeze, quantizing=True)

    def finish(self) -> None:
        set_state(self.renderer, observing=False, quantizing=True)

    def to_bytes(self) -> bytes:
        """Every network of the prepared renderer converted; weights of less than 8 bits packed."""
        tensors: dict[str, torch.Tensor] = {}
        for name, network in self.renderer.networks.items():
            layers = convert(network)
            for layer, bits in self.bits_of(name).items():
                if bits < 8:
                    layers[f"{layer}.weight"] = pack_bits(layers[f"{layer}.weight"], bits)
            tensors |= self.as_stored(name, layers)
        precision = {"precision": "int8", "weight_bits": self.weight_bits, "activation_bits": self.activation_bits}
        return model_bytes(self.renderer, self.render_path, tensors, precision)

    def as_stored(self, network: str, layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A network's tensors under the file's keys, from those that `convert` gives it."""
        return remap_state_dict(layers, network)


# ------------------------------------------------------------------------------- fuse and prepare


class LinearReLU(nn.Linear):
    """A linear layer and the ReLU behind it, fused."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(x))


def fuse(network: NeRF_qat) -> NeRF_qat:
    """A copy in which every linear layer with a ReLU behind it is one module."""
    network = copy.deepcopy(network)
    for linears, relus in (
        (network.pts_linears, network.pts_relus),
        (network.views_linears, network.views_relus),
    ):
        for i, linear in enumerate(linears):
            fused = LinearReLU(linear.in_features, linear.out_features)
            fused.weight, fused.bias = linear.weight, linear.bias
            linears[i], relus[i] = fused, nn.Identity()
    return network


def prepare(network: NeRF_qat, weight_bits: int | dict[str, int] = 8, activation_bits: int = 8) -> NeRF_qat:
    """A copy of a fused network with a fake-quantiser at every place that int8 will round.

    weight_bits: of all layers, or by layer name.
    The copy starts out observing and not quantising; see `calibrate` and `set_state`.
    Raises ValueError for a residual network: its sums would need a range of their own.
    """
    return prepare_graph(network, graph_of(network), {
        "quant_pts": network.input_ch, "quant_views": network.input_ch_views
    }, weight_bits, activation_bits)  # fmt: skip


def prepare_graph(
    network: nn.Module, graph: LayerGraph, widths: dict[str, int], weight_bits: int | dict[str, int], bits: int
) -> nn.Module:
    """The same for any network whose layers and stubs have the graph's names. widths: columns of the inputs, which have
    a stub even where the graph does not use them. bits: of activations."""
    if graph.multiplies_floats:
        raise ValueError(
            "a residual network, whose layers are given sums that nothing rounds, cannot be prepared for int8"
        )
    network = copy.deepcopy(network)
    rounded, columns = {}, dict(widths)  # what rounds each tensor, and how many columns it has
    for node in (*(Input(name) for name in widths if name not in graph.inputs), *graph.nodes):
        if isinstance(node, Input | Round):
            stub = network.get_submodule(node.name)
            stub.activation_post_process = FakeQuantize(bits, after_relu=False)
            rounded[node.name] = stub.activation_post_process
            columns[node.name] = columns[node.inputs[0]] if node.inputs else widths[node.name]
        elif isinstance(node, Linear):
            linear = network.get_submodule(node.name)
            columns[node.name] = linear.out_features
            in_float = nn.ReLU() if node.relu else nn.Identity()
            output = in_float if node.name in graph.floats else FakeQuantize(bits, after_relu=node.relu)
            rounded[node.name] = output
            layer = QATLinear(linear, weight_bits if isinstance(weight_bits, int) else weight_bits[node.name], output)
            layer.inputs = tuple((rounded[source], columns[source]) for source in graph.sources(node.input))
            replace_submodule(network, node.name, layer)
        else:
            columns[node.name] = columns[node.inputs[0]]
    return network.to(next(network.parameters()).device)  # what is new in it as well


def replace_submodule(network: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module in the place of the one at `name`, as `get_submodule` has it."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def convert(network: NeRF_qat) -> dict[str, torch.Tensor]:
    """A prepared, trained (or calibrated) network as integers, under its QAT keys.

    Weights become int8 `[out, in]`; each gets its `weight_fake_quant.scale`, float32 `[out]`, the
    value of one unit of the integer accumulator (input scale times weight scale). Activation
    scales are float32 and zero points uint8. `remap_state_dict` gives the file's names.
    """
    state: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, QATLinear):
            levels, scale = module.weight_fake_quant.integers(module.weight.detach() * module.fold())
            state[f"{name}.weight"] = levels.to(torch.int8)
            state[f"{name}.weight_fake_quant.scale"] = scale * module.input_scale()
            state[f"{name}.bias"] = module.bias.detach().float().clone()
        elif isinstance(module, FakeQuantize):
            state[f"{name}.scale"] = module.scale.clone()
            state[f"{name}.zero_point"] = module.zero_point.to(torch.uint8)
    if not getattr(network, "use_viewdirs", True):  # what nothing reads is not stored
        state = {key: value for key, value in state.items() if not key.startswith(("views_", "quant_views"))}
    return {key: value.cpu().contiguous() for key, value in state.items()}


QAT_TO_INT8 = {
    "weight_fake_quant.scale": "scale",
    "activation_post_process.scale": "output_scale",
    "activation_post_process.zero_point": "output_zero_point",
}


def remap_state_dict(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """QAT keys to the int8 file's keys, for one network of `prefix` (`network_fn`, `network_fine`).

        pts_linears.0.weight                              network_fn.pts_linears.0.weight
        pts_linears.0.weight_fake_quant.scale             network_fn.pts_linears.0.scale
        pts_linears.0.bias                                network_fn.pts_linears.0.bias
        pts_linears.0.activation_post_process.scale       network_fn.pts_linears.0.output_scale
        pts_linears.0.activation_post_process.zero_point  network_fn.pts_linears.0.output_zero_point
        quant_pts.activation_post_process.scale           network_fn.quant_pts.output_scale

    Raises KeyError for a key that is none of these: nothing is dropped unnoticed.
    """
    remapped = {}
    for key, value in state.items():
        for old, new in QAT_TO_INT8.items():
            if key.endswith(f".{old}"):
                remapped[f"{prefix}.{key.removesuffix(old)}{new}"] = value
                break
        else:
            if not key.endswith((".weight", ".bias")):
                raise KeyError(f"{key}: not a key that `convert` writes")
            remapped[f"{prefix}.{key}"] = value
    return remapped
