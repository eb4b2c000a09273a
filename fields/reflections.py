"""Reflected directions and their integrated encoding, and linear colour (Ref-NeRF, Verbin et al. 2022, sec. 3).

Vectors are `[..., 3]`. A view direction v points away from the surface, towards the camera.
"""

import math

import torch

LEAST_SQUARE = torch.finfo(torch.float32).eps  # of a vector's length, whatever the precision


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Scaled to length 1; of vectors near zero shorter, so that the gradient is finite there too."""
    return vectors / vectors.square().sum(-1, keepdim=True).clamp_min(LEAST_SQUARE).sqrt()


def reflect(v: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """v mirrored at the normals (eq. 4)."""
    return 2 * (normals * v).sum(-1, keepdim=True) * normals - v


def turned_away(normals: torch.Tensor, towards_camera: torch.Tensor) -> torch.Tensor:
    """How much a visible normal faces away from the camera, `[..., 1]` (eq. 11)."""
    return (normals * towards_camera).sum(-1, keepdim=True).clamp_max(0).square()


def disagreement(normals: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """1 minus the cosine between unit vectors, `[..., 1]`, half the square of their difference (eq. 10)."""
    return 1 - (normals * others).sum(-1, keepdim=True)


def degrees_of(levels: int) -> list[int]:
    """Degrees l of the harmonics of an encoding: 1, 2, 4, ..."""
    return [2**level for level in range(levels)]


def encoding_width(levels: int) -> int:
    """Columns of `directional_encoding`."""
    return 2 * sum(degree + 1 for degree in degrees_of(levels))


def directional_encoding(directions: torch.Tensor, roughness: torch.Tensor, levels: int) -> torch.Tensor:
    """The expected spherical harmonics of directions spread about unit `[..., 3]` (eqs 6 to 8): each harmonic of degree
    l times exp(-l (l + 1) / 2 roughness). roughness: `[..., 1]`, the reciprocal of a von Mises-Fisher concentration.

    Returns for l = 1, 2, 4, ... and m = 0, ..., l the real parts, then likewise the imaginary parts. Legendre functions
    come from the recurrence of the normalised ones, which loses nothing; powers of z cancel each other at degree 16.
    """
    x, y, z = directions.unbind(-1)
    degrees = degrees_of(levels)
    largest = degrees[-1]
    real, imaginary = [torch.ones_like(x)], [torch.zeros_like(x)]  # of (x + iy)^m
    for _ in range(largest):
        real.append(real[-1] * x - imaginary[-1] * y)
        imaginary.append(real[-2] * y + imaginary[-1] * x)
    real, imaginary, z = torch.stack(real, -1), torch.stack(imaginary, -1), z[..., None]
    legendre, wanted = {0: torch.full_like(z, math.sqrt(1 / (4 * math.pi)))}, []
    for degree in range(1, largest + 1):
        legendre[degree] = _next_legendre(degree, z, legendre)
        if degree in degrees:
            fading = torch.exp(-0.5 * degree * (degree + 1) * roughness)
            wanted.append(legendre[degree] * fading)
    parts = [part[..., : of.shape[-1]] * of for part in (real, imaginary) for of in wanted]
    return torch.cat(parts, -1)


def _next_legendre(degree: int, z: torch.Tensor, before: dict[int, torch.Tensor]) -> torch.Tensor:
    """Normalised associated Legendre functions of one degree, m = 0, ..., degree, divided by sin^m: `[..., degree + 1]`
    from those of the two degrees before."""
    m = torch.arange(degree - 1, dtype=z.dtype, device=z.device)
    first = ((4 * degree**2 - 1) / (degree**2 - m**2)).sqrt()
    second = (((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1)).sqrt()
    top = before[degree - 1][..., -1:]  # of m = degree - 1, the highest
    parts = [math.sqrt(2 * degree + 1) * z * top, -math.sqrt((2 * degree + 1) / (2 * degree)) * top]
    if degree > 1:
        parts.insert(0, first * (z * before[degree - 1][..., :-1] - second * before[degree - 2]))
    return torch.cat(parts, -1)


def linear_to_srgb(linear: torch.Tensor) -> torch.Tensor:
    """IEC 61966-2-1."""
    curve = (211 * linear.clamp_min(LEAST_SQUARE) ** (5 / 12) - 11) / 200
    return torch.where(linear <= 0.0031308, 323 / 25 * linear, curve)


def srgb_to_linear(srgb: torch.Tensor) -> torch.Tensor:
    """The inverse of `linear_to_srgb`."""
    curve = ((200 * srgb.clamp_min(LEAST_SQUARE) + 11) / 211) ** (12 / 5)
    return torch.where(srgb <= 0.04045, 25 / 323 * srgb, curve)
