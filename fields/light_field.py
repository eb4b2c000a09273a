"""A light field: from a few places on a ray straight to its colour, in one network, without a density.

R2L (Wang et al. 2022, "R2L: Distilling Neural Radiance Field to Neural Light Field"): a deep residual network. Its
topology is said once, as a layer graph, and executed from there. Sums stay in float, or, with `rounded_stream`, what
runs from block to block is codes wherever integers execute it.
"""

import argparse
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.profiler import record_function

from fields.field import Group, Trainable
from fields.layer_graph import Add, Concat, Input, LayerGraph, Linear, Node, Round
from run_nerf_helpers import QuantStub
from utils.errors import BadInput


@dataclass(frozen=True)
class LightFieldConfig:
    """depth: linear layers, the first and the last among them. points: places on a ray. multires, multires_views:
    octaves of their encodings and of the direction's. rounded_stream: integers hold the sums between blocks as codes.
    """

    depth: int = 88
    width: int = 256
    points: int = 16
    use_viewdirs: bool = False
    multires: int = 10
    multires_views: int = 4
    rounded_stream: bool = False

    @property
    def blocks(self) -> int:
        return (self.depth - 2) // 2

    @property
    def input_widths(self) -> dict[str, int]:
        """Columns of the graph's inputs: coordinates, and their waves."""
        points, views = 3 * self.points, 3 if self.use_viewdirs else 0
        waves = 2 * (points * self.multires + views * self.multires_views)
        return {"quant_places": points + views, "quant_waves": waves}

    def coordinates(self, places: torch.Tensor, viewdirs: torch.Tensor) -> torch.Tensor:
        """`[R, K, 3]` and `[R, 3]` side by side, where directions are used."""
        return torch.cat([places.flatten(1), viewdirs], -1) if self.use_viewdirs else places.flatten(1)

    @property
    def bytes_per_row(self) -> int:
        return 4 * (3 * sum(self.input_widths.values()) + 4 * self.width)

    @property
    def graph(self) -> LayerGraph:
        return light_field_graph(self.blocks, self.rounded_stream)

    @property
    def flops(self) -> int:
        """Multiplications and additions of a ray's way through the network."""
        inputs = sum(self.input_widths.values())
        return 2 * (inputs * self.width + 2 * self.blocks * self.width**2 + 3 * self.width)

    def make_network(self) -> "LightFieldNetwork":
        return LightFieldNetwork(self.graph, sum(self.input_widths.values()), self.width, self.blocks)

    def skeleton(self) -> "LightFieldNetwork":
        """The architecture without memory for its weights."""
        with torch.device("meta"):
            return self.make_network()

    def make_field(self, network: nn.Module) -> "LightField":
        """The light field of a network, or of what stands in its place."""
        return LightField(self, network)


def light_field_graph(blocks: int, rounded_stream: bool = False) -> LayerGraph:
    """A head, so many blocks of two layers that add to what they are given, the head's output added again (R2L's
    `--use_residual`), and the colours' logits."""
    nodes: list[Node] = [
        Input("quant_places"),
        Input("quant_waves"),
        Concat("encoded", ("quant_places", "quant_waves")),
        Linear("head", "encoded", relu=True),
    ]
    stream = "head"
    for i in range(blocks):
        rounded = f"quant_blocks.{i}"
        nodes += [
            Round(rounded, stream),
            Linear(f"blocks.{i}.0", rounded, relu=True),
            Linear(f"blocks.{i}.1", f"blocks.{i}.0"),
            Add(f"sum.{i}", (rounded if rounded_stream else stream, f"blocks.{i}.1")),
        ]
        stream = f"sum.{i}"
    first = "quant_blocks.0" if rounded_stream and blocks else "head"
    nodes += [Add("all", (stream, first)), Round("quant_tail", "all"), Linear("tail", "quant_tail")]
    return LayerGraph(tuple(nodes), ("tail",))


