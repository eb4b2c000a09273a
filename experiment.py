"""What the commands share: from flags to a renderer in a folder, both phases of training, measuring, rendering a file.

Commands see flags; what they call in the folders does not, but for `from_flags`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from compressors.compressor import Compressor
from deploy.backends.choose import FLOAT_BACKEND, select_backend
from deploy.exports import Exports
from deploy.model_file import check_can_be_read, load_renderer, save_float_model
from evaluation.frame_times import stage_table
from evaluation.measures import lpips_missing_reason
from evaluation.metrics_file import format_table, run_facts, write_metrics
from evaluation.videos import render_video
from evaluation.views import RenderedViews, evaluate_scales, evaluate_views, strip_columns, write_strip, write_views
from evaluation.weights_plot import draw_weights
from fields.kinds import FIELDS
from load_scene import load_scene, video_path
from rendering.kinds import RENDERERS
from rendering.rays import RaySetup
from rendering.renderer import Renderer, RenderLimits
from run_nerf_helpers import NeRF
from scenes.camera_plot import plot_cameras
from scenes.scene import Cameras, Scene
from training.batches import Batch, BatchSettings, RayBatches
from training.checkpoints import checkpoint_files, load_checkpoint, load_networks, load_newest
from training.distillation import Distillation
from training.exposure import Exposure
from training.identity import check_phase, check_same_run, float_steps, run_identity
from training.optimizers import bitnet_schedule, cosine_schedule, exponential_schedule
from training.phases import Phase, Progress
from training.reports import Reports, ReportSettings
from training.run_log import check_wandb, record_flags
from training.trainer import Trainer, TrainerSettings
from utils import devices, distributed
from utils.errors import BadInput, BrokenFile, blaming
from utils.files import atomic_write, saving
from viewer.live import LiveViewer, check_viewer

FLOAT_FILE = "model_float32.safetensors"
Found = tuple[Path, dict] | None  # the newest checkpoint of a run, and its state


# ---------------------------------------------------------------------------------------- setting up


def prepare_device(args: argparse.Namespace) -> torch.device:
    """The device of `--device`, after meeting the other processes under torchrun."""
    check_wandb(args.wandb)
    check_viewer(args.viewer, args.render_only)
    return devices.prepare_device(args.device, args.threads, args.amp == "fp16", args.dist_timeout)


@dataclass
class Run:
    """A command's data, folder, renderer, and newest checkpoint, photographs' exposure and viewer where there are."""

    args: argparse.Namespace
    scene: Scene
    folder: Path
    renderer: Renderer
    found: Found
    exposure: Exposure | None = None
    viewer: LiveViewer = LiveViewer()

    def batches(self) -> RayBatches:
        """Of training rays, from the first on."""
        return RayBatches(BatchSettings.from_flags(self.args), self.scene, self.renderer.device)


def set_up(
    args: argparse.Namespace, device: torch.device, phase: str = "float", network: type[NeRF] = NeRF
) -> Run | None:
    """What a command works on; None where `--plot_cameras` asked for a picture only.

    phase: of the command's training through rounding, "float" if it has none. network: the class of a NeRF's MLP.
    """
    scene, folder = load_scene(args), make_run_folder(args)
    if args.plot_cameras:
        return plot_cameras(folder / "cameras.png", scene) if distributed.is_main() else None
    found = find_checkpoint(args, scene, folder, phase)
    renderer, exposure = make_renderer(args, scene, device, network), Exposure.from_flags(args, scene, device)
    return Run(args, scene, folder, renderer, found, exposure, LiveViewer.from_flags(args, renderer, scene, folder))


def make_run_folder(args: argparse.Namespace) -> Path:
    """`basedir/expname`."""
    folder = Path(args.basedir) / args.expname
    if distributed.is_main():
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_checkpoint(args: argparse.Namespace, scene: Scene, folder: Path, phase: str = "float") -> Found:
    """The newest whole checkpoint of a run and its state, unless `--no_reload`.

    Raises BadInput where the checkpoint is of another run than the flags describe; nothing has been touched by then.
    """
    found = None if args.no_reload else distributed.from_main(lambda: load_newest(folder))
    if found is not None:
        check_phase(phase, *found)
        if not args.render_only:
            check_same_run(vars(args), scene, *found)
    return found


def make_renderer(args: argparse.Namespace, scene: Scene, device: torch.device, network: type[NeRF] = NeRF) -> Renderer:
    """The renderer that `--sampler` names with the field that `--field` names, untrained."""
    if args.model:
        raise BadInput(f"--model {args.model}: is for --render_only; to train give --field {' or '.join(FIELDS)}")
    kind = FIELDS[args.field]
    if kind.samplers and args.sampler not in kind.samplers:
        raise BadInput(f"--field {args.field}: has one field in one box; add --sampler {' or '.join(kind.samplers)}")
    torch.manual_seed(args.seed)

    def make_field(box: torch.Tensor, **which) -> torch.nn.Module:
        which |= {"ball": scene.ball} if scene.ball else {}
        return kind.from_flags(args, box, network=network, **which)

    made = RENDERERS[args.sampler].from_flags(args, scene, RaySetup.from_flags(args, scene), device, make_field)
    check_can_be_read(made, scene.render_path)
    return made


# ------------------------------------------------------------------------------------------ training


def float_phase(args: argparse.Namespace) -> Phase:
    schedule = FIELDS[args.field].schedule
    return Phase("float", schedule(args) if schedule else exponential_schedule(args.lrate_decay, args.lrate_warmup))


def make_trainer(run: Run, phase: Phase, progress: Progress | None = None) -> Trainer:
    """progress: of the phase before."""
    args, progress = run.args, progress or Progress()
    return Trainer(
        run.renderer,
        run.batches(),
        phase,
        TrainerSettings.from_flags(args),
        run.folder,
        Reports(ReportSettings.from_flags(args), run.scene, run.folder, progress.unsaved, run.viewer.after_step),
        run_identity(vars(args), run.scene, rounding=phase.name != "float"),
        progress,
        run.exposure,
    )


def trains_in_float(args: argparse.Namespace) -> bool:
    """Whether there is a float model before the rounding begins, or only untrained networks."""
    return bool(args.ft_path or args.N_iters)


def start(trainer: Trainer, args: argparse.Namespace, found: Found) -> None:
    """Resumes from the checkpoint found of this run, or starts from `--ft_path`, or anew."""
    if found is not None:
        path, state = found
        load_networks(trainer.renderer, path, state)
        trainer.load_state_dict(state)
        print(f"resuming from {path} at step {trainer.global_step} ({trainer.phase.name})")
    elif args.ft_path:
        path = Path(args.ft_path)
        load_networks(trainer.renderer, path, distributed.from_main(lambda: load_checkpoint(path)))
        print(f"starting from the networks of {path}")


def train_and_compress(run: Run, compressor: Compressor) -> Trainer:
    """Trains `--N_iters` steps in float, then as many as the compressor wants through its rounding.

    Goes on from the checkpoint found. Leaves the float model's file in the folder if there is one, and the renderer
    with the compressor's networks.
    """
    args, folder, renderer = run.args, run.folder, run.renderer

    # 1. A float network: resumed, taken from --ft_path, or trained.
    first = float_steps(vars(args))
    path, state = run.found or (None, {})
    trainer = make_trainer(run, float_phase(args))
    rounds = run.found is not None and state.get("phase", "float") == compressor.phase
    unsaved = trainer.progress.unsaved
    if not rounds:
        start(trainer, args, run.found)
        record_flags(vars(args), folder)
        trainer.train(first)
        if distributed.is_main() and compressor.has_float:
            unsaved.attempt(save_float_model, folder / FLOAT_FILE, renderer, run.scene.render_path)
            if args.distill > 0 and unsaved.holds(folder / FLOAT_FILE):  # who teaches is read from it
                unsaved.raise_first()

    # 2. The same network, rounding as its file will; what can be calibrated is, from training rays.
    if rounds:
        with blaming(path):
            compressor.load_state_dict(state.get("scheme", {}))
    compressor.prepare()
    if not rounds:
        compressor.calibrate(run.batches())
        if distributed.is_main() and compressor.calibrated_file:
            unsaved.attempt(lambda: atomic_write(folder / compressor.calibrated_file, compressor.to_bytes()))

    # 3. Training goes on through the rounding.
    if compressor.steps:
        trainer.progress.step = first
        trainer = compression_trainer(run, compressor, trainer.progress)
        if rounds:
            start(trainer, args, run.found)
            trainer.phase.after_step(trainer.global_step)
            record_flags(vars(args), folder)
        trainer.train(first + compressor.steps)
    distributed.leave()
    return trainer


def compression_trainer(run: Run, compressor: Compressor, progress: Progress) -> Trainer:
    """A trainer for the compressor's steps after what is done, taught by the float model if so wished."""
    args, first = run.args, float_steps(vars(run.args))

    def done(step: int) -> float:
        return (step - first) / compressor.steps

    span = args.qat_lrate_scale, first, compressor.steps, args.lrate_warmup
    phase = Phase(
        compressor.phase,
        cosine_schedule(*span),
        after_step=lambda step: compressor.after_step(done(step)),
        losses=compressor.losses,
        state=lambda: {"scheme": compressor.state_dict()},
    )
    if args.qat_schedule == "bitnet":
        phase.schedule, phase.weight_decay = bitnet_schedule(*span)
    elif args.qat_schedule == "exponential":
        phase.schedule = exponential_schedule(args.lrate_decay, args.lrate_warmup, args.qat_lrate_scale, first)
    if args.distill > 0:
        teacher = distributed.from_main(lambda: load_renderer(run.folder / FLOAT_FILE, torch.device("cpu"))[0])
        distillation = Distillation(teacher.to(run.renderer.device), args.distill)

        def losses(batch: Batch, rendering, step: int) -> dict[str, torch.Tensor]:
            of_teacher = {"distillation": distillation.loss(batch, rendering, done(step))}
            return compressor.losses(batch, rendering, step) | of_teacher

        phase.losses = losses
    return make_trainer(run, phase, progress)


