"""A field of integers as ONNX, with its encodings inside.

Inputs are `positions [P, 3]` and `directions [P, 3]`, float32, of a mip-NeRF instead of positions the
`mean [P, N]` and `variance [P, N]` of what a sample stands for along N axes; outputs `density [P]`
(1/world unit) and `rgb [P, 3]` in [0, 1].
"""

import numpy as np
import torch

from deploy.backends.int8 import Int8Network
from deploy.backends.low_bit import BitNetwork
from deploy.backends.onnx_graph import Graph
from deploy.backends.onnx_int8 import Int8Graph
from deploy.backends.onnx_low_bit import BitGraph
from fields.nerf import FieldConfig, RadianceField
from rendering.points import Points

GRAPHS: dict[type, type[Graph]] = {Int8Network: Int8Graph, BitNetwork: BitGraph}  # by what executes a network


def field_to_onnx(field: RadianceField):
    """The ModelProto of a field whose network is of GRAPHS. Raises UserError without onnx."""
    network, config = field.network, field.config
    graph = GRAPHS[type(network)]()
    inputs = {name: _encoded(graph, field, name) for name in network.graph.inputs}
    outputs = graph.network(network, inputs)
    if len(outputs) == 2:
        raw_rgb, raw_density = outputs
    else:
        raw_rgb, raw_density = (
            graph.columns(*outputs, 0, 3, "raw_rgb"),
            graph.columns(*outputs, 3, 4, "raw_density"),
        )
    graph.add("Sigmoid", [raw_rgb], "rgb")
    _activate_density(graph, raw_density, config)
    return graph.model(input_widths(field), {"density": ["P"], "rgb": ["P", 3]})


def input_widths(field: RadianceField) -> dict[str, int]:
    """Columns of the graph's inputs by name, in their order."""
    origin = torch.zeros(1, 3)
    widths = {name: column.shape[1] for name, column in field.queries(Points(origin, origin)).items()}
    return widths if field.config.use_viewdirs else {name: widths[name] for name in widths if name != "directions"}


def _encoded(graph: Graph, field: RadianceField, name: str) -> str:
    """An input of the network, from inputs of the graph."""
    if name == "quant_views":
        return graph.embed("directions", field.embed_views, "embed_views")
    if "mean" in input_widths(field):
        return graph.embed_gaussians("mean", "variance", field.config.multires, "embed_pts")
    return graph.embed("positions", field.embed, "embed_pts")


def _activate_density(graph: Graph, raw: str, config: FieldConfig) -> None:
    biased = graph.add("Add", [raw, graph.constant("density.bias", np.float32(config.density_bias))], "density.biased")
    activation = "Softplus" if config.density_activation == "softplus" else "Relu"
    active = graph.add(activation, [biased], "density.active")
    column = graph.add(
        "Mul", [active, graph.constant("density.scale", np.float32(config.density_scale))], "density.column"
    )
    graph.add("Squeeze", [column, graph.constant("density.axis", np.array([1], np.int64))], "density")
