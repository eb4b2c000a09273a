"""Which backend executes a file here."""

from importlib.util import find_spec

import torch

from utils.errors import BadInput


def has_onednn() -> bool:
    """Whether oneDNN's int8 product is there and exact.

    Without VNNI its u8 x s8 products saturate in 16 bits, so such a CPU gets the torch backend.
    """
    vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return vnni and torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


def select_backend(name: str, device: torch.device) -> str:
    """The backend that `--backend` names, or for `auto` the fastest one here."""
    fits = device.type == "cpu" and has_onednn()
    if name == "auto":
        return "onednn" if fits else "torch"
    if name == "onednn" and not fits:
        raise BadInput("--backend onednn needs a CPU with VNNI or AMX; use --backend auto")
    if name == "triton" and not (device.type == "cuda" and find_spec("triton")):
        raise BadInput("--backend triton needs a CUDA device and the triton package; use --backend auto")
    if name == "onnxruntime":
        if device.type != "cpu":
            raise BadInput("--backend onnxruntime runs on the CPU here; add --device cpu")
        if not (find_spec("onnx") and find_spec("onnxruntime")):
            raise BadInput("--backend onnxruntime: not installed; pip install -r requirements-onnx.txt")
    return name


FLOAT_BACKEND = "torch float32"  # what renders float32 networks and decoded tensor fields
