"""A NeRF as a field: its network between encodings and activations, and the topology of that network."""

import argparse
from dataclasses import dataclass, replace

import torch
from torch.profiler import record_function

from fields.field import Field, Group
from fields.layer_graph import Add, Concat, Input, LayerGraph, Linear, Node
from rendering.points import FieldOutput, Points
from run_nerf_helpers import NeRF, get_embedder
from utils.parser import within

HEADS = ("alpha_linear", "rgb_linear", "output_linear")


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
    def input_widths(self) -> dict[str, int]:
        """Columns of the graph's inputs."""
        return {"quant_pts": self.input_ch, "quant_views": self.input_ch_views}

    @property
    def bytes_per_row(self) -> int:
        """What a query takes: its encoding, and the input, output and ReLU of one layer."""
        return 4 * (2 * (self.input_ch + self.input_ch_views) + 3 * self.width)

    @property
    def graph(self) -> LayerGraph:
        return nerf_graph(self.depth, self.skips, self.use_viewdirs, self.residual)

    def skeleton(self) -> NeRF:
        """The architecture without memory for its weights."""
        with torch.device("meta"):
            return self.make_network(NeRF)

    @classmethod
    def from_flags(cls, args: argparse.Namespace, fine: bool = False, small: int | None = None) -> "FieldConfig":
        """The coarse (or only) or the fine field that the flags describe, or a small one of so many channels."""
        config = cls(
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
        if small is None:
            return config
        return replace(config, depth=2, width=small, use_viewdirs=False, output_ch=4, residual=False)

    def make_field(self, network: torch.nn.Module) -> "RadianceField":
        """The field of a network, or of what stands in its place."""
        return RadianceField(self, network)

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


def nerf_graph(depth: int, skips: tuple[int, ...], use_viewdirs: bool, residual: bool = False) -> LayerGraph:
    """What `NeRF.forward` does, between `quant_pts` and `quant_views`, the encoded position and direction, and the
    heads: colour, then density, or both from `output_linear`."""
    nodes: list[Node] = [Input("quant_pts")]
    features = h = "quant_pts"
    for i in range(depth):
        layer, before = f"pts_linears.{i}", features
        nodes.append(Linear(layer, h, relu=True))
        features = h = layer
        if residual and i > 0:
            features = h = f"sum.{i}"
            nodes.append(Add(features, (layer, before)))
        if i in skips and i < depth - 1:
            h = f"skip.{i}"
            nodes.append(Concat(h, ("quant_pts", features)))
    if not use_viewdirs:
        return LayerGraph((*nodes, Linear("output_linear", h)), ("output_linear",))
    nodes += [
        Linear("alpha_linear", h),
        Input("quant_views"),
        Linear("feature_linear", h),
        Concat("with_views", ("feature_linear", "quant_views")),
        Linear("views_linears.0", "with_views", relu=True),
        Linear("rgb_linear", "views_linears.0"),
    ]
    return LayerGraph(tuple(nodes), ("rgb_linear", "alpha_linear"))


def graph_of(network: NeRF) -> LayerGraph:
    return nerf_graph(network.D, network.skips, network.use_viewdirs, network.residual)


def is_hidden(layer: str) -> bool:
    """Whether a layer is neither the first nor a head.

    Only hidden ones have an RMSNorm: encodings are bounded as they are, and a density needs its magnitude.
    """
    return layer != "pts_linears.0" and layer not in HEADS


class RadianceField(Field):
    """A network with its encodings and activations: points and directions to density and colour.

    `network` is a NeRF or anything with its `forward` and `raw_density`.
    """

    kind = "nerf"

    def __init__(self, config: FieldConfig, network: torch.nn.Module):
        super().__init__(config, network)
        self.embed = get_embedder(config.multires, config.i_embed)[0]
        self.embed_views = get_embedder(config.multires_views, config.i_embed)[0]

    def forward(self, points: Points, raw_noise: torch.Tensor | None = None) -> FieldOutput:
        with record_function("encoding"):
            encoded = self.encode(points)
            if self.config.use_viewdirs:
                encoded = torch.cat([encoded, self.embed_views(points.directions)], -1)
        with record_function("network"):
            raw = self.network(encoded).float()
        raw_density = raw[..., 3] if raw_noise is None else raw[..., 3] + raw_noise
        return FieldOutput(self.activate_density(raw_density), torch.sigmoid(raw[..., :3]))

    def encode(self, points: Points) -> torch.Tensor:
        """What the network gets of where points are, `[P, input_ch]`."""
        return self.embed(points.positions)

    def queries(self, points: Points) -> dict[str, torch.Tensor]:
        """What encodings are made of, `[P, ...]`, by name: the inputs of a graph that encodes for itself."""
        return {"positions": points.positions, "directions": points.directions}

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        """Without the view branch."""
        return self.activate_density(self.network.raw_density(self.encode(Points(positions, positions))).float())

    def parameter_groups(self) -> list[Group]:
        """Muon may take every matrix but the heads'."""
        return [
            Group((parameter,), muon=parameter.ndim == 2 and not name.startswith(HEADS))
            for name, parameter in self.network.named_parameters()
        ]


def make_field(config: FieldConfig, network: type[NeRF] = NeRF) -> RadianceField:
    """An untrained field, with `network` as the class of its MLP."""
    return config.make_field(config.make_network(network))


# ---------------------------------------------------------------------------------------- by flags


def add_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--netdepth", type=within(int, 1, 256), default=8, help="layers in the (coarse) network")
    add("--netwidth", type=within(int, 2, 8192), default=256, help="channels per layer")
    add("--netdepth_fine", type=within(int, 1, 256), default=8, help="layers in the fine network")
    add("--netwidth_fine", type=within(int, 2, 8192), default=256, help="channels per layer in the fine network")
    add("--use_viewdirs", action="store_true", help="colour depends on the viewing direction (5D input)")
    add("--multires", type=within(int, 0, 32), default=10, help="octaves of the positional encoding of positions")
    add("--multires_views", type=within(int, 0, 32), default=4, help="octaves of the positional encoding of directions")
    add("--i_embed", type=int, choices=[0, -1], default=0, help="0 for positional encoding, -1 for none")
    add(
        "--residual",
        action="store_true",
        help="layers add to what they are given: for few bits (float, w4a8 and ternary files; not int8)",
    )


def from_flags(
    args: argparse.Namespace,
    box: torch.Tensor,
    fine: bool = False,
    small: int | None = None,
    network: type[NeRF] = NeRF,
) -> RadianceField:
    """Untrained; a NeRF knows of no box."""
    return make_field(FieldConfig.from_flags(args, fine, small), network)
