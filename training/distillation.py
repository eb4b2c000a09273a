"""Training a field by what a better one says at the same samples, besides the photographs.

A photograph says one colour for all samples of a ray; a trained field says density and colour of
each. The loss is
    mean (alpha - alpha_t)^2 * DENSITY_WEIGHT + sum w_t |c - c_t|^2 / (3 sum w_t),
with alpha = 1 - exp(-density * length), and w_t the teacher's weights in its picture, so that the
colour of empty space does not matter.
"""

import torch

from rendering.compositing import packed_weights
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.queries import query_samples
from rendering.renderer import Rendering
from training.batches import Batch

DENSITY_WEIGHT = 0.1  # most samples are empty or solid for both, so a mean over all of them is small
FADED = 0.7  # share of a phase after which the photographs alone teach: the teacher's errors are not kept


class Distillation:
    """The loss above, with a renderer whose field is the teacher."""

    def __init__(self, teacher: OccupancyRenderer, weight: float):
        self.teacher, self.weight = teacher.eval(), weight

    def loss(self, batch: Batch, rendering: Rendering, done: float) -> torch.Tensor:
        """done: the share of the phase's steps that are; the loss fades out with it."""
        weight = self.weight * max(0.0, 1 - done / FADED)
        if weight == 0:
            return rendering.rgb.new_zeros(())
        with torch.no_grad():
            parallel = self.teacher.parallel
            density, rgb, _ = query_samples(self.teacher.field, batch.rays, batch.samples, parallel=parallel)
            importance = packed_weights(density, batch.samples)[0]
        length = batch.samples.length
        of_density = (torch.exp(-rendering.density * length) - torch.exp(-density * length)).square().mean()
        of_color = (importance[:, None] * (rendering.sample_rgb - rgb).square()).sum()
        return weight * (DENSITY_WEIGHT * of_density + of_color / (3 * importance.sum().clamp_min(1)))
