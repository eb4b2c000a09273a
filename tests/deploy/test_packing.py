"""Codes to bytes and back, exactly; the step of few-bit quantisers; bits by layer; what is refused."""

import json

import numpy as np
import pytest
import torch
from helpers import SHORT, TINY, fails_cleanly, run
from hypothesis import given
from hypothesis import strategies as st

import run_nerf_qat
from compressors.fake_quantize import BEST_STEP, WeightFakeQuantize
from deploy.model_file import read_model
from deploy.packing import pack_bits, packed_bytes, unpack_bits


@given(st.integers(2, 7), st.integers(0, 50), st.integers(0, 2**31))
def test_bits_round_trip(bits, count, seed):
    generator = torch.Generator().manual_seed(seed)
    limit = 2 ** (bits - 1)
    codes = torch.randint(-limit, limit, (count,), generator=generator).to(torch.int8)
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == packed_bytes(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, (count,)), codes)


def test_four_bits_by_hand():
    packed = pack_bits(torch.tensor([[1, -1], [7, -8], [3, 0]], dtype=torch.int8), 4)
    assert packed.tolist() == [0xF1, 0x87, 0x03]  # the first code is the low half of its byte
    with pytest.raises(ValueError, match="expected 3 bytes"):
        unpack_bits(packed[:2], 4, (3, 2))


@pytest.mark.parametrize("bits", BEST_STEP)
def test_best_step_is_the_best_for_a_normal_distribution(bits):
    x = np.linspace(-9, 9, 200_001)
    density = np.exp(-(x**2) / 2)
    limit = 2 ** (bits - 1) - 1

    def loss(step: float) -> float:
        return float(((x - np.clip(np.round(x / step), -limit, limit) * step) ** 2 * density).sum())

    best = BEST_STEP[bits]
    assert loss(best) < loss(best * 1.01) and loss(best) < loss(best * 0.99)


def test_few_bits_clip_the_tails_and_many_do_not():
    weight = torch.randn(4, 4096, generator=torch.Generator().manual_seed(0))
    for bits, clips in ((4, True), (8, False)):
        quantizer = WeightFakeQuantize(bits)
        levels, scale = quantizer.integers(weight)
        reach = scale * quantizer.q_max
        assert bool((weight.abs().amax(1) > reach + 1e-6).all()) == clips
        at_largest = weight.abs().amax(1) / quantizer.q_max
        plain = (weight / at_largest[:, None]).round() * at_largest[:, None]
        assert (levels * scale[:, None] - weight).square().mean() <= (plain - weight).square().mean() + 1e-12


def test_a_run_with_bits_by_layer(tmp_path):
    flags = [*TINY, *SHORT, "--weight_bits", "4", "--basedir", tmp_path, "--expname", "mixed"]
    assert run(run_nerf_qat, *flags, "--quant_bits", "pts_linears.0=8", "rgb_linear=6") == 0
    metadata, tensors = read_model(tmp_path / "mixed" / "model_int8.safetensors")
    bits = metadata["weight_bits"]
    assert bits["network_fn.pts_linears.0"] == 8 and bits["network_fn.rgb_linear"] == 6
    assert bits["network_fn.pts_linears.1"] == 4
    assert tensors["network_fn.pts_linears.0.weight"].dtype == torch.int8
    assert tensors["network_fn.pts_linears.1.weight"].shape == (32 * 32 // 2,)  # two codes a byte
    models = json.loads((tmp_path / "mixed" / "metrics.json").read_text())["models"]
    assert models["int8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.2)


@pytest.mark.parametrize(
    "entry, says",
    [("pts_linears.9=4", "no layer pts_linears.9"), ("rgb_linear=9", "from 2 to 8"), ("rgb_linear", "from 2 to 8")],
)
def test_wrong_bits_are_one_clear_line(tmp_path, capsys, entry, says):
    fails_cleanly(
        capsys, run_nerf_qat, *TINY, *SHORT, "--basedir", tmp_path, "--quant_bits", entry, says=("--quant_bits", says)
    )
