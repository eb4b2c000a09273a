"""NeRF's own renderer: a coarse pass, and a fine one where that saw something."""

import torch
import torch.nn as nn

from rendering.compositing import _finish, weights_from_density
from rendering.rays import Rays, RaySetup
from rendering.renderer import BYTES_PER_SAMPLE, Renderer, Rendering, _ask
from run_nerf_helpers import iterate_chunks, sample_pdf


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
