"""A mip-NeRF in integers: from cones straight to codes of integrated encodings, many rows at once.

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
from rendering.cones import Projected, cylinder_moments, frustum_moments, project_bins
from rendering.points import FieldOutput, Points
from rendering.rays import Rays
from run_nerf_helpers import iterate_chunks

# More than a cache holds: of few columns, a call of a few thousand rows takes longer to make than to do.
ROWS_AT_ONCE = 32_768


class Int8MipField(MipField):
    """See `fields.mip_nerf.MipField`; `network` is an Int8Network."""

    def __init__(self, config: MipConfig, network: Int8Network):
        super().__init__(config, network)
        self.of_points = network.inputs["quant_pts"]
        self.of_views = network.inputs["quant_views"] if config.use_viewdirs else None

    def forward(self, points: Points) -> FieldOutput:
        answer = self._empty_answer(points.directions, len(points))
        for rows in iterate_chunks(len(points), rows_at_once(points.directions, ROWS_AT_ONCE)):
            with record_function("encoding"):
                mean, variance = self.projected(points[rows])
                views = self._views(points.directions[rows])
            self._answer(answer, rows, mean.T.contiguous(), variance.T.contiguous(), views)
        return answer

    def in_bins(self, rays: Rays, t: torch.Tensor, parallel: bool) -> FieldOutput:
        """The same in all bins of rays between distances `t [R, S + 1]`, `R S` of them."""
        count, bins = len(rays), t.shape[1] - 1
        answer = self._empty_answer(t, count * bins)
        for part in iterate_chunks(count, max(1, rows_at_once(t, ROWS_AT_ONCE) // bins)):
            with record_function("encoding"):
                mean, variance = self._projected_bins(rays[part], t[part], parallel)
                views = self._views(rays.viewdirs[part])
                views = [codes.repeat_interleave(bins, 0) for codes in views]
            rows = slice(part.start * bins, min(part.stop, count) * bins)
            self._answer(answer, rows, mean.flatten(1), variance.flatten(1), views)
        return answer

    def _projected_bins(self, rays: Rays, t: torch.Tensor, parallel: bool) -> Projected:
        scale = 1 / (self.config.ball or 1)
        moments = cylinder_moments if parallel else frustum_moments
        of_bins = moments(t[:, :-1], t[:, 1:], scale * rays.radii[:, None])
        return project_bins(
            scale * rays.origins, scale * rays.directions, of_bins, self.basis, contracted=bool(self.config.ball)
        )

    def _empty_answer(self, like: torch.Tensor, count: int) -> FieldOutput:
        return FieldOutput(like.new_empty(count), like.new_empty(count, 3))

    def _views(self, directions: torch.Tensor) -> list[torch.Tensor]:
        """Codes of directions, in a list that is empty where the network takes none."""
        return [] if self.of_views is None else [self.of_views(self.embed_views(directions))]

    def _answer(
        self, answer: FieldOutput, rows: slice, mean: torch.Tensor, variance: torch.Tensor, views: list[torch.Tensor]
    ) -> None:
        """Writes some rows of an answer. mean, variance: `[N, P]`."""
        with record_function("encoding"):
            codes = codes_of_waves(mean, variance, self.config.multires, self.of_points)
        with record_function("network"):
            raw = self.network.run(codes, *views)
        answer.density[rows] = self.activate_density(raw[:, 3])
        torch.sigmoid(raw[:, :3], out=answer.rgb[rows])


def codes_of_waves(mean: torch.Tensor, variance: torch.Tensor, octaves: int, rounding: Rounding) -> torch.Tensor:
    """`rounding(integrated_encoding(mean, variance, octaves))` of `[N, P]`, each direction's places side by side, uint8
    `[P, 2 N octaves]`, with ties going up. The error of waves grows with each doubling, to 1e-5 at most."""
    directions, count = mean.shape
    words = torch.empty((octaves + 1) // 2, directions, count, dtype=torch.int32, device=mean.device)
    waves, faded = mean.new_zeros(2, 2, directions, count), torch.empty_like(mean)  # of two octaves
    sines, cosines, doubled = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
    fading = torch.exp(-0.5 * variance)
    zero, one = mean.new_zeros(()), mean.new_ones(())
    middle, per_code = (rounding.zero_point + 0.5).to(mean.dtype), rounding.scale.reciprocal()
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
        torch.addcmul(middle, sines, faded, out=waves[octave % 2, 0])
        torch.addcmul(middle, cosines, faded, out=waves[octave % 2, 1])
        if octave % 2 or octave == octaves - 1:
            words[octave // 2] = in_words(waves.clamp_(0, rounding.q_max + 0.5).view(directions, 4, count))
    codes = words.flatten(0, 1).T.contiguous().view(torch.uint8)  # a fourth of the places to turn about
    return codes[:, : 2 * octaves * directions].contiguous()


def in_words(codes: torch.Tensor) -> torch.Tensor:
    """Codes `[G, 4, P]`, float32 from 0 to below 256 whose parts behind the point do not count and which are
    overwritten, as the bytes of int32 `[G, P]`, the first the lowest. Four single conversions to bytes take longer."""
    codes.floor_()
    low = torch.add(codes[:, 0], codes[:, 1], alpha=256).to(torch.int32)
    high = torch.add(codes[:, 2], codes[:, 3], alpha=256).to(torch.int32)
    return low.bitwise_or_(high.bitwise_left_shift_(16))
