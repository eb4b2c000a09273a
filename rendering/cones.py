"""Cones: the frustum of a pixel's cone as a Gaussian, contracted space, and encodings of both.

mip-NeRF (Barron et al. 2021) replaces a point of a ray by the frustum that its pixel sees there, and the frustum by a
Gaussian. Here that is never a 3x3 matrix: a frustum's Gaussian has one variance along its ray and one across it, an
encoding asks for variances along a few directions only, and both stay so under contraction.
"""

import math
from typing import NamedTuple

import torch

# Frusta nearer and shorter than the root of this, multiples of the direction, count as evenly filled, and directions
# shorter than the root of that as having no length: multinerf's, whose values these functions are held against.
LEAST_SCALE, LEAST_LENGTH = torch.finfo(torch.float32).eps, 1e-10


class Moments(NamedTuple):
    """Of frusta: mean distance t_mean, its variance t_var, in multiples of the direction (squared), and r_var, the
    variance along any axis across the ray, in world units squared."""

    t_mean: torch.Tensor
    t_var: torch.Tensor
    r_var: torch.Tensor


def frustum_moments(t_start: torch.Tensor, t_end: torch.Tensor, radii: torch.Tensor) -> Moments:
    """Of conical frusta between two distances (mip-NeRF, eq. 7, in the stable form of eq. 8 about their middle).

    radii: of each cone at t = 1; 2/sqrt(12) of a pixel's width there gives a disc the variance of the pixel.
    """
    middle, half = (t_start + t_end) / 2, (t_end - t_start) / 2
    m2, h2 = middle.square(), half.square()
    scale = (3 * m2 + h2).clamp_min(LEAST_SCALE)
    t_mean = middle + 2 * middle * h2 / scale
    # h^4 / scale^2 as a square of a ratio: the product of two small numbers would underflow first.
    ratio = h2 / scale
    t_var = h2 / 3 - (4 / 15) * ratio.square() * (12 * m2 - h2)
    r_var = radii.square() * (m2 / 4 + (5 / 12) * h2 - (4 / 15) * ratio * h2)
    return Moments(t_mean, t_var, r_var)


def cylinder_moments(t_start: torch.Tensor, t_end: torch.Tensor, radii: torch.Tensor) -> Moments:
    """Of cylinders, where rays are parallel."""
    half = (t_end - t_start) / 2
    return Moments((t_start + t_end) / 2, half.square() / 3, radii.square() / 4)


class Projected(NamedTuple):
    """Gaussians seen along the directions of a basis: mean and variance `[P, N]` of each."""

    mean: torch.Tensor
    variance: torch.Tensor


def project(
    origins: torch.Tensor, directions: torch.Tensor, moments: Moments, basis: torch.Tensor, contracted: bool = False
) -> Projected:
    """The Gaussians of frusta along the directions of `basis [N, 3]`, unit vectors.

    origins, directions: of each frustum's ray `[P, 3]`, directions of any length. contracted: after `contract`,
    linearised at the mean (mip-NeRF 360, eq. 9). With the contraction's Jacobian J, which is symmetric, the variance
    along b is t_var (b.Jd)^2 + r_var (|Jb|^2 - (b.Jd)^2 / |d|^2).
    """
    mean = origins + moments.t_mean[:, None] * directions
    along = directions @ basis.T  # b.d
    stretch = basis.square().sum(-1)  # |Jb|^2; of b alone, which is 1 but for rounding
    if contracted:
        mean, across, radial, unit = _contraction(mean)
        towards = unit @ basis.T  # b.u
        along = across * along + (radial - across) * towards * (unit * directions).sum(-1, keepdim=True)
        stretch = across.square() * stretch + (radial.square() - across.square()) * towards.square()
    length = directions.square().sum(-1, keepdim=True).clamp_min(LEAST_LENGTH)
    square = along.square()
    t_var, r_var = moments.t_var[:, None], moments.r_var[:, None]
    variance = t_var * square + r_var * (stretch - square / length).clamp_min(0)
    return Projected(mean @ basis.T, variance)


def project_bins(
    origins: torch.Tensor, directions: torch.Tensor, moments: Moments, basis: torch.Tensor, contracted: bool = False
) -> Projected:
    """`project` of all bins of rays, `[N, R, S]`: origins and directions of rays `[R, 3]`, moments of bins `[R, S]`.
    A place is o + t d, so that whatever is seen of it along a direction is known from a few numbers a ray."""
    t = moments.t_mean
    across_ray = (directions * origins).sum(-1, keepdim=True)  # o.d
    length = directions.square().sum(-1, keepdim=True).clamp_min(LEAST_LENGTH)
    along = (basis @ directions.T)[..., None]  # b.d
    mean = torch.addcmul((basis @ origins.T)[..., None], t, along)
    square = along.square()
    stretch = torch.ones_like(t)
    if contracted:
        radius = (origins.square().sum(-1, keepdim=True) + t * (2 * across_ray + t * length)).clamp_min(1).sqrt()
        inverse = 1 / radius  # 1 inside, where all below leaves things as they are
        across, radial = (2 - inverse) * inverse, inverse.square()
        towards = mean * inverse  # b.u
        along = across * along + towards * ((radial - across) * (across_ray + t * length) * inverse)
        square = along.square()
        stretch = torch.addcmul(across.square(), towards.square_(), radial.square() - across.square())
        mean = mean.mul_(across)
    variance = (stretch - square / length).clamp_min_(0).mul_(moments.r_var)
    return Projected(mean, torch.addcmul(variance, moments.t_var, square))


