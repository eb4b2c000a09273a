"""Bits under a budget: the choice against brute force, costs that are measured, and a whole run."""

import itertools
import json

import pytest
from helpers import CPU, SHORT, TINY, calibrated, fails_cleanly, make_run, run
from hypothesis import given, settings
from hypothesis import strategies as st

import run_nerf_qat
from compressors.bit_budget import CHOICES, choose_bits, measure_costs, quantized_layers
from compressors.int8 import Int8Compressor
from deploy.model_file import read_model
from deploy.packing import packed_bytes
from training.batches import BatchSettings, RayBatches
from utils.errors import BadInput


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 100)), min_size=1, max_size=4), st.integers(10, 100))
def test_choice_is_the_cheapest_that_fits(layers, share):
    counts = {f"layer{i}": 8 * count for i, (count, _) in enumerate(layers)}
    costs = {f"layer{i}": {b: weight * 4.0**-b for b in CHOICES} for i, (_, weight) in enumerate(layers)}
    sizes = [{b: packed_bytes(counts[name], b) for b in CHOICES} for name in counts]
    least, most = sum(s[2] for s in sizes), sum(s[8] for s in sizes)
    budget = least + (most - least) * share // 100
    chosen = choose_bits(costs, counts, budget)
    assert sum(packed_bytes(counts[name], bits) for name, bits in chosen.items()) <= budget
    cheapest = min(
        sum(costs[name][b] for name, b in zip(counts, bits, strict=True))
        for bits in itertools.product(CHOICES, repeat=len(counts))
        if sum(size[b] for size, b in zip(sizes, bits, strict=True)) <= budget
    )
    assert sum(costs[name][bits] for name, bits in chosen.items()) == pytest.approx(cheapest)


def test_a_budget_that_cannot_be_met_says_what_can():
    with pytest.raises(BadInput, match="fits into has 32 bytes"):
        choose_bits({"a": dict.fromkeys(CHOICES, 0.0)}, {"a": 100}, 31, fixed=7)


def test_costs_rise_with_fewer_bits_and_leave_the_network_alone():
    args, scene, renderer = make_run(TINY)
    calibrated(Int8Compressor, args, scene, renderer)
    batches = RayBatches(BatchSettings.from_flags(args), scene, CPU)
    costs = measure_costs(renderer, [batches.draw(renderer, 1) for _ in range(2)])
    assert set(costs) == set(quantized_layers(renderer)) and len(costs) == 6
    for by_bits in costs.values():
        assert all(by_bits[a] >= by_bits[b] for a, b in itertools.pairwise(CHOICES))
    assert max(by_bits[2] for by_bits in costs.values()) > 1e-6
    assert all(layer.bits == 8 for layer in quantized_layers(renderer).values())


def test_a_run_under_a_budget_and_its_resume(tmp_path):
    flags = [*TINY, *SHORT, "--netwidth", "64", "--basedir", tmp_path, "--expname", "budget"]
    assert run(run_nerf_qat, *flags, "--quant_budget", "16000") == 0
    folder = tmp_path / "budget"
    assert (folder / "model_int8.safetensors").stat().st_size <= 16000
    bits = read_model(folder / "model_int8.safetensors")[0]["weight_bits"]
    assert len(set(bits.values())) > 1
    (folder / "000040.tar").unlink()  # resumes at the float network's end: chooses again, the same
    assert run(run_nerf_qat, *flags, "--quant_budget", "16000") == 0
    assert read_model(folder / "model_int8.safetensors")[0]["weight_bits"] == bits
    assert run(run_nerf_qat, *flags, "--quant_budget", "16000", "--qat_iters", "12") == 0  # from within
    assert read_model(folder / "model_int8.safetensors")[0]["weight_bits"] == bits
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert models["int8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.2)


def test_a_bitnerf_under_a_budget_with_float_ends(tmp_path):
    flags = [*TINY, *SHORT, "--netwidth", "64", "--quant", "w4a8", "--bit_ends", "float"]
    assert run(run_nerf_qat, *flags, "--quant_budget", "23000", "--basedir", tmp_path, "--expname", "bit") == 0
    file = tmp_path / "bit" / "model_w4a8.safetensors"
    assert file.stat().st_size <= 23000
    bits = {layer.removeprefix("network_fn."): n for layer, n in read_model(file)[0]["weight_bits"].items()}
    assert bits["rgb_linear"] == bits["pts_linears.0"] == 32
    assert len(set(bits.values())) > 2 and bits["pts_linears.1"] <= 8
    models = json.loads((tmp_path / "bit" / "metrics.json").read_text())["models"]
    assert models["w4a8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.1)


def test_bits_by_layer_of_a_bitnerf(tmp_path):
    flags = [*TINY, *SHORT, "--quant", "ternary", "--quant_bits", "feature_linear=5", "pts_linears.0=2"]
    assert run(run_nerf_qat, *flags, "--basedir", tmp_path, "--expname", "bits") == 0
    bits = read_model(tmp_path / "bits" / "model_ternary.safetensors")[0]["weight_bits"]
    assert [bits[f"network_fn.{n}"] for n in ("feature_linear", "pts_linears.0", "pts_linears.1", "rgb_linear")] == [
        5, 2, 2, 8,
    ]  # fmt: skip


def test_a_budget_below_the_fixed_parts_is_one_clear_line(tmp_path, capsys):
    flags = [*TINY, *SHORT, "--basedir", tmp_path, "--quant_budget", "5000"]
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("--quant_budget", "the smallest file"))
