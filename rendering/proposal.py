"""Proposals: small networks that find out where along a ray the large one is worth asking.

mip-NeRF 360 (Barron et al. 2022, sec. 3): a proposal network sees the whole ray in a few bins; the next, and in the
end the field itself, sees bins drawn from what it found. Proposals learn from the field alone, by bounding its weights
from above; no colour ever reaches them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn as nn

from rendering.carving import make_grid
from rendering.compositing import finish, seen_of, weights_from_density
from rendering.grid_description import KEYS, check_grid, describe_grid, read_grid
from rendering.occupancy import LARGEST_GRID, OccupancyGrid
from rendering.points import FieldOutput
from rendering.queries import points_in_bins
from rendering.ray_warps import FROM_ZERO, WARPS, Warp
from rendering.rays import Rays, RaySetup
from rendering.renderer import BYTES_PER_SAMPLE, POINTS_AT_ONCE, Renderer, Rendering
from rendering.step_functions import distortion_loss, interlevel_loss, next_bins
from utils.checks import check_keys, check_one_of, check_whole, short
from utils.errors import BadInput, BrokenFile
from utils.parser import positive, within

MOST_BINS = 4096  # of a ray, of each network
MOST_PROPOSALS = 2
BYTES_PER_PLACE = 60  # of a ray where the hull is looked up
# mip-NeRF 360's: what bins are widened by before they are drawn from, and what share of a level's average bin beyond.
DILATION, DILATION_SHARE = 0.0025, 0.5


@dataclass(frozen=True)
class ProposalTraining:
    """distortion, interlevel: weights of these losses. steps: after which weights are trusted in full, annealed from
    none at all (0: at once). perturb: whether the bins of a ray are shifted at random."""

    distortion: float = 0.01
    interlevel: float = 1.0
    steps: int = 0
    perturb: bool = True


class ProposalRenderer(Renderer):
    """One or two small networks, then the field, each in the bins that the one before found worth it.

    bins: of each proposal, and of the field. curve: of WARPS, by which bins are even. opaque: nothing is seen
    behind the last bin. hull: a grid that holds all there is; rays are binned between its first and last occupied
    cell. None: between near and far. dilates: whether what a proposal saw is widened before bins are drawn from it.
    """

    kind = "proposal"
    field_names = ("network_fn", *(f"proposal_{i}" for i in range(MOST_PROPOSALS)))

    def __init__(
        self,
        field: nn.Module,
        proposals: list[nn.Module],
        setup: RaySetup,
        bins: tuple[int, ...],
        curve: str = "linear",
        opaque: bool = False,
        hull: OccupancyGrid | None = None,
        dilates: bool = True,
        training: ProposalTraining = ProposalTraining(),  # noqa: B008 (frozen)
        points_at_once: int = POINTS_AT_ONCE,
    ):
        super().__init__(setup, points_at_once)
        self.field, self.proposals = field, nn.ModuleList(proposals)
        self.bins, self.curve, self.opaque = bins, curve, opaque
        self.hull, self.dilates = hull, dilates
        self.proposal_training = training
        self.queries_per_ray = sum(bins)
        self.done = 0 if training.steps else 1  # of the annealing, as a share

    @property
    def fields(self) -> dict[str, nn.Module]:
        return {"network_fn": self.field, **{f"proposal_{i}": field for i, field in enumerate(self.proposals)}}

    def bytes_per_ray(self) -> int:
        """Bins, of which those of two networks are there at once, and what the hull is looked up at."""
        return sum(self.bins) * 2 * BYTES_PER_SAMPLE + (self.hull.resolution * BYTES_PER_PLACE if self.hull else 0)

    def warp(self, rays: Rays) -> tuple[Warp, torch.Tensor | None]:
        """What s means on each ray, and which rays `[R]` meet the hull, where there is one."""
        near, far, hit = self.setup.near, self.setup.far, None
        if self.hull is not None:
            near, far, hit = self.hull.span(rays.origins, rays.directions, near, far)
            near, far = near[:, None], far[:, None]
        return Warp(near, far, self.curve), hit

    def meets(self, rays: Rays) -> torch.Tensor:
        _, hit = self.warp(rays)
        return super().meets(rays) if hit is None else hit

    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        samples: None = None,
        generator: torch.Generator | None = None,
        noise_std: float = 0.0,
    ) -> Rendering:
        """One random number shifts all bins of a ray, while training. Of a picture, rays beside the hull are not
        asked about."""
        warp, hit = self.warp(rays)
        if self.training:
            return self._render(rays, warp, hit, background, generator, noise_std)
        if hit is None:
            return replace(self._render(rays, warp, None, background, generator, 0.0), levels=None)
        met = hit.nonzero()[:, 0]
        warp = Warp(warp.near[met], warp.far[met], warp.curve)
        part = self._render(rays.take(met), warp, None, None, generator, 0.0)
        return self._among(rays, met, part, background)

    def levels(self, rays: Rays) -> list[tuple[torch.Tensor, torch.Tensor]]:
        warp, hit = self.warp(rays)
        rendering = self._render(rays, warp, hit, None, None, 0.0)
        return [(warp.distances(s), w) for s, w in rendering.levels]

    def _among(self, rays: Rays, met: torch.Tensor, part: Rendering, background: torch.Tensor | None) -> Rendering:
        """What rays see, of which only those at `met` see anything."""

        def spread(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(len(rays), *values.shape[1:]).index_copy_(0, met, values)

        opacity = spread(part.opacity)
        # Where nothing is met, depth is that of the far bound.
        color, depth, _ = finish(spread(part.rgb), 0 * opacity, 1 - opacity, rays, self.setup, background)
        extras = {name: spread(seen) for name, seen in part.extras.items()}
        return Rendering(color, depth.index_copy(0, met, part.depth), opacity, queries=part.queries, extras=extras)

    def _render(
        self,
        rays: Rays,
        warp: Warp,
        hit: torch.Tensor | None,
        background: torch.Tensor | None,
        generator: torch.Generator | None,
        noise_std: float,
    ) -> Rendering:
        """hit: which rays may see anything; None: all."""
        count, device = len(rays), rays.origins.device
        s = torch.linspace(0.0, 1.0, 2, device=device).expand(count, 2)
        w = torch.ones(count, 1, device=device)
        levels, bins_before = [], 1
        for level, (field, bins) in enumerate(zip([*self.proposals, self.field], self.bins, strict=True)):
            jitter = None
            if self.training and self.proposal_training.perturb:
                jitter = torch.rand(count, 1, device=device, generator=generator)
            reach = DILATION + DILATION_SHARE / bins_before if level and self.dilates else 0.0
            s = next_bins(s.detach(), w.detach(), bins, reach, self.done, jitter)
            bins_before *= bins
            last = level == len(self.bins) - 1
            t = warp.distances(s)
            answer = self._answer(field, rays, t, generator, noise_std if last else 0.0)
            length = (t[:, 1:] - t[:, :-1]) * rays.directions.norm(dim=-1, keepdim=True)
            if self.opaque:
                length = torch.cat([length[:, :-1], torch.full_like(length[:, :1], 1e10)], -1)
            density = answer.density.view(count, bins)
            w, leaving = weights_from_density(density if hit is None else density * hit[:, None], length)
            levels.append((s, w))
        middle = 0.5 * (t[:, 1:] + t[:, :-1])
        color, t_sum = (w[..., None] * answer.rgb.view(*w.shape, 3)).sum(1), (w.detach() * middle).sum(1)
        color, depth, opacity = finish(color, t_sum, leaving, rays, self.setup, background)
        queries = count * sum(self.bins)
        extras = seen_of(answer.extras, w)
        return Rendering(color, depth, opacity, queries=queries, levels=levels, extras=extras)

    def _answer(
        self, field: nn.Module, rays: Rays, t: torch.Tensor, generator: torch.Generator | None, noise_std: float
    ) -> FieldOutput:
        """What a network says in the bins between distances."""
        if not self.training and hasattr(field, "in_bins"):
            return field.in_bins(rays, t, self.parallel)
        points = points_in_bins(rays, t, self.parallel)
        noise = None
        if self.training and noise_std > 0:
            noise = noise_std * torch.randn(len(points), device=t.device, generator=generator)
        return self.ask_all(field, points, noise)

    # ---------------------------------------------------------------------------------- in training

    def losses(self, batch, rendering: Rendering, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Proposals are to bound the field's weights (eq. 13), and the field's to lie close together (eq. 15)."""
        *proposed, (s, w) = rendering.levels
        outer = sum(interlevel_loss(s.detach(), w.detach(), *level).mean() for level in proposed)
        losses = {"interlevel": self.proposal_training.interlevel * batch.share * outer}
        if self.proposal_training.distortion:
            spread = distortion_loss(s, w).mean()
            losses["distortion"] = self.proposal_training.distortion * batch.share * spread
        return losses

    def after_step(self, step: int, generator: torch.Generator) -> bool:
        steps = self.proposal_training.steps
        self.done = min(1.0, step / steps) if steps else 1
        return super().after_step(step, generator)

    def extra_state(self) -> dict:
        return {"annealed": self.done}

    def load_extra_state(self, state: dict, what: str) -> None:
        done = state.get("annealed", 1)
        if not isinstance(done, int | float) or not 0 <= done <= 1:
            raise BrokenFile(f"{what}: its proposals are annealed by {done!r:.40}, expected a share of 1")
        self.done = done

    def occupied(self) -> OccupancyGrid | None:
        return self.hull

    # ------------------------------------------------------------------------------- in model files

    def describe(self) -> dict:
        return {
            "kind": self.kind,
            "bins": list(self.bins),
            "ray_warp": self.curve,
            "opaque": self.opaque,
            **({} if self.dilates else {"dilates": False}),
            **({} if self.hull is None else {"hull": describe_grid(self.hull)}),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.hull is None else {"occupancy": self.hull.occupied}

    @staticmethod
    def check(described: dict) -> None:
        optional = {"hull", "dilates"} & set(described)
        check_keys("sampler", described, {"kind", "bins", "ray_warp", "opaque"} | optional)
        bins = described["bins"]
        if not isinstance(bins, list) or not 2 <= len(bins) <= 1 + MOST_PROPOSALS:
            raise BrokenFile(f"sampler: bins is {short(bins)}, expected those of 2 or 3 networks")
        for number in bins:
            check_whole("sampler", {"bins": number}, "bins", 2, MOST_BINS)
        check_one_of("sampler", described, "ray_warp", tuple(WARPS))
        check_one_of("sampler", described, "opaque", (True, False))
        check_one_of("sampler", {"dilates": described.get("dilates", True)}, "dilates", (True, False))
        if "hull" in described:
            check_keys("sampler hull", described["hull"], KEYS)
            check_grid(described["hull"])

    @classmethod
    def from_description(
        cls, described: dict, fields: dict[str, nn.Module], setup: RaySetup, tensors: dict[str, torch.Tensor]
    ) -> "ProposalRenderer":
        if described["ray_warp"] not in FROM_ZERO and not setup.near > 0:
            raise BrokenFile(f"sampler: {described['ray_warp']}, where distances begin at 0")
        proposals = [fields[f"proposal_{i}"] for i in range(len(described["bins"]) - 1)]
        hull = read_grid(described["hull"], tensors.pop("occupancy")) if "hull" in described else None
        how = described["ray_warp"], described["opaque"], hull, described.get("dilates", True)
        return cls(fields["network_fn"], proposals, setup, tuple(described["bins"]), *how)

    # ------------------------------------------------------------------------------------- by flags

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        bins = "bins per ray of each proposal network, one or two"
        add("--proposal_bins", type=positive(int), nargs="+", default=[64], help=bins)
        add("--final_bins", type=positive(int), default=32, help="bins per ray of the field")
        add("--proposal_width", type=within(int, 2, 8192), default=64, help="channels of a proposal's two layers")
        add(
            "--ray_warp",
            default="auto",
            choices=["auto", *WARPS],
            help="by what bins are even: depth, disparity, its logarithm, or depth up to 1 and disparity beyond; auto: "
            "disparity where space is contracted, else depth",
        )
        add(
            "--no_hull",
            action="store_true",
            help="bins from near to far, and not between what alpha leaves of the scene",
        )
        add("--no_dilation", action="store_true", help="draw bins from what a proposal saw without widening it first")
        add(
            "--opaque",
            action="store_true",
            help="nothing shines through what is farthest (always so where space is contracted)",
        )
        add(
            "--distortion_weight",
            type=within(float, 0),
            default=0.01,
            help="of the loss that draws weights together; 0: none",
        )
        add(
            "--anneal_share",
            type=within(float, 0, 1),
            default=0.1,
            help="share of the steps over which what proposals find comes to be trusted, 0 to 1; 0: at once",
        )

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, scene, setup: RaySetup, device: torch.device, make_field: Callable
    ) -> "ProposalRenderer":
        """Raises BadInput for what no model file may ask for."""
        bins = (*args.proposal_bins, args.final_bins)
        if len(bins) > 1 + MOST_PROPOSALS or not all(2 <= number <= MOST_BINS for number in bins):
            raise BadInput(f"--proposal_bins, --final_bins {bins}: give one or two proposals, of 2 to {MOST_BINS} bins")
        curve = args.ray_warp
        if curve == "auto":
            curve = "linear" if scene.ball is None else "reciprocal"
        if curve not in FROM_ZERO and not setup.near > 0:
            raise BadInput(f"--ray_warp {curve}: in NDC distances begin at 0; leave it out, or add --no_ndc")
        if args.grid_resolution > LARGEST_GRID:
            raise BadInput(f"--grid_resolution {args.grid_resolution}: give {LARGEST_GRID} at most")
        hull = None
        if scene.has_alpha and scene.ball is None and not (args.no_hull or args.opaque):
            hull = make_grid(scene, args.grid_resolution, device)
        if args.filter_rays and hull is None:
            raise BadInput("--filter_rays: without alpha all rays may meet something; add --sampler occupancy")
        proposals = [make_field(scene.aabb, small=args.proposal_width) for _ in args.proposal_bins]
        training = ProposalTraining(
            distortion=args.distortion_weight,
            steps=round(args.anneal_share * args.N_iters),
            perturb=args.perturb > 0,
        )
        how = curve, args.opaque or scene.ball is not None, hull, not args.no_dilation
        field = make_field(scene.aabb)
        return cls(field, proposals, setup, bins, *how, training, args.netchunk).to(device)
