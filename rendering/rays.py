"""Rays, and how pixels become them."""

from dataclasses import dataclass

import torch

from run_nerf_helpers import ndc_rays


@dataclass
class Rays:
    """origins, directions `[R, 3]` (a direction's length is kept, `t` counts multiples of it),
    viewdirs `[R, 3]` unit vectors in world space."""

    origins: torch.Tensor
    directions: torch.Tensor
    viewdirs: torch.Tensor

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: slice) -> "Rays":
        return Rays(self.origins[index], self.directions[index], self.viewdirs[index])

    def take(self, index: torch.Tensor) -> "Rays":
        """Rays by number; `index_select` is several times faster than indexing."""
        return Rays(*(part.index_select(0, index) for part in (self.origins, self.directions, self.viewdirs)))


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


def make_rays(origins: torch.Tensor, directions: torch.Tensor, setup: RaySetup, cameras) -> Rays:
    """World-space origins and directions `[R, 3]` as the renderers want them, warped if NDC."""
    viewdirs = directions / directions.norm(dim=-1, keepdim=True)
    if setup.ndc_near is not None:
        focal = cameras.K[0, 0, 0]
        origins, directions = ndc_rays(cameras.height, cameras.width, focal, setup.ndc_near, origins, directions)
    return Rays(origins, directions, viewdirs)


def world_distance(t: torch.Tensor, rays: Rays, setup: RaySetup) -> torch.Tensor:
    """Multiples of a direction `[R]` to distance along the unit ray, world units.

    In NDC t = 1 is infinitely far; distances end at 1000 times the near plane.
    """
    if setup.ndc_near is None:
        return t * rays.directions.norm(dim=-1)
    z_depth = setup.ndc_near / (1 - t).clamp_min(1e-3)
    return z_depth / rays.viewdirs[:, 2].abs().clamp_min(1e-6)
