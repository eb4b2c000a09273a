"""A light field in integers: from places on rays straight to codes, rows in blocks that stay in cache."""

import torch
from torch.profiler import record_function

from deploy.backends.blocks import rows_at_once
from deploy.backends.int8 import Int8Network
from fields.light_field import LightField, LightFieldConfig
from run_nerf_helpers import iterate_chunks

ROWS_IN_CACHE = 4096  # that go through the network before the next ones; fewer leave two cores with too little to do
DOUBLED = 7  # octaves


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
        flat, config = places.flatten(1), self.config
        encoded = flat.new_empty(len(flat), config.input_widths["quant_waves"])
        columns = 2 * config.multires * flat.shape[1]
        write_waves(flat, encoded[:, :columns], config.multires)
        if config.use_viewdirs and config.multires_views:
            write_waves(viewdirs, encoded[:, columns:], config.multires_views)
        to_codes = of_waves.quick if encoded.device.type == "cpu" else of_waves
        return [of_places(config.coordinates(places, viewdirs)), to_codes(encoded)]


def write_waves(x: torch.Tensor, into: torch.Tensor, octaves: int) -> None:
    """`fields.light_field.waves` of `[R, C]`, into `[R, 2 L C]`. One octave in DOUBLED is asked of sine and cosine, the
    others follow by sin 2a = 2 sin a cos a and cos 2a = 1 - 2 sin^2 a, each with several times the error: 1e-5 at
    most, which puts few codes on the other side of a tie."""
    sines, cosines = into.unflatten(1, (2, octaves, x.shape[1])).unbind(1)
    for k in range(octaves):
        if k % DOUBLED == 0:
            angles = x * 2.0**k
            torch.sin(angles, out=sines[:, k])
            torch.cos(angles, out=cosines[:, k])
        else:
            torch.mul(sines[:, k - 1], cosines[:, k - 1], out=sines[:, k]).mul_(2)
            torch.mul(sines[:, k - 1], sines[:, k - 1], out=cosines[:, k]).mul_(-2).add_(1)
