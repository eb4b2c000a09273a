"""What is looked at while a training runs, and what ends it: losses that are no numbers, and collapse."""

import math
from typing import NamedTuple

import torch

from rendering.renderer import Rendering
from run_nerf_helpers import mse2psnr
from training.batches import Batch
from utils.errors import TrainingFailed
from utils.progress import say

# A renderer that draws nothing for this many steps on end will not recover.
COLLAPSE_PATIENCE = 2000


class Look(NamedTuple):
    """mse: the mean of recent steps; psnr: of it, dB. drawn, content: how much the colours that the field drew, and
    those of the photographs, vary from ray to ray."""

    mse: float
    psnr: float
    drawn: float
    content: float


def look(recent: list[torch.Tensor], rendering: Rendering, batch: Batch) -> Look:
    """At the MSEs of recent steps, and the latest batch and its picture, for one wait for the device."""
    mse = torch.stack(recent).mean()
    leaving = (1 - rendering.opacity.detach())[:, None]
    drawn = (rendering.rgb.detach() - leaving * batch.background).std(0).max()
    return Look(*torch.stack([mse, mse2psnr(mse), drawn, batch.target.std(0).max()]).tolist())


def fail_if_not_finite(mse: float, step: int) -> None:
    if not math.isfinite(mse):
        raise TrainingFailed(
            f"step {step}: the loss is not finite; the last checkpoint is kept: go on from it with "
            "--grad_clip 1, or start anew (--no_reload) with a lower --lrate"
        )


def emptied(step: int) -> TrainingFailed:
    """What to raise where a whole batch has nothing to query."""
    return TrainingFailed(
        f"step {step}: no ray meets an occupied cell, the field has emptied; "
        "go on with a lower --grid_threshold, or start anew (--no_reload) with a lower --lrate or another "
        "--aabb, which --plot_cameras shows"
    )


class CollapseWatch:
    """Says of a collapse when it is first seen, and raises TrainingFailed when it stays."""

    def __init__(self):
        self.since: int | None = None

    def check(self, seen: Look, step: int) -> None:
        # Nothing drawn, or one flat colour drawn everywhere, where the photographs have content.
        if seen.drawn > 1e-3 or seen.content < 1e-2:
            self.since = None
            return
        if self.since is None:
            self.since = step
            say(
                f"warning: collapse at step {step}: every ray has the background's colour or one flat colour; "
                "if it stays, start anew (--no_reload) with a lower --lrate, --density_activation softplus or "
                "--precrop_iters 500"
            )
        elif step - self.since >= COLLAPSE_PATIENCE:
            raise TrainingFailed(
                f"step {step}: collapsed to a flat colour since step {self.since}; start anew "
                "(--no_reload) with a lower --lrate, --density_activation softplus or --precrop_iters 500"
            )
