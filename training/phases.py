"""Parts of a training, and what they hand on to each other."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rendering.renderer import Rendering
from training.batches import Batch
from utils.errors import Unsaved


@dataclass
class Phase:
    """A part of the training. name: kept in checkpoints and shown on the bar. schedule: from step to
    what learning rates are multiplied by. weight_decay: from step to that of Muon's matrices.
    after_step: called with the number of each finished step; true where it has put new parameters
    into networks. losses: beside the renderer's and the fields' own, from a batch, its picture and
    how many steps are done. state: what it gives goes into checkpoints."""

    name: str
    schedule: Callable[[int], float]
    weight_decay: Callable[[int], float] = lambda step: 0.0
    after_step: Callable[[int], bool | None] = lambda step: None
    losses: Callable[[Batch, Rendering, int], dict[str, torch.Tensor]] = lambda batch, rendering, step: {}
    state: Callable[[], dict] = dict


@dataclass
class Progress:
    """How far a training is: what phases hand on to each other. step: how many are done. curve: step and PSNR, dB, at
    every report. unsaved: what could not be written."""

    step: int = 0
    seconds: float = 0.0
    rays: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    unsaved: Unsaved = field(default_factory=Unsaved)
