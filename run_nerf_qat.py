"""Trains a NeRF, makes it int8 with quantisation-aware training, and renders it from the file.

python run_nerf_qat.py --config configs/lego_qat.txt
python run_nerf_qat.py --config configs/lego_qat.txt --render_only [--render_test] [--model PATH]
"""

import argparse
import sys
from pathlib import Path

import torch

import distributed
from batches import RayBatches, render_batch
from camera_plot import plot_cameras
from checkpoints import checkpoint_files, load_checkpoint
from errors import BadInput, exit_cleanly
from evaluation import RenderedViews, evaluate_views, render_video, stage_table, write_strip, write_views
from experiment import (
    find_checkpoint,
    load_networks,
    load_scene,
    make_renderer,
    make_run_folder,
    prepare_device,
    render_limits,
)
from int8_model import select_backend
from metrics import format_table, lpips_missing_reason, run_facts, write_metrics
from model_file import load_renderer, save_float_model, save_int8_model
from onnx_model import export_onnx
from optimizers import cosine_schedule, exponential_schedule
from options import config_parser
from quantization import convert, fuse, prepare, remap_state_dict, set_state, synchronize_ranges
from rendering import networks_of
from run_nerf_helpers import NeRF_qat
from scene import Scene
from training import Trainer


def main(argv: list[str] | None = None) -> None:
    args = config_parser().parse_args(argv)
    device = prepare_device(args)
    if args.render_only:
        return render_only(args, device) if distributed.is_main() else None
    scene = load_scene(args)
    folder = make_run_folder(args)
    if args.plot_cameras:
        return plot_cameras(folder / "cameras.png", scene) if distributed.is_main() else None
    renderer = make_renderer(args, scene, device, NeRF_qat)

    # 1. A float network: resumed, taken from --ft_path, or trained.
    float_steps = 0 if args.ft_path else args.N_iters
    found = distributed.from_main(lambda: find_checkpoint(args, folder))
    state = found[1] if found else None
    trainer = Trainer(args, scene, renderer, folder, exponential_schedule(args))
    in_qat = state is not None and state.get("phase") == "qat"
    if state is not None and not in_qat:
        load_networks(renderer, *found)
        trainer.load_state_dict(state)
        print(f"resuming from {found[0]} at step {trainer.step}")
    elif state is None and args.ft_path:
        checkpoint = distributed.from_main(lambda: load_checkpoint(Path(args.ft_path)))
        load_networks(renderer, Path(args.ft_path), checkpoint)
        print(f"starting from the networks of {args.ft_path}: no float training")
    if not in_qat:
        trainer.train(float_steps)
        if distributed.is_main():
            save_float_model(folder / "model_float32.safetensors", renderer, scene.render_path)

    # 2. The same network with a fake-quantiser wherever int8 will round; ranges from a few batches.
    for field in renderer.fields.values():
        field.network = prepare(fuse(field.network), args.weight_bits, args.activation_bits)
    if not in_qat:
        calibrate(args, scene, renderer)
        if distributed.is_main():
            save_int8(args, scene, renderer, folder / "model_int8_ptq.safetensors")

    # 3. Training goes on through the rounding.
    if args.quant == "qat":
        seconds, rays = trainer.seconds, trainer.rays
        trainer = qat_trainer(args, scene, renderer, folder, float_steps)
        trainer.step, trainer.seconds, trainer.rays = float_steps, seconds, rays
        if in_qat:
            load_networks(renderer, *found)
            trainer.load_state_dict(state)
            print(f"resuming from {found[0]} at step {trainer.step}, with fake quantisation")
        trainer.train(float_steps + args.qat_iters)
    distributed.leave()
    if not distributed.is_main():
        return
    set_state(renderer, observing=False, quantizing=True)
    save_int8(args, scene, renderer, folder / "model_int8.safetensors")

    evaluate(args, scene, renderer, folder, trainer, device)


def calibrate(args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module) -> None:
    """Sets every activation's range to the extremes of a few training batches."""
    batches = RayBatches(args, scene, next(renderer.buffers()).device)
    set_state(renderer, observing=True, quantizing=False, momentum=None)
    renderer.train()
    with torch.no_grad():
        for _ in range(args.calibration_batches):
            render_batch(renderer, batches.draw(renderer, step=args.precrop_iters + 1))
    synchronize_ranges(renderer)
    set_state(renderer, observing=True, quantizing=True)


