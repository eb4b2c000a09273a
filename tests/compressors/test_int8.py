"""Fake quantisation, conversion, key remap, and integer execution on every backend."""

import copy
import dataclasses

import pytest
import torch

from compressors import fake_quantize as q
from compressors.int8 import convert, fuse, prepare, remap_state_dict
from deploy.backends.choose import has_onednn, select_backend
from deploy.backends.int8 import ROWS_IN_CACHE, Int8Field, Int8Network
from deploy.nerf_file import int8_tensors, load
from fields.nerf import FieldConfig, RadianceField, graph_of
from rendering.points import Points
from run_nerf_helpers import NeRF, NeRF_qat
from utils.errors import BrokenFile

CONFIGS = {
    "lego-like": FieldConfig(depth=8, width=32, multires=6, multires_views=4),
    "shallow": FieldConfig(depth=3, width=16, multires=4, multires_views=2),
    "no view directions": FieldConfig(depth=6, width=16, multires=4, use_viewdirs=False),
    "no encoding": FieldConfig(depth=2, width=8, i_embed=-1),
}
BACKENDS = ["torch"] + ["onednn"] * has_onednn()


def encoded_inputs(config: FieldConfig, count: int, seed: int = 0) -> torch.Tensor:
    """Rows as a field would make them: encoded points in a box, encoded unit directions."""
    g = torch.Generator().manual_seed(seed)
    from run_nerf_helpers import get_embedder

    x = get_embedder(config.multires, config.i_embed)[0](2.4 * torch.rand(count, 3, generator=g) - 1.2)
    if not config.use_viewdirs:
        return x
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    return torch.cat([x, get_embedder(config.multires_views, config.i_embed)[0](directions)], -1)


def prepared(config: FieldConfig, weight_bits: int = 8, activation_bits: int = 8) -> tuple[NeRF_qat, NeRF_qat]:
    """A float network and its prepared, calibrated, quantising copy."""
    torch.manual_seed(1)
    network = config.make_network(NeRF_qat)
    for parameter in network.parameters():  # larger than at initialisation, as after training
        parameter.data *= 2
    qat = prepare(fuse(network), weight_bits, activation_bits)
    q.set_state(qat, observing=True, quantizing=False, momentum=None)
    qat.train()(encoded_inputs(config, 4096))
    q.set_state(qat, observing=False, quantizing=True)
    return network, qat.eval()


def int8_state(qat: NeRF_qat) -> dict[str, torch.Tensor]:
    state = remap_state_dict(convert(qat), "network_fn")
    return {key.removeprefix("network_fn."): value for key, value in state.items()}


def int8_network(config: FieldConfig, state: dict[str, torch.Tensor], bits: int, backend="reference") -> Int8Network:
    return Int8Network(config.graph, config.input_widths, state, bits, backend)


# ------------------------------------------------------------------------------ fake quantisation


def test_fake_quantize_by_hand():
    fq = q.FakeQuantize(bits=2, after_relu=False)
    fq.train()(torch.tensor([-1.0, 2.0]))  # range 3 in 3 steps: scale 1, zero point 1
    assert (float(fq.scale), float(fq.zero_point)) == (1.0, 1.0)
    q.set_state(fq, observing=False, quantizing=True)
    assert fq(torch.tensor([-5.0, -0.6, -0.4, 0.0, 0.4, 1.6, 9.0])).tolist() == [-1, -1, 0, 0, 0, 2, 2]


def test_fake_quantize_keeps_zero_exact_and_errs_by_half_a_step():
    fq = q.FakeQuantize(bits=8, after_relu=False)
    x = torch.linspace(-0.37, 1.91, 1001)
    fq.train()(x)
    q.set_state(fq, observing=False, quantizing=True)
    assert float(fq(torch.zeros(1))) == 0.0
    assert float((fq(x) - x).abs().max()) <= 0.501 * float(fq.scale) + float(fq.scale) * 0.5  # ends may clip
    inner = x[5:-5]
    assert float((fq(inner) - inner).abs().max()) <= 0.5001 * float(fq.scale)


def test_rounding_is_idempotent():
    fq = q.FakeQuantize(bits=8, after_relu=True)
    x = torch.rand(500) * 3
    fq.train()(x)
    q.set_state(fq, observing=False, quantizing=True)
    torch.testing.assert_close(fq(fq(x)), fq(x), rtol=0, atol=0)


