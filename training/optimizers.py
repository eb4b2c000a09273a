"""Optimisers and learning-rate schedules."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fields.field import Group
from rendering.renderer import Renderer
from training.muon import Muon

BITNET_WEIGHT_DECAY = 0.1  # decoupled: a step shrinks weights by so much of the learning rate


@dataclass(frozen=True)
class OptimizerSettings:
    """name: adam or muon. lrate, muon_lrate: for batches of `lrate_batch` network queries; `lrate_rule` says how they
    change with the batch."""

    name: str = "adam"
    lrate: float = 5e-4
    muon_lrate: float = 0.02
    lrate_rule: str = "fixed"
    lrate_batch: int = 8192

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "OptimizerSettings":
        return cls(args.optimizer, args.lrate, args.muon_lrate, args.lrate_rule, args.lrate_batch)

    def scale(self, queries: int) -> float:
        """What learning rates are multiplied by for batches of so many network queries.

        Linear: Goyal et al. 2017 (arXiv 1706.02677), for SGD. Square root: Krizhevsky 2014 (arXiv
        1404.5997), and for Adam Malladi et al. 2022 (arXiv 2205.10287).
        """
        ratio = queries / self.lrate_batch
        return {"fixed": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[self.lrate_rule]


def make_optimizers(settings: OptimizerSettings, renderer: Renderer, queries: int) -> dict[str, torch.optim.Optimizer]:
    """Adam over everything, in nerf-pytorch's order; or Muon for the matrices that fields let it have, Adam for the
    rest. queries: of networks, in a batch.

    Muon (Jordan et al. 2024) orthogonalises each update. On these MLPs it gets in one minute where
    Adam gets in five.
    """
    scale = settings.scale(queries)
    groups = [group for field in renderer.fields.values() for group in field.parameter_groups()]
    adam = dict(next(iter(renderer.fields.values())).adam)
    if settings.name == "adam":
        return {"optimizer": torch.optim.Adam(_by_rate(groups, scale * settings.lrate), **adam)}
    others = [group for group in groups if not group.muon]
    matrices = [parameter for group in groups if group.muon for parameter in group.parameters]
    adam |= {"betas": (0.9, 0.99)}
    optimizers = {"optimizer": torch.optim.Adam(_by_rate(others, scale * settings.lrate), **adam)}
    if matrices:
        rates = {"lr": scale * settings.muon_lrate, "weight_decay": 0.0, "adjust_lr_fn": "original"}
        optimizers["muon"] = Muon(matrices, **rates)
    return optimizers


def _by_rate(groups: list[Group], lrate: float) -> list[dict]:
    """Parameters of one rate together, in the order of the first of each."""
    by_rate: dict[float, list[torch.nn.Parameter]] = {}
    for group in groups:
        by_rate.setdefault(group.rate, []).extend(group.parameters)
    return [{"params": parameters, "lr": rate * lrate} for rate, parameters in by_rate.items()]


class Together:
    """Several optimisers as the one that a GradScaler takes: it then asks the device once, not each time
    anew, whether a gradient overflowed, and none of them steps where one did."""

    def __init__(self, optimizers: dict[str, torch.optim.Optimizer]):
        self.optimizers = list(optimizers.values())

    @property
    def param_groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def exponential_schedule(decay: float, warmup: int = 0, first: float = 1.0, start: int = 0) -> Callable[[int], float]:
    """nerf-pytorch's decay from `first` at step `start`, to 1/10 every `decay` thousand steps, after `warmup` steps
    in which it rises linearly."""

    def factor(step: int) -> float:
        rise = min(1.0, (step - start + 1) / warmup) if warmup else 1.0
        return rise * first * 0.1 ** ((step - start) / (decay * 1000))

    return factor


def cosine_schedule(first: float, start: int, length: int, warmup: int = 0) -> Callable[[int], float]:
    """From `first` at step `start` to zero `length` steps later, along half a cosine, after `warmup`
    steps in which it rises linearly."""

    def factor(step: int) -> float:
        rise = min(1.0, (step - start + 1) / warmup) if warmup else 1.0
        return rise * first * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / max(length, 1))))

    return factor


def bitnet_schedule(
    first: float, start: int, length: int, warmup: int = 0
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """BitNet b1.58's learning-rate factor and weight decay (its authors' training tips, March 2024).

    The rate falls linearly from `first` towards zero, and half way changes to the line that starts
    a third lower. Weight decay ends there: it keeps latent weights small, where they turn over
    easily, until they are to settle.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step - start + 1) / warmup) if warmup else 1.0
        done = min(1.0, (step - start) / max(length, 1))
        return rise * first * (1 - done) * (1.0 if done < 0.5 else 2 / 3)

    def weight_decay(step: int) -> float:
        return BITNET_WEIGHT_DECAY if step - start < length / 2 else 0.0

    return factor, weight_decay
