"""From densities along rays to colour, depth and opacity."""

import torch
import torch.nn as nn

from rendering.crossing import Samples
from rendering.rays import Rays, RaySetup, world_distance


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


def sum_per_ray(values: torch.Tensor, ray: torch.Tensor, num_rays: int) -> torch.Tensor:
    """Sums `[R, ...]` of what belongs to samples `[P, ...]`, whose ray is `ray [P]`."""
    return values.new_zeros(num_rays, *values.shape[1:]).index_add(0, ray, values)


def seen_of(extras: dict[str, torch.Tensor] | None, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """What rays see of their samples' extras `[R S, C]`, `[R, C]`, by weights `[R, S]`."""
    return {
        name: (weights[..., None] * part.view(*weights.shape, part.shape[-1])).sum(1)
        for name, part in (extras or {}).items()
    }


def finish(
    color: torch.Tensor, t_sum: torch.Tensor, leaving: torch.Tensor, rays: Rays, setup: RaySetup, background
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Adds the background and turns a weighted sum of t into world distance."""
    opacity = 1 - leaving
    if background is not None:
        color = color + leaving[:, None] * background
    mean_t = torch.where(opacity > 1e-3, t_sum / opacity.clamp_min(1e-3), torch.full_like(opacity, setup.far))
    return color, world_distance(mean_t, rays, setup), opacity