# ----------------------------------------------------------------------------------------- measuring


def measure(
    run: Run,
    trainer: Trainer,
    files: dict[str, str | None],
    backend: str,
    noted: dict | None = None,
    teacher: tuple[RenderedViews, dict] | None = None,
) -> None:
    """Measures models on the test views, each as its file renders, and writes all that a run leaves.

    files: by the models' names, the last one what the run was for; None: what training left in memory. A model whose
    file could not be written is left out, but for the last one, which is then measured from memory. backend: what
    executes integers. noted: what `metrics.json` is to say of the last one beyond that. teacher: what it shows of the
    test views, and what is to be said of it; models are held against it as well.
    """
    args, scene, folder, unsaved = run.args, run.scene, run.folder, trainer.progress.unsaved
    device, limits, final = trainer.device, RenderLimits.from_flags(args), list(files)[-1]
    models: dict[str, dict] = {"teacher": {**teacher[0].summary(), **teacher[1]}} if teacher else {}
    pictures: dict[str, RenderedViews] = {}
    for name, file in files.items():
        model = run.renderer
        if file and (unsaved.holds(folder / file) or not (folder / file).is_file()):
            if name != final:
                print(f"note: {name} is not measured, {folder / file} could not be written")
                continue
            print(f"note: {name} is measured from memory, {folder / file} could not be written")
        elif file:
            model, _, executes = load_file(args, folder / file, device, backend)
        pictures[name] = evaluate_views(model, scene, scene.splits["test"], limits, name, layers=name == final)
        models[name] = pictures[name].summary()
        if teacher:
            models[name]["teacher_psnr"] = pictures[name].psnr_against(teacher[0])
        if len(args.scales) > 1:
            views = scene.splits["test"]
            models[name]["scales"] = evaluate_scales(model, scene, views, args.scales, limits, pictures[name])
        if file and model is not run.renderer:
            models[name] |= {"file": file, "bytes": (folder / file).stat().st_size, "backend": executes}
    models[final] |= noted or {}
    facts = run_facts(args.expname, args.config, device)
    unsaved.attempt(write_metrics, folder / "metrics.json", facts, trainer.summary(), models)
    unsaved.attempt(write_views, pictures[final], folder / f"testset_{trainer.global_step:06d}")
    unsaved.attempt(write_strip, folder / "strip.png", strip_columns(pictures, final))
    stem = folder / f"{folder.name}_spiral_{trainer.global_step:06d}"
    unsaved.attempt(render_video, model, scene.render_path, stem, limits, args.render_factor)
    if args.plot_weights:
        unsaved.attempt(draw_weights, model, scene, folder)
    print(format_table(models))
    if lpips_missing_reason():
        print(f"LPIPS was not measured: {lpips_missing_reason()}")
    print(f"{final} by the {models[final].get('backend', FLOAT_BACKEND)} backend; results are in {folder}")
    unsaved.raise_first()


