"""A light field in integers: from places on rays straight to codes, rows in blocks that stay in cache."""

import torch
from torch.profiler import record_function

from deploy.backends.blocks import rows_at_once
from deploy.backends.int8 import Int8Network, Rounding
from fields.light_field import LightField, LightFieldConfig
from run_nerf_helpers import iterate_chunks

ROWS_IN_CACHE = 1024  # the codes and waves of their places are what is large


class Int8LightField(LightField):
    """See `fields.light_field.LightField`; `network` is an Int8Network."""

    def __init__(self, config: LightFieldConfig, network: Int8Network):
        super().__init__(config, network)
        self.stubs = [network.inputs[name] for name in ("quant_places", "quant_waves")]

    def forward(self, places: torch.Tensor, viewdirs: torch.Tensor) -> torch.Tensor:
        rgb = viewdirs.new_empty(len(viewdirs), 3)
        for rows in iterate_chunks(len(rgb), rows_at_once(viewdirs, ROWS_IN_CACHE)):
            with record_function("encoding"):
                codes = self.codes(places[rows], viewdirs[rows])
            with record_function("network"):
                torch.sigmoid(self.network.run(*codes), out=rgb[rows])
        return rgb

    def codes(self, places: torch.Tensor, viewdirs: torch.Tensor) -> list[torch.Tensor]:
        """What the network gets of rays, uint8, coordinates and waves."""
        of_places, of_waves = self.stubs
        parts = [wave_codes(places.flatten(1), self.freqs, of_waves)]
        if self.config.use_viewdirs:
            parts.append(wave_codes(viewdirs, self.freqs_views, of_waves))
        return [of_places(self.config.coordinates(places, viewdirs)), torch.cat(parts, -1)]


def wave_codes(x: torch.Tensor, freqs: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Codes of `fields.light_field.waves`, all in place; `cos v = sin(v + pi/2)`. Against waves in float a code may
    fall on the other side of a tie."""
    octaves = len(freqs)
    angles = x.new_empty(*x.shape, 2 * octaves)
    torch.mul(x[..., None], freqs, out=angles[..., :octaves])
    torch.add(angles[..., :octaves], 0.5 * torch.pi, out=angles[..., octaves:])
    waves = angles.sin_().div_(rounding.scale).round_().add_(rounding.zero_point)
    return waves.clamp_(0, rounding.q_max).to(torch.uint8).flatten(1)
