"""One field, asked only where a grid says that something may be."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.profiler import record_function

from rendering.carving import make_grid
from rendering.compositing import finish, packed_weights, sum_per_ray
from rendering.crossing import Crossing, OccupancyPlan, Samples
from rendering.grid_description import KEYS, check_grid, describe_grid, read_grid
from rendering.occupancy import LARGEST_GRID, MOST_STEPS, OccupancyGrid
from rendering.points import Points
from rendering.queries import ROWS_RENDERING, cones_of_samples, query, query_samples, widths_of_pixels
from rendering.rays import Rays, RaySetup
from rendering.renderer import BYTES_PER_SAMPLE, POINTS_AT_ONCE, Renderer, Rendering, extras_of
from utils import distributed
from utils.bounds import FAR_AWAY, box_problem
from utils.checks import WAY_OUT, check_keys, check_number, describe_mismatch
from utils.errors import BadInput, BrokenFile
from utils.parser import positive, within

# Rendering looks at a few samples of every unfinished ray at a time: as many as make a round worth
# its overhead, but not so many that much behind an opaque surface is asked for.
ROWS_PER_ROUND, LEAST_AT_ONCE, MOST_AT_ONCE = 8192, 4, 32
EMPTY_SPACE_WEIGHT = 0.01  # of `empty_space_loss`; at ten times that a ReLU density dies in its first steps


@dataclass(frozen=True)
class GridTraining:
    """How the grid follows the field while that is trained.

    interval: steps between looks, from step `start` on. threshold: a cell is empty below this opacity of one sample.
    perturb: whether each ray's points are shifted at random. empty_samples: queries of a step, of all processes, at
    points that the grid skips, whose density is driven to zero; 0 for none.
    """

    interval: int = 64
    start: int = 0
    threshold: float = 0.01
    perturb: bool = True
    empty_samples: int = 0


class OccupancyRenderer(Renderer):
    """One field, queried only at the points of a ray that lie in occupied cells.

    step: distance between points, units of the box. min_transmittance: when rendering, a ray that
    has less than this left is finished; training follows every ray through, since a sample that is
    hidden now is what a wrong surface in front of it must be compared against. cone_steps: samples become as long as so
    many pixels are wide there, where that is more than a step; 0: none does.
    """

    kind = "occupancy"

    def __init__(
        self,
        field: nn.Module,
        grid: OccupancyGrid,
        setup: RaySetup,
        step: float,
        min_transmittance: float = 1e-3,
        training: GridTraining = GridTraining(),  # noqa: B008 (frozen)
        points_at_once: int = POINTS_AT_ONCE,
        cone_steps: float = 0.0,
    ):
        super().__init__(setup, points_at_once)
        self.field = field
        self.grid = grid
        self.step = step
        self.min_transmittance = min_transmittance
        self.grid_training = training
        self.cone_steps = cone_steps
        self.stretches_per_ray: float | None = None  # of the latest plan

    @property
    def fields(self) -> dict[str, nn.Module]:
        return {"network_fn": self.field}

    @property
    def wants_cones(self) -> bool:
        return self.cone_steps > 0 or super().wants_cones

    def bytes_per_ray(self) -> int:
        """As of a ray through occupied cells only."""
        return (
            math.ceil(self.grid.diagonal / self.step) * BYTES_PER_SAMPLE
            + LEAST_AT_ONCE * self.field.config.bytes_per_row
        )

    def march(self, rays: Rays, jitter: torch.Tensor | None = None) -> Samples:
        """The samples of rays; a device is waited for three times."""
        return self.cross(rays, jitter).all_samples()

    def cross(self, rays: Rays, jitter: torch.Tensor | None = None, at_most: int | None = None) -> Crossing:
        """The same before they are listed; see `OccupancyGrid.cross`."""
        bounds = self.setup.near, self.setup.far
        longest = widths_of_pixels(rays, self.cone_steps, self.parallel) if self.cone_steps else None
        return self.grid.cross(rays.origins, rays.directions, *bounds, self.step, jitter, at_most, longest)

    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
        noise_std: float = 0.0,
    ) -> Rendering:
        """Training: one query of all `samples` (from `march`), differentiable in the field."""
        if samples is None:
            return self._render_front_to_back(rays, background)
        noise = None
        if noise_std > 0:
            noise = noise_std * torch.randn(len(samples), device=samples.t.device, generator=generator)
        density, rgb, extras = query_samples(self.field, rays, samples, noise, self.parallel)
        weights, leaving = packed_weights(density, samples)
        color = sum_per_ray(weights[:, None] * rgb, samples.ray, len(rays))
        t_sum = sum_per_ray(weights.detach() * samples.t, samples.ray, len(rays))
        color, depth, opacity = finish(color, t_sum, leaving, rays, self.setup, background)
        seen = {
            name: sum_per_ray(weights[:, None] * part, samples.ray, len(rays)) for name, part in (extras or {}).items()
        }
        return Rendering(color, depth, opacity, None, len(samples), density, rgb, extras=seen)

    def _render_front_to_back(self, rays: Rays, background: torch.Tensor | None) -> Rendering:
        """Evaluation: a few samples of every ray at a time, until it is opaque or out of samples."""
        with record_function("traversal"):
            samples = self.march(rays)
        num_rays, device = len(rays), rays.origins.device
        next_sample = torch.cumsum(samples.counts, 0) - samples.counts
        last_sample = next_sample + samples.counts
        color = torch.zeros(num_rays, 3, device=device)
        t_sum = torch.zeros(num_rays, device=device)
        leaving = torch.ones(num_rays, device=device)
        seen = {name: torch.zeros(num_rays, width, device=device) for name, width in extras_of(self.field).items()}
        queries = 0
        while True:
            # A device is waited for twice a round: to tell which rays go on, and how many samples there are.
            alive = ((next_sample < last_sample) & (leaving > self.min_transmittance)).nonzero()[:, 0]
            if len(alive) == 0:
                break
            block = min(MOST_AT_ONCE, max(LEAST_AT_ONCE, ROWS_PER_ROUND // len(alive)))
            # [alive, block] sample numbers, of which those past the end of a ray fall away.
            number = next_sample[alive, None] + torch.arange(block, device=device)
            within = number < last_sample[alive, None]
            there = within.view(-1).nonzero()[:, 0]
            index, nth_alive = number.view(-1).index_select(0, there), there // block
            ray = alive.index_select(0, nth_alive)
            t, length = samples.t.index_select(0, index), samples.length.index_select(0, index)
            live = rays.take(ray)
            positions = torch.addcmul(live.origins, t[:, None], live.directions)
            cones = cones_of_samples(live, t, length, self.parallel)
            density, rgb, extras = query(self.field, Points(positions, live.viewdirs, cones), ROWS_RENDERING)
            with record_function("compositing"):
                part = Samples(nth_alive, t, length, within.sum(-1), most=block)
                weights, leaving[alive] = packed_weights(density, part, leaving[alive])
                color.index_add_(0, ray, weights[:, None] * rgb)
                t_sum.index_add_(0, ray, weights * t)
                for name, total in seen.items():
                    total.index_add_(0, ray, weights[:, None] * extras[name])
            next_sample[alive] += block
            queries += len(index)
        color, depth, opacity = finish(color, t_sum, leaving, rays, self.setup, background)
        return Rendering(color, depth, opacity, queries=queries, extras=seen)

    # ---------------------------------------------------------------------------------- in training

    def plan(self, rays: Rays, uniform: Callable[[], torch.Tensor] | None = None) -> OccupancyPlan:
        jitter = uniform() if uniform and self.grid_training.perturb else None
        return OccupancyPlan.guessed(self, rays, jitter)

    def meets(self, rays: Rays) -> torch.Tensor:
        hit = super().meets(rays).logical_not_()
        hit[self.march(rays).ray] = True
        return hit

    def losses(self, batch, rendering: Rendering, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if not self.grid_training.empty_samples:
            return {}
        return {"empty_space": EMPTY_SPACE_WEIGHT * self.empty_space_loss(batch.rays, generator)}

    def empty_space_loss(self, rays: Rays, generator: torch.Generator) -> torch.Tensor:
        """What the field says of places that the grid skips, where nothing else ever asks it.

        The mean of log(1 + optical depth of a whole ray at that density), over random points
        between near and far on the batch's rays; of several processes, its share of that mean.
        """
        setup, total = self.setup, self.grid_training.empty_samples
        ray = torch.randint(len(rays), (distributed.size_of_share(total),), device=self.device, generator=generator)
        t = torch.rand(len(ray), device=self.device, generator=generator)
        t = setup.near + (setup.far - setup.near) * t
        points = rays.origins[ray] + t[:, None] * rays.directions[ray]
        skipped = ~self.grid.holds(points)
        density = self.field.density(points)  # of all: the number of rows stays the same
        length = (setup.far - setup.near) * rays.directions[ray].norm(dim=-1)
        return (torch.log1p(density * length) * skipped).sum() / total

    def after_step(self, step: int, generator: torch.Generator) -> bool:
        """Looks at the field for its grid when that is due."""
        schedule = self.grid_training
        if step >= schedule.start and step % schedule.interval == 0:
            self.update_grid(generator)
        return super().after_step(step, generator)

    def update_grid(self, generator: torch.Generator) -> None:
        self.eval()  # ranges of activations are not learnt from these points

        def density(points: torch.Tensor) -> torch.Tensor:
            mine = self.field.density(points[distributed.share()])
            return distributed.gather_shares(mine, len(points))

        self.grid.update(
            density,
            self.step,
            alpha_threshold=self.grid_training.threshold,
            chunk=self.points_at_once,
            generator=generator,
        )

    def content_box(self) -> torch.Tensor:
        return self.grid.bounding_box()

    def occupied(self) -> OccupancyGrid:
        return self.grid

    def scalars(self) -> dict[str, float]:
        return {"grid/occupied": float(self.grid.occupied.float().mean())}

    def extra_state(self) -> dict:
        return {"grid_state_dict": self.grid.state_dict()}

    def load_extra_state(self, state: dict, what: str) -> None:
        stored = state.get("grid_state_dict")
        if stored is None:
            return
        cells = stored.get("occupied")
        if cells is not None and cells.ndim == 3 and cells.shape != self.grid.occupied.shape:
            raise BrokenFile(
                f"{what}: was trained with --grid_resolution {cells.shape[0]}, not {self.grid.resolution}; "
                "give the same again, or choose another --expname"
            )
        mismatch = describe_mismatch(self.grid.state_dict(), stored) or box_problem(stored["aabb"])
        if mismatch:
            raise BrokenFile(f"{what}: its occupancy grid cannot be used: {mismatch}; {WAY_OUT}")
        self.grid.load_state_dict(stored)

    # ------------------------------------------------------------------------------- in model files

    def describe(self) -> dict:
        return {
            "kind": self.kind,
            "step": self.step,
            "min_transmittance": self.min_transmittance,
            **({"cone_steps": self.cone_steps} if self.cone_steps else {}),
            **describe_grid(self.grid),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"occupancy": self.grid.occupied}

    @staticmethod
    def check(described: dict) -> None:
        optional = {"cone_steps"} & set(described)
        check_keys("sampler", described, {"kind", "step", "min_transmittance"} | KEYS | optional)
        for key in optional:
            check_number("sampler", described, key, 0, FAR_AWAY)
        check_number("sampler", described, "min_transmittance", 0, 1)
        check_grid(described)
        sides = [high - low for low, high in zip(*described["aabb"], strict=True)]
        check_number("sampler", described, "step", math.hypot(*sides) / MOST_STEPS, FAR_AWAY)

    @classmethod
    def from_description(
        cls, described: dict, fields: dict[str, nn.Module], setup: RaySetup, tensors: dict[str, torch.Tensor]
    ) -> "OccupancyRenderer":
        """tensors: `occupancy`, booleans `[X, Y, Z]`."""
        grid = read_grid(described, tensors.pop("occupancy"))
        how = described["step"], described["min_transmittance"]
        return cls(fields["network_fn"], grid, setup, *how, cone_steps=described.get("cone_steps", 0.0))

    # ------------------------------------------------------------------------------------- by flags

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--grid_resolution", type=positive(int), default=96, help=f"cells on each side, at most {LARGEST_GRID}")
        add("--march_step", type=within(float, 1e-6, FAR_AWAY), default=0.5, help="distance between samples, in cells")
        add(
            "--cone_steps",
            type=within(float, 0, FAR_AWAY),
            default=0.0,
            help="samples as long as so many pixels are wide there, where that is more than --march_step; 0: none is",
        )
        add("--samples_per_batch", type=positive(int), default=32768, help="network queries per training step")
        add(
            "--min_transmittance",
            type=positive(float),
            default=1e-3,
            help="rendering ends a ray that has less light left, as a share of 1",
        )
        add("--grid_interval", type=positive(int), default=64, help="training steps between updates of the grid")
        add(
            "--grid_start",
            type=int,
            default=0,
            help="training steps before the first of them, for fields that start out empty; 0: none",
        )
        add(
            "--grid_threshold",
            type=positive(float),
            default=0.01,
            help="a cell is empty below this opacity of one sample, 0 to 1",
        )
        add(
            "--filter_rays",
            action="store_true",
            help="draw only rays that meet an occupied cell, found anew when the box or the resolution changes",
        )
        add(
            "--empty_samples",
            type=int,
            default=0,
            help="more queries per step, at points that the grid skips, whose density is driven to zero, for networks "
            "that a renderer without the grid (nerf-pytorch's) is to show; 0 for none",
        )

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, scene, setup: RaySetup, device: torch.device, make_field: Callable
    ) -> "OccupancyRenderer":
        """Its grid is carved where images have alpha. Raises BadInput for what no model file may ask for."""
        if args.grid_resolution > LARGEST_GRID:
            raise BadInput(
                f"--grid_resolution {args.grid_resolution}: model files hold {LARGEST_GRID} at most; give less"
            )
        grid = make_grid(scene, args.grid_resolution, device)
        field = make_field(grid.aabb)
        step = args.march_step * float(grid.cell.max())
        if grid.diagonal > MOST_STEPS * step:
            raise BadInput(
                f"--march_step {args.march_step:g}: a ray would have more than {MOST_STEPS} samples; give more"
            )
        training = GridTraining(
            interval=args.grid_interval,
            start=args.grid_start,
            threshold=args.grid_threshold,
            perturb=args.perturb > 0,
            empty_samples=max(0, args.empty_samples),
        )
        how = step, args.min_transmittance, training, args.netchunk, args.cone_steps
        return cls(field, grid, setup, *how).to(device)