def test_clipping_is_the_relu():
    fq = q.FakeQuantize(bits=8, after_relu=True)
    x = torch.linspace(-2, 2, 401)
    observed = fq.train()(x)
    torch.testing.assert_close(observed, x.relu())
    q.set_state(fq, observing=False, quantizing=True)
    assert float(fq.zero_point) == 0 and (fq(x)[x <= 0] == 0).all()


def test_straight_through_gradient_passes_inside_and_stops_outside():
    fq = q.FakeQuantize(bits=8, after_relu=False)
    fq.train()(torch.tensor([-1.0, 1.0]))
    q.set_state(fq, observing=False, quantizing=True)
    x = torch.tensor([-3.0, -0.5, 0.0, 0.7, 3.0], requires_grad=True)
    fq(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_moving_average_range_and_freezing():
    fq = q.FakeQuantize(bits=8, after_relu=True).train()
    fq(torch.tensor([4.0]))
    fq.momentum = 0.25
    fq(torch.tensor([8.0]))
    assert float(fq.max_val) == pytest.approx(5.0)
    fq.eval()(torch.tensor([100.0]))
    assert float(fq.max_val) == pytest.approx(5.0), "evaluation must not move a range"
    q.set_state(fq, observing=False, quantizing=True)
    fq.train()(torch.tensor([100.0]))
    assert float(fq.max_val) == pytest.approx(5.0), "a frozen range must not move"


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weight_levels_are_symmetric_per_channel(bits):
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1], [10], [0.1], [3], [0]])
    levels, scale = q.WeightFakeQuantize(bits).integers(weight)
    q_max = 2 ** (bits - 1) - 1
    assert levels.abs().amax(1).tolist() == [q_max] * 4 + [0]
    assert torch.equal(levels, levels.round())
    within_reach = weight.abs() <= (q_max + 0.5) * scale[:, None]  # few bits clip the tails
    error = ((levels * scale[:, None] - weight).abs() * within_reach).amax(1)
    assert (error <= 0.5001 * scale).all()
    assert within_reach.float().mean() > 0.9


# --------------------------------------------------------------------------- fuse, prepare, convert


@pytest.mark.parametrize("name", CONFIGS)
def test_fused_and_prepared_networks_still_compute_the_float_function(name):
    config = CONFIGS[name]
    network = config.make_network(NeRF_qat)
    x = encoded_inputs(config, 100)
    fused = fuse(network)
    qat = prepare(fused)
    torch.testing.assert_close(fused(x), network(x))
    torch.testing.assert_close(qat(x), network(x))  # observing, not yet quantising
    assert isinstance(network.pts_linears[0], torch.nn.Linear), "the original must be left alone"
    assert not list(q.fake_quantizers(network))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_linear_layer_is_prepared_and_converted(name):
    config = CONFIGS[name]
    _, qat = prepared(config)
    reached = {layer.name for layer in graph_of(qat).linears}
    for layer, module in qat.named_modules():
        if isinstance(module, torch.nn.Linear) and layer in reached:
            assert isinstance(module, q.QATLinear), f"{layer} was forgotten"
    state = int8_state(qat)
    weights = {key: value for key, value in state.items() if key.endswith(".weight")}
    assert {key.removesuffix(".weight") for key in weights} == reached
    assert all(value.dtype == torch.int8 for value in weights.values())


def test_layer_inputs_of_the_skip_and_the_view_branch():
    graph = graph_of(FieldConfig().make_network(NeRF))
    flow = {layer.name: graph.sources(layer.input) for layer in graph.linears}
    assert flow["pts_linears.0"] == ["quant_pts"]
    assert flow["pts_linears.5"] == ["quant_pts", "pts_linears.4"]
    assert flow["pts_linears.6"] == ["pts_linears.5"]
    assert flow["views_linears.0"] == ["feature_linear", "quant_views"]
    assert flow["alpha_linear"] == ["pts_linears.7"]


def test_float_weights_survive_preparation_and_train():
    config = CONFIGS["shallow"]
    network, qat = prepared(config)
    torch.testing.assert_close(qat.pts_linears[1].weight, network.pts_linears[1].weight)
    qat(encoded_inputs(config, 64)).square().sum().backward()
    for name, parameter in qat.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_remap_names_every_key_and_refuses_others():
    _, qat = prepared(CONFIGS["lego-like"])
    converted = convert(qat)
    coarse, fine = remap_state_dict(converted, "network_fn"), remap_state_dict(converted, "network_fine")
    assert len(coarse) == len(fine) == len(converted)
    assert not set(coarse) & set(fine)
    assert "network_fn.pts_linears.0.output_zero_point" in coarse
    assert "network_fine.quant_views.output_scale" in fine
    expected = {f"network_fn.{key}" for key in int8_tensors(CONFIGS["lego-like"])}
    assert set(coarse) == expected
    with pytest.raises(KeyError, match="min_val"):
        remap_state_dict({"pts_linears.0.activation_post_process.min_val": torch.zeros(1)}, "network_fn")


