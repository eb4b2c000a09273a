"""Optimisers and learning-rate schedules."""

import argparse
import math
from collections.abc import Callable

import torch

from rendering import networks_of


def make_optimizers(args: argparse.Namespace, renderer: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Adam over everything, in nerf-pytorch's order; or Muon for hidden matrices, Adam for the rest.

    Muon (Jordan et al. 2024) orthogonalises each update. On these MLPs it gets in one minute where
    Adam gets in five.
    """
    named = [item for network in networks_of(renderer).values() for item in network.named_parameters()]
    if args.optimizer == "adam":
        return {"optimizer": torch.optim.Adam([p for _, p in named], lr=args.lrate, betas=(0.9, 0.999))}
    hidden = [p for name, p in named if p.ndim == 2 and not _is_head(name)]
    others = [p for name, p in named if p.ndim != 2 or _is_head(name)]
    return {
        "optimizer": torch.optim.Adam(others, lr=args.lrate, betas=(0.9, 0.99)),
        "muon": torch.optim.Muon(hidden, lr=args.muon_lrate, weight_decay=0.0, adjust_lr_fn="original"),
    }


def _is_head(name: str) -> bool:
    return name.startswith(("alpha_linear", "rgb_linear", "output_linear"))


def exponential_schedule(args: argparse.Namespace) -> Callable[[int], float]:
    """nerf-pytorch's decay, 1/10 every `--lrate_decay` thousand steps, after a linear warm-up."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / args.lrate_warmup) if args.lrate_warmup else 1.0
        return warmup * 0.1 ** (step / (args.lrate_decay * 1000))

    return factor


def cosine_schedule(first: float, start: int, length: int) -> Callable[[int], float]:
    """From `first` at step `start` to zero `length` steps later, along half a cosine."""
    return lambda step: first * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / max(length, 1))))
