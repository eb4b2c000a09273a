"""Which backend executes a file here: a line for each, and the fields they make."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn as nn

from deploy.backends.blocks import InBlocks
from deploy.backends.int8 import ROWS_IN_CACHE as INT8_ROWS
from deploy.backends.int8 import Int8Field, Int8Network
from deploy.backends.light_field import Int8LightField
from deploy.backends.low_bit import ROWS_IN_CACHE as LOW_BIT_ROWS
from deploy.backends.low_bit import BitNetwork
from deploy.backends.mip import Int8MipField
from fields.nerf import FieldConfig
from utils.errors import BadInput

FLOAT_BACKEND = "torch float32"  # what renders float32 networks and decoded tensor fields


def has_onednn() -> bool:
    """Whether oneDNN's int8 product is there and exact.

    Without VNNI its u8 x s8 products saturate in 16 bits, so such a CPU gets the torch backend.
    """
    vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return vnni and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


def _no_onednn(device: torch.device) -> str:
    return "" if device.type == "cpu" and has_onednn() else "needs a CPU with VNNI or AMX; use --backend auto"


def _no_triton(device: torch.device) -> str:
    fits = device.type == "cuda" and find_spec("triton")
    return "" if fits else "needs a CUDA device and the triton package; use --backend auto"


def _no_onnxruntime(device: torch.device) -> str:
    if device.type != "cpu":
        return "runs on the CPU here; add --device cpu"
    if not (find_spec("onnx") and find_spec("onnxruntime")):
        return "not installed; pip install -r requirements-onnx.txt"
    return ""


# Fields that come to codes without encoding in float first, by kind.
STRAIGHT_TO_CODES = {"nerf": Int8Field, "mip": Int8MipField, "light_field": Int8LightField}


def _int8(name: str) -> Callable[..., nn.Module]:
    """Layer by layer, as a backend of `backends.int8` multiplies."""

    def make(config: FieldConfig, network: Int8Network, device: torch.device) -> Int8Field:
        network.use_backend(name)
        own = STRAIGHT_TO_CODES.get(config.make_field(network).kind)
        return (own(config, network) if own else InBlocks(config.make_field(network), INT8_ROWS)).to(device)

    return make


def _int8_onnxruntime(config: FieldConfig, network: Int8Network, device: torch.device) -> nn.Module:
    from deploy.backends.onnx_runtime import OnnxField, OnnxLightField  # an extra

    field = config.make_field(network)
    return (OnnxLightField if field.kind == "light_field" else OnnxField)(field)


def _low_bit(name: str) -> Callable[..., nn.Module]:
    """Layer by layer, as a product of `backends.low_bit` multiplies."""

    def make(config: FieldConfig, layers: dict[str, dict[str, torch.Tensor]], device: torch.device) -> InBlocks:
        network = BitNetwork(config.graph, config.input_widths, layers, name)
        return InBlocks(config.make_field(network), LOW_BIT_ROWS).to(device)

    return make


def _low_bit_onnxruntime(
    config: FieldConfig, layers: dict[str, dict[str, torch.Tensor]], device: torch.device
) -> nn.Module:
    from deploy.backends.onnx_runtime import OnnxField  # an extra

    return OnnxField(config.make_field(BitNetwork(config.graph, config.input_widths, layers)))


def _int8_triton(config: FieldConfig, network: Int8Network, device: torch.device) -> nn.Module:
    if config.make_field(network).kind != "nerf":
        raise BadInput("--backend triton knows NeRFs only, no cones and no light fields; use auto, torch or reference")
    from deploy.backends.triton_kernel import TritonField  # where there is Triton only

    return TritonField(Int8Field(config, network).to(device))


@dataclass(frozen=True)
class Backend:
    """int8: from a config, an `Int8Network` and a device to the field that executes it; None where it does not.
    low_bit: likewise from a config, tensors by layer as `BitNetwork` takes them, and a device. missing: from a device
    to why it does not run there; empty where it does."""

    int8: Callable[[FieldConfig, Int8Network, torch.device], nn.Module] | None = None
    low_bit: Callable[[FieldConfig, dict, torch.device], nn.Module] | None = None
    missing: Callable[[torch.device], str] = lambda device: ""

    def executes(self, precision: str) -> bool:
        return (self.int8 if precision == "int8" else self.low_bit) is not None


BACKENDS = {
    "torch": Backend(_int8("torch"), _low_bit("torch")),
    "reference": Backend(_int8("reference"), _low_bit("reference")),
    "onednn": Backend(_int8("onednn"), _low_bit("onednn"), _no_onednn),
    "onnxruntime": Backend(_int8_onnxruntime, _low_bit_onnxruntime, _no_onnxruntime),
    "triton": Backend(_int8_triton, None, _no_triton),
}


def select_backend(name: str, device: torch.device) -> str:
    """The backend that `--backend` names, or for `auto` the fastest one here. Raises BadInput where it cannot run."""
    if name == "auto":
        return "torch" if BACKENDS["onednn"].missing(device) else "onednn"
    reason = BACKENDS[name].missing(device)
    if reason:
        raise BadInput(f"--backend {name}: {reason}")
    return name


def check_executes(backend: str, precision: str) -> None:
    """Raises BadInput where a backend is not for files of a precision."""
    if not BACKENDS[backend].executes(precision):
        others = " or ".join(name for name in BACKENDS if BACKENDS[name].executes(precision))
        raise BadInput(f"--backend {backend} does not execute {precision} files; use auto, {others}")


def make_int8_field(
    config: FieldConfig, state: dict[str, torch.Tensor], bits: int, device: torch.device, backend: str
) -> nn.Module:
    """state: what `deploy.nerf_file.int8_tensors` says, on the device. bits: of activations. backend: one that
    executes int8."""
    network = Int8Network(config.graph, config.input_widths, state, bits).to(device)
    return BACKENDS[backend].int8(config, network, device)


def make_low_bit_field(
    config: FieldConfig, layers: dict[str, dict[str, torch.Tensor]], device: torch.device, backend: str
) -> nn.Module:
    """layers: tensors by layer, on the device, as `BitNetwork` takes them. backend: one that executes few bits."""
    return BACKENDS[backend].low_bit(config, layers, device)
