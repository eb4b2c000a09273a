"""The device of a run."""

import torch

from utils import distributed
from utils.errors import BadInput


def prepare_device(name: str = "auto", threads: int = 0, float16: bool = False, timeout: float = 300.0) -> torch.device:
    """The device of a name, after setting the number of CPU threads (0: all cores) and, under torchrun, meeting the
    others, who may be late by so many seconds.

    Raises BadInput for a device that is not there, and for float16 on anything but CUDA.
    """
    if threads > 0:
        torch.set_num_threads(threads)
    if distributed.launched() and name == "auto" and torch.cuda.is_available():
        device = distributed.local_device()
    else:
        device = select_device(name)
    if float16 and device.type in ("cpu", "mps"):
        raise BadInput(f"--amp fp16 needs a CUDA device, this is {device.type}; use --amp bf16")
    distributed.join(device, timeout)
    return device


def select_device(name: str) -> torch.device:
    """`auto` is CUDA if there, else MPS, else CPU. Raises BadInput for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"--device {name}: not available ({reason}); use --device auto or cpu") from error
    return device
