"""A light field in int8: what is rounded where, evened out exactly, the same by every backend and in its simulation."""

import pytest
import torch
from helpers import CPU, TINY, make_trainer

from compressors.fake_quantize import set_state
from compressors.int8 import convert, prepare_graph, remap_state_dict
from compressors.light_field import LightFieldCompressor, StreamRanges, even_out
from deploy.backends.choose import has_onednn, make_int8_field
from deploy.backends.fused_steps import Product, fuse
from deploy.backends.int8 import Int8Network, Rounding
from deploy.backends.light_field import write_waves
from deploy.model_file import float_model
from deploy.nerf_file import int8_tensors
from fields.layer_graph import Add, Linear, Round
from fields.light_field import LightFieldConfig, waves
from options import config_parser

BACKENDS = ["reference", "torch", *(["onednn"] if has_onednn() else [])]
STREAMS = pytest.mark.parametrize("rounded", [False, True], ids=["float stream", "rounded stream"])


def config_of(rounded: bool, depth: int = 8) -> LightFieldConfig:
    return LightFieldConfig(
        depth=depth, width=32, points=4, use_viewdirs=True, multires=4, multires_views=2, rounded_stream=rounded
    )


def some_rays(count: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    places = 2 * torch.rand(count, 4, 3, generator=generator) - 1
    return places, torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)


def rounded_network(config: LightFieldConfig, bits: int = 8):
    """A random light field, prepared and calibrated on `some_rays`."""
    torch.manual_seed(1)
    network = config.make_network()
    for _, last in network.blocks:
        torch.nn.init.normal_(last.weight, std=0.2)
    network = prepare_graph(network, network.graph, config.input_widths, 8, bits)
    field = config.make_field(network).train()
    set_state(field, observing=True, quantizing=False, momentum=None)
    with torch.no_grad():
        field(*some_rays())
    set_state(field, observing=False, quantizing=True)
    return field.eval()


def int8_state(field) -> dict[str, torch.Tensor]:
    state = remap_state_dict(convert(field.network), "n")
    return {key.removeprefix("n."): value for key, value in state.items()}


@STREAMS
def test_what_a_file_holds(rounded):
    config = config_of(rounded)
    state = int8_state(rounded_network(config))
    expected = int8_tensors(config)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in state.items()} == expected
    assert all(state[f"{node.name}.weight"].dtype == torch.int8 for node in config.graph.linears)
    assert "blocks.0.1.output_scale" not in state and "quant_tail.output_scale" in state


@STREAMS
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_integers_equal_their_simulation(rounded, backend):
    """Up to codes that fall on the other side of a tie, which move few rays by little."""
    config, rays = config_of(rounded), some_rays()
    field = rounded_network(config)
    expected = field(*rays)
    got = make_int8_field(config, int8_state(field), 8, CPU, backend)(*rays)
    difference = (got - expected).abs()
    assert float(difference.median()) < 1e-4 and float(difference.max()) < 0.02
    assert float(expected.std()) > 0.02


@STREAMS
@pytest.mark.parametrize("backend", BACKENDS[1:])
@torch.no_grad()
def test_backends_agree_on_codes(rounded, backend):
    config = config_of(rounded)
    state, widths = int8_state(rounded_network(config)), config.input_widths
    codes = [torch.randint(0, 256, (300, width), dtype=torch.uint8) for width in widths.values()]
    reference, other = (Int8Network(config.graph, widths, state, 8, name) for name in ("reference", backend))
    a, b = reference.run(*codes), other.run(*codes)
    assert float(((a - b).abs() > 1e-4).float().mean()) < 0.05 and float((a - b).abs().max()) < 0.1 * float(a.std())


@STREAMS
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_ray_alone_is_what_it_is_among_others(rounded, backend):
    """Scales are fixed: where they follow the batch, as R2L-quant's do, a ray's colour depends on its neighbours."""
    config, (places, viewdirs) = config_of(rounded), some_rays(64)
    field = make_int8_field(config, int8_state(rounded_network(config)), 8, CPU, backend)
    together = field(places, viewdirs)
    places[1:] *= 3  # far beyond what was calibrated
    for i in range(0, 64, 21):
        alone = field(places[i : i + 1], viewdirs[i : i + 1])
        beside = field(places[: i + 1], viewdirs[: i + 1])[i:]
        torch.testing.assert_close(alone, beside, atol=2e-6, rtol=0)
    torch.testing.assert_close(field(places[:1], viewdirs[:1]), together[:1], atol=2e-6, rtol=0)


@torch.no_grad()
def test_waves_straight_to_codes():
    """By recurrence, against sines and cosines themselves: a code off at most, and few of them."""
    rounding = Rounding(torch.tensor(2 / 255), torch.tensor(128, dtype=torch.uint8), 255)
    x, octaves = 2 * torch.rand(2000, 6) - 1, 16
    encoded = torch.empty(2000, 2 * octaves * 6)
    write_waves(x, encoded, octaves)
    exact = waves(x.double(), 2.0 ** torch.arange(octaves)).float()
    assert float((encoded - exact).abs().max()) < 5e-5
    codes, expected = rounding.quick(encoded).int(), rounding(exact).int()
    assert int((codes - expected).abs().max()) <= 1 and float((codes != expected).float().mean()) < 5e-3


