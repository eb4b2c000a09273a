"""A field's density in the cells of contracted space, asked once: pictures then look it up.

What a proposal says is needed everywhere along every ray, and only to place the bins of the field: a table is as good,
and many times faster.
"""

import torch

from rendering.cones import contract
from run_nerf_helpers import iterate_chunks

RADIUS = 2.0  # of contracted space
LARGEST_TABLE = 256  # cells on a side: 4 bytes each
CELLS_AT_ONCE = 2**16


class DensityTable:
    """`resolution`^3 cells over the cube that holds contracted space; outside of the ball nothing is.

    field: with `density_in_cells`, see `fields.mip_nerf.MipField`. ball: as of its config.
    """

    @torch.no_grad()
    def __init__(self, field, resolution: int, ball: float, device: torch.device):
        self.resolution, self.ball = resolution, ball
        side = 2 * RADIUS / resolution
        axis = (torch.arange(resolution, device=device) + 0.5) * side - RADIUS
        self.values = torch.zeros(resolution**3, device=device)
        square = axis.square()
        reach = RADIUS + side  # what is far away lies in cells that the ball only touches
        inside = (square[:, None, None] + square[:, None] + square < reach**2).view(-1).nonzero()[:, 0]
        for part in iterate_chunks(len(inside), CELLS_AT_ONCE):
            cells = inside[part]
            x, y, z = cells // resolution**2, cells // resolution % resolution, cells % resolution
            centres = torch.stack([axis[x], axis[y], axis[z]], -1)
            self.values[cells] = field.density_in_cells(centres, side)

    def density(self, origins: torch.Tensor, directions: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """1/world unit, `[R, S]`, at multiples `t [R, S]` of rays' directions `[R, 3]`."""
        at = torch.addcmul(origins[:, None], t[..., None], directions[:, None]) / self.ball
        cells = contract(at.view(-1, 3)).add_(RADIUS).mul_(self.resolution / (2 * RADIUS))
        x, y, z = cells.to(torch.int32).clamp_(0, self.resolution - 1).unbind(-1)
        number = x.mul(self.resolution).add_(y).mul_(self.resolution).add_(z)
        return self.values.index_select(0, number).view(t.shape)
