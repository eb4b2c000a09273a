"""mip-NeRF as a field: what a pixel's cone holds of a point's surroundings, encoded by its expectation.

Barron et al. 2021 and 2022. The network is NeRF's; what it gets are expected sines and cosines, so detail that a
pixel cannot see fades out instead of aliasing, and a scene seen from near and from far is one scene to it.
"""

import argparse
from dataclasses import dataclass

import torch

from fields.nerf import FieldConfig, RadianceField
from rendering.cones import DIRECTIONS, Projected, axes, contract, integrated_encoding
from rendering.points import Points
from run_nerf_helpers import NeRF


@dataclass(frozen=True)
class MipConfig(FieldConfig):
    """directions: how many of `rendering.cones.DIRECTIONS`, along which positions are encoded. ball: radius around the
    origin, world units, within which space is as it is, and becomes the unit ball; what is beyond is contracted into a
    shell. 0: nothing is. point_size: standard deviation, units of the box, of a place that is asked for without a cone,
    as the occupancy grid does."""

    directions: int = 3
    ball: float = 0.0
    point_size: float = 0.0

    @property
    def input_ch(self) -> int:
        return 2 * self.directions * self.multires

    def make_field(self, network: torch.nn.Module) -> "MipField":
        return MipField(self, network)


class MipField(RadianceField):
    """A network with integrated encodings of positions; see `RadianceField`."""

    kind = "mip"
    wants_cones = True

    def __init__(self, config: MipConfig, network: torch.nn.Module):
        super().__init__(config, network)
        self.register_buffer("basis", axes(config.directions).float(), persistent=False)

    def encode(self, points: Points) -> torch.Tensor:
        return integrated_encoding(*self.projected(points), self.config.multires)

    def queries(self, points: Points) -> dict[str, torch.Tensor]:
        return {**self.projected(points)._asdict(), "directions": points.directions}

    def projected(self, points: Points) -> Projected:
        """Points as Gaussians along the directions of the encoding."""
        ball = self.config.ball
        if points.cones is not None:
            cones = points.cones.scaled(1 / ball) if ball else points.cones
            return cones.along(self.basis, contracted=bool(ball))
        positions = contract(points.positions / ball) if ball else points.positions
        mean = positions @ self.basis.T
        return Projected(mean, torch.full_like(mean, (self.config.point_size / (ball or 1)) ** 2))


def add_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--mip_directions",
        type=int,
        choices=list(DIRECTIONS),
        default=3,
        help="directions along which positions are encoded: 3 and 9 of an octahedron, the axes first; 6 and 21 of an "
        "icosahedron",
    )
    add(
        "--contract",
        default="auto",
        choices=["auto", "on", "off"],
        help="bring all of space into a ball before encoding it, the cameras' own part as it is; auto: for captures "
        "with a background, by --sampler proposal, and light fields of --ray_span near_far",
    )


def from_flags(
    args: argparse.Namespace,
    box: torch.Tensor,
    fine: bool = False,
    small: int | None = None,
    network: type[NeRF] = NeRF,
    ball: float = 0.0,
) -> MipField:
    """Untrained; the network's shape is that of the flags of a NeRF. ball: as of MipConfig. A place without a cone is
    as large as a sample of the occupancy grid, evenly filled."""
    cell = float((box[1] - box[0]).max()) / args.grid_resolution
    own = {
        "directions": args.mip_directions if small is None else 3,  # a proposal is to be cheap
        "ball": ball,
        "point_size": args.march_step * cell / 12**0.5,
    }
    config = MipConfig(**vars(FieldConfig.from_flags(args, fine, small)), **own)
    return config.make_field(config.make_network(network))
