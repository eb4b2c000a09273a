"""Layer graphs: NeRF said as one is NeRF, other shapes run as written, and whatever executes integers follows them."""

import weakref

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from compressors.fake_quantize import set_state
from compressors.int8 import fuse, prepare
from deploy.backends.blocks import InBlocks
from deploy.backends.int8 import Int8Field, Int8Network
from deploy.backends.low_bit import BitNetwork
from fields.layer_graph import Add, Concat, Input, LayerGraph, Linear
from fields.nerf import FieldConfig, RadianceField, graph_of
from rendering.points import Points
from run_nerf_helpers import NeRF, NeRF_qat

# A shape that no network here has: concatenations of inputs and of concatenations, and a sum of a sum.
SHAPE = LayerGraph(
    (
        Input("a"),
        Input("b"),
        Concat("ab", ("a", "b")),
        Linear("first", "ab", relu=True),
        Linear("second", "first", relu=True),
        Add("sum.1", ("second", "first")),
        Input("c"),
        Concat("all", ("sum.1", "ab", "c")),
        Linear("third", "all", relu=True),
        Add("sum.2", ("third", "sum.1")),
        Linear("left", "sum.2"),
        Concat("end", ("c", "sum.2", "third")),
        Linear("right", "end"),
    ),
    ("left", "right"),
)
WIDTHS = {"a": 2, "b": 3, "c": 4}
# What a field may be: density of positions alone, colour of both inputs.
OF_TWO_INPUTS = LayerGraph(
    (
        Input("quant_pts"),
        Input("quant_views"),
        Concat("both", ("quant_views", "quant_pts")),
        Linear("hidden", "both", relu=True),
        Linear("rgb", "hidden"),
        Linear("sigma", "quant_pts"),
    ),
    ("rgb", "sigma"),
)
WITH_A_SUM = LayerGraph(
    (
        Input("quant_pts"),
        Linear("first", "quant_pts", relu=True),
        Linear("second", "first", relu=True),
        Add("sum", ("second", "first")),
        Linear("raw", "sum"),
    ),
    ("raw",),
)
CONFIG = FieldConfig(i_embed=-1, density_activation="softplus", density_bias=-1.0, density_scale=3.0)  # three columns


def layers_of(graph: LayerGraph, widths: dict[str, int], hidden: int, heads: dict[str, int]) -> dict[str, nn.Linear]:
    """A random layer for each of a graph's. hidden: outputs of those that are no heads."""
    torch.manual_seed(0)
    widths = widths | {node.name: heads.get(node.name, hidden) for node in graph.linears}
    widths |= {node.name: hidden for node in graph.nodes if isinstance(node, Add)}
    inputs = {node.name: sum(widths[source] for source in graph.sources(node.input)) for node in graph.linears}
    return {name: nn.Linear(count, widths[name]) for name, count in inputs.items()}


def points(count: int) -> Points:
    generator = torch.Generator().manual_seed(1)
    positions = 2 * torch.rand(count, 3, generator=generator) - 1
    return Points(positions, F.normalize(torch.randn(count, 3, generator=generator), dim=-1))


# --------------------------------------------------------------------------------- what NeRF is


def run_by_graph(network: NeRF, x: torch.Tensor, graph: LayerGraph) -> list[torch.Tensor]:
    """Layers with their ReLUs, or with what stands for them, and what rounds the inputs."""

    def execute(node: Linear, x: torch.Tensor) -> torch.Tensor:
        y = network.get_submodule(node.name)(x)
        return F.relu(y) if node.relu else y

    pts, views = x.split([network.input_ch, network.input_ch_views], -1)
    inputs = {"quant_pts": pts} | ({"quant_views": views} if network.use_viewdirs else {})
    if isinstance(network, NeRF_qat):
        inputs = {name: network.get_submodule(name)(part) for name, part in inputs.items()}
    return graph.run(inputs, execute)


