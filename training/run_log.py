"""Where training's numbers and pictures go: TensorBoard always, Weights & Biases where `--wandb` asks."""

import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from utils import distributed
from utils.errors import BadInput, SaveError
from utils.files import atomic_write, remove_partial_files, saving


def check_wandb(mode: str) -> None:
    """Raises BadInput where `--wandb` asks for what is not installed."""
    if mode != "off" and not find_spec("wandb"):
        raise BadInput(f"--wandb {mode}: not installed; pip install -r requirements-logging.txt, or leave it out")


class RunLog:
    """A run's logs in its folder, from `first_step` on; what an earlier attempt wrote after it is hidden.

    wandb_mode: off, online or offline. flags: of the run, for its record there.
    """

    def __init__(self, folder: Path, first_step: int, wandb_mode: str = "off", flags: dict | None = None):
        self.place = folder / "tensorboard"
        with saving(self.place):
            self.tensorboard: SummaryWriter | None = SummaryWriter(self.place, purge_step=first_step)
        self._excepthook, threading.excepthook = threading.excepthook, self._report_thread
        self.wandb = None
        if wandb_mode != "off":
            import wandb  # an extra

            os.environ.setdefault("WANDB_SILENT", "true")  # it shares the terminal with the progress bar
            name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in folder.name)
            self.wandb = wandb.init(
                project="nerf-qat", id=name, name=folder.name, resume="allow", mode=wandb_mode, dir=folder,
                config=flags,
            )  # fmt: skip

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Raises SaveError, but once only, where TensorBoard's file cannot be written."""
        if self.wandb:
            self.wandb.log({name: float(value) for name, value in values.items()}, step=step)

        def add(tensorboard: SummaryWriter) -> None:
            for name, value in values.items():
                tensorboard.add_scalar(name, value, step)

        self._to_tensorboard(add)

    def pictures(self, images: dict[str, torch.Tensor], step: int) -> None:
        """images: `[H, W, 3]` or `[H, W]`, floats in [0, 1] or uint8. Raises as `scalars` does."""
        if self.wandb:
            import wandb

            self.wandb.log({name: wandb.Image(image.float().numpy()) for name, image in images.items()}, step=step)

        def add(tensorboard: SummaryWriter) -> None:
            for name, image in images.items():
                tensorboard.add_image(name, image, step, dataformats="HWC" if image.ndim == 3 else "HW")

        self._to_tensorboard(add)

    def close(self) -> None:
        """Raises as `scalars` does."""
        if self.wandb:
            self.wandb.finish()
        try:
            self._to_tensorboard(SummaryWriter.close)
        finally:
            threading.excepthook = self._excepthook

    def _to_tensorboard(self, write: Callable[[SummaryWriter], None]) -> None:
        if self.tensorboard is None:  # it has failed, and its thread has ended
            return
        try:
            with saving(self.place):
                write(self.tensorboard)
        except SaveError:
            self.tensorboard = None
            raise

    def _report_thread(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, whose failure comes back at the next call: no traceback of it as well."""
        if not isinstance(failure.exc_value, OSError):
            self._excepthook(failure)


def gpu_watts(device: torch.device) -> float | None:
    """What the GPU draws now, in watts; None without one, or without NVIDIA's management library."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except Exception:  # no nvidia-ml-py, no permission, not supported: several types, one meaning
        return None


def record_flags(flags: dict, folder: Path) -> None:
    """Writes args.txt and config.txt of a run that is about to train, and clears what a kill left of its files.

    flags: values by name."""
    if not distributed.is_main():
        return
    remove_partial_files(folder)
    lines = [f"{name} = {value}\n" for name, value in sorted(flags.items())]
    atomic_write(folder / "args.txt", "".join(lines).encode(errors="surrogateescape"))
    if flags["config"] is not None:
        atomic_write(folder / "config.txt", Path(flags["config"]).read_bytes())
