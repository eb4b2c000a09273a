"""Rays near occupied cells: stretches of them, and the samples in these, packed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rendering.rays import Rays
from rendering.renderer import Plan
from run_nerf_helpers import round_up

# Points of a ray are first tested in runs of this many; only runs near something are looked into.
RUN = 8

# Room for stretches of rays near occupied cells: times as many as the step before had, in blocks of so many,
# so that a device need not be waited for to say how many there are.
STRETCH_SLACK, STRETCHES_AT_ONCE = 1.25, 1024

# From rays by number `[W]` and places on them, multiples of their directions `[W]`: how long samples may be there,
# units of the box.
Longest = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Samples:
    """Packed sample points, sorted by ray and then front to back.

    ray: index of each sample's ray `[P]`. t: multiples of the ray's direction `[P]`.
    length: what each sample stands for along its ray `[P]`, in the units of the box.
    counts: how many each ray has `[R]`; most: the largest of them.
    """

    ray: torch.Tensor
    t: torch.Tensor
    length: torch.Tensor
    counts: torch.Tensor
    most: int

    def __len__(self) -> int:
        return len(self.ray)


@dataclass
class Crossing:
    """Stretches of rays near occupied cells, and which of their points lie in one: samples not yet listed.

    ray: of each stretch `[W]`, ascending. t: of its points `[RUN, W]`, multiples of the direction.
    inside: which of them count, likewise. found: how many stretches there are, `[]`; only where it
    is not above W is nothing missing. num_rays: R, of all. step: units of the box. merged: how many points of each
    stretch are one sample `[W]`, a divisor of RUN, of which `inside` has the first only; None: one.
    """

    ray: torch.Tensor
    t: torch.Tensor
    inside: torch.Tensor
    found: torch.Tensor
    num_rays: int
    step: float
    merged: torch.Tensor | None = None

    def counts(self) -> torch.Tensor:
        """Samples of each ray, `[R]`."""
        return self.found.new_zeros(self.num_rays).index_add_(0, self.ray, self.inside.sum(0))

    def all_samples(self) -> Samples:
        """Lists them all. A device is waited for, to say how many."""
        counts = self.counts()
        total, most = torch.stack([counts.sum(), counts.amax()]).tolist() if len(counts) else (0, 0)
        return self.samples(counts, total, most)

    def samples(self, counts: torch.Tensor, total: int, most: int) -> Samples:
        """Lists the samples of the first rays: `counts [R']` of each, `total` in all, `most` of one."""
        index = true_places(self.inside.T.reshape(-1), total)[:total]
        stretch = index // RUN
        return Samples(
            ray=self.ray.index_select(0, stretch),
            t=self.t.view(-1).index_select(0, (index - stretch * RUN) * len(self.ray) + stretch),
            length=self._lengths(stretch),
            counts=counts,
            most=most,
        )

    def _lengths(self, stretch: torch.Tensor) -> torch.Tensor:
        """Of samples in these stretches."""
        if self.merged is None:
            return self.t.new_full((len(stretch),), self.step)
        return self.step * self.merged.index_select(0, stretch).to(self.t)

    def merge(self, longest: Longest, dt: torch.Tensor) -> "Crossing":
        """With points taken together, 2, 4 or all of a stretch as one sample in their middle, no longer than samples
        may be. dt: between points, `[W]` of each stretch's ray."""
        at_most = longest(self.ray, 0.5 * (self.t[0] + self.t[-1]))
        wanted = (at_most / self.step).clamp_min(1).log2().floor().clamp_max(math.log2(RUN))
        merged = (2**wanted).long()
        t, inside = self.t, self.inside
        for together in (2**i for i in range(1, int(math.log2(RUN)) + 1)):
            groups = self.inside.view(RUN // together, together, -1)
            first = torch.zeros_like(groups)
            first[:, 0] = groups.any(1)
            middle = self.t.view(groups.shape) + 0.5 * (together - 1) * dt
            chosen = merged == together
            inside = torch.where(chosen, first.view(RUN, -1), inside)
            t = torch.where(chosen, middle.view(RUN, -1), t)
        return Crossing(self.ray, t, inside, self.found, self.num_rays, self.step, merged)


def true_places(mask: torch.Tensor, at_most: int | None = None) -> torch.Tensor:
    """Numbers, ascending, of the true entries of `mask [N]`.

    A device has to be waited for to say how many there are. With `at_most` it is not asked: it gives
    so many, and 0 for each that there are fewer. A CPU, which nobody waits for, always lists them all.
    """
    if at_most is None or mask.device.type == "cpu":
        return mask.nonzero()[:, 0]
    return torch.nonzero_static(mask, size=at_most, fill_value=0)[:, 0]


class OccupancyPlan(Plan):
    """Rays crossed with the grid, their samples not yet listed. The renderer remembers how many stretches there were:
    the next plan has room for about as many."""

    def __init__(self, renderer, rays: Rays, jitter: torch.Tensor | None, at_most: int | None):
        self.renderer, self.rays, self.jitter = renderer, rays, jitter
        self.crossing = renderer.cross(rays, jitter, at_most)
        self.found = self.crossing.found

    def counts(self) -> torch.Tensor:
        return self.crossing.counts()

    def holds_all(self, found: int) -> bool:
        self.renderer.stretches_per_ray = found / len(self.rays)
        return found <= len(self.crossing.ray)

    @classmethod
    def guessed(cls, renderer, rays: Rays, jitter: torch.Tensor | None) -> "OccupancyPlan":
        """With room for what the latest plan found, and some more; the first asks how much there is."""
        known = renderer.stretches_per_ray
        if known is None:
            return cls(renderer, rays, jitter, None)
        return cls(renderer, rays, jitter, round_up(math.ceil(STRETCH_SLACK * known * len(rays)), STRETCHES_AT_ONCE))

    def whole(self) -> "OccupancyPlan":
        return type(self)(self.renderer, self.rays, self.jitter, None)

    def samples(self, counts: torch.Tensor, total: int, most: int) -> Samples:
        return self.crossing.samples(counts, total, most)
