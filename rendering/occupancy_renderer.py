"""One field, asked only where a grid says that something may be."""

import math

import torch
import torch.nn as nn
from torch.profiler import record_function

from rendering.compositing import _finish, _sum_per_ray, packed_weights
from rendering.occupancy import Crossing, OccupancyGrid, Samples
from rendering.rays import Rays, RaySetup
from rendering.renderer import BYTES_PER_SAMPLE, Renderer, Rendering, _ask
from run_nerf_helpers import round_up
from scenes.scene import Scene
from utils.errors import BadInput

# Rows given to a network are padded to a multiple of this: CPU matrix kernels are prepared anew
# for every new number of rows, and packing makes that number different each time. A training step
# prepares forward and backward, and nearly always has the same number; a frame's rounds do not.
ROWS_TRAINING, ROWS_RENDERING = 2048, 512


# Rendering looks at a few samples of every unfinished ray at a time: as many as make a round worth
# its overhead, but not so many that much behind an opaque surface is asked for.
ROWS_PER_ROUND, LEAST_AT_ONCE, MOST_AT_ONCE = 8192, 4, 32


def query(
    field: nn.Module,
    positions: torch.Tensor,
    directions: torch.Tensor,
    block: int,
    raw_noise: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A field at `[P, 3]` points, with rows padded to whole blocks and the padding taken off again."""
    extra = round_up(len(positions), block) - len(positions)
    if extra:
        positions = torch.cat([positions, positions.new_zeros(extra, 3)])
        directions = torch.cat([directions, directions.new_zeros(extra, 3)])
        raw_noise = None if raw_noise is None else nn.functional.pad(raw_noise, (0, extra))
    density, rgb = _ask(field, positions, directions, raw_noise)
    return (density[:-extra], rgb[:-extra]) if extra else (density, rgb)


def query_samples(
    field: nn.Module, rays: Rays, samples: Samples, raw_noise: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A field at packed samples: density `[P]` and colour `[P, 3]`."""
    of_samples = rays.take(samples.ray)
    positions = of_samples.origins + samples.t[:, None] * of_samples.directions
    return query(field, positions, of_samples.viewdirs, ROWS_TRAINING, raw_noise)


class OccupancyRenderer(Renderer):
    """One field, queried only at the points of a ray that lie in occupied cells.

    step: distance between points, units of the box. min_transmittance: when rendering, a ray that
    has less than this left is finished; training follows every ray through, since a sample that is
    hidden now is what a wrong surface in front of it must be compared against.
    """

    def __init__(
        self,
        field: nn.Module,
        grid: OccupancyGrid,
        setup: RaySetup,
        step: float,
        min_transmittance: float = 1e-3,
    ):
        super().__init__(setup)
        self.field = field
        self.grid = grid
        self.step = step
        self.min_transmittance = min_transmittance

    @property
    def fields(self) -> dict[str, nn.Module]:
        """Its fields, under nerf-pytorch's checkpoint names."""
        return {"network_fn": self.field}

    def bytes_per_ray(self) -> int:
        """An upper bound while rendering: a ray through occupied cells only."""
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
        return self.grid.cross(rays.origins, rays.directions, *bounds, self.step, jitter, at_most)

    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        samples: Samples | None = None,
        generator: torch.Generator | None = None,
        raw_noise_std: float = 0.0,
    ) -> Rendering:
        """Training: one query of all `samples` (from `march`), differentiable in the field."""
        if samples is None:
            return self._render_front_to_back(rays, background)
        noise = None
        if raw_noise_std > 0:
            noise = raw_noise_std * torch.randn(len(samples), device=samples.t.device, generator=generator)
        density, rgb = query_samples(self.field, rays, samples, noise)
        weights, leaving = packed_weights(density, samples)
        color = _sum_per_ray(weights[:, None] * rgb, samples.ray, len(rays))
        t_sum = _sum_per_ray(weights.detach() * samples.t, samples.ray, len(rays))
        color, depth, opacity = _finish(color, t_sum, leaving, rays, self.setup, background)
        return Rendering(color, depth, opacity, queries=len(samples), density=density, sample_rgb=rgb)

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
            density, rgb = query(self.field, positions, live.viewdirs, ROWS_RENDERING)
            with record_function("compositing"):
                part = Samples(nth_alive, t, length, within.sum(-1), most=block)
                weights, leaving[alive] = packed_weights(density, part, leaving[alive])
                color.index_add_(0, ray, weights[:, None] * rgb)
                t_sum.index_add_(0, ray, weights * t)
            next_sample[alive] += block
            queries += len(index)
        color, depth, opacity = _finish(color, t_sum, leaving, rays, self.setup, background)
        return Rendering(color, depth, opacity, queries=queries)


# Carving first looks at the whole box this coarsely, to find the tight box that the grid is laid in.
SCOUT_RESOLUTION = 64


def make_grid(scene: Scene, resolution: int, device: torch.device) -> OccupancyGrid:
    """A grid over the scene's box; with alpha, over the visual hull's box and carved to the hull."""
    if not scene.has_alpha:
        return OccupancyGrid(scene.aabb, resolution).to(device)
    train = scene.splits["train"]
    cameras, alpha = scene.cameras[train].to(device), scene.images[train][..., 3]
    if scene.valid is not None:  # what a mask or a lens hides may be there
        alpha = alpha.masked_fill(~scene.valid[train], 255)
    scout = OccupancyGrid(scene.aabb, SCOUT_RESOLUTION).to(device)
    scout.carve(cameras, alpha)
    if not scout.occupied.any():
        raise BadInput(
            "no point of the box is inside the silhouettes of all training views: wrong --aabb or poses, "
            "look at them with --plot_cameras"
        )
    box = scout.bounding_box()
    box = torch.stack([torch.maximum(box[0], scout.aabb[0]), torch.minimum(box[1], scout.aabb[1])])
    grid = OccupancyGrid(box, resolution).to(device)
    grid.carve(cameras, alpha)
    return grid


EMPTY_SPACE_WEIGHT = 0.01  # of `empty_space_loss`; at ten times that a ReLU density dies in its first steps


def meets(renderer: OccupancyRenderer, rays: Rays) -> torch.Tensor:
    """Which rays `[R]` meet an occupied cell."""
    hit = torch.zeros(len(rays), dtype=torch.bool, device=rays.origins.device)
    hit[renderer.march(rays).ray] = True
    return hit
