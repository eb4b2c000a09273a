"""Rays to samples to a field to colour, depth and opacity.

Two renderers share one interface, `forward(rays, background) -> Rendering`: `OccupancyRenderer`
queries one field where a grid says something may be, `HierarchicalRenderer` is NeRF's own coarse
and fine pass. They know fields only through `field(positions, directions)`, and nothing of training.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.profiler import record_function

from occupancy import Crossing, OccupancyGrid, Samples
from run_nerf_helpers import get_rays, iterate_chunks, ndc_rays, round_up, sample_pdf
from utils.errors import BrokenFile

# Rows given to a network are padded to a multiple of this: CPU matrix kernels are prepared anew
# for every new number of rows, and packing makes that number different each time. A training step
# prepares forward and backward, and nearly always has the same number; a frame's rounds do not.
ROWS_TRAINING, ROWS_RENDERING = 2048, 512

# Rendering looks at a few samples of every unfinished ray at a time: as many as make a round worth
# its overhead, but not so many that much behind an opaque surface is asked for.
ROWS_PER_ROUND, LEAST_AT_ONCE, MOST_AT_ONCE = 8192, 4, 32

# What a sample takes while a ray is marched: its position, cell number, distance and bookkeeping.
BYTES_PER_SAMPLE = 150
FIXED_BYTES = 2**26  # what matrix kernels and the allocator take however few the rays


@dataclass
class Rays:
    """origins, directions `[R, 3]` (a direction's length is kept, `t` counts multiples of it),
    viewdirs `[R, 3]` unit vectors in world space."""

    origins: torch.Tensor
    directions: torch.Tensor
    viewdirs: torch.Tensor

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: slice) -> "Rays":
        return Rays(self.origins[index], self.directions[index], self.viewdirs[index])

    def take(self, index: torch.Tensor) -> "Rays":
        """Rays by number; `index_select` is several times faster than indexing."""
        return Rays(*(part.index_select(0, index) for part in (self.origins, self.directions, self.viewdirs)))


@dataclass
class Rendering:
    """What a ray sees. rgb `[R, 3]` over the background; depth `[R]`, the expected distance along
    the unit ray given that it hit something (the far bound where it did not), world units;
    opacity `[R]`; coarse_rgb `[R, 3]` where there is a coarse pass; queries: network rows spent;
    density `[P]`, sample_rgb `[P, 3]`: what the field said of the samples it was given, if it was."""

    rgb: torch.Tensor
    depth: torch.Tensor
    opacity: torch.Tensor
    coarse_rgb: torch.Tensor | None = None
    queries: int = 0
    density: torch.Tensor | None = None
    sample_rgb: torch.Tensor | None = None


@dataclass
class RaySetup:
    """How pixels become rays, and what stands behind them.

    near, far: multiples of a ray's direction (world: z-depth; NDC: 0 to 1). ndc_near: the plane
    z = -ndc_near that NDC is built on, world units; None in world space. pixel_offset: 0.5 for rays
    through pixel centres, 0 for nerf-pytorch's. background: RGB in [0, 1].
    """

    near: float
    far: float
    ndc_near: float | None = None
    pixel_offset: float = 0.5
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)


def make_rays(origins: torch.Tensor, directions: torch.Tensor, setup: RaySetup, cameras) -> Rays:
    """World-space origins and directions `[R, 3]` as the renderers want them, warped if NDC."""
    viewdirs = directions / directions.norm(dim=-1, keepdim=True)
    if setup.ndc_near is not None:
        focal = cameras.K[0, 0, 0]
        origins, directions = ndc_rays(cameras.height, cameras.width, focal, setup.ndc_near, origins, directions)
    return Rays(origins, directions, viewdirs)


@dataclass(frozen=True)
class RenderLimits:
    """What a picture may take at once. rays: at most; memory: bytes beyond what is loaded."""

    rays: int = 32_768
    memory: int = 2**30


# ---------------------------------------------------------------------------------- compositing


def weights_from_density(
    density: torch.Tensor, length: torch.Tensor, transmittance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Volume-rendering weights (NeRF, eq. 3; Max 1995), with exclusive transmittance.

    density, length: `[R, S]`, front to back. transmittance: what is left of each ray on arrival,
    `[R]`, 1 by default. Returns weights `[R, S]` and the transmittance behind the last sample `[R]`.
    """
    optical_depth = density * length
    passed = torch.cumsum(optical_depth, -1)
    # Shifted, not `passed - optical_depth`: the last sample of a ray may be 1e10 long.
    reaching = torch.exp(-nn.functional.pad(passed[..., :-1], (1, 0)))
    leaving = torch.exp(-passed[..., -1])
    if transmittance is not None:
        reaching = reaching * transmittance[..., None]
        leaving = leaving * transmittance
    return reaching * -torch.expm1(-optical_depth), leaving


def packed_weights(
    density: torch.Tensor, samples: Samples, transmittance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`weights_from_density` for packed samples: weights `[P]` and the remainder `[R]`."""
    num_rays, widest = len(samples.counts), max(1, samples.most)
    before = torch.cumsum(samples.counts, 0) - samples.counts
    # Sample i of a ray goes to column i of the ray's row.
    row_start = torch.arange(num_rays, device=density.device) * widest - before
    place = row_start.index_select(0, samples.ray) + torch.arange(len(samples), device=density.device)
    # One scalar a slot; sums run within rays, so nothing is lost to a running total over all rays.
    padded = density.new_zeros(num_rays * widest).index_copy(0, place, density * samples.length)
    padded = padded.view(num_rays, widest)
    weights, leaving = weights_from_density(padded, torch.ones_like(padded), transmittance)
    return weights.view(-1).index_select(0, place), leaving


def _sum_per_ray(values: torch.Tensor, ray: torch.Tensor, num_rays: int) -> torch.Tensor:
    return values.new_zeros(num_rays, *values.shape[1:]).index_add(0, ray, values)


def _finish(
    color: torch.Tensor, t_sum: torch.Tensor, leaving: torch.Tensor, rays: Rays, setup: RaySetup, background
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Adds the background and turns a weighted sum of t into world distance."""
    opacity = 1 - leaving
    if background is not None:
        color = color + leaving[:, None] * background
    mean_t = torch.where(opacity > 1e-3, t_sum / opacity.clamp_min(1e-3), torch.full_like(opacity, setup.far))
    return color, _world_distance(mean_t, rays, setup), opacity


def _world_distance(t: torch.Tensor, rays: Rays, setup: RaySetup) -> torch.Tensor:
    """Multiples of a direction `[R]` to distance along the unit ray, world units.

    In NDC t = 1 is infinitely far; distances end at 1000 times the near plane.
    """
    if setup.ndc_near is None:
        return t * rays.directions.norm(dim=-1)
    z_depth = setup.ndc_near / (1 - t).clamp_min(1e-3)
    return z_depth / rays.viewdirs[:, 2].abs().clamp_min(1e-6)


def _ask(field: nn.Module, positions: torch.Tensor, directions: torch.Tensor, raw_noise: torch.Tensor | None):
    """Noise is for training only, so fields that cannot train need not know of it."""
    return field(positions, directions) if raw_noise is None else field(positions, directions, raw_noise)


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


# ------------------------------------------------------------------------------------ renderers


class Renderer(nn.Module):
    """What all renderers have: how pixels become rays, and the device that they live on.

    background: what stands behind everything, `[3]`, there.
    """

    def __init__(self, setup: RaySetup):
        super().__init__()
        self.setup = setup
        self.register_buffer("background", torch.tensor(setup.background), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where rays have to be, and where whatever is made for its fields belongs."""
        return self.background.device


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


class HierarchicalRenderer(Renderer):
    """NeRF's stratified coarse pass and importance-sampled fine pass (sec. 5.2).

    n_samples: stratified points of the coarse pass. n_importance: points drawn from its weights;
    the fine field then sees both. With n_importance 0 there is no fine pass and `fine` is None.
    """

    def __init__(
        self,
        coarse: nn.Module,
        fine: nn.Module | None,
        setup: RaySetup,
        n_samples: int,
        n_importance: int,
        lindisp: bool = False,
        perturb: bool = True,
        netchunk: int = 65536,
    ):
        super().__init__(setup)
        self.coarse, self.fine = coarse, fine
        self.n_samples, self.n_importance = n_samples, n_importance
        self.lindisp, self.perturb = lindisp, perturb
        self.netchunk = netchunk

    @property
    def fields(self) -> dict[str, nn.Module]:
        """Its fields, under nerf-pytorch's checkpoint names."""
        return {"network_fn": self.coarse} | ({} if self.fine is None else {"network_fine": self.fine})

    def bytes_per_ray(self) -> int:
        """An upper bound while rendering, but for the rows of one network call (`netchunk`)."""
        return (self.n_samples + self.n_importance) * BYTES_PER_SAMPLE

    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        raw_noise_std: float = 0.0,
    ) -> Rendering:
        """Jitters and adds noise while in training mode only."""
        t = self._stratified(rays, generator)
        result, weights = self._shade(self.coarse, rays, t, background, generator, raw_noise_std)
        if self.fine is None:
            return result
        middle = 0.5 * (t[:, 1:] + t[:, :-1])
        deterministic = not (self.training and self.perturb)
        extra = sample_pdf(middle, weights[:, 1:-1], self.n_importance, deterministic, generator)
        t = torch.sort(torch.cat([t, extra], -1), -1).values
        fine, _ = self._shade(self.fine, rays, t, background, generator, raw_noise_std)
        fine.coarse_rgb = result.rgb
        fine.queries += result.queries
        return fine

    def _stratified(self, rays: Rays, generator: torch.Generator | None) -> torch.Tensor:
        near, far, device = self.setup.near, self.setup.far, rays.origins.device
        u = torch.linspace(0.0, 1.0, self.n_samples, device=device)
        t = 1 / ((1 - u) / near + u / far) if self.lindisp else near + (far - near) * u
        t = t.expand(len(rays), -1)
        if self.training and self.perturb:
            middle = 0.5 * (t[:, 1:] + t[:, :-1])
            upper = torch.cat([middle, t[:, -1:]], -1)
            lower = torch.cat([t[:, :1], middle], -1)
            t = lower + (upper - lower) * torch.rand(t.shape, device=device, generator=generator)
        return t

    def _shade(
        self, field: nn.Module, rays: Rays, t: torch.Tensor, background, generator, raw_noise_std: float
    ) -> tuple[Rendering, torch.Tensor]:
        num_rays, per_ray = t.shape
        positions = (rays.origins[:, None] + t[..., None] * rays.directions[:, None]).view(-1, 3)
        directions = rays.viewdirs[:, None].expand(num_rays, per_ray, 3).reshape(-1, 3)
        noise = None
        if self.training and raw_noise_std > 0:
            noise = raw_noise_std * torch.randn(len(positions), device=t.device, generator=generator)
        parts = [
            _ask(field, positions[c], directions[c], None if noise is None else noise[c])
            for c in iterate_chunks(len(positions), self.netchunk)
        ]
        density = torch.cat([d for d, _ in parts]).view(num_rays, per_ray)
        rgb = torch.cat([c for _, c in parts]).view(num_rays, per_ray, 3)
        # The last sample stands for all that lies behind it.
        gaps = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], -1)
        weights, leaving = weights_from_density(density, gaps * rays.directions.norm(dim=-1, keepdim=True))
        color = (weights[..., None] * rgb).sum(1)
        color, depth, opacity = _finish(color, (weights.detach() * t).sum(1), leaving, rays, self.setup, background)
        return Rendering(color, depth, opacity, queries=len(positions)), weights


