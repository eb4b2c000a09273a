"""Which backend executes a file here: a line for each, and the fields they make."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from deploy.backends.int8 import Int8Field, Int8Network
from deploy.backends.low_bit import BitField, BitNetwork
from fields.nerf import FieldConfig, RadianceField
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


@dataclass(frozen=True)
class Backend:
    """executes: precisions of files. missing: from a device to why it does not run here; empty where it does."""

    executes: tuple[str, ...]
    missing: Callable[[torch.device], str] = lambda device: ""


ALL = ("int8", "ternary", "w4a8")
BACKENDS = {
    "torch": Backend(ALL),
    "reference": Backend(ALL),
    "onednn": Backend(ALL, _no_onednn),
    "onnxruntime": Backend(("int8",), _no_onnxruntime),
    "triton": Backend(("int8",), _no_triton),
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
    if precision not in BACKENDS[backend].executes:
        others = [name for name, other in BACKENDS.items() if precision in other.executes and name != "onednn"]
        raise BadInput(f"--backend {backend} does not execute {precision} files; use auto, {' or '.join(others)}")


def make_int8_field(
    config: FieldConfig, state: dict[str, torch.Tensor], bits: int, device: torch.device, backend: str
) -> torch.nn.Module:
    """state: what `deploy.nerf_file.int8_tensors` says, on the device. bits: of activations. backend: one that executes
    int8."""
    network = Int8Network(config.graph, config.input_widths, state, bits).to(device)
    if backend == "onnxruntime":
        from deploy.backends.onnx_graph import OnnxField  # an extra

        return OnnxField(RadianceField(config, network))
    if backend == "triton":
        from deploy.backends.triton_kernel import TritonField  # where there is Triton only

        return TritonField(Int8Field(config, network).to(device))
    network.use_backend(backend)
    return Int8Field(config, network).to(device)


def make_low_bit_field(
    config: FieldConfig, layers: dict[str, dict[str, torch.Tensor]], device: torch.device, backend: str
) -> BitField:
    """layers: tensors by layer, on the device, as `BitNetwork` takes them. backend: one that executes few bits."""
    return BitField(config, BitNetwork(config.graph, config.input_widths, layers, backend)).to(device)
