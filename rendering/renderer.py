"""Rays to samples to a field to colour, depth and opacity.

Two renderers share one interface, `forward(rays, background) -> Rendering`: `OccupancyRenderer`
queries one field where a grid says something may be, `HierarchicalRenderer` is NeRF's own coarse
and fine pass. They know fields only through `field(positions, directions)`, and nothing of training.
"""

import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn

from rendering.rays import RaySetup, make_rays
from run_nerf_helpers import get_rays, iterate_chunks
from utils.errors import BrokenFile

# What a sample takes while a ray is marched: its position, cell number, distance and bookkeeping.
BYTES_PER_SAMPLE = 150
FIXED_BYTES = 2**26  # what matrix kernels and the allocator take however few the rays


@dataclass
class Rendering:
    """What a ray sees. rgb `[R, 3]` over the background; depth `[R]`, the expected distance along
    the unit ray given that it hit something (the far bound where it did not), world units;
    opacity `[R]`; coarse_rgb `[R, 3]` where there is a coarse pass; queries: network rows spent;
    density `[P]`, sample_rgb `[P, 3]`: what the field said of the samples it was given, if it was."""

    rgb: torch.Tensor
    depth: torch.Tensor
    opacity: torch.Tensor
    coarse_rgb: torch.Tensor | None = None
    queries: int = 0
    density: torch.Tensor | None = None
    sample_rgb: torch.Tensor | None = None


@dataclass(frozen=True)
class RenderLimits:
    """What a picture may take at once. rays: at most; memory: bytes beyond what is loaded."""

    rays: int = 32_768
    memory: int = 2**30

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "RenderLimits":
        return cls(rays=args.chunk, memory=args.render_memory * 2**20)


# ---------------------------------------------------------------------------------- compositing


def _ask(field: nn.Module, positions: torch.Tensor, directions: torch.Tensor, raw_noise: torch.Tensor | None):
    """Noise is for training only, so fields that cannot train need not know of it."""
    return field(positions, directions) if raw_noise is None else field(positions, directions, raw_noise)


# ------------------------------------------------------------------------------------ renderers


class Renderer(nn.Module):
    """What all renderers have: how pixels become rays, and the device that they live on.

    background: what stands behind everything, `[3]`, there.
    """

    def __init__(self, setup: RaySetup):
        super().__init__()
        self.setup = setup
        self.register_buffer("background", torch.tensor(setup.background), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where rays have to be, and where whatever is made for its fields belongs."""
        return self.background.device


def networks_of(renderer: nn.Module) -> dict[str, nn.Module]:
    """The networks inside a renderer's fields, under the same names."""
    return {name: field.network for name, field in renderer.fields.items()}


@torch.no_grad()
def render_image(renderer: nn.Module, camera, limits: RenderLimits = RenderLimits()) -> Rendering:  # noqa: B008
    """A whole picture from one camera, as many rays at a time as the limits allow.

    Returns a Rendering whose fields are `[H, W, ...]`. Raises BrokenFile where a colour is not a finite number.
    """
    was_training = renderer.training
    renderer.eval()
    setup = renderer.setup
    origins, directions = get_rays(camera.height, camera.width, camera.K[0], camera.c2w[0], setup.pixel_offset)
    rays = make_rays(origins.reshape(-1, 3), directions.reshape(-1, 3), setup, camera)
    at_once = max(1, min(limits.rays, (limits.memory - FIXED_BYTES) // renderer.bytes_per_ray()))
    parts = [renderer(rays[c], renderer.background) for c in iterate_chunks(len(rays), at_once)]
    renderer.train(was_training)
    shape = (camera.height, camera.width)
    rgb = torch.cat([p.rgb for p in parts])
    if not torch.isfinite(rgb).all():
        raise BrokenFile(
            "the field gives colours that are not finite numbers: its weights overflow, training has failed or its "
            "file was altered; render another checkpoint or model"
        )
    return Rendering(
        rgb.view(*shape, 3),
        torch.cat([p.depth for p in parts]).view(shape),
        torch.cat([p.opacity for p in parts]).view(shape),
        queries=sum(p.queries for p in parts),
    )
