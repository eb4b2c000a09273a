"""Ref-NeRF as a field: colour by what a surface reflects, and not by where it is looked at from.

Verbin et al. 2022. One network says of a place its density, normal, roughness, diffuse colour and tint; another what
is reflected, from the mirrored view direction blurred by the roughness. Highlights that move over a surface hold
still over reflected directions, which is what there is to learn.
"""

import argparse
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.profiler import record_function

from fields import mip_nerf
from fields.field import Group
from fields.mip_nerf import MipConfig, MipField
from fields.reflections import (
    directional_encoding,
    disagreement,
    encoding_width,
    linear_to_srgb,
    reflect,
    turned_away,
    unit,
)
from rendering.points import FieldOutput, Points
from run_nerf_helpers import NeRF
from utils.errors import BadInput
from utils.parser import within

MOST_LEVELS = 5  # of the directional encoding: degree 16
ROUGHNESS_BIAS, DIFFUSE_BIAS = -1.0, -1.0986122886681098  # Ref-NeRF's: moderate gloss, and a third of all light
POINTS_PER_SLOPE = 4  # of which one is asked for its density's slope, in training
FIBONACCI = 40503  # 2^16 over the golden ratio, odd
SURFACE = {"density": 1, "roughness": 1, "tint": 3, "diffuse": 3, "normal": 3}  # channels of `surface_linear`


@dataclass(frozen=True)
class RefConfig(MipConfig):
    """bottleneck: channels that go on to the network of directions. levels: of the directional encoding. view_depth:
    layers of that network, as wide as the other."""

    bottleneck: int = 64
    levels: int = 4
    view_depth: int = 2

    @property
    def bytes_per_row(self) -> int:
        return 4 * (2 * self.input_ch + 4 * encoding_width(self.levels) + 3 * self.width)

    def make_field(self, network: nn.Module) -> "RefField":
        return RefField(self, network)

    def make_network(self, network: type[nn.Module] | None = None) -> "RefNetwork":
        """Its own, whatever class of MLP a command has for others."""
        return RefNetwork(self)


class RefNetwork(nn.Module):
    """Both networks. `pts_linears` are as NeRF's; `surface_linear` has the channels of SURFACE side by side."""

    def __init__(self, config: RefConfig):
        super().__init__()
        self.skips = tuple(i for i in config.skips if i < config.depth - 1)
        inputs, width = config.input_ch, config.width
        widths = [inputs, *(width + inputs if i in self.skips else width for i in range(config.depth - 1))]
        self.pts_linears = nn.ModuleList(nn.Linear(size, width) for size in widths)
        self.surface_linear = nn.Linear(width, sum(SURFACE.values()))
        self.bottleneck_linear = nn.Linear(width, config.bottleneck)
        size = config.bottleneck + encoding_width(config.levels) + 1
        widths = [size, *(width for _ in range(config.view_depth - 1))]
        self.views_linears = nn.ModuleList(nn.Linear(size, width) for size in widths)
        self.rgb_linear = nn.Linear(width, 3)

    def trunk(self, pts: torch.Tensor) -> torch.Tensor:
        """Encoded positions `[P, input_ch]` to features `[P, W]`."""
        h = pts
        for i, layer in enumerate(self.pts_linears):
            h = F.relu(layer(h))
            if i in self.skips:
                h = torch.cat([pts, h], -1)
        return h

    def raw_density(self, pts: torch.Tensor) -> torch.Tensor:
        """Before its activation, `[P]`."""
        return self.surface_linear(self.trunk(pts))[..., 0]

    def reflected(self, features: torch.Tensor, directional: torch.Tensor) -> torch.Tensor:
        """Linear colour `[P, 3]` of what arrives, from features and what is known of the mirrored direction."""
        h = torch.cat([self.bottleneck_linear(features), directional], -1)
        for layer in self.views_linears:
            h = F.relu(layer(h))
        return torch.sigmoid(self.rgb_linear(h).float())


