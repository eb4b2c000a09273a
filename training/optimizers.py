"""Optimisers and learning-rate schedules."""

import argparse
import math
from collections.abc import Callable

import torch

from rendering.renderer import networks_of

BITNET_WEIGHT_DECAY = 0.1  # decoupled: a step shrinks weights by so much of the learning rate


def make_optimizers(args: argparse.Namespace, renderer: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Adam over everything, in nerf-pytorch's order; or Muon for hidden matrices, Adam for the rest.

    Muon (Jordan et al. 2024) orthogonalises each update. On these MLPs it gets in one minute where
    Adam gets in five.
    """
    scale = learning_rate_scale(args)
    named = [item for network in networks_of(renderer).values() for item in network.named_parameters()]
    if args.optimizer == "adam":
        return {"optimizer": torch.optim.Adam(_by_rate(renderer, scale * args.lrate), **_adam_of(renderer))}
    hidden = [p for name, p in named if p.ndim == 2 and not _is_head(name)]
    others = [p for name, p in named if p.ndim != 2 or _is_head(name)]
    return {
        "optimizer": torch.optim.Adam(others, lr=scale * args.lrate, betas=(0.9, 0.99)),
        "muon": torch.optim.Muon(hidden, lr=scale * args.muon_lrate, weight_decay=0.0, adjust_lr_fn="original"),
    }


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


def _adam_of(renderer: torch.nn.Module) -> dict:
    return next(iter(renderer.fields.values())).adam


def _by_rate(renderer: torch.nn.Module, lrate: float) -> list[dict]:
    """Parameters in groups of one learning rate: what the field says of each, times `lrate`."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for field in renderer.fields.values():
        for name, parameter in field.network.named_parameters():
            groups.setdefault(field.learning_rate_factor(name), []).append(parameter)
    return [{"params": parameters, "lr": factor * lrate} for factor, parameters in groups.items()]


def learning_rate_scale(args: argparse.Namespace) -> float:
    """What `--lrate_rule` multiplies learning rates by; a batch is counted in network queries.

    Linear: Goyal et al. 2017 (arXiv 1706.02677), for SGD. Square root: Krizhevsky 2014 (arXiv
    1404.5997), and for Adam Malladi et al. 2022 (arXiv 2205.10287).
    """
    if args.sampler == "occupancy":
        queries = args.samples_per_batch
    else:
        queries = args.N_rand * (2 * args.N_samples + args.N_importance if args.N_importance else args.N_samples)
    ratio = queries / args.lrate_batch
    return {"fixed": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[args.lrate_rule]


def _is_head(name: str) -> bool:
    return name.startswith(("alpha_linear", "rgb_linear", "output_linear"))


def exponential_schedule(args: argparse.Namespace, first: float = 1.0, start: int = 0) -> Callable[[int], float]:
    """nerf-pytorch's decay from `first` at step `start`, 1/10 every `--lrate_decay` thousand steps, after
    a linear warm-up of `--lrate_warmup` steps."""

    def factor(step: int) -> float:
        rise = min(1.0, (step - start + 1) / args.lrate_warmup) if args.lrate_warmup else 1.0
        return rise * first * 0.1 ** ((step - start) / (args.lrate_decay * 1000))

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
