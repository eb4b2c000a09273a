"""A voxel grid that says where a ray may meet something, and the sampler that walks rays through it.

The idea is that of Instant-NGP (appendix C) and NerfAcc, in plain tensor operations: a boolean grid
over the scene's box decides which of the evenly spaced points of a ray are worth a network query,
and only those are returned, packed. The same walk serves world space and NDC.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from rendering.crossing import RUN, Crossing, Longest, true_places

LARGEST_GRID = 512  # cells on a side: a bit each in a model file, three bytes in memory
MOST_STEPS = 10_000  # of a ray through the box, beyond which a picture would take forever


class OccupancyGrid(nn.Module):
    """`resolution`^3 cells over `aabb [2, 3]`.

    occupied: where samples are taken. allowed: where they may ever be (carving clears it for good).
    density: the highest density seen lately in a cell, slowly forgotten, 1/unit.
    All three are `[X, Y, Z]`; the grid is a buffer-only module, so it moves and saves with its owner.
    """

    def __init__(self, aabb: torch.Tensor, resolution: int):
        super().__init__()
        self.resolution = resolution
        shape = (resolution,) * 3
        self.register_buffer("aabb", aabb.float().clone())
        self.register_buffer("allowed", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        # NumPy's zeros take memory only where they are written: what merely renders never looks at them.
        self.register_buffer("density", torch.from_numpy(np.zeros(shape, np.float32)))
        # Derived from `occupied` whenever that changes, see `_refresh`.
        self.register_buffer("_near_occupied", None, persistent=False)
        self.register_buffer("_box_of_occupied", None, persistent=False)
        self._near_reach: float | None = None
        self._cell_sides: list[float] | None = None

    @property
    def cell_sides(self) -> list[float]:
        """Those of `cell`, asked of the device once."""
        if self._cell_sides is None:
            self._cell_sides = self.cell.tolist()
        return self._cell_sides

    @property
    def diagonal(self) -> float:
        """Of the box, in its units."""
        return self.resolution * math.hypot(*self.cell_sides)

    @property
    def cell(self) -> torch.Tensor:
        """Size of a cell `[3]`, in the units of the box."""
        return (self.aabb[1] - self.aabb[0]) / self.resolution

    def cell_centers(self, index: torch.Tensor) -> torch.Tensor:
        """Centres `[M, 3]` of the cells with flat numbers `index [M]`."""
        r = self.resolution
        xyz = torch.stack([index // (r * r), index // r % r, index % r], -1)
        return self.aabb[0] + (xyz + 0.5) * self.cell

    def flat_index(self, positions: torch.Tensor) -> torch.Tensor:
        """Flat cell numbers of `positions [..., 3]`; points outside count to the nearest cell."""
        return self._flat((positions - self.aabb[0]).div_(self.cell).movedim(-1, 0)).long()

    def _flat(self, cells: torch.Tensor) -> torch.Tensor:
        """The same, int32, of positions `[3, ...]` in cells from the box's corner, which are overwritten."""
        r = self.resolution
        x, y, z = cells.clamp_max_(r - 1).to(torch.int32).clamp_min_(0)  # half the traffic of int64
        return x.mul(r).add_(y).mul_(r).add_(z)

    def _look_up(self, cells: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """What `cells [X, Y, Z]` hold at places `[3, N, M]`, in cells from the box's corner; these are overwritten."""
        return cells.view(-1).index_select(0, self._flat(places).view(-1)).view(places.shape[1:])

    def holds(self, positions: torch.Tensor) -> torch.Tensor:
        """Whether `positions [..., 3]` lie in occupied cells; outside the box is empty."""
        inside = ((positions >= self.aabb[0]) & (positions <= self.aabb[1])).all(-1)
        return inside & self.occupied.view(-1)[self.flat_index(positions)]

    # ------------------------------------------------------------------------------- the sampler

    @torch.no_grad()
    def cross(
        self,
        origins: torch.Tensor,
        directions: torch.Tensor,
        near: float,
        far: float,
        step: float,
        jitter: torch.Tensor | None = None,
        at_most: int | None = None,
        longest: Longest | None = None,
    ) -> Crossing:
        """Which points, spaced evenly by `step` along each ray, lie in occupied cells.

        origins, directions: `[R, 3]`, directions of any length. near, far: multiples of the
        direction. step: units of the box. jitter: `[R]` in [0, 1), where in its step each ray's
        points sit (0.5 where none is given). at_most: look into so many stretches of RUN points
        only, so that a device need not be waited for. longest: how long samples may be; where `step` is
        less, points are taken together. None: they are not. Not differentiable, by design.
        """
        norm = directions.norm(dim=-1)
        t_in, t_out = self._clip(self.aabb, origins, directions, near, far)
        dt = step / norm
        offset = torch.full_like(norm, 0.5) if jitter is None else jitter
        # Steps count from where a ray enters the grid, but only those in the box of occupied cells are
        # looked at. One more on either side covers the rounding of where it is entered and left.
        inner_in, inner_out = self._clip(self._occupied_box(), origins, directions, near, far)
        first = ((inner_in - t_in) / dt).floor().sub(1).clamp_min(0)
        steps = ((torch.minimum(inner_out, t_out) - t_in) / dt).ceil() + 1 - first
        steps = torch.where(inner_in < inner_out, steps, 0)
        ray, run, found = self._runs_near_cells(origins, directions, t_in, dt, first, steps, step, at_most)

        # The single points of those runs. Axes come first and rays last, which is the fastest to go through.
        of_rays = [a[None] for a in (first, t_in, t_out, dt, offset)]
        of_rays += [(a / self.cell).T.contiguous() for a in (origins - self.aabb[0], directions)]
        t, inside = self._points(ray, run, of_rays)
        if at_most is not None:  # what fills up the list is no stretch of its own
            inside &= torch.arange(len(ray), device=origins.device) < found
        crossing = Crossing(ray, t, inside, found, len(origins), step)
        return crossing if longest is None else crossing.merge(longest, dt.index_select(0, ray))

    def _points(
        self, ray: torch.Tensor, run: torch.Tensor, of_rays: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances of the points of runs `[W]`, multiples of the direction, and whether they lie in occupied cells,
        `[RUN, W]` each. of_rays: `[1 or 3, R]`, as `cross` lists them, origins and directions in cells."""
        first, t_in, t_out, dt, offset, start, along = (a.index_select(1, ray) for a in of_rays)
        number = first + (run * RUN + torch.arange(RUN, device=ray.device)[:, None])
        t = t_in + (number + offset) * dt
        return t, self._look_up(self.occupied, torch.addcmul(start[:, None], t, along[:, None])) & (t < t_out)

    @torch.no_grad()
    def span(
        self, origins: torch.Tensor, directions: torch.Tensor, near: float, far: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Between where each ray `[R, 3]` meets occupied cells for the first and for the last time, multiples of its
        direction `[R]`, and whether it meets any `[R]`; where not, near and far.

        Looked up at as many evenly spaced places of the box of occupied cells as cells are side by side, in cells
        grown by half of their distance: none is missed, and what is found begins a little early and ends a little late.
        """
        t_in, t_out = self._clip(self._occupied_box(), origins, directions, near, far)
        gap = (t_out - t_in).clamp_min(0) / self.resolution
        numbers = torch.arange(self.resolution, device=origins.device)[:, None]
        t = t_in + (numbers + 0.5) * gap
        start, along = ((a / self.cell).T.contiguous()[:, None] for a in (origins - self.aabb[0], directions))
        near_occupied = self._dilated(0.5 * self.diagonal / self.resolution)
        there = self._look_up(near_occupied, torch.addcmul(start, t, along)) & (gap > 0)
        hit = there.any(0)
        first = torch.where(there, numbers, self.resolution).amin(0)
        last = torch.where(there, numbers, -1).amax(0)
        return torch.where(hit, t_in + first * gap, near), torch.where(hit, t_in + (last + 1) * gap, far), hit

    def _runs_near_cells(
        self,
        origins: torch.Tensor,
        directions: torch.Tensor,
        t_in: torch.Tensor,
        dt: torch.Tensor,
        first: torch.Tensor,
        steps: torch.Tensor,
        step: float,
        at_most: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of runs of RUN steps, those that come near an occupied cell, by one look-up at the middle of each.

        first, steps: of each ray `[R]`, where its runs start and how many steps they are to reach.
        Returns ray and number of each run `[W]`, and how many there are.
        """
        # Rays without steps are left out, where a device need not be waited for to say which.
        met = true_places(steps > 0) if at_most is None else torch.arange(len(steps), device=steps.device)
        # As many runs as the longest ray has; on a device, that would be asked for it, as any could have.
        exact = steps.device.type == "cpu" and len(met) > 0
        longest = float(steps.max()) if exact else self.diagonal / step + 3
        runs = max(1, math.ceil(longest / RUN))
        run_start = torch.arange(runs, device=steps.device)[:, None] * RUN
        t_in, dt, first, steps = (a.index_select(0, met) for a in (t_in, dt, first, steps))
        t = torch.addcmul(t_in, first + run_start + 0.5 * RUN, dt)
        in_cells = (origins - self.aabb[0]) / self.cell, directions / self.cell
        start, along = (a.T.contiguous().index_select(1, met)[:, None] for a in in_cells)
        near_occupied = self._dilated(0.5 * RUN * step)
        worth = self._look_up(near_occupied, torch.addcmul(start, t, along)) & (run_start < steps)
        index = true_places(worth.T.reshape(-1), at_most)
        nth_met = index // runs
        return met.index_select(0, nth_met), index - nth_met * runs, worth.sum()

    @staticmethod
    def _clip(
        box: torch.Tensor, origins: torch.Tensor, directions: torch.Tensor, near: float, far: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where rays enter and leave a box `[2, 3]`, within [near, far], as multiples of the direction."""
        tiny = torch.finfo(directions.dtype).tiny
        safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
        hits = (box[:, None] - origins) / safe  # [2, R, 3]
        t_in = hits.amin(0).amax(-1).clamp_min(near)
        t_out = hits.amax(0).amin(-1).clamp_max(far)
        return t_in, t_out

    def _dilated(self, reach: float) -> torch.Tensor:
        """`occupied`, grown so that a look-up at a point covers all cells within `reach` of it."""
        if self._near_reach != reach:
            radius = [int(reach / side) + 1 for side in self.cell_sides]
            self._near_occupied, self._near_reach = _grown(self.occupied, radius), reach
        return self._near_occupied

    def _occupied_box(self) -> torch.Tensor:
        """A box `[2, 3]` that holds all occupied cells and a tenth of a cell around them, against rounding."""
        if self._box_of_occupied is None:
            numbers = torch.arange(self.resolution, device=self.aabb.device)
            low, high = [], []
            for others in ((1, 2), (0, 2), (0, 1)):
                there = self.occupied.any(others[1]).any(others[0])
                low.append(torch.where(there, numbers, self.resolution).amin())
                high.append(torch.where(there, numbers, -1).amax())
            ends = torch.stack([torch.stack(low) - 0.1, torch.stack(high) + 1.1])
            self._box_of_occupied = self.aabb[0] + ends * self.cell
        return self._box_of_occupied

    # ------------------------------------------------------------------------------ what is where

    def _refresh(self) -> None:
        """To be called when `occupied` has changed."""
        self._near_reach = self._box_of_occupied = None

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()
        self._cell_sides = None

    def set_occupied(self, occupied: torch.Tensor) -> None:
        """Takes a boolean grid `[X, Y, Z]` as it is, for good: it also becomes `allowed`."""
        self.occupied.copy_(occupied)
        self.allowed.copy_(occupied)
        self._refresh()

    @torch.no_grad()
    def carve(self, cameras, alpha: torch.Tensor) -> None:
        """Clears the cells that some view sees in front of an empty background only (visual hull).

        cameras: those of the views. alpha: uint8 `[N, H, W]`. A cell survives if some view sees at
        least a part of it (what none sees, none can teach), and if, in every view whose frame
        contains it whole, something opaque lies within its projected radius.
        """
        device = self.aabb.device
        seen = torch.zeros(self.resolution**3, dtype=torch.bool, device=device)
        survivors = torch.arange(self.resolution**3, device=device)
        radius = 0.5 * float(self.cell.norm())
        c2w, intrinsics, masks = cameras.c2w.to(device), cameras.K.tolist(), alpha.to(device)
        for view, (pose, K) in enumerate(zip(c2w, intrinsics, strict=True)):
            height, width = cameras.size(view)
            mask = masks[view, :height, :width]
            local = (self.cell_centers(survivors) - pose[:, 3]) @ pose[:, :3]
            depth = -local[:, 2]
            x = K[0][0] * local[:, 0] / depth + K[0][2]
            y = -K[1][1] * local[:, 1] / depth + K[1][2]
            # Cells so near that they cover an eighth of the frame are left to other views.
            focal = K[0][0]
            judged = depth > radius + 8 * focal * radius / width
            nearest = float(torch.where(judged, depth, torch.inf).amin())
            # The largest footprint of any cell in this view, plus the half pixel of its own centre.
            reach = int(np.ceil(focal * radius / (nearest - radius) + 0.5))
            opaque = F.max_pool2d(mask.float()[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0] > 0
            inside = (x >= reach) & (x < width - reach) & (y >= reach) & (y < height - reach)
            inside &= judged
            footprint = focal * radius / depth
            in_part = (x > -footprint) & (x < width + footprint) & (depth > 0)
            in_part &= (y > -footprint) & (y < height + footprint)
            seen[survivors] |= in_part
            column = x.nan_to_num().long().clamp(0, width - 1)
            row = y.nan_to_num().long().clamp(0, height - 1)
            survivors = survivors[opaque[row, column] | ~inside]
            if not len(survivors):
                break
        carved = torch.zeros_like(self.allowed)
        carved.view(-1)[survivors] = seen[survivors]
        self.set_occupied(carved)

    def bounding_box(self) -> torch.Tensor:
        """The box `[2, 3]` of the occupied cells, one cell wider on each side."""
        index = self.occupied.nonzero()
        low, high = index.amin(0) - 1, index.amax(0) + 2
        return torch.stack([self.aabb[0] + low * self.cell, self.aabb[0] + high * self.cell])

    @torch.no_grad()
    def update(
        self,
        density: Callable[[torch.Tensor], torch.Tensor],
        step: float,
        alpha_threshold: float = 0.01,
        decay: float = 0.8,
        chunk: int = 65536,
        generator: torch.Generator | None = None,
    ) -> None:
        """Looks at the field at a random point of every allowed cell, and decides again.

        A cell stays occupied while a sample of length `step` there would have an opacity above
        `alpha_threshold`. The remembered density is a maximum that decays by `decay` at each look,
        so that one unlucky point does not erase a cell (Instant-NGP, appendix C).
        """
        candidates = true_places(self.allowed.view(-1))
        shift = torch.rand((len(candidates), 3), device=candidates.device, generator=generator) - 0.5
        points = self.cell_centers(candidates) + shift * self.cell
        seen = torch.cat([density(part) for part in points.split(chunk)])
        remembered = self.density.view(-1)
        remembered[candidates] = torch.maximum(remembered[candidates] * decay, seen)
        threshold = -math.log1p(-alpha_threshold) / step
        self.occupied.copy_((self.density > threshold) & self.allowed)
        self._refresh()

    @classmethod
    def of_cells(cls, cells: torch.Tensor, aabb: torch.Tensor) -> "OccupancyGrid":
        """Of boolean cells `[X, Y, Z]`, as many on each side."""
        grid = cls(aabb, len(cells))
        grid.set_occupied(cells)
        return grid


def _grown(cells: torch.Tensor, radius: list[int]) -> torch.Tensor:
    """A boolean grid `[X, Y, Z]` whose true cells spread so many cells along each axis, to both sides."""
    for axis, size in enumerate(cells.shape):
        reached, wanted = 0, min(radius[axis], size - 1)
        while reached < wanted:  # shifted by no more than it reaches and one, it leaves no gap, at the border neither
            shift = min(reached + 1, wanted - reached)
            grown = cells.clone()
            grown.narrow(axis, shift, size - shift).logical_or_(cells.narrow(axis, 0, size - shift))
            grown.narrow(axis, 0, size - shift).logical_or_(cells.narrow(axis, shift, size - shift))
            cells, reached = grown, reached + shift
    return cells
