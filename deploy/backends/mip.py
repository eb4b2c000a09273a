"""A mip-NeRF in integers: from cones straight to codes of integrated encodings, rows in blocks that stay in cache.

Encodings are most of what a mip-NeRF in integers computes. Of every few octaves one is asked of sine and cosine, and
the next follow by doubling angles; what fades with the cone's size is squared twice. All that happens with rows side
by side, and is turned about only once it is codes.
"""

import torch
from torch.profiler import record_function

from deploy.backends.blocks import rows_at_once
from deploy.backends.int8 import Int8Network, Rounding
from deploy.backends.light_field import DOUBLED
from fields.mip_nerf import MipConfig, MipField
from rendering.points import FieldOutput, Points
from run_nerf_helpers import iterate_chunks

ROWS_IN_CACHE = 4096


class Int8MipField(MipField):
    """See `fields.mip_nerf.MipField`; `network` is an Int8Network."""

    def __init__(self, config: MipConfig, network: Int8Network):
        super().__init__(config, network)
        self.of_points = network.inputs["quant_pts"]
        self.of_views = network.inputs["quant_views"] if config.use_viewdirs else None

    def forward(self, points: Points) -> FieldOutput:
        directions = points.directions
        density, rgb = directions.new_empty(len(points)), directions.new_empty(len(points), 3)
        for rows in iterate_chunks(len(points), rows_at_once(directions, ROWS_IN_CACHE)):
            with record_function("encoding"):
                codes = [codes_of_waves(*self.projected(points[rows]), self.config.multires, self.of_points)]
                if self.of_views is not None:
                    codes.append(self.of_views(self.embed_views(directions[rows])))
            with record_function("network"):
                raw = self.network.run(*codes)
            density[rows] = self.activate_density(raw[:, 3])
            torch.sigmoid(raw[:, :3], out=rgb[rows])
        return FieldOutput(density, rgb)


def codes_of_waves(mean: torch.Tensor, variance: torch.Tensor, octaves: int, rounding: Rounding) -> torch.Tensor:
    """`rounding(integrated_encoding(mean, variance, octaves))` of `[P, N]`, uint8 `[P, 2 N octaves]`, with ties going
    up. The error of waves grows with each doubling, to 1e-5 at most."""
    count, directions = mean.shape
    mean, variance = mean.T.contiguous(), variance.T.contiguous()
    codes = torch.empty(octaves, 2, directions, count, dtype=torch.uint8, device=mean.device)
    waves, faded = mean.new_empty(2, directions, count), torch.empty_like(mean)
    sines, cosines, doubled = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
    fading = torch.exp(-0.5 * variance)
    zero, one = mean.new_zeros(()), mean.new_ones(())
    middle, per_code = (rounding.zero_point + 0.5).to(mean.dtype), 1 / float(rounding.scale)
    for octave in range(octaves):
        if octave % DOUBLED == 0:
            angles = mean * 2.0**octave
            torch.sin(angles, out=sines)
            torch.cos(angles, out=cosines)
            if octave:
                torch.exp(-0.5 * 4.0**octave * variance, out=fading)
        else:
            torch.addcmul(zero, sines, cosines, value=2, out=doubled)  # sin 2a
            torch.addcmul(one, sines, sines, value=-2, out=cosines)  # cos 2a
            sines, doubled = doubled, sines
            fading.square_().square_()
        torch.mul(fading, per_code, out=faded)
        torch.addcmul(middle, sines, faded, out=waves[0])
        torch.addcmul(middle, cosines, faded, out=waves[1])
        codes[octave].copy_(waves.clamp_(0, rounding.q_max + 0.5))  # which cuts off what is behind the point
    return codes.view(2 * octaves * directions, count).T.contiguous()
