"""What run_nerf_qat.py and run_vq.py share: float training, training through rounding, measuring.

A scheme (`schemes.py`, `vq_scheme.py`) says what rounding is; all that is here is the order of things,
what a checkpoint resumes, and which models of a run are measured.
"""

import argparse
from pathlib import Path

import torch

from compressors.compressor import trains_in_float
from deploy.backends.choose import FLOAT_BACKEND
from deploy.model_file import load_renderer, save_float_model
from evaluation.frame_times import stage_table
from evaluation.measures import lpips_missing_reason
from evaluation.metrics_file import format_table, run_facts, write_metrics
from evaluation.videos import render_video
from evaluation.views import RenderedViews, evaluate_views, write_strip, write_views
from experiment import record_flags
from load_scene import load_scene
from rendering.renderer import Rendering, RenderLimits
from scenes.scene import Scene
from training.batches import Batch
from training.checkpoints import checkpoint_files, find_checkpoint, load_checkpoint, load_networks
from training.distillation import Distillation
from training.identity import float_steps
from training.optimizers import bitnet_schedule, cosine_schedule, exponential_schedule
from training.trainer import Phase, Trainer
from utils import distributed
from utils.errors import blaming

CPU = torch.device("cpu")


def train_and_round(
    args: argparse.Namespace,
    scene: Scene,
    renderer: torch.nn.Module,
    scheme,
    folder: Path,
    float_phase: Phase,
    found: tuple[Path, dict] | None = None,
) -> Trainer:
    """Trains `--N_iters` steps in float, then as many as the scheme wants through its rounding.

    Goes on from the newest checkpoint, or from `found` where it was looked for already. Leaves the float model's
    file in `folder` if there is one, and the renderer with the scheme's networks.
    """
    # 1. A float network: resumed, taken from --ft_path, or trained.
    last_float_step = float_steps(args)
    found = found or find_checkpoint(args, scene, folder, scheme.phase)
    state = found[1] if found else None
    phase = state.get("phase", "float") if found else None
    trainer = Trainer(args, scene, renderer, folder, float_phase)
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
        record_flags(args, folder)
        trainer.train(last_float_step)
        if distributed.is_main() and trains_in_float(args):
            file = folder / "model_float32.safetensors"
            trainer.unsaved.attempt(save_float_model, file, renderer, scene.render_path)
            if args.distill > 0 and trainer.unsaved.holds(file):  # who teaches is read from it
                trainer.unsaved.raise_first()

    # 2. The same network, rounding as its file will; what can be calibrated is, from training rays.
    if rounds:
        with blaming(found[0]):
            scheme.load_state_dict(state.get("scheme", {}))
    scheme.prepare()
    if not rounds:
        scheme.calibrate()
        if distributed.is_main() and scheme.calibrated_file:
            trainer.unsaved.attempt(scheme.save, folder / scheme.calibrated_file)

    # 3. Training goes on through the rounding.
    if scheme.steps:
        before = trainer
        trainer = rounding_trainer(args, scene, scheme, folder, last_float_step)
        trainer.step, trainer.seconds, trainer.rays = last_float_step, before.seconds, before.rays
        trainer.curve, trainer.unsaved = before.curve, before.unsaved
        if rounds:
            load_networks(renderer, *found)
            trainer.load_state_dict(state)
            trainer.phase.after_step(trainer.step)
            print(f"resuming from {found[0]} at step {trainer.step}, rounding to {scheme.name}")
            record_flags(args, folder)
        trainer.train(last_float_step + scheme.steps)
    distributed.leave()
    return trainer


