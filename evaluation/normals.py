"""Normals of what a picture shows, in colours, and how far they are from exact ones."""

import math

import torch
import torch.nn.functional as F

from rendering.renderer import Rendering
from run_nerf_helpers import get_rays

SEEN = 0.5  # opacity from which a pixel shows a surface


def normals_of(picture: Rendering, camera, pixel_offset: float = 0.5) -> torch.Tensor:
    """Unit normals `[H, W, 3]` in world space, zero where nothing is seen.

    Those that the field says of itself, where it does; else those of the surface that depths make: across each pixel,
    from its neighbour on that side whose depth is closer, so that an edge does not become a slope.
    """
    said = picture.extras.get("normals")
    seen = (picture.opacity > SEEN)[..., None]
    if said is not None:
        return F.normalize(said, dim=-1) * seen
    if min(picture.depth.shape) < 2:  # a row of pixels has no neighbours to either side
        return torch.zeros_like(picture.rgb)
    origins, directions = get_rays(camera.height, camera.width, camera.K[0], camera.c2w[0], pixel_offset)
    ahead = F.normalize(directions, dim=-1)
    places = origins + picture.depth[..., None] * ahead
    normals = torch.linalg.cross(_slope(places, picture.depth, 0), _slope(places, picture.depth, 1), dim=-1)
    normals = F.normalize(normals, dim=-1)
    return torch.where((normals * ahead).sum(-1, keepdim=True) > 0, -normals, normals) * seen


def _slope(places: torch.Tensor, depth: torch.Tensor, axis: int) -> torch.Tensor:
    """From pixel to pixel along an axis `[H, W, 3]`: the step to whichever neighbour is less deep or high away."""
    steps, jumps = places.diff(dim=axis), depth.diff(dim=axis).abs()
    before = torch.cat([steps.narrow(axis, 0, 1), steps], axis)
    after = torch.cat([steps, steps.narrow(axis, -1, 1)], axis)
    far = jumps.new_full(jumps.narrow(axis, 0, 1).shape, math.inf)
    closer = torch.cat([far, jumps], axis) < torch.cat([jumps, far], axis)
    return torch.where(closer[..., None], before, after)


def colorize_normals(normals: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """uint8 `[..., H, W, 3]`: x, y and z from -1 to 1 as red, green and blue; what is transparent fades to white."""
    covered = (opacity.clamp(0, 1) * normals.any(-1))[..., None]
    return (255 * ((0.5 * normals + 0.5) * covered + 1 - covered)).round().to(torch.uint8)


def mean_angle(normals: torch.Tensor, exact: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """Degrees between normals `[..., 3]` where both are known, weighted by `[...]`; NaN where they nowhere are."""
    weights = (normals.any(-1) & exact.any(-1)) * (1.0 if weights is None else weights.double())
    # Of the half chord: an arc cosine loses small angles.
    chord = F.normalize(normals.double(), dim=-1) - F.normalize(exact.double(), dim=-1)
    angle = torch.rad2deg(2 * (0.5 * chord.norm(dim=-1)).clamp_max(1).asin())
    return float((weights * angle).sum() / weights.sum())
