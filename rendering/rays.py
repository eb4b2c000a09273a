"""Rays, and how pixels become them."""

import argparse
from dataclasses import dataclass

import torch

from run_nerf_helpers import ndc_rays


@dataclass
class Rays:
    """origins, directions `[R, 3]` (a direction's length is kept, `t` counts multiples of it),
    viewdirs `[R, 3]` unit vectors in world space. radii: of their pixels' cones at t = 1 `[R]`, where someone asks."""

    origins: torch.Tensor
    directions: torch.Tensor
    viewdirs: torch.Tensor
    radii: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: slice) -> "Rays":
        radii = None if self.radii is None else self.radii[index]
        return Rays(self.origins[index], self.directions[index], self.viewdirs[index], radii)

    def take(self, index: torch.Tensor) -> "Rays":
        """Rays by number; `index_select` is several times faster than indexing."""
        parts = self.origins, self.directions, self.viewdirs, self.radii
        return Rays(*(None if part is None else part.index_select(0, index) for part in parts))

    def and_then(self, others: "Rays") -> "Rays":
        """These and others behind them, which know of their radii if these do."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Rays(*(None if own is None else torch.cat([own, other]) for own, other in pairs))


@dataclass
class RaySetup:
    """How pixels become rays, and what stands behind them.

    near, far: multiples of a ray's direction (world: z-depth; NDC: 0 to 1). ndc_near: the plane
    z = -ndc_near that NDC is built on, world units; None in world space. pixel_offset: 0.5 for rays
    through pixel centres, 0 for nerf-pytorch's. background: RGB in [0, 1].
    """

    near: float
    far: float
    ndc_near: float | None = None
    pixel_offset: float = 0.5
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def from_flags(cls, args: argparse.Namespace, scene) -> "RaySetup":
        return cls(
            near=scene.near,
            far=scene.far,
            ndc_near=1.0 if scene.ndc else None,
            pixel_offset=0.0 if args.corner_rays else 0.5,
            background=scene.background,
        )


# A disc of this share of a pixel's width as its radius has the pixel's variance (mip-NeRF, sec. 3.1).
PIXEL_RADIUS = 2 / 12**0.5


def make_rays(
    origins: torch.Tensor, directions: torch.Tensor, setup: RaySetup, cameras, focal: torch.Tensor | None = None
) -> Rays:
    """World-space origins and directions `[R, 3]` as the renderers want them, warped if NDC.

    focal: of each ray's camera, pixels, `[R]` or one for all, where their cones are wanted too. In NDC all rays of one
    camera at the origin are parallel: there `radii` are those of cylinders.
    """
    viewdirs = directions / directions.norm(dim=-1, keepdim=True)
    radii = None if focal is None else (PIXEL_RADIUS / focal).expand(len(origins))
    if setup.ndc_near is not None:
        fx, fy = cameras.K[0, 0, 0], cameras.K[0, 1, 1]
        if radii is not None:  # two units across are as many pixels as the frame has: the mean of both sides
            radii = radii * fx * (1 / cameras.width + 1 / cameras.height)
        sides = cameras.height * (fx / fy), cameras.width  # as if of square pixels
        origins, directions = ndc_rays(*sides, fx, setup.ndc_near, origins, directions)
    return Rays(origins, directions, viewdirs, radii)


def world_distance(t: torch.Tensor, rays: Rays, setup: RaySetup) -> torch.Tensor:
    """Multiples of a direction `[R]` to distance along the unit ray, world units.

    In NDC t = 1 is infinitely far; distances end at 1000 times the near plane.
    """
    if setup.ndc_near is None:
        return t * rays.directions.norm(dim=-1)
    z_depth = setup.ndc_near / (1 - t).clamp_min(1e-3)
    return z_depth / rays.viewdirs[:, 2].abs().clamp_min(1e-6)