@STREAMS
@torch.no_grad()
def test_onnx_runtime_agrees(rounded):
    pytest.importorskip("onnxruntime", reason="an extra: pip install -r requirements-onnx.txt")
    config, rays = config_of(rounded), some_rays()
    state = int8_state(rounded_network(config))
    reference, onnx = (make_int8_field(config, state, 8, CPU, name)(*rays) for name in ("reference", "onnxruntime"))
    assert float((reference - onnx).abs().median()) < 1e-4 and float((reference - onnx).abs().max()) < 0.02


@torch.no_grad()
def test_layers_too_wide_for_float32_are_exact_all_the_same():
    """1008 inputs, as the paper's network has: sums pass 2^24."""
    config = LightFieldConfig(depth=4, width=16, points=16, multires=10)
    state = int8_state(rounded_wide(config))
    state["head.weight"] = torch.full_like(state["head.weight"], 127)
    codes = [torch.full((3, width), 255, dtype=torch.uint8) for width in config.input_widths.values()]
    outputs = [Int8Network(config.graph, config.input_widths, state, 8, name).run(*codes) for name in BACKENDS]
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0]) or float((output - outputs[0]).abs().max()) < 1e-4


def rounded_wide(config: LightFieldConfig):
    network = config.make_network()
    network = prepare_graph(network, network.graph, config.input_widths, 8, 8)
    field = config.make_field(network).train()
    set_state(field, observing=True, quantizing=False, momentum=None)
    with torch.no_grad():
        field(torch.rand(50, 16, 3), torch.rand(50, 3))
    return field


@STREAMS
def test_steps_that_integers_take(rounded):
    """Two products a block; a stream of codes is summed and rounded in the second, one of floats only summed. After the
    last block there is another sum before the next rounding, for which codes have to become floats."""
    steps = [step for step, _ in fuse(config_of(rounded).graph)]
    products = [step for step in steps if isinstance(step, Product)]
    assert len(products) == 8 and all(isinstance(step.layer, Linear) for step in products)
    seconds = [step for step in products if step.layer.name.endswith(".1")]
    assert [step.added is not None for step in seconds] == ([True, True, False] if rounded else [True] * 3)
    assert [step.rounding is not None for step in seconds] == ([True, True, False] if rounded else [False] * 3)
    assert sum(isinstance(step, Round) for step in steps) == (1 if rounded else 4)
    assert sum(isinstance(step, Add) for step in steps) == (2 if rounded else 1)


@torch.no_grad()
def test_evening_out_changes_nothing_but_the_ranges():
    config, rays = config_of(False), some_rays()
    network = config.make_network().double()
    for _, last in network.blocks:
        torch.nn.init.normal_(last.weight, std=0.2)
    network.head.weight[3] *= 30  # a channel that spoils the scale of all
    network.head.weight[4] /= 10
    field = config.make_field(network).double()
    rays = [part.double() for part in rays]
    before = field(*rays)
    with StreamRanges(network) as ranges:
        field(*rays)
    uneven = ranges.largest()
    factors = even_out(network, uneven.double())
    torch.testing.assert_close(field(*rays), before)
    with StreamRanges(network) as ranges:
        field(*rays)
    even = ranges.largest()
    assert factors.min() == 1 and factors[3] == 1 and factors[4] > 5
    spread = [(one.amax(1) / one.median(1).values).mean() for one in (uneven, even)]
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize(
    "precision, largest",
    [("float32", 23_700_000), ("bfloat16", 11_900_000), ("float16", 11_900_000), ("int8", 6_100_000)],
)
def test_the_papers_network_in_bytes(paper, precision, largest):
    """Of 5,917,187 parameters: 4, 2 and about 1 byte each, and little else."""
    renderer, path, compressor = paper
    if precision == "int8":
        compressor.prepare()
        compressor.calibrate(compressor.batches)
        content = compressor.to_bytes()
    else:
        content = float_model(renderer, path, precision)
    assert len(content) <= largest
    if precision == "float32":
        assert len(content) >= 4 * 5_917_187


@pytest.fixture(scope="module")
def paper(scene, tmp_path_factory):
    """The paper's student, after a few steps of training; places from near to far, as it has them."""
    flags = [
        *TINY, "--no_random_bkgd", "--no_use_viewdirs", "--field", "light_field", "--sampler", "light_field",
        "--netdepth", "88", "--netwidth", "256", "--multires", "10", "--ray_points", "16", "--ray_span", "near_far",
        "--N_rand", "64", "--calibration_batches", "2", "--muon_lrate", "0.01", "--lrate", "1e-3",
    ]  # fmt: skip
    trainer = make_trainer(scene, tmp_path_factory.mktemp("paper"), flags)
    errors = [float(trainer.step().mse) for _ in range(6)]
    assert errors[-1] < errors[0]
    args = config_parser().parse_args(flags)
    compressor = LightFieldCompressor.from_flags(args, trainer.renderer, scene.render_path, has_float=True)
    compressor.batches = trainer.batches
    return trainer.renderer, scene.render_path, compressor
