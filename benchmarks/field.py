"""Speed of a whole field, encodings and heads included: floats, int8, and on CUDA the fused kernels.

python benchmarks/field.py [--device cpu] [--samples 65536] [--depth 8] [--width 256] [--rounds 9]

All variants take turns in one run, on the same random points and the same weights, calibrated to
int8. `error` is the largest difference of colour from float32, in colour units; for `int8 triton`
also `of_codes`, the share of samples whose raw output is not that of the torch backend to 1e-3.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import common
import torch

from compressors.fake_quantize import set_state
from compressors.int8 import convert, fuse, prepare, remap_state_dict
from deploy.backends.choose import has_onednn
from deploy.backends.int8 import Int8Field, Int8Network
from fields.nerf import FieldConfig, RadianceField, make_field
from rendering.points import Points
from run_nerf_helpers import NeRF_qat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=65_536)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    config = FieldConfig(depth=options.depth, width=options.width)
    positions = 2 * torch.rand(options.samples, 3, device=device) - 1
    directions = torch.nn.functional.normalize(torch.randn(options.samples, 3, device=device), dim=-1)
    points = Points(positions, directions)
    variants = make_variants(config, points)
    with torch.inference_mode():
        seconds, colours = measure(variants, points, options.rounds, device)
    results = {"facts": common.machine(device=options.device), "samples": options.samples}
    results |= {"depth": options.depth, "width": options.width, "variants": {}}
    for name, values in seconds.items():
        entry = {
            "median_seconds": statistics.median(values),
            "spread_seconds": [min(values), max(values)],
            "times_bf16_compiled": statistics.median(
                b / v for b, v in zip(seconds["bf16 compiled"], values, strict=True)
            ),
            "error": float((colours[name] - colours["fp32"]).abs().max()),
        }
        results["variants"][name] = entry
        print(
            f"{name:<16}{1e3 * entry['median_seconds']:>10.3f} ms{entry['times_bf16_compiled']:>7.2f} x bf16 compiled"
            f"   error {entry['error']:.4f}"
        )
    if "int8 triton" in variants:
        results["of_codes"] = disagreement(variants["int8 triton"], variants["int8 torch"], points)
        print(f"samples on which the fused kernel differs from the torch backend: {results['of_codes']:.2%}")
    common.save_results(f"field_{device.type}", results)


def make_variants(config: FieldConfig, points: Points) -> dict[str, Callable]:
    """The same random weights as fp32, bf16 and int8 fields."""
    device = points.positions.device
    field = make_field(config, NeRF_qat).to(device)
    prepared = RadianceField(config, prepare(fuse(field.network)).to(device)).train()
    set_state(prepared, observing=True, quantizing=False, momentum=None)
    with torch.no_grad():
        prepared(points[:8192])
    prefix = "network_fn"
    state = {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in remap_state_dict(convert(prepared.network), prefix).items()
    }
    compiled = torch.compile(field)
    autocast = torch.autocast(device.type, torch.bfloat16)
    variants = {"fp32": field, "bf16": autocast(field), "bf16 compiled": autocast(compiled)}
    backends = ["torch"] * (device.type == "cuda") + ["onednn"] * (device.type == "cpu" and has_onednn())
    for backend in backends:
        network = Int8Network(config.graph, config.input_widths, state, 8).to(device)
        network.use_backend(backend)
        variants[f"int8 {backend}"] = Int8Field(config, network).to(device)
    if device.type == "cuda" and find_spec("triton"):
        from deploy.backends.triton_kernel import TritonField, TritonFloatField

        variants["bf16 triton"] = TritonFloatField(field)
        variants["int8 triton"] = TritonField(variants["int8 torch"])
    return variants


def measure(variants: dict, points: Points, rounds: int, device: torch.device) -> tuple[dict, dict]:
    """Seconds of every round, and colours `[P, 3]`, by variant."""
    seconds = {name: [] for name in variants}
    colours = {}
    for turn in range(rounds + 2):
        for name, field in variants.items():
            started = time.perf_counter()
            rgb = field(points).rgb
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:  # the first compile and warm up
                seconds[name].append(time.perf_counter() - started)
            colours[name] = rgb.float()
    return seconds, colours


def disagreement(fused, plain: Int8Field, points: Points) -> float:
    """The share of samples whose raw output differs by more than 1e-3."""
    encoded = torch.cat([plain.embed(points.positions), plain.embed_views(points.directions)], -1)
    difference = (fused.raw(points.positions, points.directions) - plain.network(encoded)).abs()
    return float((difference > 1e-3).any(-1).float().mean())


if __name__ == "__main__":
    main()
