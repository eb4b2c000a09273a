"""Trains a NeRF, makes it int8 or ternary by training through the rounding, renders it from the file.

python run_nerf_qat.py --config configs/lego_qat.txt
python run_nerf_qat.py --config configs/lego_qat.txt --render_only [--render_test] [--model PATH]
"""

import argparse
import sys
from pathlib import Path

import torch

import distributed
from bitnet_model import PRODUCTS
from camera_plot import plot_cameras
from checkpoints import checkpoint_files, load_checkpoint
from datasets import load_scene
from distillation import Distillation
from errors import BadInput, exit_cleanly
from evaluation import RenderedViews, evaluate_views, render_video, stage_table, write_strip, write_views
from experiment import (
    FIELD_KINDS,
    find_checkpoint,
    load_networks,
    make_renderer,
    make_run_folder,
    prepare_device,
    render_limits,
)
from int8_model import select_backend
from metrics import format_table, lpips_missing_reason, run_facts, write_metrics
from model_file import load_renderer, save_float_model
from onnx_model import export_onnx
from optimizers import bitnet_schedule, cosine_schedule
from options import config_parser
from run_nerf_helpers import NeRF_qat
from scene import Scene
from schemes import SCHEMES
from training import Phase, Trainer, float_phase

CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> None:
    args = config_parser().parse_args(argv)
    device = prepare_device(args)
    if args.render_only:
        return render_only(args, device) if distributed.is_main() else None
    check_flags(args, device)
    scene = load_scene(args)
    folder = make_run_folder(args)
    if args.plot_cameras:
        return plot_cameras(folder / "cameras.png", scene) if distributed.is_main() else None
    renderer = make_renderer(args, scene, device, NeRF_qat)

    # 1. A float network: resumed, taken from --ft_path, or trained.
    scheme = SCHEMES[args.quant](args, scene, renderer)
    float_steps = 0 if args.ft_path else args.N_iters
    found = distributed.from_main(lambda: find_checkpoint(args, folder))
    state = found[1] if found else None
    phase = state.get("phase", "float") if found else None
    if phase not in (None, "float", scheme.phase):
        raise BadInput(f"{found[0]}: was trained with --quant {phase}, not {args.quant}; choose another --expname")
    trainer = Trainer(args, scene, renderer, folder, float_phase(args))
    rounds = phase == scheme.phase
    if phase == "float":
        load_networks(renderer, *found)
        trainer.load_state_dict(state)
        print(f"resuming from {found[0]} at step {trainer.step}")
    elif not found and args.ft_path:
        checkpoint = distributed.from_main(lambda: load_checkpoint(Path(args.ft_path)))
        load_networks(renderer, Path(args.ft_path), checkpoint)
        print(f"starting from the networks of {args.ft_path}: no float training")
    if not rounds:
        trainer.train(float_steps)
        if distributed.is_main():
            save_float_model(folder / "model_float32.safetensors", renderer, scene.render_path)

    # 2. The same network, rounding as its file will; what can be calibrated is, from a few batches.
    if rounds:
        scheme.load_state_dict(state.get("scheme", {}))
    scheme.prepare()
    if not rounds:
        scheme.calibrate()
        if distributed.is_main() and scheme.name == "int8":
            scheme.save(folder / "model_int8_ptq.safetensors")

    # 3. Training goes on through the rounding.
    if args.quant != "ptq":
        seconds, rays, curve = trainer.seconds, trainer.rays, trainer.curve
        trainer = rounding_trainer(args, scene, scheme, folder, float_steps, device)
        trainer.step, trainer.seconds, trainer.rays, trainer.curve = float_steps, seconds, rays, curve
        if rounds:
            load_networks(renderer, *found)
            trainer.load_state_dict(state)
            trainer.phase.after_step(trainer.step)
            print(f"resuming from {found[0]} at step {trainer.step}, rounding to {scheme.name}")
        trainer.train(float_steps + args.qat_iters)
    distributed.leave()
    if not distributed.is_main():
        return
    scheme.finish()
    size = scheme.save(folder / f"model_{scheme.name}.safetensors")
    if args.quant_budget and size > args.quant_budget:
        print(f"note: the file has {size} bytes, more than --quant_budget {args.quant_budget}: the grid has grown")

    evaluate(args, scene, renderer, scheme.name, folder, trainer, device)


def check_flags(args: argparse.Namespace, device: torch.device) -> None:
    """Raises BadInput for flags that do not go together, before hours are spent on training."""
    backend = select_backend(args.backend, device)
    if args.distill > 0 and args.sampler != "occupancy":
        raise BadInput("--distill compares fields at the same samples, which only --sampler occupancy has")
    if args.qat_schedule == "bitnet" and args.optimizer != "muon":
        raise BadInput("--qat_schedule bitnet decays the matrices that Muon holds; add --optimizer muon")
    if SCHEMES[args.quant].name == "int8":
        if args.residual:
            raise BadInput(f"--residual: int8 files have no sum of two layers; use --quant w4a8, not {args.quant}")
        return
    if backend not in PRODUCTS:
        raise BadInput(f"--backend {backend} does not execute --quant {args.quant}; use auto, reference or torch")
    for flag in ("weight_bits", "activation_bits"):
        if getattr(args, flag) != 8:
            raise BadInput(f"--{flag} is for int8 files; with --quant {args.quant} give --quant_bits or --bit_ends")
    if args.export_onnx:
        raise BadInput(f"--export_onnx is for int8 files; leave it out with --quant {args.quant}")


