"""Rays straight to colours: a few places on each, and one query of a light field.

Places are either those of the first occupied cells that a ray meets, which say where its surface is (rays that meet
none are background, for free), or evenly spaced from near to far, as R2L has them (Wang et al. 2022, sec. 3.2).
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn as nn
from torch.profiler import record_function

from rendering.carving import make_grid
from rendering.cones import contract
from rendering.crossing import RUN, Crossing, OccupancyPlan, true_places
from rendering.grid_description import KEYS, check_grid, describe_grid, read_grid
from rendering.occupancy import LARGEST_GRID, OccupancyGrid
from rendering.ray_warps import FROM_ZERO, WARPS, Warp
from rendering.rays import Rays, RaySetup, world_distance
from rendering.renderer import BYTES_PER_SAMPLE, Renderer, Rendering
from run_nerf_helpers import iterate_chunks
from utils.bounds import FAR_AWAY, SMALLEST_SIDE
from utils.checks import check_keys, check_number, check_one_of, check_whole
from utils.errors import BadInput
from utils.parser import positive

MOST_PLACES = 256  # on a ray
MOST_APART = 64  # cells between two
ROWS_RENDERING = 4096  # of one query: what stays in cache from layer to layer, and is enough for two cores


@dataclass
class Places:
    """Where rays are looked at. ray: numbers of those that are `[H]`, None: all. t: multiples of their directions
    `[H, K]`."""

    ray: torch.Tensor | None
    t: torch.Tensor


class PlacesInCells:
    """The first occupied cells of a ray: every `every`-th of its points there, which lie one cell apart, `count` of
    them. Of a ray with fewer the last one is repeated."""

    def __init__(self, grid: OccupancyGrid, count: int, every: int):
        self.grid, self.count, self.every = grid, count, every
        self.step = float(grid.cell.max())

    def cross(self, rays: Rays, near: float, far: float, jitter: torch.Tensor | None, at_most: int | None) -> Crossing:
        return self.grid.cross(rays.origins, rays.directions, near, far, self.step, jitter, at_most)

    def of(self, crossing: Crossing, counts: torch.Tensor) -> torch.Tensor:
        """`[R, K]`, of rays that meet no cell zeros. counts: the crossing's, `[R]`."""
        rays, longest = crossing.num_rays, self.every * self.count
        before = torch.cumsum(counts, 0) - counts
        points = true_places(crossing.inside.T.reshape(-1), crossing.inside.numel())
        stretch = points // RUN
        ray = crossing.ray.index_select(0, stretch)
        # Which of its ray's points each is; those beyond the last wanted go to one place behind all.
        numbers = torch.arange(len(points), device=points.device)
        nth = numbers - before.index_select(0, ray)
        wanted = (nth < longest) & (numbers < counts.sum())
        index = torch.where(wanted, ray * longest + nth, rays * longest)
        found = crossing.t.view(-1).index_select(0, (points - stretch * RUN) * len(crossing.ray) + stretch)
        t = found.new_zeros(rays * longest + 1).scatter_(0, index, found)[:-1].view(rays, longest)
        last = (counts - 1).clamp(0, longest - 1)
        slots = torch.arange(0, longest, self.every, device=t.device).expand(rays, -1)
        return t.gather(1, torch.minimum(slots, (last - last % self.every)[:, None]))


class LightFieldPlan(OccupancyPlan):
    """Rays crossed with the grid; those that meet a cell ask once."""

    @cached_property
    def points(self) -> torch.Tensor:
        """In occupied cells, of each ray `[R]`."""
        return self.crossing.counts()

    def counts(self) -> torch.Tensor:
        return self.points.clamp_max(1)

    def samples(self, counts: torch.Tensor, total: int, most: int) -> Places:
        ray = true_places(counts > 0, total)[:total]
        return Places(ray, self.renderer.places.of(self.crossing, self.points).index_select(0, ray))


