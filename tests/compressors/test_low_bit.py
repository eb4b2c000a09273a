"""Ternary fields: the arithmetic of BitNet b1.58 by hand, exact packing, executors, whole runs."""

import json

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from helpers import SHORT, TINY, fails_cleanly, run
from hypothesis import given
from hypothesis import strategies as st

import run_nerf_qat
from compressors.int8 import prepare
from compressors.low_bit import (
    BitLinear,
    _NormalizeAndRoundRows,
    bit_layers,
    calibrate_norms,
    convert_bitnet,
    default_bits,
    round_to_half,
    set_rounding,
    ternarize,
    to_bitnet,
)
from deploy.backends.blocks import InBlocks
from deploy.backends.choose import BACKENDS, Backend
from deploy.backends.low_bit import NORM_EPS, BitNetwork
from deploy.model_file import load_renderer, read_model
from deploy.nerf_file import unpacked_low_bit
from deploy.packing import FLOAT, TERNARY, pack_ternary, unpack_ternary
from fields.nerf import FieldConfig, RadianceField, make_field
from rendering.points import Points
from run_nerf_helpers import NeRF, NeRF_qat
from training.checkpoints import load_newest
from utils.files import digest

SMALL = FieldConfig(depth=6, width=32, multires=4, multires_views=2)
RESIDUAL = FieldConfig(depth=6, width=32, multires=4, multires_views=2, residual=True)
NO_VIEWS = FieldConfig(depth=3, width=24, skips=(1,), use_viewdirs=False, multires=3)


def test_ternary_weights_by_hand():
    codes, scale = ternarize(torch.tensor([[0.9, -0.1, 0.31], [-2.0, 0.2, 0.0]]))
    assert float(scale) == pytest.approx(3.51 / 6)  # mean magnitude
    assert codes.tolist() == [[1, 0, 1], [-1, 0, 0]]  # 0.9 / 0.585 = 1.54, 0.31 / 0.585 = 0.53, 0.2 / 0.585 = 0.34


def test_layer_by_hand():
    layer = BitLinear(4, 1, norm=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0, 0.1, 1.9]]))  # mean 1: codes 1, -1, 0, 1
        layer.bias.fill_(0.25)
    x = torch.tensor([[127.0, 63.4, 5.0, -2.6], [0.0, 0.0, 0.0, 0.0]])  # steps of 1: 127, 63, 5, -3
    assert layer(x)[:, 0].tolist() == pytest.approx([127 - 63 - 3 + 0.25, 0.25])


def test_a_norm_makes_the_layer_blind_to_the_size_of_its_input():
    torch.manual_seed(0)
    layer, x = BitLinear(16, 8), torch.randn(5, 16)
    torch.testing.assert_close(layer(x), layer(1000 * x), rtol=1e-4, atol=1e-5)


def test_gradients_go_straight_through():
    torch.manual_seed(0)
    layer, x = BitLinear(6, 3, norm=False), torch.randn(4, 6, requires_grad=True)
    layer(x).sum().backward()
    codes, scale = ternarize(layer.weight.detach())
    torch.testing.assert_close(x.grad, (codes * scale).sum(0).expand(4, 6))
    step = x.detach().abs().amax(-1, keepdim=True) / 127
    torch.testing.assert_close(layer.weight.grad, ((x.detach() / step).round() * step).sum(0).expand(3, 6))


def test_norm_and_its_gradient_are_rmsnorms():
    torch.manual_seed(0)
    x, gain = torch.randn(7, 32, dtype=torch.float64, requires_grad=True), torch.rand(32, dtype=torch.float64) + 0.5
    gain.requires_grad_()
    direction = torch.randn(7, 32, dtype=torch.float64)
    expected = F.rms_norm(x, (32,), gain, NORM_EPS)
    gradients = torch.autograd.grad(expected, (x, gain), direction)
    rounded = _NormalizeAndRoundRows.apply(x, gain)
    step = expected.abs().amax(-1, keepdim=True) / 127
    assert ((rounded - expected).abs() <= 0.50001 * step).all()
    assert torch.allclose((rounded / step).round(), rounded / step, atol=1e-4)
    for actual, reference in zip(torch.autograd.grad(rounded, (x, gain), direction), gradients, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-6)