def rounding_trainer(
    args: argparse.Namespace, scene: Scene, scheme, folder: Path, first: int, device: torch.device
) -> Trainer:
    """A trainer for the `--qat_iters` steps after step `first`, taught by the float model if so wished."""

    def done(step: int) -> float:
        return (step - first) / args.qat_iters

    span = args.qat_lrate_scale, first, args.qat_iters, args.lrate_warmup
    phase = Phase(
        scheme.phase,
        cosine_schedule(*span),
        after_step=lambda step: scheme.after_step(done(step)),
        state={"scheme": scheme.state_dict()},
    )
    if args.qat_schedule == "bitnet":
        phase.schedule, phase.weight_decay = bitnet_schedule(*span)
    if args.distill > 0:
        teacher = distributed.from_main(lambda: load_renderer(folder / "model_float32.safetensors", CPU)[0])
        distillation = Distillation(teacher.to(device), args.distill)
        phase.extra_loss = lambda batch, rendering, step: distillation.loss(batch, rendering, done(step))
    return Trainer(args, scene, scheme.renderer, folder, phase)


def evaluate(
    args: argparse.Namespace,
    scene: Scene,
    renderer: torch.nn.Module,
    result: str,
    folder: Path,
    trainer: Trainer,
    device: torch.device,
) -> None:
    """Measures every stage on the test views, each as its file renders, and writes it all.

    result: the quantised model's name: `int8`, `w4a8` or `ternary`.
    """
    backend = select_backend(args.backend, device)
    test = scene.splits["test"]
    files = {"float32": "model_float32.safetensors"}
    if result == "int8":
        files["int8_ptq"] = "model_int8_ptq.safetensors"
    if args.quant != "ptq":
        files["fake_quant"] = None  # the trained network itself, rounding in float: what its file should match
    files[result] = f"model_{result}.safetensors"

    models: dict[str, dict] = {}
    pictures: dict[str, RenderedViews] = {}
    for name, file in files.items():
        model = load_renderer(folder / file, device, backend)[0] if file else renderer
        pictures[name] = evaluate_views(model, scene, test, render_limits(args), label=name)
        models[name] = pictures[name].summary()
        if file:
            models[name] |= {"file": file, "bytes": (folder / file).stat().st_size}
            models[name]["backend"] = "torch float32" if name == "float32" else backend
    if args.export_onnx:
        models[result]["onnx_bytes"] = sum(export(folder / files[result]).values())
    final = pictures[result]
    write_views(final, folder / f"testset_{trainer.step:06d}")
    columns = {"ground truth": final.targets, "float32": pictures["float32"].images, result: final.images}
    write_strip(folder / "strip.png", columns)
    facts = run_facts(args.expname, args.config, device)
    write_metrics(folder / "metrics.json", facts, trainer.summary(), models)

    model, path, _ = load_renderer(folder / files[result], device, backend)
    stem = folder / f"{args.expname}_spiral_{trainer.step:06d}"
    render_video(model, path, stem, render_limits(args), args.render_factor)
    print(format_table(models))
    if lpips_missing_reason():
        print(f"LPIPS was not measured: {lpips_missing_reason()}")
    print(f"{result} by the {backend} backend; results are in {folder}")


def export(file: Path) -> dict[str, int]:
    """Writes an int8 file's field, or both, as ONNX beside it; returns bytes by file name."""
    renderer, _, metadata = load_renderer(file, CPU)
    if metadata["precision"] != "int8":
        raise BadInput(f"{file}: --export_onnx takes an int8 file, this one is {metadata['precision']}")
    sizes = export_onnx(renderer, file.with_suffix(".onnx"))
    for name, size in sizes.items():
        print(f"wrote {file.with_name(name)} ({size} bytes)")
    return sizes


def render_only(args: argparse.Namespace, device: torch.device) -> None:
    """Renders the quantised file and nothing else: no checkpoint, and for the path no data either."""
    folder = Path(args.basedir) / args.expname
    file = (
        Path(args.model) if args.model not in FIELD_KINDS else folder / f"model_{SCHEMES[args.quant].name}.safetensors"
    )
    if args.export_onnx:
        export(file)
        return
    backend = select_backend(args.backend, device)
    renderer, path, _ = load_renderer(file, device, backend)
    kind = "test" if args.render_test else "path"
    steps = [int(checkpoint.stem) for checkpoint in checkpoint_files(folder)]
    out = folder / f"renderonly_{kind}_{max(steps, default=0):06d}"
    print(f"rendering {file} ({file.stat().st_size} bytes) with the {backend} backend")
    if args.benchmark:
        print(stage_table(renderer, path[0].to(device), render_limits(args)))
        return
    if args.render_test:
        scene = load_scene(args)
        views = evaluate_views(renderer, scene, scene.splits["test"], render_limits(args))
        write_views(views, out)
        print(format_table({file.stem: {**views.summary(), "bytes": file.stat().st_size}}))
    else:
        render_video(renderer, path, out / "video", render_limits(args), args.render_factor)
    print(f"rendered to {out}")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
