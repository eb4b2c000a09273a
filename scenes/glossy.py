"""Glossy spheres, mirrors among them, in a smooth surrounding: what a colour by view direction cannot learn well.

Points and directions are `[3, P]`, world units, as in `load_procedural`, whose other scene this is. Everything has a
closed form: where a ray hits, the normal there, and what a surface of any roughness reflects. The surrounding is
infinitely far, so spheres neither shade nor mirror one another.
"""

import math

import torch

AABB = ((-1.15, -1.15, -0.75), (1.15, 1.15, 0.80))

# x, y, z, radius; linear diffuse colour; reflectance at normal incidence by channel; roughness, the reciprocal of the
# concentration of what is reflected.
SPHERES = (
    ((0.00, 0.00, 0.10, 0.58), (0.02, 0.02, 0.02), (0.92, 0.90, 0.86), 0.01),
    ((0.82, 0.10, -0.35, 0.30), (0.05, 0.02, 0.00), (0.95, 0.62, 0.25), 0.03),
    ((0.15, -0.86, -0.38, 0.27), (0.25, 0.02, 0.03), (0.30, 0.22, 0.22), 0.02),
    ((-0.72, -0.48, -0.32, 0.33), (0.02, 0.10, 0.25), (0.35, 0.40, 0.45), 0.10),
    ((-0.55, 0.66, -0.36, 0.28), (0.05, 0.22, 0.08), (0.25, 0.30, 0.25), 0.03),
    ((0.38, 0.80, -0.42, 0.23), (0.45, 0.40, 0.30), (0.10, 0.10, 0.10), 0.30),
)
# Lights of the surrounding: towards where, linear colour in the middle, concentration; then its ground and its zenith.
LIGHTS = (
    ((0.60, -0.50, 0.65), (1.10, 0.95, 0.70), 40.0),
    ((-0.75, -0.20, 0.45), (0.15, 0.35, 0.85), 18.0),
    ((-0.10, 0.90, 0.35), (0.85, 0.25, 0.15), 30.0),
    ((0.20, 0.30, 0.95), (0.55, 0.60, 0.60), 60.0),
    ((0.85, 0.45, 0.05), (0.15, 0.55, 0.25), 50.0),
    ((-0.40, -0.85, 0.05), (0.55, 0.15, 0.50), 50.0),
    ((-0.85, 0.55, 0.10), (0.50, 0.45, 0.10), 60.0),
    ((0.35, -0.90, 0.30), (0.10, 0.40, 0.45), 25.0),
    ((0.55, -0.15, -0.80), (0.20, 0.12, 0.06), 6.0),
)
GROUND, ZENITH = (0.06, 0.05, 0.05), (0.22, 0.26, 0.32)
# A cosine over a hemisphere is nearly a lobe of this concentration.
COSINE = 2.133


def trace(origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Distance `[R]` to the first sphere along rays `[3, R]` with unit directions; inf where none."""
    nearest = torch.full_like(origins[0], math.inf)
    for (x, y, z, radius), *_ in SPHERES:
        to_center = torch.tensor([x, y, z])[:, None] - origins
        along = (to_center * directions).sum(0)
        # The square of the miss from the rejection itself: differences of squares would lose digits.
        half = radius * radius - (to_center - along * directions).square().sum(0)
        distance = along - half.clamp_min(0).sqrt()
        nearest = torch.where((half > 0) & (distance > 0), torch.minimum(nearest, distance), nearest)
    return nearest


def normals(points: torch.Tensor) -> torch.Tensor:
    """Outward unit normals `[3, P]` of points on spheres."""
    from_center, _ = _own_sphere(points)
    return from_center / from_center.square().sum(0).sqrt()


def shade(points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """sRGB `[3, P]` in [0, 1] of surface points seen along unit `directions`: diffuse, and reflected by Schlick's
    Fresnel term."""
    _, which = _own_sphere(points)
    normal = normals(points)
    diffuse, reflectance = (torch.tensor([sphere[i] for sphere in SPHERES]).T[:, which] for i in (1, 2))
    roughness = torch.tensor([roughness for *_, roughness in SPHERES])[which]
    cosine = -(normal * directions).sum(0)
    mirrored = directions + 2 * cosine * normal
    fresnel = reflectance + (1 - reflectance) * (1 - cosine.clamp(0, 1)) ** 5
    light = diffuse * surrounding(normal, torch.full_like(cosine, COSINE))
    light = light + fresnel * surrounding(mirrored, 1 / roughness)
    return light.clamp(0, 1) ** (1 / 2.2)


def surrounding(directions: torch.Tensor, concentration: torch.Tensor) -> torch.Tensor:
    """Linear colour `[3, P]` that arrives from around unit directions, spread with a concentration `[P]` each.

    Of lobes exp(l (cos - 1)) spread by a lobe of concentration k the result is nearly one of l k / (l + k), of the same
    total; of a gradient it is the gradient times the mean cosine of the spread, coth(k) - 1 / k.
    """
    ground, zenith = torch.tensor(GROUND)[:, None], torch.tensor(ZENITH)[:, None]
    mean_cosine = 1 / torch.tanh(concentration) - 1 / concentration
    light = torch.lerp(ground, zenith, 0.5 + 0.5 * mean_cosine * directions[2])
    for towards, color, sharpness in LIGHTS:
        axis = torch.tensor(towards)[:, None]
        cosine = (axis / axis.norm() * directions).sum(0)
        wider = sharpness * concentration / (sharpness + concentration)
        share = wider / sharpness * math.expm1(-2 * sharpness) / torch.expm1(-2 * wider)
        light = light + torch.tensor(color)[:, None] * share * torch.exp(wider * (cosine - 1))
    return light


def _own_sphere(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From the centre of the sphere whose surface is nearest `[3, P]`, and its number `[P]`."""
    centers = torch.tensor([place[:3] for place, *_ in SPHERES])
    radii = torch.tensor([place[3] for place, *_ in SPHERES])
    apart = [
        (points - center[:, None]).square().sum(0).sqrt() - radius
        for center, radius in zip(centers, radii, strict=True)
    ]
    which = torch.stack(apart).abs().argmin(0)
    return points - centers.T[:, which], which
