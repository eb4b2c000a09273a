"""Quality against bytes of compressed TensoRFs, beside the recipe of VQ-TensoRF's released code.

python benchmarks/vq_rate_distortion.py [--config configs/lego_cpu_vq.txt] [--bytes 50000 100000 ...] [FLAGS...]

One float field is trained (or found in logs), then finetuned once for every size and once by the
original's recipe, all for the same number of steps. FLAGS go to every run.
"""

import argparse
import json
from pathlib import Path

import common
import numpy as np
from vq_original import OriginalRecipe, set_flags

import run_nerf
import run_vq
from evaluation.views import evaluate_views
from experiment import prepare_device, set_up, train_and_compress
from options import config_parser
from rendering.renderer import RenderLimits
from training.checkpoints import checkpoint_files
from utils.devices import select_device

SIZES = (50_000, 75_000, 100_000, 200_000, 400_000, 800_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/lego_cpu_vq.txt")
    parser.add_argument("--bytes", type=int, nargs="+", default=SIZES, help="of the files")
    options, flags = parser.parse_known_args()
    name = f"rate_{Path(options.config).stem}"
    own = ["--config", options.config, "--basedir", str(common.ROOT / "logs" / name), *flags]
    args = config_parser().parse_args(own)
    base = Path(args.basedir)
    if not (base / "float" / "metrics.json").exists():
        run_nerf.main([*own, "--expname", "float"])
    start = ["--ft_path", str(checkpoint_files(base / "float")[-1])]
    for size in options.bytes:
        if not (base / str(size) / "metrics.json").exists():
            run_vq.main([*own, *start, "--expname", str(size), "--target_bytes", str(size)])
    if not (base / "original" / "metrics.json").exists():
        measure_original([*own, *start, "--expname", "original"])
    results = {"facts": common.machine(options.config, str(select_device(args.device)))}
    for run in ("float", *map(str, options.bytes), "original"):
        models = json.loads((base / run / "metrics.json").read_text())["models"]
        results[run] = {key: value for key, value in list(models.values())[-1].items() if key != "per_view"}
        print(f"{run:>10}{results[run]['bytes']:>12}{results[run]['psnr']:>8.2f} dB")
    points = sorted((results[str(size)]["psnr"], results[str(size)]["bytes"]) for size in options.bytes)
    ours = bytes_for(results["original"]["psnr"], points)
    results["original"]["times_ours_at_its_psnr"] = ours and results["original"]["bytes"] / ours
    common.save_results(name, results)


def bytes_for(psnr: float, points: list[tuple[float, int]]) -> float | None:
    """Bytes at a PSNR between points of ascending PSNR, logarithms interpolated; None beyond them."""
    qualities, sizes = zip(*points, strict=True)
    if not qualities[0] <= psnr <= qualities[-1]:
        return None
    return float(np.exp(np.interp(psnr, qualities, np.log(sizes))))


def measure_original(flags: list[str]) -> None:
    """Finetunes by the original's recipe and writes a metrics.json of what its file holds."""
    args = config_parser().parse_args(flags)
    set_flags(args)
    run = set_up(args, prepare_device(args), OriginalRecipe.phase)
    recipe = OriginalRecipe.from_flags(args, run.renderer, run.scene.render_path)
    train_and_compress(run, recipe)
    recipe.finish()
    content = recipe.to_bytes()
    (run.folder / recipe.file).write_bytes(content)
    test, limits = run.scene.splits["test"], RenderLimits.from_flags(args)
    views = evaluate_views(run.renderer.eval(), run.scene, test, limits, label="original")
    entry = {**views.summary(), "bytes": len(content), "file": recipe.file}
    (run.folder / "metrics.json").write_text(json.dumps({"models": {"original": entry}}))


if __name__ == "__main__":
    main()