class LightFieldNetwork(nn.Module):
    """Encoded rays `[R, C]` to logits of colours `[R, 3]`, as the graph says.

    A block's last layer starts at zero, so that the network starts as if it had none.
    """

    def __init__(self, graph: LayerGraph, inputs: int, width: int, blocks: int):
        super().__init__()
        self.graph = graph
        self.quant_places, self.quant_waves, self.quant_tail = QuantStub(), QuantStub(), QuantStub()
        self.quant_blocks = nn.ModuleList(QuantStub() for _ in range(blocks))
        self.head = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)]) for _ in range(blocks)
        )
        self.tail = nn.Linear(width, 3)
        for _, last in self.blocks:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, places: torch.Tensor, waves: torch.Tensor) -> torch.Tensor:
        inputs = {"quant_places": self.quant_places(places), "quant_waves": self.quant_waves(waves)}
        (logits,) = self.graph.run(inputs, self._linear, lambda node, x: self.get_submodule(node.name)(x))
        return logits

    def _linear(self, node: Linear, x: torch.Tensor) -> torch.Tensor:
        layer = self.get_submodule(node.name)
        y = layer(x)
        return F.relu(y) if node.relu and not getattr(layer, "has_relu", False) else y


class LightField(Trainable):
    """A network with its encodings: places on rays, and their directions, to colours."""

    kind = "light_field"

    def __init__(self, config: LightFieldConfig, network: nn.Module):
        super().__init__(config, network)
        for name, octaves in (("freqs", config.multires), ("freqs_views", config.multires_views)):
            self.register_buffer(name, torch.tensor([2.0**octave for octave in range(octaves)]), persistent=False)

    def forward(self, places: torch.Tensor, viewdirs: torch.Tensor) -> torch.Tensor:
        """`[R, K, 3]`, of about unit size, and unit vectors `[R, 3]` to colours `[R, 3]` in [0, 1]."""
        with record_function("encoding"):
            encoded = self.encode(places, viewdirs)
        with record_function("network"):
            return torch.sigmoid(self.network(*encoded).float())

    def encode(self, places: torch.Tensor, viewdirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates `[R, C]`, and their waves `[R, W]`."""
        encoded = [waves(places.flatten(1), self.freqs)]
        if self.config.use_viewdirs:
            encoded.append(waves(viewdirs, self.freqs_views))
        return self.config.coordinates(places, viewdirs), torch.cat(encoded, -1)

    def parameter_groups(self) -> list[Group]:
        """Muon may take the matrices of blocks."""
        return [
            Group((parameter,), muon=parameter.ndim == 2 and name.startswith("blocks."))
            for name, parameter in self.network.named_parameters()
        ]


def waves(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Columns `[R, C]` to `[R, 2 L C]`: the sines of `2^k x`, no pi, of all columns for each k, then the cosines."""
    angles = x[:, None] * freqs[:, None]
    return torch.cat([angles.sin(), angles.cos()], 1).flatten(1)


# ---------------------------------------------------------------------------------------- by flags


def add_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rounded_stream",
        action="store_true",
        help="int8 files hold the sums between blocks in 8 bits too: faster, and a little less exact",
    )


def from_flags(
    args: argparse.Namespace, box: torch.Tensor | None, network: type | None = None, ball: float = 0.0
) -> LightField:
    """Untrained; its shape is that of the flags of a NeRF. box, network, ball: it needs none, where places lie is its
    renderer's. Raises BadInput for a shape that it cannot have."""
    if args.netdepth < 2 or args.netdepth % 2:
        raise BadInput(f"--netdepth {args.netdepth}: a light field has a first and a last layer and pairs between them")
    if args.multires < 1 or args.multires_views < 0:
        raise BadInput(f"--multires {args.multires} --multires_views {args.multires_views}: give 1, and 0, or more")
    config = LightFieldConfig(
        depth=args.netdepth,
        width=args.netwidth,
        points=args.ray_points,
        use_viewdirs=args.use_viewdirs,
        multires=args.multires,
        multires_views=args.multires_views,
        rounded_stream=args.rounded_stream,
    )
    return config.make_field(config.make_network())
