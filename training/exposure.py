"""Photographs of one scene that are not equally bright, nor of one tint: each gets its own change of colours.

A camera sets exposure and white balance anew for each picture, and a field that has to explain that puts veils before
cameras. Here each photograph has an affine map of colours (as in Urban Radiance Fields, Rematas et al. 2022, eq. 3),
but all maps lie in a space of few dimensions, so that they can explain how pictures were taken and not what is in them.
"""

import argparse
import dataclasses

import torch
import torch.nn as nn

from rendering.renderer import Rendering
from scenes.scene import Scene
from training.batches import Batch
from utils.checks import describe_mismatch
from utils.errors import BrokenFile

LEARNING_RATE = 3e-3  # Adam's, before the schedule


class Exposure(nn.Module):
    """What each photograph made of the colours that the field has: `A rgb + b`, with `[A b] = [I 0] + code @ changes`.

    Codes count from their mean, so the photographs' mean is the field's own colour, which is what is rendered
    afterwards; nothing of it is in a model file. photographs: N; rank: R, of `changes [R, 12]`.
    """

    def __init__(self, photographs: int, rank: int, seed: int = 0):
        super().__init__()
        directions = torch.randn(12, rank, generator=torch.Generator().manual_seed(seed))
        self.changes = nn.Parameter(torch.linalg.qr(directions).Q.T.contiguous())
        self.codes = nn.Parameter(torch.zeros(photographs, rank))

    @classmethod
    def from_flags(cls, args: argparse.Namespace, scene: Scene, device: torch.device) -> "Exposure | None":
        """That of `--exposure`, untrained; None without it."""
        return cls(len(scene.splits["train"]), args.exposure, args.seed).to(device) if args.exposure else None

    def matrices(self) -> torch.Tensor:
        """`[N, 3, 4]`, one for each photograph; their mean is the identity."""
        changes = (self.codes - self.codes.mean(0)) @ self.changes
        return torch.eye(3, 4, device=changes.device) + changes.view(-1, 3, 4)

    def forward(self, rendering: Rendering, batch: Batch) -> Rendering:
        """What the field shows of a batch as the photographs show it: the background behind them is none of theirs."""
        matrices = self.matrices()[batch.views % len(self.codes)]  # copies of other scales count on
        opacity = rendering.opacity.float()[:, None]
        behind = (1 - opacity) * batch.background

        def shown(rgb: torch.Tensor | None) -> torch.Tensor | None:
            if rgb is None:
                return None
            content = torch.cat([rgb.float() - behind, opacity], -1)
            return (matrices @ content[..., None])[..., 0] + behind

        return dataclasses.replace(rendering, rgb=shown(rendering.rgb), coarse_rgb=shown(rendering.coarse_rgb))

    def load(self, stored: dict | None, what: str) -> None:
        """From a checkpoint. Raises BrokenFile, beginning with `what`, where it has none of as many photographs."""
        mismatch = describe_mismatch(self.state_dict(), stored or {})
        if mismatch:
            raise BrokenFile(f"{what}: it was trained with another --exposure, or other photographs: {mismatch}")
        self.load_state_dict(stored)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), LEARNING_RATE)
