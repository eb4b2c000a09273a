"""How far anything may lie, and what a box must be."""

import torch

SMALLEST_SIDE = 1e-6  # of a box, world units
FAR_AWAY = 1e6  # world units, and for a lens pixels: nothing that is measured reaches farther


def box_problem(box: torch.Tensor) -> str:
    """Why nothing can be in `box [2, 3]`, two corners in world units; empty if something can."""
    if not (box.abs() <= FAR_AWAY).all():
        return f"the box reaches farther than {FAR_AWAY:g} world units"
    return "" if (box[1] - box[0]).min() >= SMALLEST_SIDE else "the box has no volume"