def scattered(count: int, every: int, device: torch.device) -> torch.Tensor:
    """One number below `count` of each `every`, by a hash of its own, so that no bin of all rays is always left out."""
    k = torch.arange(max(1, count // every), device=device)
    hashed = (k * FIBONACCI) % 2**16  # spreads like multiples of the golden ratio
    return (every * k + (hashed * every) // 2**16).clamp_max(count - 1)


@dataclass(frozen=True)
class SurfaceWeights:
    """Of the losses that make normals: orientation, of predicted ones that face away from the camera (eq. 11);
    agreement, of these with the density's gradient (eq. 10)."""

    orientation: float = 0.1
    agreement: float = 0.01


class RefField(MipField):
    """`network` is a RefNetwork. surface_weights: where it is to be trained."""

    kind = "ref"
    compiles = False
    extras: ClassVar[dict[str, int]] = {"normals": 3}

    def __init__(self, config: RefConfig, network: RefNetwork, surface_weights: SurfaceWeights | None = None):
        super().__init__(config, network)
        self.surface_weights = surface_weights or SurfaceWeights()

    def forward(self, points: Points, raw_noise: torch.Tensor | None = None) -> FieldOutput:
        """With the predicted normals of points; while training, also with what `losses` wants to know."""
        with record_function("encoding"):
            encoded = self.encode(points)
        with record_function("network"):
            features = self.network.trunk(encoded)
            surface = self.network.surface_linear(features).float()
            raw, roughness, tint, diffuse, normal = surface.split(list(SURFACE.values()), -1)
            normals = unit(-normal)
            towards_camera = -points.directions
            facing = (normals * towards_camera).sum(-1, keepdim=True)
            roughness = F.softplus(roughness + ROUGHNESS_BIAS)
            mirrored = directional_encoding(reflect(towards_camera, normals), roughness, self.config.levels)
            reflected = self.network.reflected(features, torch.cat([mirrored, facing], -1))
            linear = torch.sigmoid(tint) * reflected + torch.sigmoid(diffuse + DIFFUSE_BIAS)
        raw = raw[..., 0]
        extras = {"normals": normals}
        if self.training and torch.is_grad_enabled():
            with record_function("slopes"):
                extras["turned_away"] = turned_away(normals, towards_camera)
                extras["disagreement"] = self._disagreement(points, normals)
        density = self.activate_density(raw if raw_noise is None else raw + raw_noise)
        return FieldOutput(density, linear_to_srgb(linear).clamp(0, 1), extras)

    def _disagreement(self, points: Points, normals: torch.Tensor) -> torch.Tensor:
        """Of normals with the density's own, `[P, 1]`, in the mean: of a share of the points, times so many, since a
        slope's slope costs three times what a density does."""
        chosen = scattered(len(points), POINTS_PER_SLOPE, normals.device)
        shift = torch.zeros(len(chosen), 3, device=normals.device, requires_grad=True)
        raw = self.network.raw_density(self.encode(points[chosen].shifted(shift)))
        (slope,) = torch.autograd.grad(raw.sum(), shift, create_graph=True)
        apart = disagreement(normals.index_select(0, chosen), unit(-slope.float()))
        return torch.zeros_like(normals[:, :1]).index_copy(0, chosen, POINTS_PER_SLOPE * apart)

    def losses(self, step: int, seen: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        if not seen or "turned_away" not in seen:
            return {}
        weights = self.surface_weights
        return {
            "orientation": weights.orientation * seen["turned_away"].mean(),
            "normals": weights.agreement * seen["disagreement"].mean(),
        }

    def parameter_groups(self) -> list[Group]:
        """Muon may take every matrix but those that give colours and surfaces."""
        heads = "surface_linear", "rgb_linear"
        return [
            Group((parameter,), muon=parameter.ndim == 2 and not name.startswith(heads))
            for name, parameter in self.network.named_parameters()
        ]


# ---------------------------------------------------------------------------------------- by flags


def add_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--ref_bottleneck",
        type=within(int, 1, 8192),
        default=64,
        help="channels from the network of places to that of views",
    )
    add(
        "--ref_levels",
        type=int,
        choices=range(1, MOST_LEVELS + 1),
        default=4,
        help="of the encoding of mirrored directions: harmonics of degree 1, 2, 4, ..., 2^(N-1)",
    )
    add("--ref_depth", type=within(int, 1, 256), default=2, help="layers of the network of views, --netwidth wide")
    add("--orientation_weight", type=within(float, 0), default=0.1, help="of the loss of normals that face away")
    add(
        "--normal_weight",
        type=within(float, 0),
        default=0.01,
        help="of the loss of normals that differ from the density's slope",
    )


def from_flags(
    args: argparse.Namespace,
    box: torch.Tensor,
    fine: bool = False,
    small: int | None = None,
    network: type[NeRF] = NeRF,
    ball: float = 0.0,
) -> MipField:
    """Untrained. A small one, for densities alone, is a mip-NeRF."""
    if small is not None:
        return mip_nerf.from_flags(args, box, fine, small, network, ball)
    if not args.use_viewdirs:
        raise BadInput("--field ref: what is reflected depends on the view; add --use_viewdirs")
    if args.residual:
        raise BadInput("--residual: not for --field ref; leave it out")
    of_mip = mip_nerf.from_flags(args, box, fine, ball=ball).config
    own = {"bottleneck": args.ref_bottleneck, "levels": args.ref_levels, "view_depth": args.ref_depth}
    config = RefConfig(**vars(of_mip), **own)
    weights = SurfaceWeights(args.orientation_weight, args.normal_weight)
    return RefField(config, config.make_network(), weights)
