"""Bits for each layer under a byte budget: measure what each layer's rounding costs, then choose.

The cost of a layer at b bits is the rise of the squared colour error on a few training batches when
that layer's weights alone are rounded to b bits. Costs of different layers are taken to add up, as
in HAWQ-V2 (arXiv 1911.03852), so the cheapest choice under a budget is a knapsack, solved exactly
up to rounding sizes to a few thousandths of the budget.
"""

from collections.abc import Callable

import numpy as np
import torch

from compressors.fake_quantize import RoundedLinear
from deploy.packing import packed_bytes
from run_nerf_helpers import img2mse
from training.batches import Batch, render_batch
from utils.errors import BadInput

CHOICES = (2, 3, 4, 5, 6, 8)
UNITS = 4000  # that a budget is counted in


def quantized_layers(renderer: torch.nn.Module) -> dict[str, RoundedLinear]:
    """The layers of a prepared renderer that round, by name, their network's name in front."""
    return {
        f"{name}.{path}": layer
        for name, network in renderer.networks.items()
        for path, layer in network.named_modules()
        if isinstance(layer, RoundedLinear) and layer.bits <= 8
    }


@torch.no_grad()
def measure_costs(renderer: torch.nn.Module, batches: list[Batch]) -> dict[str, dict[int, float]]:
    """The rise of the mean squared error for each layer and each of CHOICES, over 8 bits everywhere.

    It never falls with fewer bits.
    """
    renderer.eval()
    layers = quantized_layers(renderer)
    before = {name: layer.bits for name, layer in layers.items()}
    for layer in layers.values():
        layer.bits = 8

    def error() -> float:
        return sum(float(img2mse(render_batch(renderer, batch).rgb, batch.target)) for batch in batches) / len(batches)

    base, costs = error(), {}
    for name, layer in layers.items():
        worst, costs[name] = 0.0, {}
        for bits in sorted(CHOICES, reverse=True):
            layer.bits = bits
            worst = max(worst, error() - base)
            costs[name][bits] = worst
        layer.bits = 8
    for name, layer in layers.items():
        layer.bits = before[name]
    return costs


def choose_bits(
    costs: dict[str, dict[int, float]],
    counts: dict[str, int],
    budget: int,
    fixed: int = 0,
    size: Callable[[int, int], int] = packed_bytes,
) -> dict[str, int]:
    """The bits of each layer that cost least in all in a file of at most `budget` bytes.

    counts: weights of each layer. fixed: what else is in the file, bytes. size: of so many weights of
    so many bits, bytes. Raises BadInput where not even the fewest bits fit.
    """
    smallest = fixed + sum(size(counts[name], min(costs[name])) for name in costs)
    if smallest > budget:
        raise BadInput(f"--quant_budget {budget}: the smallest file that this network fits into has {smallest} bytes")
    budget -= fixed
    unit = max(1, budget // UNITS)
    room = budget // unit
    least = np.zeros(room + 1)  # by units of room: the least cost of the layers so far
    choices = []
    for name, by_bits in costs.items():
        best, choice = np.full(room + 1, np.inf), np.zeros(room + 1, dtype=int)
        for bits, cost in by_bits.items():
            units = -(-size(counts[name], bits) // unit)
            if units <= room:
                total = np.full(room + 1, np.inf)
                total[units:] = least[: room + 1 - units] + cost
                better = total < best
                best[better], choice[better] = total[better], bits
        least = best
        choices.append((name, choice))
    if not np.isfinite(least[room]):  # only rounding to units stands in the way
        return {name: min(by_bits) for name, by_bits in costs.items()}
    chosen = {}
    for name, choice in reversed(choices):
        chosen[name] = int(choice[room])
        room -= -(-size(counts[name], chosen[name]) // unit)
    return {name: chosen[name] for name in costs}