def load_file(
    args: argparse.Namespace, file: Path, device: torch.device, backend: str
) -> tuple[Renderer, Cameras, str]:
    """A model file's renderer and video path, and what executes its fields: `backend`, if these are of integers."""
    renderer, path, metadata = load_renderer(file, device, backend)
    renderer.points_at_once = args.netchunk
    return renderer, path, FLOAT_BACKEND if metadata["precision"] in ("float32", "vq") else backend


def render_file(args: argparse.Namespace, file: Path, device: torch.device, backend: str) -> None:
    """Renders a model file and nothing else: no checkpoint, and for the path no data either."""
    renderer, path, executes = load_file(args, file, device, backend)
    path = video_path(args, path, ndc=renderer.parallel)
    print(f"rendering {file} ({file.stat().st_size} bytes) with the {executes} backend")
    if args.benchmark:
        print(stage_table(renderer, path[0].to(device), RenderLimits.from_flags(args)))
        return
    folder = Path(args.basedir) / args.expname
    steps = [int(checkpoint.stem) for checkpoint in checkpoint_files(folder)]
    render_only(args, renderer, path, folder, max(steps, default=0), file.stem, {"bytes": file.stat().st_size})


def render_or_export(args: argparse.Namespace, file: Path, device: torch.device) -> None:
    """What a command does with `--render_only` and a file."""
    if exports := Exports.from_flags(args):
        exports.write(file)
    else:
        render_file(args, file, device, select_backend(args.backend, device))


