"""Time of whole frames: fp32, bf16, and int8 on every backend, from the same weights.

python benchmarks/render.py [--config configs/lego_cpu_bench.txt] [--factors 8 2] [--views 3]

Trains the config's float model first if its run folder holds no finished one, calibrates it to
int8 without further training, and renders the same test views in turn with each variant. Backends
that are not installed are left out. FLAGS beyond these are those of run_nerf_qat.py.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import common
import torch

import run_nerf
from compressors.int8 import Int8Compressor
from deploy.backends.choose import has_onednn
from deploy.model_file import load_renderer, save_float_model
from evaluation.measures import psnr
from experiment import make_renderer, prepare_device, trains_in_float
from load_scene import load_scene
from options import config_parser
from rendering.renderer import render_image
from run_nerf_helpers import NeRF_qat, to8b
from training.batches import BatchSettings, RayBatches
from training.checkpoints import load_networks, load_newest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/lego_cpu_bench.txt")
    parser.add_argument("--factors", type=float, nargs="+", default=[8, 2], help="pictures this much below 800x800")
    parser.add_argument("--views", type=int, default=3, help="test views to render with each")
    parser.add_argument("--rounds", type=int, default=3, help="times each variant renders every view")
    options, flags = parser.parse_known_args()
    flags = ["--config", options.config, *flags]
    args = config_parser().parse_args(flags)
    device = prepare_device(args)
    folder = Path(args.basedir) / args.expname
    if not (folder / "metrics.json").exists():
        run_nerf.main(flags)
    with tempfile.TemporaryDirectory() as work:
        variants = make_variants(args, device, folder, Path(work))
        results = {"facts": common.machine(options.config, str(device)), "views": options.views, "pictures": []}
        for factor in options.factors:
            args.factor = factor
            results["pictures"].append(measure(load_scene(args), variants, options, device))
    common.save_results(f"render_{device.type}", results)


def make_variants(args, device: torch.device, run_folder: Path, work: Path) -> dict[str, tuple]:
    """Name to renderer and the context it renders in, all of one network."""
    scene = load_scene(args)
    renderer = make_renderer(args, scene, device, NeRF_qat)
    load_networks(renderer, *load_newest(run_folder))
    save_float_model(work / "float.safetensors", renderer, scene.render_path)
    compressor = Int8Compressor.from_flags(args, renderer, scene.render_path, trains_in_float(args))
    compressor.prepare()
    compressor.calibrate(RayBatches(BatchSettings.from_flags(args), scene, device))
    (work / "int8.safetensors").write_bytes(compressor.to_bytes())
    on_cpu = device.type == "cpu"
    backends = ["onednn"] * (on_cpu and has_onednn()) + ["torch"] * (not (on_cpu and has_onednn()))
    backends += ["triton"] * (device.type == "cuda" and find_spec("triton") is not None)
    backends += ["onnxruntime"] * (on_cpu and find_spec("onnx") is not None and find_spec("onnxruntime") is not None)
    float_renderer = load_renderer(work / "float.safetensors", device)[0]
    variants = {
        "fp32": (float_renderer, contextlib.nullcontext()),
        "bf16": (float_renderer, torch.autocast(device.type, torch.bfloat16)),
    }
    for backend in backends:
        int8_renderer = load_renderer(work / "int8.safetensors", device, backend)[0]
        variants[f"int8 {backend}"] = (int8_renderer, contextlib.nullcontext())
    return variants


def measure(scene, variants: dict[str, tuple], options, device: torch.device) -> dict:
    """Every variant on every view, in turns; PSNR against the photographs in 8 bits."""
    test = scene.splits["test"]
    views = test[:: max(1, len(test) // options.views)][: options.views]
    targets = [to8b(scene.target(torch.tensor([view]))[0]) for view in views]
    seconds = {name: [] for name in variants}
    entries = {name: {"psnr": 0.0, "queries": 0.0} for name in variants}
    for turn in range(options.rounds + 1):  # the first warms up, and is where quality is measured
        for number, view in enumerate(views):
            for name, (renderer, context) in variants.items():
                started = time.perf_counter()
                with context:
                    picture = render_image(renderer, scene.cameras[view].to(device))
                rgb = to8b(picture.rgb.cpu().float())  # also waits for the device
                if turn:
                    seconds[name].append(time.perf_counter() - started)
                else:
                    entries[name]["psnr"] += float(psnr(rgb / 255, targets[number] / 255)) / len(views)
                    entries[name]["queries"] += picture.queries / len(views)
    height, width = scene.cameras.height, scene.cameras.width
    print(f"{width}x{height}, {len(views)} views")
    for name, values in seconds.items():
        ratios = [base / value for base, value in zip(seconds["fp32"], values, strict=True)]
        entries[name] |= {
            "median_seconds": statistics.median(values),
            "spread_seconds": [min(values), max(values)],
            "times_fp32": statistics.median(ratios),
        }
        entry = entries[name]
        print(
            f"  {name:<18}{entry['median_seconds']:>9.4f} s{entry['times_fp32']:>7.2f} x fp32"
            f"{entry['psnr']:>8.3f} dB{entry['queries']:>10.0f} queries"
        )
    return {"width": width, "height": height, "variants": entries}


if __name__ == "__main__":
    main()