# ------------------------------------------------------------------------------ integer execution


@pytest.mark.parametrize("name", CONFIGS)
def test_int8_network_agrees_with_fake_quantisation(name):
    """Fake quantisation rounds in float what int8 rounds in integers: all but ties agree."""
    config = CONFIGS[name]
    _, qat = prepared(config)
    x = encoded_inputs(config, 500, seed=7)
    with torch.no_grad():
        expected = qat(x)
        got = int8_network(config, int8_state(qat), bits=8)(x)
    spread = expected.std(0)
    assert ((got - expected).abs().median(0).values <= 1e-4 * spread).all()
    assert ((got - expected).abs().amax(0) <= 0.1 * spread).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_backends_agree_with_the_reference_to_one_rounding_step(name, backend):
    config = CONFIGS[name]
    _, qat = prepared(config)
    state = int8_state(qat)
    reference, fast = int8_network(config, state, 8), int8_network(config, state, 8, backend)
    g = torch.Generator().manual_seed(3)
    for layer_name, layer in reference.layers.items():
        codes = torch.randint(0, 256, (2000, layer.weight.shape[1]), generator=g).to(torch.uint8)
        expected, got = layer(codes), fast.layers[layer_name](codes)
        assert got.dtype == expected.dtype
        if layer.is_head:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        else:
            difference = (got.int() - expected.int()).abs()
            assert int(difference.max()) <= 1
            assert float((difference > 0).float().mean()) < 2e-3  # ties only
    x = encoded_inputs(config, 3000, seed=9)
    a, b = reference(x), fast(x)
    assert float((a - b).abs().median()) <= 1e-4 * float(a.std())
    torch.testing.assert_close(fast.raw_density(x[:, : config.input_ch]), b[:, 3])


def test_torch_backend_is_exact_in_the_integer_part():
    """Integers carried in float32 are the same integers, at the widest layer of a NeRF."""
    config = FieldConfig()
    _, qat = prepared(config)
    state = int8_state(qat)
    reference, fast = int8_network(config, state, 8), int8_network(config, state, 8, "torch")
    worst = torch.full((1, 319), 255, dtype=torch.uint8)
    layer_a, layer_b = reference.layers["pts_linears_5"], fast.layers["pts_linears_5"]
    for layer in (layer_a, layer_b):
        layer.weight.fill_(127)
    reference.use_backend("reference")
    fast.use_backend("torch")
    assert torch.equal(layer_a(worst), layer_b(worst))
    codes = torch.randint(0, 256, (500, 319), dtype=torch.uint8)
    assert torch.equal(layer_a(codes), layer_b(codes))


def test_reference_layer_by_hand():
    """q = [3, 250], z = [1, 255], w = [2, -3], scale 0.5, bias 1: 0.5 (4 + 15) + 1 = 10.5 -> code."""
    from deploy.backends.int8 import Int8Linear, Rounding

    tensors = {
        "weight": torch.tensor([[2, -3]], dtype=torch.int8),
        "scale": torch.tensor([0.5]),
        "bias": torch.tensor([1.0]),
    }
    rounding = Rounding(torch.tensor(0.25), torch.tensor(7, dtype=torch.uint8), 255)
    layer = Int8Linear(tensors, torch.tensor([1, 255], dtype=torch.uint8), relu=True, rounding=rounding)
    assert layer(torch.tensor([[3, 250]], dtype=torch.uint8)).tolist() == [[49]]  # 10.5 / 0.25 + 7
    head = Int8Linear(tensors, layer.input_zero_points, False, None)
    assert head(torch.tensor([[3, 250]], dtype=torch.uint8)).tolist() == [[10.5]]


@pytest.mark.parametrize("weight_bits, activation_bits", [(4, 8), (8, 6), (2, 8)])
def test_fewer_bits_stay_in_their_range_and_agree(weight_bits, activation_bits):
    config = CONFIGS["shallow"]
    _, qat = prepared(config, weight_bits, activation_bits)
    state = int8_state(qat)
    limit = 2 ** (weight_bits - 1) - 1
    assert max(int(v.abs().max()) for k, v in state.items() if k.endswith("weight")) == limit
    x = encoded_inputs(config, 300, seed=2)
    with torch.no_grad():
        expected = qat(x)
    got = int8_network(config, state, bits=activation_bits)(x)
    assert float((got - expected).abs().median()) <= 1e-4 * float(expected.std())


