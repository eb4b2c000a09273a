"""Speed of a NeRF trunk alone: fp32, bf16, and int8 on every backend, over rows, width and depth.

python benchmarks/int8_mlp.py [--rounds 7] [--device cpu]

Variants take turns within one run; each result is the median over rounds, in 10^12 operations a
second (a multiplication and an addition count as two), and as a share of the largest rate that a
single large matrix product of the same type reaches on this machine in this run.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import common
import torch

from deploy.backends.choose import has_onednn
from deploy.backends.int8 import BACKENDS, ROWS_IN_CACHE, Int8Linear, Rounding
from run_nerf_helpers import iterate_chunks

SIZES = [(65_536, 256, 8), (8_192, 256, 8), (65_536, 128, 4), (65_536, 512, 8)]  # rows, width, depth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    results = {"facts": common.machine(device=options.device), "rows_in_cache": ROWS_IN_CACHE, "sizes": []}
    peak = {name: 0.0 for name in ("fp32", "bf16", "int8")}
    for rows, width, depth in SIZES:
        variants = make_variants(rows, width, depth, device)
        rates = measure(variants, 2 * rows * width * width * depth, options.rounds, device)
        results["sizes"].append({"rows": rows, "width": width, "depth": depth, "tops": rates})
    for kind, product in large_products(device).items():
        operations = 2 * 8192 * 1024 * 1024
        peak[kind] = measure({kind: product}, operations, options.rounds, device)[kind]["median"]
    results["one_large_product_tops"] = peak
    report(results)
    common.save_results(f"int8_mlp_{device.type}", results)


def make_variants(rows: int, width: int, depth: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Each runs `rows` rows through `depth` layers of `width`, with ReLU and all that rounding takes."""
    torch.manual_seed(0)
    variants = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        weights = [torch.randn(width, width, device=device, dtype=dtype) for _ in range(depth)]
        x = torch.randn(rows, width, device=device, dtype=dtype)
        bias = torch.randn(width, device=device, dtype=dtype)
        variants[f"{name} eager"] = lambda x=x, weights=weights, bias=bias: floats(x, weights, bias, rows)
        variants[f"{name} in blocks"] = lambda x=x, weights=weights, bias=bias: floats(x, weights, bias, ROWS_IN_CACHE)
    codes = torch.randint(0, 256, (rows, width), dtype=torch.uint8, device=device)
    for backend in ["torch"] + ["onednn"] * (device.type == "cpu" and has_onednn()):
        layers = [random_layer(width, backend, device) for _ in range(depth)]
        variants[f"int8 {backend}"] = lambda layers=layers: integers(codes, layers)
    return variants


def floats(x: torch.Tensor, weights: list[torch.Tensor], bias: torch.Tensor, block: int) -> None:
    for part in iterate_chunks(len(x), block):
        h = x[part]
        for weight in weights:
            h = torch.relu_(torch.nn.functional.linear(h, weight, bias))


def integers(codes: torch.Tensor, layers: list[Int8Linear]) -> None:
    for part in iterate_chunks(len(codes), ROWS_IN_CACHE):
        h = codes[part]
        for layer in layers:
            h = layer(h)


def random_layer(width: int, backend: str, device: torch.device) -> Int8Linear:
    tensors = {
        "weight": torch.randint(-127, 128, (width, width), dtype=torch.int8),
        "scale": torch.full((width,), 1e-4),
        "bias": torch.zeros(width),
    }
    rounding = Rounding(torch.tensor(0.02), torch.tensor(0, dtype=torch.uint8), 255)
    layer = Int8Linear(tensors, torch.zeros(width, dtype=torch.uint8), relu=True, rounding=rounding).to(device)
    layer.run = BACKENDS[backend](layer)
    return layer


def large_products(device: torch.device) -> dict[str, Callable[[], object]]:
    """One product of [8192, 1024] and [1024, 1024] of each type: what the machine can do here."""
    a, b = torch.randn(8192, 1024, device=device), torch.randn(1024, 1024, device=device)
    a16, b16 = a.bfloat16(), b.bfloat16()
    layer = random_layer(1024, "onednn" if device.type == "cpu" and has_onednn() else "torch", device)
    codes = torch.randint(0, 256, (8192, 1024), dtype=torch.uint8, device=device)
    return {"fp32": lambda: a @ b, "bf16": lambda: a16 @ b16, "int8": lambda: layer(codes)}


def measure(variants: dict[str, Callable], operations: int, rounds: int, device: torch.device) -> dict[str, dict]:
    """Median and extremes of the rates over rounds in which every variant has its turn."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                rates[name].append(operations / (time.perf_counter() - started) / 1e12)
    return {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in rates.items()
    }


def report(results: dict) -> None:
    peak = results["one_large_product_tops"]
    print("one large product: " + ", ".join(f"{kind} {rate:.3f}" for kind, rate in peak.items()) + " TOP/s")
    for size in results["sizes"]:
        print(f"{size['rows']} rows, {size['depth']} layers of {size['width']}")
        base = size["tops"]["fp32 eager"]["median"]
        for name, rate in size["tops"].items():
            share = rate["median"] / peak[name.split()[0]]
            print(f"  {name:<16}{rate['median']:>8.3f} TOP/s{rate['median'] / base:>7.1f} x fp32{share:>6.0%} of peak")


if __name__ == "__main__":
    main()
