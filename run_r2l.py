"""Distils a trained model into a light field, at 32, 16 and 8 bits: one query of one network a ray.

python run_r2l.py --config configs/lego_r2l_cpu.txt --teacher logs/lego_cpu_qat/model_int8.safetensors
python run_r2l.py --config configs/lego_r2l_cpu.txt --render_only [--render_test] [--model FILE]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from compressors.light_field import LightFieldCompressor, save_other_precisions
from deploy.backends.choose import check_executes, select_backend
from deploy.exports import Exports
from deploy.model_file import find_model
from evaluation.views import RenderedViews, evaluate_views
from experiment import FLOAT_FILE, Run, load_file, measure, prepare_device, render_or_export, set_up, train_and_compress
from options import config_parser
from rendering.renderer import Renderer, RenderLimits
from scenes.new_views import new_cameras
from scenes.scene import Scene
from training.batches import BatchSettings, RayBatches
from training.identity import float_steps
from training.taught_rays import Mixture, TaughtBatches, taught_scene, teach
from utils import distributed
from utils.errors import BadInput, exit_cleanly
from utils.files import atomic_write, file_digest


def main(argv: list[str] | None = None) -> None:
    args = config_parser("run_r2l").parse_args(argv)
    device = prepare_device(args)
    if args.render_only:
        own = Path(args.basedir) / args.expname / "model_int8.safetensors"
        return render_or_export(args, find_model(args.model or own), device) if distributed.is_main() else None
    backend = check_flags(args, device)
    run = set_up(args, device, LightFieldCompressor.phase)
    if run is None:  # --plot_cameras
        return

    # The teacher says where anything is, and colours rays that no photograph has.
    teacher, of_teacher = load_teacher(args, run.scene, device, backend)
    if args.ray_span == "occupied" and teacher.occupied() is not None:
        run.renderer.take_grid(teacher.occupied())
    elif args.ray_span == "occupied" and not run.scene.has_alpha:
        raise BadInput(f"--teacher {args.teacher}: knows no occupied cells, nor do the images; add --ray_span near_far")
    cameras = new_cameras(run.scene, args.pseudo_views, args.seed, args.pseudo_zoom)
    pictures = teach(teacher, cameras, run.folder, file_digest(find_model(args.teacher)), RenderLimits.from_flags(args))
    run = TaughtRun(**vars(run), taught=taught_scene(run.scene, pictures, cameras))

    compressor = LightFieldCompressor.from_flags(args, run.renderer, run.scene.render_path, has_float=True)
    exports = Exports.from_flags(args)
    exports.check(run.renderer, compressor.name)
    with run.viewer:
        trainer = train_and_compress(run, compressor)
    if not distributed.is_main():
        return

    # What training left is now measured from the files that a user would keep.
    compressor.finish()
    file, files = run.folder / compressor.file, compressor.files()
    atomic_write(file, compressor.to_bytes())
    others = save_other_precisions(run.folder / FLOAT_FILE, run.scene.render_path)
    noted = trainer.progress.unsaved.attempt(exports.write, file)
    final = {compressor.name: files.pop(compressor.name)}
    measure(run, trainer, files | others | final, backend, noted, (teacher_views(run, teacher), of_teacher))


@dataclass(kw_only=True)
class TaughtRun(Run):
    """A run whose rays a teacher coloured. taught: the scene as it shows it."""

    taught: Scene

    def batches(self) -> RayBatches:
        args = self.args
        steps = float_steps(vars(args)) + args.qat_iters
        settings = BatchSettings.from_flags(args)
        rays = args.samples_per_batch if args.ray_span == "occupied" else args.N_rand
        mixture = Mixture(args.real, args.hard_rays, steps, rays)
        return TaughtBatches(settings, self.taught, self.scene, self.renderer.device, mixture)


def check_flags(args: argparse.Namespace, device: torch.device) -> str:
    """The backend. Raises BadInput for flags that do not go together, before hours are spent."""
    if not args.teacher:
        raise BadInput("--teacher FILE is missing: a model file of ours, such as model_int8.safetensors of a run")
    if args.field != "light_field" or args.sampler != "light_field":
        raise BadInput(f"--field {args.field} --sampler {args.sampler}: run_r2l.py trains light_field and light_field")
    if args.quant not in ("qat", "ptq"):
        raise BadInput(f"--quant {args.quant}: light fields are trained to int8; give qat or ptq")
    if args.exposure:
        raise BadInput("--exposure is for photographs, and a teacher's pictures have its mean; leave it out")
    if args.distill > 0:
        raise BadInput("--distill compares densities, which a light field has none of; leave it out")
    backend = select_backend(args.backend, device)
    check_executes(backend, LightFieldCompressor.name)
    return backend


def load_teacher(args: argparse.Namespace, scene: Scene, device: torch.device, backend: str) -> tuple[Renderer, dict]:
    """The teacher, and what `metrics.json` is to say of it. Raises BadInput where it is of a scene of another kind."""
    file = find_model(args.teacher)
    teacher, _, executes = load_file(args, file, device, backend)
    if (teacher.setup.ndc_near is not None) != scene.ndc:
        raise BadInput(f"--teacher {file}: {'not ' * scene.ndc}in NDC, unlike --datadir: it is of another scene")
    return teacher, {"bytes": file.stat().st_size, "backend": executes}


def teacher_views(run: Run, teacher: Renderer) -> RenderedViews:
    limits = RenderLimits.from_flags(run.args)
    return evaluate_views(teacher, run.scene, run.scene.splits["test"], limits, "teacher")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