class LightFieldRenderer(Renderer):
    """One light field, asked once a ray.

    grid: in whose occupied cells places lie; None: they are even from near to far by `curve`, one of
    `ray_warps.WARPS`. every: one of so many places in cells. ball: as of `fields.mip_nerf`, beyond which places are
    contracted; 0: none is. perturb: whether places are shifted at random in training.
    """

    kind = "light_field"
    field_kinds = ("light_field",)
    usual_queries = 0.5

    def __init__(
        self,
        field: nn.Module,
        setup: RaySetup,
        grid: OccupancyGrid | None = None,
        every: int = 2,
        curve: str = "linear",
        ball: float = 0.0,
        perturb: bool = True,
    ):
        super().__init__(setup, ROWS_RENDERING)
        self.field, self.curve, self.ball, self.perturb, self.every = field, curve, ball, perturb, every
        self.take_grid(grid)
        self.stretches_per_ray: float | None = None  # of the latest plan

    def take_grid(self, grid: OccupancyGrid | None) -> None:
        """Another grid, such as a teacher's: its own copy, for what a grid remembers of its use is its owner's."""
        self.grid = None if grid is None else OccupancyGrid.of_cells(grid.occupied, grid.aabb).to(grid.aabb.device)
        self.places = None if grid is None else PlacesInCells(self.grid, self.field.config.points, self.every)
        self.queries_per_ray = 1 if grid is None else None

    @property
    def fields(self) -> dict[str, nn.Module]:
        return {"network_fn": self.field}

    def occupied(self) -> OccupancyGrid | None:
        return self.grid

    def bytes_per_ray(self) -> int:
        steps = math.ceil(self.grid.diagonal / self.places.step) if self.grid else 0
        return (steps + self.field.config.points) * BYTES_PER_SAMPLE

    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        samples: Places | None = None,
        generator: torch.Generator | None = None,
        noise_std: float = 0.0,
    ) -> Rendering:
        """samples: of a plan; without one all places are found, those from near to far shifted in training."""
        with record_function("traversal"):
            places = samples or self._find(rays, generator)
        seen = rays if places.ray is None else rays.take(places.ray)
        rgb = self._colors(self._positions(seen, places.t), seen.viewdirs)
        depth = world_distance(places.t[:, 0], seen, self.setup)
        if places.ray is None:
            return Rendering(rgb, depth, torch.ones_like(depth), queries=len(rays))
        with record_function("compositing"):
            beside = torch.full((len(rays),), self.setup.far, device=depth.device)
            behind = rgb.new_zeros(3) if background is None else background.to(rgb)
            return Rendering(
                behind.expand(len(rays), 3).index_copy(0, places.ray, rgb),
                world_distance(beside, rays, self.setup).index_copy_(0, places.ray, depth),
                torch.zeros_like(beside).index_fill_(0, places.ray, 1.0),
                queries=len(seen),
            )

    def _find(self, rays: Rays, generator: torch.Generator | None) -> Places:
        if self.grid is None:
            return Places(None, self._even_places(rays, generator))
        plan = LightFieldPlan(self, rays, None, None)
        counts = plan.counts()
        return plan.samples(counts, int(counts.sum()), 1)

    def _even_places(self, rays: Rays, generator: torch.Generator | None) -> torch.Tensor:
        """`[R, K]`, both ends among them. Shifted, each lies anywhere between the middles to its neighbours."""
        count, device = self.field.config.points, rays.origins.device
        s = torch.linspace(0, 1, count, device=device).expand(len(rays), -1)
        if self.training and self.perturb and count > 1:
            shift = torch.rand(s.shape, device=device, generator=generator) - 0.5
            s = (s + shift / (count - 1)).clamp(0, 1)
        return Warp(self.setup.near, self.setup.far, self.curve).distances(s)

    def _positions(self, rays: Rays, t: torch.Tensor) -> torch.Tensor:
        """`[H, K, 3]`: from the grid's box to [-1, 1], contracted, or in world units."""
        at = torch.addcmul(rays.origins[:, None], t[..., None], rays.directions[:, None])
        if self.grid is not None:
            middle, half = self.grid.aabb.mean(0), 0.5 * (self.grid.aabb[1] - self.grid.aabb[0])
            return (at - middle) / half
        return contract((at / self.ball).view(-1, 3)).view(at.shape) if self.ball else at

    def _colors(self, positions: torch.Tensor, viewdirs: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.field(positions, viewdirs)
        chunks = list(iterate_chunks(len(positions), self.points_at_once)) or [slice(0, 0)]
        return torch.cat([self.field(positions[rows], viewdirs[rows]) for rows in chunks])

    # ---------------------------------------------------------------------------------- in training

    def cross(self, rays: Rays, jitter: torch.Tensor | None = None, at_most: int | None = None) -> Crossing:
        return self.places.cross(rays, self.setup.near, self.setup.far, jitter, at_most)

    def plan(self, rays: Rays, uniform: Callable[[], torch.Tensor] | None = None) -> LightFieldPlan | None:
        if self.grid is None:
            return None
        jitter = uniform() if uniform and self.perturb else None
        return LightFieldPlan.guessed(self, rays, jitter)

    def meets(self, rays: Rays) -> torch.Tensor:
        return super().meets(rays) if self.grid is None else self.cross(rays).counts() > 0

    # ------------------------------------------------------------------------------- in model files

    def describe(self) -> dict:
        if self.grid is None:
            return {"kind": self.kind, "ray_warp": self.curve, "ball": self.ball}
        return {"kind": self.kind, "every": self.every, **describe_grid(self.grid)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.grid is None else {"occupancy": self.grid.occupied}

    @staticmethod
    def check(described: dict) -> None:
        if "every" not in described:
            check_keys("sampler", described, {"kind", "ray_warp", "ball"})
            check_one_of("sampler", described, "ray_warp", tuple(WARPS))
            check_number("sampler", described, "ball", SMALLEST_SIDE if described["ball"] else 0, FAR_AWAY)
            return
        check_keys("sampler", described, {"kind", "every"} | KEYS)
        check_whole("sampler", described, "every", 1, MOST_APART)
        check_grid(described)

    @classmethod
    def from_description(
        cls, described: dict, fields: dict[str, nn.Module], setup: RaySetup, tensors: dict[str, torch.Tensor]
    ) -> "LightFieldRenderer":
        if "every" in described:
            grid = read_grid(described, tensors.pop("occupancy"))
            return cls(fields["network_fn"], setup, grid, described["every"])
        check_warp(described["ray_warp"], setup.near)
        return cls(fields["network_fn"], setup, None, curve=described["ray_warp"], ball=described["ball"])

    # ------------------------------------------------------------------------------------- by flags

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--ray_points", type=positive(int), default=16, help="places on a ray that the light field is told")
        add(
            "--ray_span",
            default="occupied",
            choices=["occupied", "near_far"],
            help="where they lie: in the first occupied cells of the ray, or evenly from near to far (R2L's)",
        )
        add("--ray_every", type=positive(int), default=2, help="cells between two places, of occupied ones")

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, scene, setup: RaySetup, device: torch.device, make_field: Callable
    ) -> "LightFieldRenderer":
        """In a grid of the scene's own, until it takes another. Raises BadInput for what no model file may ask for."""
        if args.field not in cls.field_kinds:
            raise BadInput(f"--sampler light_field: asks for whole rays; add --field light_field, not {args.field}")
        if args.random_bkgd:
            raise BadInput("--random_bkgd: a light field has one background, for it knows no opacity; leave it out")
        if len(args.scales) > 1:
            raise BadInput("--scales: a light field sees rays, whatever the size of their pixels; leave it out")
        for flag, most in (("ray_points", MOST_PLACES), ("ray_every", MOST_APART), ("grid_resolution", LARGEST_GRID)):
            if getattr(args, flag) > most:
                raise BadInput(f"--{flag} {getattr(args, flag)}: model files hold {most} at most; give less")
        field = make_field(scene.aabb)
        perturb = args.perturb > 0
        if args.ray_span == "occupied":
            grid = make_grid(scene, args.grid_resolution, device)
            return cls(field, setup, grid, args.ray_every, perturb=perturb).to(device)
        curve = args.ray_warp
        if curve == "auto":
            curve = "linear" if scene.ball is None else "reciprocal"
        if setup.ndc_near is not None:  # as R2L: in world space, up to the plane that NDC begins at
            setup = replace(setup, ndc_near=None, near=0.0, far=1.0)
        check_warp(curve, setup.near)
        return cls(field, setup, None, curve=curve, ball=scene.ball or 0.0, perturb=perturb).to(device)


def check_warp(curve: str, near: float) -> None:
    """Raises BadInput for a curve that is not defined at distance 0, where rays begin there."""
    if curve not in FROM_ZERO and not near > 0:
        raise BadInput(f"ray_warp {curve}: distances begin at 0 here; expected one of {', '.join(FROM_ZERO)}")