def test_half_rounded_weights_lie_half_way():
    layer = BitLinear(6, 3)
    layer.rounding = 0.0
    assert torch.equal(layer.rounded_weight(), layer.weight)
    layer.rounding = 1.0
    rounded = layer.rounded_weight()
    assert len(rounded.unique()) <= 3
    layer.rounding = 0.5
    torch.testing.assert_close(layer.rounded_weight(), (rounded + layer.weight) / 2)


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=40))
def test_packing_is_exact(values):
    codes = torch.tensor(values, dtype=torch.int8)
    packed = pack_ternary(codes)
    assert packed.dtype == torch.uint8 and len(packed) == -(-len(values) // 5)
    assert torch.equal(unpack_ternary(packed, codes.shape), codes)


def test_an_illegal_code_is_refused():
    packed = pack_ternary(torch.zeros(10))
    packed[1] = 243
    with pytest.raises(ValueError, match="byte 243"):
        unpack_ternary(packed, (10,))
    with pytest.raises(ValueError, match="expected 3 bytes"):
        unpack_ternary(packed, (11,))


def random_bitnet(
    config: FieldConfig, hidden: int, ends: int, norms: bool = True
) -> tuple[RadianceField, dict[str, int]]:
    torch.manual_seed(0)
    field = make_field(config)
    bits = default_bits(field.network, hidden, ends)
    to_bitnet(field.network, bits, norms)
    for layer in bit_layers(field):
        if layer.norm is not None:
            torch.nn.init.uniform_(layer.norm, 0.5, 2)
    round_to_half(field)
    return field, bits


def points(count: int) -> Points:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return Points(2 * torch.rand(count, 3, generator=generator) - 1, directions)


@pytest.mark.parametrize(
    "hidden, ends",
    [(TERNARY, 8), (TERNARY, FLOAT), (TERNARY, TERNARY), (4, 8), (4, 4), (3, 5)],
)
@pytest.mark.parametrize("norms", [True, False], ids=["norms", "no norms"])
@pytest.mark.parametrize("config", [SMALL, NO_VIEWS, RESIDUAL], ids=["views", "no views", "residual"])
def test_file_tensors_compute_what_was_trained(config, norms, hidden, ends):
    (field, bits), asked = random_bitnet(config, hidden, ends, norms), points(5000)
    layers = unpacked_low_bit(config, convert_bitnet(field.network), bits)
    with torch.no_grad():
        trained = field(asked)[:2]
    executed = {}
    for backend in ("reference", "torch", "onednn"):
        network = BitNetwork(config.graph, config.input_widths, layers, backend)
        executed[backend] = InBlocks(config.make_field(network), 2048)(asked)[:2]
    for backend in ("torch", "onednn"):  # the integers are the same, and floats are taken in one order
        for value, expected in zip(executed[backend], executed["reference"], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    for value, expected in zip(executed["reference"], trained, strict=True):
        # A row's code may fall on the other side of a tie, hardly ever.
        close = torch.isclose(value, expected, rtol=1e-4, atol=1e-5)
        assert close.float().mean() > 0.995
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.05)


def test_calibrated_norms_keep_the_network_near_its_float_self():
    torch.manual_seed(0)
    network = NeRF(D=6, W=64, input_ch=27, input_ch_views=15, use_viewdirs=True)
    x = torch.randn(256, 42)
    with torch.no_grad():
        expected = network(x)
        to_bitnet(network, default_bits(network, FLOAT, FLOAT))
        set_rounding(network, 0.0)
        without = network(x)
        with calibrate_norms(network):
            network(x)
        for _ in range(3):  # gains of later layers were learnt behind the old gains of earlier ones
            with calibrate_norms(network):
                network(x)
        calibrated = network(x)
    assert (calibrated - expected).std() < 0.5 * (without - expected).std()


@pytest.fixture(scope="module")
def ternary_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    flags = [*TINY, "--quant", "ternary", "--N_iters", "150", "--qat_iters", "250", "--qat_lrate_scale", "1"]
    flags += ["--i_weights", "100", "--netwidth", "64", "--basedir", folder, "--expname", "bit"]
    assert run(run_nerf_qat, *flags) == 0
    return folder / "bit", flags


def test_a_whole_run_learns_and_its_file_is_what_was_trained(ternary_run):
    folder, _ = ternary_run
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert models["ternary"]["psnr"] > 20
    assert models["ternary"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.1)
    assert models["ternary"]["bytes"] < models["float32"]["bytes"] / 3  # most of so small a file is header and grid
    metadata, tensors = read_model(folder / "model_ternary.safetensors")
    assert metadata["precision"] == "ternary"
    weights = {name: tensor for name, tensor in tensors.items() if name.endswith(".weight")}
    assert all(tensor.dtype in (torch.uint8, torch.int8) for tensor in weights.values())


@pytest.mark.parametrize("more", [[], ["--no_bit_norm", "--qat_schedule", "exponential"]], ids=["norms", "no norms"])
def test_a_run_with_four_bits(tmp_path, more):
    flags = [*TINY, *SHORT, "--quant", "w4a8", "--netwidth", "64", "--basedir", tmp_path, "--expname", "four", *more]
    assert run(run_nerf_qat, *flags) == 0
    models = json.loads((tmp_path / "four" / "metrics.json").read_text())["models"]
    assert models["w4a8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.1)
    metadata, tensors = read_model(tmp_path / "four" / "model_w4a8.safetensors")
    assert metadata["precision"] == "w4a8"
    assert tensors["network_fn.pts_linears.1.weight"].shape == (64 * 64 // 2,)
    assert ("network_fn.pts_linears.1.norm" in tensors) == (not more)
    assert run(run_nerf_qat, *flags, "--render_only", "--render_test") == 0


def test_it_renders_from_the_file_alone(ternary_run, tmp_path):
    folder, _ = ternary_run
    moved = tmp_path / "alone.safetensors"
    moved.write_bytes((folder / "model_ternary.safetensors").read_bytes())
    flags = ["--render_only", "--model", moved, "--basedir", tmp_path, "--render_factor", "2"]
    assert run(run_nerf_qat, *flags) == 0
    assert (tmp_path / "nerf" / "renderonly_path_000000" / "video_rgb.mp4").stat().st_size > 1000


def test_illegal_code_in_a_file_is_one_clear_line(ternary_run, tmp_path, capsys):
    folder, _ = ternary_run
    metadata, tensors = read_model(folder / "model_ternary.safetensors")
    name = "network_fn.pts_linears.1.weight"
    tensors[name][7] = 250
    metadata["sha256"] = digest([metadata, tensors])
    path = tmp_path / "bad.safetensors"
    path.write_bytes(safetensors.torch.save(tensors, {"nerf_qat": json.dumps(metadata)}))
    fails_cleanly(
        capsys, run_nerf_qat, "--render_only", "--model", path, says=("bad.safetensors", "pts_linears.1", "byte 250")
    )


def test_backends_that_cannot_run_it_say_so(ternary_run, capsys, monkeypatch):
    folder, _ = ternary_run
    monkeypatch.setattr("deploy.backends.choose.BACKENDS", BACKENDS | {"triton": Backend(int8=print)})
    fails_cleanly(
        capsys, run_nerf_qat, "--render_only", "--model", folder / "model_ternary.safetensors", "--backend", "triton",
        says=("triton does not execute ternary files",),
    )  # fmt: skip


@pytest.mark.parametrize("flags", [["qat"], ["ternary", "--bit_ramp", "0.9", "--distill", "1"]])
def test_resume_while_rounding_is_bit_for_bit(tmp_path, flags):
    flags = [*TINY, *SHORT, "--quant", *flags, "--qat_iters", "20", "--basedir", tmp_path]
    assert run(run_nerf_qat, *flags, "--expname", "whole") == 0
    assert run(run_nerf_qat, *flags, "--expname", "parts") == 0
    (tmp_path / "parts" / "000050.tar").unlink()
    assert run(run_nerf_qat, *flags, "--expname", "parts") == 0  # from step 40, half way through the rounding
    whole, parts = (load_newest(tmp_path / name)[1]["network_fn_state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--weight_bits", "4"], "--quant ternary"),
        (["--activation_bits", "6"], "--quant ternary"),
    ],
)
def test_flags_of_int8_are_refused_before_training(tmp_path, capsys, flags, says):
    words = [*TINY, "--quant", "ternary", "--basedir", tmp_path, *flags]
    fails_cleanly(capsys, run_nerf_qat, *words, says=(flags[0], says))
    assert not list(tmp_path.iterdir())


def test_training_through_rounding_from_the_start(tmp_path, capsys):
    flags = [*TINY, "--quant", "ternary", "--bit_ramp", "0.5", "--N_iters", "0", "--basedir", tmp_path]
    run(run_nerf_qat, *flags, "--qat_iters", "40", "--qat_lrate_scale", "1", "--expname", "anew")
    models = json.loads((tmp_path / "anew" / "metrics.json").read_text())["models"]
    assert list(models) == ["fake_quant", "ternary"] and not (tmp_path / "anew" / "model_float32.safetensors").exists()
    for flag in (["--distill", "1"], ["--quant", "ptq"]):
        fails_cleanly(capsys, run_nerf_qat, *flags, *flag, says=("--N_iters 0", "--ft_path"))


def test_bitnets_schedule_wants_muon(tmp_path, capsys):
    flags = [*TINY, "--optimizer", "adam", "--qat_schedule", "bitnet", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("--optimizer muon",))


def test_residual_networks_are_refused_for_int8_before_training(tmp_path, capsys):
    fails_cleanly(capsys, run_nerf_qat, *TINY, "--residual", "--basedir", tmp_path, says=("--residual", "w4a8"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="residual"):
        prepare(RESIDUAL.make_network(NeRF_qat))


def test_a_residual_run_and_its_file(tmp_path, capsys):
    flags = [*TINY, *SHORT, "--quant", "ternary", "--distill", "1", "--basedir", tmp_path, "--expname", "res"]
    assert run(run_nerf_qat, *flags, "--residual") == 0
    models = json.loads((tmp_path / "res" / "metrics.json").read_text())["models"]
    assert models["ternary"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.1)
    assert load_renderer(tmp_path / "res" / "model_float32.safetensors", torch.device("cpu"))[0].field.config.residual
    fails_cleanly(capsys, run_nerf_qat, *flags, "--qat_iters", "60", says=("was trained with --residual",))


def test_another_quantisation_does_not_resume(ternary_run, capsys):
    _, flags = ternary_run
    fails_cleanly(capsys, run_nerf_qat, *flags, "--quant", "qat", says=("--quant ternary", "choose another --expname"))


def test_rendering_loads_on_any_backend(ternary_run):
    folder, _ = ternary_run
    for backend in ("reference", "torch"):
        renderer, _, _ = load_renderer(folder / "model_ternary.safetensors", torch.device("cpu"), backend)
        assert isinstance(renderer.field, InBlocks)
