"""Where along a ray even numbers lie: evenly in depth, in disparity, and between (mip-NeRF 360, eq. 11)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Curve = Callable[[torch.Tensor], torch.Tensor]

# Of each: from distances to what bins are even in, and back. The piecewise one counts down, from 1 at distance 0: what
# is left before infinity, which far away is small, and exact where 1 minus it would not be.
WARPS: dict[str, tuple[Curve, Curve]] = {
    "linear": (lambda t: t, lambda x: x),
    "reciprocal": (torch.reciprocal, torch.reciprocal),
    "log": (torch.log, torch.exp),
    "piecewise": (
        lambda t: torch.where(t < 1, 1 - 0.5 * t, 0.5 / t.clamp_min(1)),
        lambda x: torch.where(x > 0.5, 2 * (1 - x), 0.5 / x),
    ),
}
FROM_ZERO = ("linear", "piecewise")  # those that may begin at distance 0


@dataclass(frozen=True)
class Warp:
    """From s `[R, S]` in [0, 1] to distances between near and far, numbers or `[R, 1]`, and back. curve: of WARPS."""

    near: float | torch.Tensor
    far: float | torch.Tensor
    curve: str

    def distances(self, s: torch.Tensor) -> torch.Tensor:
        near, far = self._ends(s)
        return WARPS[self.curve][1](near * (1 - s) + far * s)

    def shares(self, t: torch.Tensor) -> torch.Tensor:
        """The inverse of `distances`."""
        near, far = self._ends(t)
        return (WARPS[self.curve][0](t) - near) / (far - near)

    def _ends(self, like: torch.Tensor) -> list[torch.Tensor]:
        """Near and far, bent."""
        ends = (end if isinstance(end, torch.Tensor) else like.new_full((), end) for end in (self.near, self.far))
        return [WARPS[self.curve][0](end) for end in ends]