def test_more_bits_err_less():
    config = CONFIGS["lego-like"]
    x = encoded_inputs(config, 1000, seed=4)
    errors = []
    for bits in (4, 6, 8):
        network, qat = prepared(config, bits, 8)
        with torch.no_grad():
            errors.append(float((qat(x) - network(x)).square().mean()))
    assert errors[0] > 4 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda s: s.pop("alpha_linear.bias"), "no tensor alpha_linear.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected tensor 'extra'"),
        (lambda s: s.update({"rgb_linear.weight": torch.zeros(3, 8)}), "rgb_linear.weight is torch.float32"),
        (lambda s: s["pts_linears.0.scale"].__setitem__(0, float("nan")), "NaN"),
        (lambda s: s["pts_linears.0.scale"].__setitem__(0, 0.0), "not positive"),
    ],
)
def test_impossible_tensors_are_refused(damage, message):
    config = CONFIGS["shallow"]
    state = int8_state(prepared(config)[1])
    damage(state)
    bits = {f"network_fn.{layer.name}": 8 for layer in config.graph.linears}
    metadata = {"precision": "int8", "weight_bits": bits, "activation_bits": 8}
    with pytest.raises(BrokenFile, match=message):
        load("network_fn", dataclasses.asdict(config), state, metadata, torch.device("cpu"), "reference")


def test_backend_selection():
    assert select_backend("auto", torch.device("cpu")) == ("onednn" if has_onednn() else "torch")
    assert select_backend("reference", torch.device("cpu")) == "reference"


def test_qat_recovers_what_rounding_to_three_bits_loses():
    """A tiny regression: training through the rounding beats rounding afterwards, clearly."""
    config = FieldConfig(depth=2, width=32, multires=3, multires_views=1)
    torch.manual_seed(0)
    network = config.make_network(NeRF_qat)
    x = encoded_inputs(config, 2048)
    target = torch.stack([torch.sin(3 * x[:, 0]), torch.cos(2 * x[:, 1]), x[:, 2], x[:, 0] * x[:, 1]], -1)

    def fit(model, steps, lr):
        optimizer = torch.optim.Adam(model.parameters(), lr)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)  # three bits jump about without it
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            decay.step()

    fit(network, 400, 5e-3)
    qat = prepare(fuse(network), weight_bits=3, activation_bits=8)
    q.set_state(qat, True, False, None)
    qat.train()(x)
    q.set_state(qat, False, True)
    ptq_loss = (copy.deepcopy(qat)(x) - target).square().mean().item()
    fit(qat, 400, 2e-3)
    qat_loss = float((int8_network(config, int8_state(qat), 8)(x) - target).square().mean())
    assert qat_loss < 0.3 * ptq_loss


@pytest.mark.parametrize("name", CONFIGS)
def test_encoding_straight_to_codes(name):
    """The one-pass encoder gives the codes of encoding in float, but for values on a tie."""
    config = CONFIGS[name]
    _, qat = prepared(config)
    network = int8_network(config, int8_state(qat), bits=8)
    field = Int8Field(config, network)
    x = 2.4 * torch.rand(5000, 3, generator=torch.Generator().manual_seed(4)) - 1.2
    expected, got = network.inputs["quant_pts"](field.embed(x)).int(), field.encode_pts(x).int()
    assert expected.float().std() > 5
    assert (expected - got).abs().max() <= 1 and (expected != got).float().mean() < 5e-3


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_int8_field_is_the_network_with_encodings_and_activations(backend):
    """Across several blocks of rows, the last one odd."""
    config = CONFIGS["lego-like"]
    _, qat = prepared(config)
    network = int8_network(config, int8_state(qat), 8, backend)
    x = 2.4 * torch.rand(2 * ROWS_IN_CACHE + 123, 3, generator=torch.Generator().manual_seed(5)) - 1.2
    directions = torch.nn.functional.normalize(x.roll(1, 0), dim=-1)
    density, rgb, _ = Int8Field(config, network)(Points(x, directions))
    expected_density, expected_rgb, _ = RadianceField(config, network)(Points(x, directions))
    assert density.shape == (len(x),) and rgb.std() > 1e-3
    assert (density - expected_density).abs().median() <= 1e-4 * expected_density.std()
    assert (rgb - expected_rgb).abs().median() <= 1e-4
    assert (rgb - expected_rgb).abs().max() <= 0.02
