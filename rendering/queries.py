"""A field asked for packed samples."""

import torch
import torch.nn as nn

from rendering.crossing import Longest, Samples
from rendering.points import Cones, FieldOutput, Points
from rendering.rays import PIXEL_RADIUS, Rays
from rendering.renderer import ask
from run_nerf_helpers import round_up

# Rows given to a network are padded to a multiple of this: CPU matrix kernels are prepared anew
# for every new number of rows, and packing makes that number different each time. A training step
# prepares forward and backward, and nearly always has the same number; a frame's rounds do not.
ROWS_TRAINING, ROWS_RENDERING = 2048, 512


def query(field: nn.Module, points: Points, block: int, raw_noise: torch.Tensor | None = None) -> FieldOutput:
    """A field at points, with rows padded to whole blocks and the padding taken off again."""
    count = len(points)
    extra = round_up(count, block) - count
    if not extra:
        return ask(field, points, raw_noise)
    raw_noise = None if raw_noise is None else nn.functional.pad(raw_noise, (0, extra))
    return ask(field, points.padded(extra), raw_noise).first(count)


def query_samples(
    field: nn.Module,
    rays: Rays,
    samples: Samples,
    raw_noise: torch.Tensor | None = None,
    parallel: bool = False,
) -> FieldOutput:
    """A field at packed samples of rays. parallel: as of `Cones`."""
    of_samples = rays.take(samples.ray)
    positions = of_samples.origins + samples.t[:, None] * of_samples.directions
    cones = cones_of_samples(of_samples, samples.t, samples.length, parallel)
    return query(field, Points(positions, of_samples.viewdirs, cones), ROWS_TRAINING, raw_noise)


def cones_of_samples(rays: Rays, t: torch.Tensor, length: torch.Tensor, parallel: bool) -> Cones | None:
    """What samples at `t`, of `length` in the units of the box, each on a ray of its own, stand for: half of the length
    to either side. None where rays have no cones."""
    if rays.radii is None:
        return None
    half = 0.5 * length / rays.directions.norm(dim=-1)
    return Cones(rays.origins, rays.directions, t - half, t + half, rays.radii, parallel)


def points_in_bins(rays: Rays, t: torch.Tensor, parallel: bool) -> Points:
    """The middles of bins between distances `t [R, S + 1]`, `R S` points, each with its part of the pixel's cone."""
    count, bins = len(t), t.shape[1] - 1
    each = rays.take(torch.arange(count, device=t.device).repeat_interleave(bins))
    positions = each.origins + (0.5 * (t[:, 1:] + t[:, :-1])).reshape(-1, 1) * each.directions
    if each.radii is None:
        return Points(positions, each.viewdirs)
    ends = t[:, :-1].reshape(-1), t[:, 1:].reshape(-1)
    return Points(positions, each.viewdirs, Cones(each.origins, each.directions, *ends, each.radii, parallel))


def widths_of_pixels(rays: Rays, times: float, parallel: bool) -> Longest:
    """How wide so many pixels of rays are at a place. parallel: as of `Cones`."""
    at_one = times / PIXEL_RADIUS * rays.radii

    def widths(ray: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        width = at_one.index_select(0, ray)
        return width if parallel else width * t

    return widths
