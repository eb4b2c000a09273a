"""Trains a float radiance field, measures it, and renders its video.

python run_nerf.py --config configs/lego.txt [--render_only [--render_test]]
"""

from rendering.renderer import RenderLimits

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
from pathlib import Path

import torch

from deploy.model_file import save_float_model
from evaluation.metrics_file import format_table, run_facts, write_metrics
from evaluation.videos import render_video
from evaluation.views import evaluate_views, write_strip, write_views
from experiment import make_renderer, make_run_folder, record_flags
from fields.tensorf_training import tensorf_phase
from load_scene import load_scene
from options import config_parser
from scenes.camera_plot import plot_cameras
from training.checkpoints import find_checkpoint, load_checkpoint, load_networks
from training.trainer import Trainer, float_phase
from utils import distributed
from utils.devices import prepare_device
from utils.errors import BrokenFile, exit_cleanly


def main(argv: list[str] | None = None) -> None:
    args = config_parser().parse_args(argv)
    device = prepare_device(args)
    scene = load_scene(args)
    folder = make_run_folder(args)
    if args.plot_cameras:
        return plot_cameras(folder / "cameras.png", scene) if distributed.is_main() else None
    found = find_checkpoint(args, scene, folder)
    renderer = make_renderer(args, scene, device)
    phase = tensorf_phase(args, renderer) if args.model == "tensorf" else float_phase(args)
    trainer = Trainer(args, scene, renderer, folder, phase)
    start(trainer, args, found)

    if not args.render_only:
        record_flags(args, folder)
        trainer.train(args.N_iters)
    distributed.leave()
    if not distributed.is_main():
        return
    if args.render_only:
        return render_only(args, scene, renderer, folder, trainer.step)

    # What training left is now measured from the file that a user would keep.
    unsaved, file = trainer.unsaved, folder / "model_float32.safetensors"
    size = unsaved.attempt(save_float_model, file, renderer, scene.render_path)
    views = evaluate_views(renderer, scene, scene.splits["test"], RenderLimits.from_flags(args))
    entry = {**views.summary(), "bytes": size, "file": file.name}
    facts = run_facts(args.expname, args.config, device)
    unsaved.attempt(write_metrics, folder / "metrics.json", facts, trainer.summary(), {"float32": entry})
    unsaved.attempt(write_views, views, folder / f"testset_{trainer.step:06d}")
    unsaved.attempt(write_strip, folder / "strip.png", {"ground truth": views.targets, "float32": views.images})
    stem = folder / f"{args.expname}_spiral_{trainer.step:06d}"
    unsaved.attempt(render_video, renderer, scene.render_path, stem, RenderLimits.from_flags(args), args.render_factor)
    print(format_table({"float32": entry}))
    print(f"results are in {folder}")
    unsaved.raise_first()


def start(trainer: Trainer, args: argparse.Namespace, found: tuple[Path, dict] | None) -> None:
    """Resumes from the checkpoint found of this run, or starts from `--ft_path`, or anew."""
    if found is not None:
        path, state = found
        load_networks(trainer.renderer, path, state)
        trainer.load_state_dict(state)
        print(f"resuming from {path} at step {trainer.step}")
    elif args.ft_path:
        state = distributed.from_main(lambda: load_checkpoint(Path(args.ft_path)))
        load_networks(trainer.renderer, Path(args.ft_path), state)
        print(f"starting from the networks of {args.ft_path}")


@torch.no_grad()
def render_only(args: argparse.Namespace, scene, renderer: torch.nn.Module, folder: Path, step: int) -> None:
    """Test views or the camera path into `renderonly_*_NNNNNN/`."""
    if step == 0 and not args.ft_path:
        raise BrokenFile(f"{folder}: no checkpoint to render; train first, or give --ft_path")
    kind = "test" if args.render_test else "path"
    out = folder / f"renderonly_{kind}_{step:06d}"
    if args.render_test:
        views = evaluate_views(renderer, scene, scene.splits["test"], RenderLimits.from_flags(args))
        write_views(views, out)
        print(format_table({"float32": views.summary()}))
    else:
        render_video(renderer, scene.render_path, out / "video", RenderLimits.from_flags(args), args.render_factor)
    print(f"rendered to {out}")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