def rounding_trainer(args: argparse.Namespace, scene: Scene, scheme, folder: Path, first: int) -> Trainer:
    """A trainer for the scheme's steps after step `first`, taught by the float model if so wished."""

    def done(step: int) -> float:
        return (step - first) / scheme.steps

    span = args.qat_lrate_scale, first, scheme.steps, args.lrate_warmup
    phase = Phase(
        scheme.phase,
        cosine_schedule(*span),
        after_step=lambda step: scheme.after_step(done(step)),
        extra_loss=scheme.extra_loss,
        state=lambda: {"scheme": scheme.state_dict()},
    )
    if args.qat_schedule == "bitnet":
        phase.schedule, phase.weight_decay = bitnet_schedule(*span)
    elif args.qat_schedule == "exponential":
        phase.schedule = exponential_schedule(args, args.qat_lrate_scale, first)
    if args.distill > 0:
        teacher = distributed.from_main(lambda: load_renderer(folder / "model_float32.safetensors", CPU)[0])
        distillation = Distillation(teacher.to(scheme.renderer.device), args.distill)

        def extra_loss(batch: Batch, rendering: Rendering, step: int) -> torch.Tensor:
            own = scheme.extra_loss(batch, rendering, step) if scheme.extra_loss else 0.0
            return own + distillation.loss(batch, rendering, done(step))

        phase.extra_loss = extra_loss
    return Trainer(args, scene, scheme.renderer, folder, phase)


def evaluate(
    args: argparse.Namespace, scene: Scene, scheme, folder: Path, trainer: Trainer, backend: str, noted: dict
) -> None:
    """Measures every stage on the test views, each as its file renders, and writes it all. A stage on the way whose
    file could not be written is left out.

    noted: what `metrics.json` is to say of the last one beyond that.
    """
    device, test, unsaved = trainer.device, scene.splits["test"], trainer.unsaved
    models: dict[str, dict] = {}
    pictures: dict[str, RenderedViews] = {}
    for name, file in scheme.files().items():
        if file and (unsaved.holds(folder / file) or not (folder / file).is_file()):
            print(f"note: {name} is not measured, {folder / file} could not be written")
            continue
        model = load_renderer(folder / file, device, backend)[0] if file else scheme.renderer
        pictures[name] = evaluate_views(model, scene, test, RenderLimits.from_flags(args), label=name)
        models[name] = pictures[name].summary()
        if file:
            models[name] |= {"file": file, "bytes": (folder / file).stat().st_size}
            models[name]["backend"] = FLOAT_BACKEND if name == "float32" else backend
    models[scheme.name] |= noted
    final = pictures[scheme.name]
    facts = run_facts(args.expname, args.config, device)
    unsaved.attempt(write_metrics, folder / "metrics.json", facts, trainer.summary(), models)
    unsaved.attempt(write_views, final, folder / f"testset_{trainer.step:06d}")
    columns = {name: pictures[name].images for name in ("float32", scheme.name) if name in pictures}
    unsaved.attempt(write_strip, folder / "strip.png", {"ground truth": final.targets, **columns})

    model, path, _ = load_renderer(folder / scheme.files()[scheme.name], device, backend)
    stem = folder / f"{args.expname}_spiral_{trainer.step:06d}"
    unsaved.attempt(render_video, model, path, stem, RenderLimits.from_flags(args), args.render_factor)
    print(format_table(models))
    if lpips_missing_reason():
        print(f"LPIPS was not measured: {lpips_missing_reason()}")
    print(f"{scheme.name} by the {backend} backend; results are in {folder}")
    unsaved.raise_first()


def render_file(args: argparse.Namespace, file: Path, folder: Path, device: torch.device, backend: str) -> None:
    """Renders a model file and nothing else: no checkpoint, and for the path no data either."""
    renderer, path, _ = load_renderer(file, device, backend)
    kind = "test" if args.render_test else "path"
    steps = [int(checkpoint.stem) for checkpoint in checkpoint_files(folder)]
    out = folder / f"renderonly_{kind}_{max(steps, default=0):06d}"
    print(f"rendering {file} ({file.stat().st_size} bytes) with the {backend} backend")
    if args.benchmark:
        print(stage_table(renderer, path[0].to(device), RenderLimits.from_flags(args)))
        return
    if args.render_test:
        scene = load_scene(args)
        views = evaluate_views(renderer, scene, scene.splits["test"], RenderLimits.from_flags(args))
        write_views(views, out)
        print(format_table({file.stem: {**views.summary(), "bytes": file.stat().st_size}}))
    else:
        render_video(renderer, path, out / "video", RenderLimits.from_flags(args), args.render_factor)
    print(f"rendered to {out}")
