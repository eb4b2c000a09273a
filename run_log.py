"""Where training's numbers and pictures go: TensorBoard always, Weights & Biases where `--wandb` asks."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from errors import BadInput


def check_wandb(mode: str) -> None:
    """Raises BadInput where `--wandb` asks for what is not installed."""
    if mode != "off" and not find_spec("wandb"):
        raise BadInput(f"--wandb {mode}: not installed; pip install -r requirements-logging.txt, or leave it out")


class RunLog:
    """A run's logs in its folder, from `first_step` on; what an earlier attempt wrote after it is hidden."""

    def __init__(self, args: argparse.Namespace, folder: Path, first_step: int):
        self.tensorboard = SummaryWriter(folder / "tensorboard", purge_step=first_step)
        self.wandb = None
        if args.wandb != "off":
            import wandb  # an extra

            os.environ.setdefault("WANDB_SILENT", "true")  # it shares the terminal with the progress bar
            name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in args.expname)
            self.wandb = wandb.init(
                project="nerf-qat", id=name, name=args.expname, resume="allow", mode=args.wandb, dir=folder,
                config=vars(args),
            )  # fmt: skip

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log({name: float(value) for name, value in values.items()}, step=step)

    def pictures(self, images: dict[str, torch.Tensor], step: int) -> None:
        """images: `[H, W, 3]` or `[H, W]`, floats in [0, 1] or uint8."""
        for name, image in images.items():
            self.tensorboard.add_image(name, image, step, dataformats="HWC" if image.ndim == 3 else "HW")
        if self.wandb:
            import wandb

            self.wandb.log({name: wandb.Image(image.float().numpy()) for name, image in images.items()}, step=step)

    def close(self) -> None:
        self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()


def gpu_watts(device: torch.device) -> float | None:
    """What the GPU draws now, in watts; None without one, or without NVIDIA's management library."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except Exception:  # no nvidia-ml-py, no permission, not supported: several types, one meaning
        return None
