"""NeRF's own renderer: a coarse pass, and a fine one where that saw something."""

import argparse
from collections.abc import Callable

import torch
import torch.nn as nn

from rendering.compositing import finish, seen_of, weights_from_density
from rendering.points import Cones, Points
from rendering.rays import Rays, RaySetup
from rendering.renderer import BYTES_PER_SAMPLE, POINTS_AT_ONCE, Renderer, Rendering
from run_nerf_helpers import img2mse, sample_pdf
from utils.checks import check_keys, check_one_of, check_whole
from utils.errors import BadInput, BrokenFile
from utils.parser import positive, within

MOST_SAMPLES = 4096  # of a ray, of the coarse and of the fine field each


class HierarchicalRenderer(Renderer):
    """NeRF's stratified coarse pass and importance-sampled fine pass (sec. 5.2).

    n_samples: stratified points of the coarse pass. n_importance: points drawn from its weights;
    the fine field then sees both. With n_importance 0 there is no fine pass and `fine` is None.
    """

    kind = "hierarchical"
    field_names = ("network_fn", "network_fine")

    def __init__(
        self,
        coarse: nn.Module,
        fine: nn.Module | None,
        setup: RaySetup,
        n_samples: int,
        n_importance: int,
        lindisp: bool = False,
        perturb: bool = True,
        points_at_once: int = POINTS_AT_ONCE,
    ):
        super().__init__(setup, points_at_once)
        self.coarse, self.fine = coarse, fine
        self.n_samples, self.n_importance = n_samples, n_importance
        self.lindisp, self.perturb = lindisp, perturb
        self.queries_per_ray = 2 * n_samples + n_importance if n_importance else n_samples

    @property
    def fields(self) -> dict[str, nn.Module]:
        return {"network_fn": self.coarse} | ({} if self.fine is None else {"network_fine": self.fine})

    def bytes_per_ray(self) -> int:
        """All but the rows of one network call (`points_at_once`)."""
        return (self.n_samples + self.n_importance) * BYTES_PER_SAMPLE

    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        samples: None = None,
        generator: torch.Generator | None = None,
        noise_std: float = 0.0,
    ) -> Rendering:
        """Jitters and adds noise while in training mode only."""
        t = self._stratified(rays, generator)
        result, weights = self._shade(self.coarse, rays, t, background, generator, noise_std)
        if self.fine is None:
            return result
        middle = 0.5 * (t[:, 1:] + t[:, :-1])
        deterministic = not (self.training and self.perturb)
        extra = sample_pdf(middle, weights[:, 1:-1], self.n_importance, deterministic, generator)
        t = torch.sort(torch.cat([t, extra], -1), -1).values
        fine, _ = self._shade(self.fine, rays, t, background, generator, noise_std)
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
        self, field: nn.Module, rays: Rays, t: torch.Tensor, background, generator, noise_std: float
    ) -> tuple[Rendering, torch.Tensor]:
        num_rays, per_ray = t.shape
        positions = (rays.origins[:, None] + t[..., None] * rays.directions[:, None]).view(-1, 3)
        directions = rays.viewdirs[:, None].expand(num_rays, per_ray, 3).reshape(-1, 3)
        noise = None
        if self.training and noise_std > 0:
            noise = noise_std * torch.randn(len(positions), device=t.device, generator=generator)
        points = Points(positions, directions, self._cones(rays, t))
        answer = self.ask_all(field, points, noise)
        density, rgb = answer.density.view(num_rays, per_ray), answer.rgb.view(num_rays, per_ray, 3)
        # The last sample stands for all that lies behind it.
        gaps = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], -1)
        weights, leaving = weights_from_density(density, gaps * rays.directions.norm(dim=-1, keepdim=True))
        color = (weights[..., None] * rgb).sum(1)
        color, depth, opacity = finish(color, (weights.detach() * t).sum(1), leaving, rays, self.setup, background)
        extras = seen_of(answer.extras, weights)
        return Rendering(color, depth, opacity, queries=len(positions), extras=extras), weights

    def _cones(self, rays: Rays, t: torch.Tensor) -> Cones | None:
        """Each sample stands for what lies half way to its neighbours."""
        if rays.radii is None:
            return None
        middle = 0.5 * (t[:, 1:] + t[:, :-1])
        t_start, t_end = torch.cat([t[:, :1], middle], -1), torch.cat([middle, t[:, -1:]], -1)
        number = torch.arange(len(rays), device=t.device).repeat_interleave(t.shape[1])
        each = rays.take(number)
        return Cones(each.origins, each.directions, t_start.view(-1), t_end.view(-1), each.radii, self.parallel)

    def losses(self, batch, rendering: Rendering, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if rendering.coarse_rgb is None:
            return {}
        return {"coarse": img2mse(rendering.coarse_rgb, batch.target) * batch.share}

    # ------------------------------------------------------------------------------- in model files

    def describe(self) -> dict:
        return {
            "kind": self.kind,
            "n_samples": self.n_samples,
            "n_importance": self.n_importance,
            "lindisp": self.lindisp,
        }

    @staticmethod
    def check(described: dict) -> None:
        check_keys("sampler", described, {"kind", "n_samples", "n_importance", "lindisp"})
        check_whole("sampler", described, "n_importance", 0, MOST_SAMPLES)
        check_whole("sampler", described, "n_samples", least_samples(described["n_importance"]), MOST_SAMPLES)
        check_one_of("sampler", described, "lindisp", (True, False))

    @classmethod
    def from_description(
        cls, described: dict, fields: dict[str, nn.Module], setup: RaySetup, tensors: dict[str, torch.Tensor]
    ) -> "HierarchicalRenderer":
        if described["lindisp"] and not setup.near > 0:
            raise BrokenFile("sampler: lindisp, where distances begin at 0")
        counts = described["n_samples"], described["n_importance"]
        return cls(fields["network_fn"], fields.get("network_fine"), setup, *counts, described["lindisp"])

    # ------------------------------------------------------------------------------------- by flags

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--N_samples", type=positive(int), default=64, help="coarse samples per ray")
        add("--N_importance", type=within(int, 0), default=0, help="extra fine samples per ray, 0 for no fine network")
        add("--N_rand", type=positive(int), default=32 * 32 * 4, help="rays per training step")
        add("--lindisp", action="store_true", help="coarse samples linear in disparity, not depth")

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, scene, setup: RaySetup, device: torch.device, make_field: Callable
    ) -> "HierarchicalRenderer":
        """Raises BadInput for what no model file may ask for."""
        for flag in ("N_samples", "N_importance"):
            if getattr(args, flag) > MOST_SAMPLES:
                raise BadInput(f"--{flag} {getattr(args, flag)}: model files hold {MOST_SAMPLES} at most; give less")
        if args.N_samples < least_samples(args.N_importance):
            least = least_samples(args.N_importance)
            raise BadInput(f"--N_samples {args.N_samples}: give {least} or more, from which --N_importance are drawn")
        if args.lindisp and not setup.near > 0:
            raise BadInput("--lindisp: in NDC distances begin at 0; leave it out, or add --no_ndc")
        if args.filter_rays:
            raise BadInput("--filter_rays asks the occupancy grid; add --sampler occupancy")
        fine = make_field(scene.aabb, fine=True) if args.N_importance > 0 else None
        return cls(
            make_field(scene.aabb),
            fine,
            setup,
            args.N_samples,
            args.N_importance,
            args.lindisp,
            args.perturb > 0,
            args.netchunk,
        ).to(device)


def least_samples(n_importance: int) -> int:
    """Of a coarse pass: a fine one draws between the middles of its samples, of which the outer ones do not count."""
    return 3 if n_importance else 2