def random_inputs(config: FieldConfig, count: int = 50) -> torch.Tensor:
    return torch.randn(count, config.input_ch + config.input_ch_views, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("network", [NeRF, NeRF_qat])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("use_viewdirs", [True, False], ids=["views", "no views"])
@pytest.mark.parametrize("skips", [(), (4,), (0, 1, 6, 7)], ids=str)
@pytest.mark.parametrize("depth", [1, 2, 8])
def test_a_nerf_by_its_graph_is_the_nerf(network, depth, skips, use_viewdirs, residual):
    config = FieldConfig(depth, 16, skips, use_viewdirs, multires=2, multires_views=1, residual=residual)
    network = config.make_network(network)
    x = random_inputs(config)
    assert graph_of(network) == config.graph and config.graph.multiplies_floats == (residual and depth > 1)
    outputs = run_by_graph(network, x, config.graph)
    assert torch.equal(torch.cat(outputs, -1), network(x))
    of_density = config.graph.until(config.graph.outputs[-1])
    assert of_density.inputs == ["quant_pts"]
    (density,) = run_by_graph(network, x, of_density)
    assert torch.equal(density[:, 0 if use_viewdirs else 3], network.raw_density(x[:, : config.input_ch]))


@pytest.mark.parametrize("use_viewdirs", [True, False], ids=["views", "no views"])
def test_a_network_that_rounds_does_so_by_its_graph(use_viewdirs):
    config = FieldConfig(6, 16, (1, 3), use_viewdirs, multires=2, multires_views=1)
    network, x = prepare(fuse(config.make_network(NeRF_qat))), random_inputs(config)
    set_state(network, observing=True, quantizing=False, momentum=None)
    network.train()(x)
    set_state(network, observing=False, quantizing=True)
    assert torch.equal(torch.cat(run_by_graph(network, x, config.graph), -1), network(x))


# ------------------------------------------------------------------------------- any other graph


def test_another_shape_against_torch():
    layers = layers_of(SHAPE, WIDTHS, 6, {"left": 3, "right": 1})
    a, b, c = (torch.randn(20, width) for width in WIDTHS.values())
    tensors = {"a": a, "b": b, "c": c}
    left, right = SHAPE.run(tensors, lambda node, x: layers[node.name](x).relu() if node.relu else layers[node.name](x))
    first = layers["first"](torch.cat([a, b], -1)).relu()
    one = layers["second"](first).relu() + first
    third = layers["third"](torch.cat([one, a, b, c], -1)).relu()
    two = third + one
    assert torch.equal(left, layers["left"](two))
    assert torch.equal(right, layers["right"](torch.cat([c, two, third], -1)))
    assert list(tensors) == ["a", "b", "c"]  # what is given is left alone


def test_what_a_graph_says_of_itself():
    assert SHAPE.inputs == ["a", "b", "c"]
    assert [node.name for node in SHAPE.linears] == ["first", "second", "third", "left", "right"]
    assert SHAPE.multiplies_floats and not SHAPE.until("first").multiplies_floats


def test_sources_are_seen_through_concatenations():
    assert SHAPE.sources("all") == ["sum.1", "a", "b", "c"]
    assert SHAPE.sources("end") == ["c", "sum.2", "third"]
    assert SHAPE.sources("sum.2") == ["sum.2"] and SHAPE.sources("a") == ["a"]


def test_until_keeps_what_is_needed():
    assert SHAPE.until("left", "right") == SHAPE
    part = SHAPE.until("sum.1")
    assert [node.name for node in part.nodes] == ["a", "b", "ab", "first", "second", "sum.1"]
    assert part.outputs == ("sum.1",)
    names = [node.name for node in SHAPE.until("left").nodes]
    assert names == [node.name for node in SHAPE.nodes if node.name not in ("end", "right")]
    assert SHAPE.until("c") == LayerGraph((Input("c"),), ("c",))


def test_outputs_may_be_needed_by_others_and_inputs_be_outputs():
    graph = LayerGraph((Input("a"), Linear("l", "a"), Add("twice", ("l", "l"))), ("l", "twice", "a"))
    a = torch.ones(2, 1)
    one, two, same = graph.run({"a": a}, lambda node, x: 3 * x)
    assert one.tolist() == [[3], [3]] and two.tolist() == [[6], [6]] and same is a


@pytest.mark.parametrize(
    "graph", [SHAPE, OF_TWO_INPUTS, FieldConfig(residual=True).graph], ids=["shape", "two", "nerf"]
)
@torch.no_grad()
def test_nothing_is_kept_longer_than_it_is_needed(graph):
    """When a layer is executed, only what it or a later node takes is there, and finished outputs."""
    made: dict[str, weakref.ref] = {}
    alive = {}

    def execute(node: Linear, x: torch.Tensor) -> torch.Tensor:
        made.setdefault(node.input, weakref.ref(x))
        alive[node.name] = {name for name, tensor in made.items() if tensor() is not None}
        y = x.mean(-1, keepdim=True).expand(-1, 4).clone()
        made[node.name] = weakref.ref(y)
        return y

    graph.run({name: torch.rand(3, 4) for name in graph.inputs}, execute)
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Linear):
            needed = {*graph.outputs, *(name for later in graph.nodes[i:] for name in later.inputs)}
            assert alive[node.name] <= needed
    assert list(alive) == [node.name for node in graph.linears]


# ------------------------------------------------------------------------- what executes integers


def int8_state(graph: LayerGraph, layers: dict[str, nn.Linear]) -> dict[str, torch.Tensor]:
    """Random integers as a file has them, scales and zero points different everywhere."""
    state = {}
    for i, name in enumerate(graph.inputs):
        state[f"{name}.output_scale"] = torch.tensor(2.0 / 255 * (1 + i))
        state[f"{name}.output_zero_point"] = torch.tensor(120 + 9 * i, dtype=torch.uint8)
    for i, node in enumerate(graph.linears):
        layer = layers[node.name]
        state[f"{node.name}.weight"] = torch.randint(-127, 128, layer.weight.shape, dtype=torch.int8)
        state[f"{node.name}.scale"] = 1e-4 * (1 + torch.rand(layer.out_features))
        state[f"{node.name}.bias"] = layer.bias.detach().clone()
        if node.name not in graph.outputs:
            state[f"{node.name}.output_scale"] = torch.tensor(0.02 + 0.01 * i)
            state[f"{node.name}.output_zero_point"] = torch.tensor(0 if node.relu else 99 + i, dtype=torch.uint8)
    return state


