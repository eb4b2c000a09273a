"""A NeRF as a field: its network between encodings and activations."""

import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.profiler import record_function

from run_nerf_helpers import NeRF, get_embedder


@dataclass(frozen=True)
class FieldConfig:
    """All that says what a field computes, but for its weights; a compressed file carries it.

    Density is `scale * activation(raw + bias)`, 1/world unit. `relu` with 0 and 1 is nerf-pytorch.
    `softplus` never dies where a sample starts out negative; a negative bias starts space nearly
    clear; the scale lets a surface's density of hundreds come from raw outputs of ordinary size.
    """

    depth: int = 8
    width: int = 256
    skips: tuple[int, ...] = (4,)
    use_viewdirs: bool = True
    output_ch: int = 4
    multires: int = 10
    multires_views: int = 4
    i_embed: int = 0
    density_activation: str = "relu"
    density_bias: float = 0.0
    density_scale: float = 1.0
    residual: bool = False

    @property
    def input_ch(self) -> int:
        return get_embedder(self.multires, self.i_embed)[1]

    @property
    def input_ch_views(self) -> int:
        return get_embedder(self.multires_views, self.i_embed)[1] if self.use_viewdirs else 0

    @property
    def bytes_per_row(self) -> int:
        """What a query takes: its encoding, and the input, output and ReLU of one layer."""
        return 4 * (2 * (self.input_ch + self.input_ch_views) + 3 * self.width)

    def make_network(self, network: type[NeRF] = NeRF) -> NeRF:
        return network(
            D=self.depth,
            W=self.width,
            input_ch=self.input_ch,
            input_ch_views=self.input_ch_views,
            output_ch=self.output_ch,
            skips=self.skips,
            use_viewdirs=self.use_viewdirs,
            residual=self.residual,
        )


class RadianceField(nn.Module):
    """A network with its encodings and activations: points and directions to density and colour.

    This is the Field interface that `rendering.py` knows:
    `forward(positions [P, 3], directions [P, 3]) -> density [P] (1/world unit), rgb [P, 3]`.
    `network` is a NeRF or anything with its `forward` and `raw_density`.
    """

    kind = "nerf"  # in model files
    adam = {"betas": (0.9, 0.999)}

    def __init__(self, config: FieldConfig, network: nn.Module):
        super().__init__()
        self.config = config
        self.network = network
        self.embed = get_embedder(config.multires, config.i_embed)[0]
        self.embed_views = get_embedder(config.multires_views, config.i_embed)[0]

    def learning_rate_factor(self, name: str) -> float:
        """What `--lrate` is multiplied by for a parameter of the network."""
        return 1.0

    def activate_density(self, raw: torch.Tensor) -> torch.Tensor:
        activation = F.softplus if self.config.density_activation == "softplus" else F.relu
        return self.config.density_scale * activation(raw + self.config.density_bias)

    def forward(
        self, positions: torch.Tensor, directions: torch.Tensor, raw_noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`directions` are unit vectors; `raw_noise [P]` is added before the density activation."""
        with record_function("encoding"):
            encoded = self.embed(positions)
            if self.config.use_viewdirs:
                encoded = torch.cat([encoded, self.embed_views(directions)], -1)
        with record_function("network"):
            raw = self.network(encoded).float()
        raw_density = raw[..., 3] if raw_noise is None else raw[..., 3] + raw_noise
        return self.activate_density(raw_density), torch.sigmoid(raw[..., :3])

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        """Density `[P]` alone, without the view branch."""
        return self.activate_density(self.network.raw_density(self.embed(positions)).float())


def make_field(config: FieldConfig, network: type[NeRF] = NeRF) -> RadianceField:
    """An untrained field, with `network` as the class of its MLP."""
    return RadianceField(config, config.make_network(network))


def layer_inputs(network: NeRF) -> dict[str, list[str]]:
    """The dataflow of the network: for each linear layer, in order, what its input is made of.

    `quant_pts` and `quant_views` are the encoded position and direction, other names are layers.
    """
    flow: dict[str, list[str]] = {}
    source = ["quant_pts"]
    for i in range(len(network.pts_linears)):
        flow[f"pts_linears.{i}"] = source
        source = ["quant_pts"] * (i in network.skips) + [f"pts_linears.{i}"]
    if not network.use_viewdirs:
        flow["output_linear"] = source
        return flow
    flow["alpha_linear"] = flow["feature_linear"] = source
    flow["views_linears.0"] = ["feature_linear", "quant_views"]
    flow["rgb_linear"] = ["views_linears.0"]
    return flow


HEADS = ("alpha_linear", "rgb_linear", "output_linear")


def is_hidden(layer: str) -> bool:
    """Whether a layer is neither the first nor a head.

    Only hidden ones have an RMSNorm: encodings are bounded as they are, and a density needs its magnitude.
    """
    return layer != "pts_linears.0" and layer not in HEADS


def skeleton(config: FieldConfig) -> NeRF:
    """The architecture without memory for its weights."""
    with torch.device("meta"):
        return config.make_network(NeRF)


def field_config(args: argparse.Namespace, fine: bool = False) -> FieldConfig:
    """The coarse (or only) or the fine field that the flags describe."""
    return FieldConfig(
        depth=args.netdepth_fine if fine else args.netdepth,
        width=args.netwidth_fine if fine else args.netwidth,
        use_viewdirs=args.use_viewdirs,
        output_ch=5 if args.N_importance > 0 else 4,  # nerf-pytorch's: its checkpoints have the fifth
        multires=args.multires,
        multires_views=args.multires_views,
        i_embed=args.i_embed,
        density_activation=args.density_activation,
        density_bias=args.density_bias,
        density_scale=args.density_scale,
        residual=args.residual,
    )