def contract(positions: torch.Tensor) -> torch.Tensor:
    """All of space into a ball of radius 2; the unit ball stays as it is (mip-NeRF 360, eq. 10). `[..., 3]`."""
    return _contraction(positions)[0]


def _contraction(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contracted positions; what the Jacobian multiplies vectors across x and along it by, `[..., 1]`; and x's unit
    vector, zero inside the unit ball, where the Jacobian is the identity."""
    square = x.square().sum(-1, keepdim=True)
    outside = square > 1
    radius = torch.where(outside, square, 1).sqrt()
    across = torch.where(outside, (2 - 1 / radius) / radius, 1)
    radial = torch.where(outside, 1 / radius.square(), 1)
    return across * x, across, radial, torch.where(outside, x / radius, 0)


def uncontract(contracted: torch.Tensor) -> torch.Tensor:
    """The inverse of `contract`, of points inside the ball of radius 2."""
    radius = contracted.norm(dim=-1, keepdim=True)
    outside = radius > 1
    safe = torch.where(outside, radius, 1.0)
    return torch.where(outside, contracted / (safe * (2 - safe)), contracted)


# -------------------------------------------------------------------------------------- encodings


def integrated_encoding(mean: torch.Tensor, variance: torch.Tensor, octaves: int) -> torch.Tensor:
    """The expected sine and cosine of `2^k x` for k < octaves, x normal with this mean and variance `[..., N]`.

    E sin x = sin(mean) exp(-variance / 2) (mip-NeRF, eq. 14). What a frustum is too large to see fades out. Returns
    `[..., 2 N octaves]`, laid out as `Embedder` has it, without the input: for each octave the sines, then cosines.
    """
    frequency = 2.0 ** torch.arange(octaves, dtype=mean.dtype, device=mean.device)[:, None]
    angles = mean[..., None, :] * frequency
    fading = torch.exp(-0.5 * variance[..., None, :] * frequency.square())
    waves = torch.stack([angles.sin() * fading, angles.cos() * fading], dim=-2)
    return waves.flatten(-3)


GOLDEN = (1 + math.sqrt(5)) / 2
# Solids by three of their corners, of which all others are signs and rotations of the coordinates.
OCTAHEDRON, ICOSAHEDRON = (0.0, 0.0, 1.0), (0.0, 1.0, GOLDEN)
# What directions there may be: a solid's corners, or these and the middles of its edges.
DIRECTIONS = {3: (OCTAHEDRON, False), 6: (ICOSAHEDRON, False), 9: (OCTAHEDRON, True), 21: (ICOSAHEDRON, True)}


def axes(count: int) -> torch.Tensor:
    """The directions of an encoding, unit rows `[count, 3]`, one of each opposite pair: of DIRECTIONS. 3 are the
    coordinate axes, 21 an icosahedron tessellated twice (mip-NeRF 360, sec. 2 of its supplement). Model files rely on
    their order."""
    if count not in DIRECTIONS:
        raise ValueError(f"{count} directions: expected one of {tuple(DIRECTIONS)}")
    if count == 3:
        return torch.eye(3, dtype=torch.float64)
    corner, with_edges = DIRECTIONS[count]
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    corners = signs * torch.tensor(corner, dtype=torch.float64)
    points = _apart(torch.cat([corners, corners.roll(1, 1), corners.roll(2, 1)]))
    if with_edges:
        apart = torch.cdist(points, points)
        edge = apart[apart > 1e-6].min()
        first, second = torch.nonzero((apart - edge).abs().lt(1e-6).triu(), as_tuple=True)
        points = torch.cat([points, (points[first] + points[second]) / 2])
    return _apart(torch.nn.functional.normalize(points, dim=-1), opposite_too=True)


def _apart(points: torch.Tensor, opposite_too: bool = False) -> torch.Tensor:
    """The first of all that are equal, or as wished opposite."""
    kept: list[torch.Tensor] = []
    for point in points:
        others = [other for other in kept] + ([-other for other in kept] if opposite_too else [])
        if not any(torch.allclose(point, other, atol=1e-9) for other in others):
            kept.append(point)
    return torch.stack(kept)