def int8_network(backend: str = "reference") -> tuple[Int8Network, dict[str, torch.Tensor]]:
    layers = layers_of(OF_TWO_INPUTS, CONFIG.input_widths, 24, {"rgb": 3, "sigma": 1})
    state = int8_state(OF_TWO_INPUTS, layers)
    return Int8Network(OF_TWO_INPUTS, CONFIG.input_widths, state, 8, backend), state


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_int8_follows_any_graph(backend):
    network, state = int8_network(backend)

    def quantize(y: torch.Tensor, name: str) -> torch.Tensor:
        scale, zero_point = state[f"{name}.output_scale"], state[f"{name}.output_zero_point"]
        return ((y / scale).round() + zero_point).clamp(0, 255).to(torch.uint8)

    def product(name: str, *of: tuple[torch.Tensor, str]) -> torch.Tensor:
        """Of codes and what each is called, less their zero points."""
        x = torch.cat([codes.long() - state[f"{source}.output_zero_point"].long() for codes, source in of], -1)
        return (x @ state[f"{name}.weight"].long().T).float() * state[f"{name}.scale"] + state[f"{name}.bias"]

    asked = points(500)
    pts, views = quantize(asked.positions, "quant_pts"), quantize(asked.directions, "quant_views")
    hidden = quantize(product("hidden", (views, "quant_views"), (pts, "quant_pts")).relu(), "hidden")
    rgb, density = product("rgb", (hidden, "hidden")), product("sigma", (pts, "quant_pts"))
    assert len(hidden.unique()) > 50 and rgb.std(0).min() > 0.1 and density.std() > 0.01
    raw = network(torch.cat([asked.positions, asked.directions], -1))
    assert torch.equal(raw, torch.cat([rgb, density], -1))
    assert torch.equal(network.raw_density(asked.positions), density[:, 0])
    field = Int8Field(CONFIG, network)(asked)
    torch.testing.assert_close(field.density, 3 * F.softplus(density[:, 0] - 1))
    torch.testing.assert_close(field.rgb, torch.sigmoid(rgb))


def test_onnx_follows_any_graph():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from deploy.backends.onnx_runtime import OnnxField

    field, asked = RadianceField(CONFIG, int8_network()[0]), points(5000)
    expected, got = field(asked), OnnxField(field)(asked)
    assert expected.density.std() > 0.01 and expected.rgb.std() > 0.05
    # A bias is rounded to whole units, so a code of the hidden layer may be the next one, in some rows.
    torch.testing.assert_close(got.density, expected.density, rtol=1e-4, atol=1e-4)
    assert ((got.rgb - expected.rgb).abs().amax(-1) > 1e-4).float().mean() < 0.1
    torch.testing.assert_close(got.rgb, expected.rgb, rtol=0, atol=0.01)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_few_bits_follow_any_graph(backend):
    config = FieldConfig(use_viewdirs=False, i_embed=-1)
    layers = layers_of(WITH_A_SUM, config.input_widths, 12, {"raw": 4})
    network = BitNetwork(WITH_A_SUM, {"quant_pts": 3}, low_bit_tensors(layers), backend)
    first, second, raw = network.layers.values()
    asked = points(300)
    h = first(asked.positions).relu()
    expected = raw(second(h).relu() + h)
    assert torch.equal(network(asked.positions), expected) and expected.std(0).min() > 0.01
    assert torch.equal(network.raw_density(asked.positions), expected[:, 3])
    torch.testing.assert_close(InBlocks(config.make_field(network), 2048)(asked).rgb, torch.sigmoid(expected[:, :3]))


def test_few_bits_follow_a_graph_of_many_sums_and_inputs():
    layers = layers_of(SHAPE, WIDTHS, 6, {"left": 3, "right": 1})
    network = BitNetwork(SHAPE, WIDTHS, low_bit_tensors(layers), "torch")
    x = torch.randn(40, sum(WIDTHS.values()))
    inputs = dict(zip(WIDTHS, x.split(list(WIDTHS.values()), -1), strict=True))

    def execute(node: Linear, x: torch.Tensor) -> torch.Tensor:
        y = network.layers[node.name](x)
        return y.relu() if node.relu else y

    assert torch.equal(network(x), torch.cat(SHAPE.run(inputs, execute), -1))


def low_bit_tensors(layers: dict[str, nn.Linear]) -> dict[str, dict[str, torch.Tensor]]:
    """Ternary codes and their scales, the first layer float and all but that with a norm."""
    tensors = {}
    for i, (name, layer) in enumerate(layers.items()):
        tensors[name] = {"weight": layer.weight.detach(), "bias": layer.bias.detach()}
        if i:
            codes = torch.randint(-1, 2, layer.weight.shape, dtype=torch.int8)
            tensors[name] |= {"weight": codes, "scale": torch.tensor(0.3), "norm": torch.rand(layer.in_features) + 0.5}
    return tensors