def networks_of(renderer: nn.Module) -> dict[str, nn.Module]:
    """The networks inside a renderer's fields, under the same names."""
    return {name: field.network for name, field in renderer.fields.items()}


@torch.no_grad()
def render_image(renderer: nn.Module, camera, limits: RenderLimits = RenderLimits()) -> Rendering:  # noqa: B008
    """A whole picture from one camera, as many rays at a time as the limits allow.

    Returns a Rendering whose fields are `[H, W, ...]`. Raises BrokenFile where a colour is not a finite number.
    """
    was_training = renderer.training
    renderer.eval()
    setup = renderer.setup
    origins, directions = get_rays(camera.height, camera.width, camera.K[0], camera.c2w[0], setup.pixel_offset)
    rays = make_rays(origins.reshape(-1, 3), directions.reshape(-1, 3), setup, camera)
    at_once = max(1, min(limits.rays, (limits.memory - FIXED_BYTES) // renderer.bytes_per_ray()))
    parts = [renderer(rays[c], renderer.background) for c in iterate_chunks(len(rays), at_once)]
    renderer.train(was_training)
    shape = (camera.height, camera.width)
    rgb = torch.cat([p.rgb for p in parts])
    if not torch.isfinite(rgb).all():
        raise BrokenFile(
            "the field gives colours that are not finite numbers: its weights overflow, training has failed or its "
            "file was altered; render another checkpoint or model"
        )
    return Rendering(
        rgb.view(*shape, 3),
        torch.cat([p.depth for p in parts]).view(shape),
        torch.cat([p.opacity for p in parts]).view(shape),
        queries=sum(p.queries for p in parts),
    )