def render_checkpoint(run: Run, trainer: Trainer) -> None:
    """Renders the networks of the newest checkpoint, or of `--ft_path`."""
    if trainer.global_step == 0 and not run.args.ft_path:
        raise BrokenFile(f"{run.folder}: no checkpoint to render; train first, or give --ft_path")
    step, path = trainer.global_step, run.scene.render_path
    render_only(run.args, run.renderer, path, run.folder, step, "float32", {}, run.scene)


@torch.no_grad()
def render_only(
    args: argparse.Namespace,
    renderer: Renderer,
    path: Cameras,
    folder: Path,
    step: int,
    name: str,
    noted: dict,
    scene: Scene | None = None,
) -> None:
    """The camera path, or with `--render_test` the test views, into `renderonly_*_NNNNNN/`."""
    kind = "test" if args.render_test else "path"
    out, limits = folder / f"renderonly_{kind}_{step:06d}", RenderLimits.from_flags(args)
    if args.render_test:
        scene = scene or load_scene(args)
        views = evaluate_views(renderer, scene, scene.splits["test"], limits, layers=True)
        write_views(views, out)
        print(format_table({name: {**views.summary(), **noted}}))
    else:
        render_video(renderer, path, out / "video", limits, args.render_factor)
    print(f"rendered to {out}")