def qat_trainer(args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module, folder: Path, first: int) -> Trainer:
    """A trainer for the `--qat_iters` steps after step `first`; ranges freeze near their end."""
    freeze = first + round(args.qat_freeze * args.qat_iters)

    def ranges(step: int) -> None:
        synchronize_ranges(renderer)
        set_state(renderer, observing=step < freeze, quantizing=True)

    schedule = cosine_schedule(args.qat_lrate_scale, first, args.qat_iters)
    return Trainer(args, scene, renderer, folder, schedule, phase="qat", after_step=ranges)


def save_int8(args: argparse.Namespace, scene: Scene, renderer: torch.nn.Module, path: Path) -> None:
    """Converts every network of a prepared renderer and writes the file that renders alone."""
    tensors: dict[str, torch.Tensor] = {}
    for name, network in networks_of(renderer).items():
        tensors |= remap_state_dict(convert(network), name)
    save_int8_model(path, renderer, tensors, scene.render_path, args.weight_bits, args.activation_bits)


def evaluate(
    args: argparse.Namespace,
    scene: Scene,
    renderer: torch.nn.Module,
    folder: Path,
    trainer: Trainer,
    device: torch.device,
) -> None:
    """Measures every stage on the test views, float and int8 as their files render; writes it all."""
    backend = select_backend(args.backend, device)
    test = scene.splits["test"]
    files = {"float32": "model_float32.safetensors", "int8_ptq": "model_int8_ptq.safetensors"}
    if args.quant == "qat":
        files["fake_quant"] = None  # the trained network itself, rounding in float: what int8 should match
    files["int8"] = "model_int8.safetensors"

    models: dict[str, dict] = {}
    pictures: dict[str, RenderedViews] = {}
    for name, file in files.items():
        model = load_renderer(folder / file, device, backend)[0] if file else renderer
        pictures[name] = evaluate_views(model, scene, test, render_limits(args), label=name)
        models[name] = pictures[name].summary()
        if file:
            models[name] |= {"file": file, "bytes": (folder / file).stat().st_size}
            models[name]["backend"] = backend if name.startswith("int8") else "torch float32"
    if args.export_onnx:
        models["int8"]["onnx_bytes"] = sum(export(folder / files["int8"]).values())
    int8 = pictures["int8"]
    write_views(int8, folder / f"testset_{trainer.step:06d}")
    columns = {"ground truth": int8.targets, "float32": pictures["float32"].images, "int8": int8.images}
    write_strip(folder / "strip.png", columns)
    facts = run_facts(args.expname, args.config, device)
    write_metrics(folder / "metrics.json", facts, trainer.summary(), models)

    model, path, _ = load_renderer(folder / files["int8"], device, backend)
    stem = folder / f"{args.expname}_spiral_{trainer.step:06d}"
    render_video(model, path, stem, render_limits(args), args.render_factor)
    print(format_table(models))
    if lpips_missing_reason():
        print(f"LPIPS was not measured: {lpips_missing_reason()}")
    print(f"int8 by the {backend} backend; results are in {folder}")


def export(file: Path) -> dict[str, int]:
    """Writes an int8 file's field, or both, as ONNX beside it; returns bytes by file name."""
    renderer, _, metadata = load_renderer(file, torch.device("cpu"))
    if metadata["precision"] != "int8":
        raise BadInput(f"{file}: --export_onnx takes an int8 file, this one is {metadata['precision']}")
    sizes = export_onnx(renderer, file.with_suffix(".onnx"))
    for name, size in sizes.items():
        print(f"wrote {file.with_name(name)} ({size} bytes)")
    return sizes


def render_only(args: argparse.Namespace, device: torch.device) -> None:
    """Renders the int8 file and nothing else: no checkpoint, and for the path no data either."""
    folder = Path(args.basedir) / args.expname
    file = Path(args.model) if args.model else folder / "model_int8.safetensors"
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
