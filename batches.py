"""Training batches: rays drawn on the fly from 8-bit images, as many as fill the network's rows."""

import argparse
from dataclasses import dataclass

import torch

from occupancy import Samples
from rendering import OccupancyRenderer, Rays, Rendering, make_rays
from run_nerf_helpers import camera_rays
from scene import Scene, composite_over


@dataclass
class Batch:
    """rays `[R]`, their target colours `[R, 3]`, the background behind each `[R, 3]` or `[3]`, and
    for the occupancy sampler the points to query."""

    rays: Rays
    target: torch.Tensor
    background: torch.Tensor
    samples: Samples | None = None


class RayBatches:
    """Draws training rays with replacement, making them on the fly from 8-bit images.

    The hierarchical sampler gets `--N_rand` rays a batch. The occupancy sampler gets as many rays
    as fill `--samples_per_batch` network queries, so a step costs the same early and late.
    """

    def __init__(self, args: argparse.Namespace, scene: Scene, device: torch.device):
        train = scene.splits["train"]
        self.args = args
        self.images = scene.images[train].to(device)
        self.cameras = scene.cameras[train].to(device)
        self.background = torch.tensor(scene.background, device=device)
        self.generator = torch.Generator(device).manual_seed(args.seed)
        self.samples_per_ray = 16.0  # a running estimate, only for the occupancy sampler

    def draw(self, renderer: torch.nn.Module, step: int) -> Batch:
        if not isinstance(renderer, OccupancyRenderer):
            return self._rays(self.args.N_rand, step, renderer)
        wanted = self.args.samples_per_batch
        batch = self._rays(max(1, int(1.05 * wanted / self.samples_per_ray)), step, renderer)
        jitter = self._uniform(len(batch.rays)) if self.args.perturb > 0 else None
        samples = renderer.march(batch.rays, jitter)
        self.samples_per_ray = 0.9 * self.samples_per_ray + 0.1 * max(len(samples) / len(batch.rays), 0.1)
        if len(samples) > wanted:  # drop whole rays from the end
            kept_rays = int(samples.ray[wanted])
            samples = samples.first(int(torch.searchsorted(samples.ray, kept_rays)))
            batch = Batch(batch.rays[:kept_rays], batch.target[:kept_rays], batch.background)
            batch.background = _first(batch.background, kept_rays)
        batch.samples = samples
        return batch

    def _rays(self, count: int, step: int, renderer: torch.nn.Module) -> Batch:
        num_views, height, width = self.images.shape[:3]
        view = self._integers(num_views, 1 if self.args.no_batching else count).expand(count)
        if step <= self.args.precrop_iters:
            tall, wide = int(height * self.args.precrop_frac), int(width * self.args.precrop_frac)
        else:
            tall, wide = height, width
        row = (height - tall) // 2 + self._integers(max(tall, 1), count)
        column = (width - wide) // 2 + self._integers(max(wide, 1), count)
        offset = renderer.setup.pixel_offset
        origins, directions = camera_rays(column + offset, row + offset, self.cameras.K[view], self.cameras.c2w[view])
        rays = make_rays(origins, directions, renderer.setup, self.cameras)
        background = self._uniform(count, 3) if self.args.random_bkgd else self.background
        pixels = self.images[view, row, column].float() / 255
        return Batch(rays, composite_over(pixels, background), background)

    def _uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, device=self.images.device, generator=self.generator)

    def _integers(self, high: int, count: int) -> torch.Tensor:
        return torch.randint(high, (count,), device=self.images.device, generator=self.generator)

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state(), "samples_per_ray": self.samples_per_ray}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.samples_per_ray = state["samples_per_ray"]


def render_batch(
    renderer: torch.nn.Module,
    batch: Batch,
    generator: torch.Generator | None = None,
    raw_noise_std: float = 0.0,
) -> Rendering:
    """A batch through whichever renderer it was drawn for, differentiable in its fields."""
    if batch.samples is None:
        return renderer(batch.rays, batch.background, generator, raw_noise_std)
    return renderer(batch.rays, batch.background, batch.samples, generator, raw_noise_std)


def _first(background: torch.Tensor, count: int) -> torch.Tensor:
    return background[:count] if background.ndim == 2 else background
