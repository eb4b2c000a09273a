"""Rays that were hard to get right, kept to be drawn again (R2L, Wang et al. 2022, sec. 3.3)."""

import torch

from rendering.rays import Rays
from utils.checks import check_keys
from utils.errors import BrokenFile

PARTS = ("origins", "directions", "viewdirs", "target")


class HardRays:
    """A pool of so many rays and their colours. It fills with the hardest of each batch; full, what is drawn of it
    leaves it, and the hardest of that batch's other rays take its place."""

    def __init__(self, capacity: int, device: torch.device):
        self.rays = {name: torch.zeros(capacity, 3, device=device) for name in PARTS}
        self.capacity, self.held = capacity, 0
        self.drawn: torch.Tensor | None = None  # places of the latest draw

    @property
    def full(self) -> bool:
        return self.held == self.capacity

    def draw(self, count: int, generator: torch.Generator) -> tuple[Rays, torch.Tensor]:
        """`count` rays and their colours, at random; none before the pool is full."""
        count = count if self.full else 0
        device = self.rays["target"].device
        self.drawn = torch.randint(self.capacity, (count,), device=device, generator=generator)
        origins, directions, viewdirs, target = (self.rays[name].index_select(0, self.drawn) for name in PARTS)
        return Rays(origins, directions, viewdirs), target

    def keep(self, rays: Rays, target: torch.Tensor, error: torch.Tensor, count: int) -> None:
        """Takes the `count` hardest of a batch's fresh rays. error: of each, `[R]`."""
        room = len(self.drawn) if self.full else self.capacity - self.held
        hardest = error.topk(min(count, room, len(error))).indices
        if self.full:
            places = self.drawn[: len(hardest)]
        else:
            places = torch.arange(self.held, self.held + len(hardest), device=target.device)
            self.held += len(hardest)
        for name, part in zip(PARTS, (rays.origins, rays.directions, rays.viewdirs, target), strict=True):
            self.rays[name].index_copy_(0, places, part.detach().index_select(0, hardest))

    def state_dict(self) -> dict:
        return {**self.rays, "held": self.held}

    def load_state_dict(self, state: dict) -> None:
        """Raises BrokenFile where it is of a pool of another size."""
        check_keys("hard rays", state, {*PARTS, "held"})
        parts = [state[name] for name in PARTS]
        fits = all(isinstance(part, torch.Tensor) and part.shape == (self.capacity, 3) for part in parts)
        if not fits or not isinstance(state["held"], int) or not 0 <= state["held"] <= self.capacity:
            raise BrokenFile("hard rays: another number than the flags make, --hard_rays among them")
        self.held = state["held"]
        for name in PARTS:
            self.rays[name].copy_(state[name])
