"""The training loop of every run script: steps, logs, pictures, checkpoints."""

import argparse
import contextlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.profiler import record_function

from evaluation.videos import colorize_depth, render_video
from evaluation.views import evaluate_views, write_views
from rendering.occupancy_renderer import EMPTY_SPACE_WEIGHT, OccupancyRenderer
from rendering.rays import Rays
from rendering.renderer import Rendering, RenderLimits, networks_of, render_image
from run_nerf_helpers import img2mse, mse2psnr
from scenes.scene import Scene
from training.batches import Batch, RayBatches, render_batch
from training.checkpoint_checks import WAY_OUT, fitting_optimizer_state
from training.checkpoints import load_tensors, save_checkpoint
from training.identity import run_identity
from training.optimizers import Together, exponential_schedule, make_optimizers
from training.run_log import RunLog, gpu_watts
from utils import distributed
from utils.errors import BadInput, BrokenFile, Interrupted, TrainingFailed, Unsaved
from utils.interrupts import signals_call
from utils.progress import progress_bar, say

# The bar, and the checks that need a number from the device, look at it this often (steps).
LOOK_INTERVAL = 20
# A renderer that draws nothing for this many steps on end will not recover.
COLLAPSE_PATIENCE = 2000
CHECK_INTERVAL = 100  # steps after which processes compare their models, bit for bit


def compile_fields(renderer: torch.nn.Module, backend: str | Callable = "inductor", start_anew: bool = True) -> None:
    """`torch.compile` for every field of a renderer, in place: state dicts keep their names.

    Both ways into a field are compiled, its call and its `density`: a method of a compiled module
    is not. A graph that would break raises instead of going on in Python. What an earlier phase
    compiled is dropped (`start_anew`), since its fake-quantisers stood otherwise. Raises BadInput
    where a compiler that the device needs is missing.
    """
    on_cpu = renderer.device.type == "cpu"
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise BadInput("--compile needs a C++ compiler on a CPU (g++, clang++ or $CXX), none found; leave it out")
    if not on_cpu and not find_spec("triton"):
        raise BadInput("--compile needs the triton package on this device; install it or leave it out")
    torch._logging.set_logs(dynamo=logging.ERROR)  # else it warns that profiler marks do nothing
    if start_anew:
        torch._dynamo.reset()
    for one in renderer.fields.values():
        one.compile(backend=backend, fullgraph=True)
        one.density = torch.compile(type(one).density.__get__(one), backend=backend, fullgraph=True)


@dataclass
class Phase:
    """A part of the training. name: kept in checkpoints and shown on the bar. schedule: from step to
    what learning rates are multiplied by. weight_decay: from step to that of Muon's matrices.
    after_step: called with the number of each finished step; true where it has put new parameters
    into networks, for which there are then new optimisers.
    extra_loss: added to the photometric one, from a batch, its picture and the step. state: what
    it gives goes into checkpoints."""

    name: str
    schedule: Callable[[int], float]
    weight_decay: Callable[[int], float] = lambda step: 0.0
    after_step: Callable[[int], bool | None] = lambda step: None
    extra_loss: Callable[[Batch, Rendering, int], torch.Tensor] | None = None
    state: Callable[[], dict] = dict


def float_phase(args: argparse.Namespace) -> Phase:
    return Phase("float", exponential_schedule(args))


class Trainer:
    """Trains a renderer from `step` on; everything that exact resume needs is in `state_dict`."""

    def __init__(
        self,
        args: argparse.Namespace,
        scene: Scene,
        renderer: torch.nn.Module,
        folder: Path,
        phase: Phase,
    ):
        self.args, self.scene, self.renderer, self.folder = args, scene, renderer, folder
        self.phase = phase
        self.device = renderer.device
        if args.compile:
            compile_fields(renderer)
        self.batches = RayBatches(args, scene, self.device)
        if args.filter_rays:
            self.batches.filter(renderer)
        self.make_optimizers()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=args.amp == "fp16")
        distributed.copy_from_main([*self.parameters, *renderer.buffers()])
        self.step, self.seconds, self.rays = 0, 0.0, 0
        self.processes = distributed.world_size()
        self.curve: list[tuple[int, float]] = []  # of training PSNR, at every --i_print
        self.recent: list[torch.Tensor] = []  # MSE of each step since the last multiple of LOOK_INTERVAL
        self.gradient_norm = math.nan  # of the latest step that was to be logged or clipped
        self.identity = run_identity(args, scene, rounding=phase.name != "float")
        self.unsaved = Unsaved()
        self._stop_wanted = False
        self._last_mse = torch.zeros((), device=self.device)
        self._collapsed_since: int | None = None

    def make_optimizers(self) -> None:
        """New optimisers, for the parameters that the renderer has now."""
        self.parameters = list(self.renderer.parameters())
        self.optimizers = make_optimizers(self.args, self.renderer)
        self.together = Together(self.optimizers)
        self.base_rates = {name: [group["lr"] for group in o.param_groups] for name, o in self.optimizers.items()}

    # ---------------------------------------------------------------------------------- one step

    def train_step(self) -> tuple[torch.Tensor, Rendering, Batch]:
        """Advances by one optimiser step; returns the MSE of all processes' rays (not synchronised
        with the host), and this process's batch and its picture."""
        self.renderer.train()
        with record_function("batch"):
            batch = self.batches.draw(self.renderer, self.step + 1)
        if batch.total_samples == 0:
            self._fail_if_not_finite(float(self._last_mse))  # what empties a grid may be NaN
            raise TrainingFailed(
                f"step {self.step + 1}: no ray meets an occupied cell, the field has emptied; "
                "go on with a lower --grid_threshold, or start anew (--no_reload) with a lower --lrate or another "
                "--aabb, which --plot_cameras shows"
            )
        share = len(batch.rays) / batch.total_rays  # sums over processes are then means over all rays
        with record_function("forward"):
            noise = self.batches.noise(self.step)
            with self.autocast():
                rendering = render_batch(self.renderer, batch, noise, self.args.raw_noise_std)
            mse = img2mse(rendering.rgb, batch.target) * share
            loss = mse if rendering.coarse_rgb is None else mse + img2mse(rendering.coarse_rgb, batch.target) * share
            if self.args.empty_samples > 0 and batch.samples is not None:
                loss = loss + EMPTY_SPACE_WEIGHT * self.empty_space_loss(batch.rays, noise)
            if self.phase.extra_loss:
                with self.autocast():
                    loss = loss + share * self.phase.extra_loss(batch, rendering, self.step)
        with record_function("backward"):
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
            wants_stop = torch.full((), float(self._stop_wanted), device=self.device)
            mse, stop = distributed.sum_gradients(self.parameters, mse, wants_stop)
            if distributed.world_size() > 1:  # agreed on, so that all end with the same step
                self._stop_wanted = stop > 0
        with record_function("update"):
            self._update()
        self.step += 1
        has_grid = isinstance(self.renderer, OccupancyRenderer) and self.step >= self.args.grid_start
        if has_grid and self.step % self.args.grid_interval == 0:
            self.update_grid()
        self._last_mse = mse
        return mse, rendering, batch

    def _update(self) -> None:
        """One step of every optimiser with the gradients there are."""
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.base_rates[name], strict=True):
                group["lr"] = rate * self.phase.schedule(self.step)
            if name == "muon":
                optimizer.param_groups[0]["weight_decay"] = self.phase.weight_decay(self.step)
        self.scaler.unscale_(self.together)  # before they are measured or clipped
        if self.args.grad_clip > 0 or _due(self.step + 1, self.args.i_print):
            limit = self.args.grad_clip if self.args.grad_clip > 0 else math.inf
            self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self.scaler.step(self.together)
        self.scaler.update()

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.args.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.args.amp == "bf16" else torch.float16)

    def empty_space_loss(self, rays: Rays, generator: torch.Generator) -> torch.Tensor:
        """What the field says of places that the grid skips, where nothing else ever asks it.

        The mean of log(1 + optical depth of a whole ray at that density), over random points
        between near and far on the batch's rays; of several processes, its share of that mean.
        """
        setup, count = self.renderer.setup, distributed.size_of_share(self.args.empty_samples)
        ray = torch.randint(len(rays), (count,), device=self.device, generator=generator)
        t = torch.rand(len(ray), device=self.device, generator=generator)
        t = setup.near + (setup.far - setup.near) * t
        points = rays.origins[ray] + t[:, None] * rays.directions[ray]
        skipped = ~self.renderer.grid.holds(points)
        with self.autocast():
            density = self.renderer.field.density(points)  # of all: the number of rows stays the same
        length = (setup.far - setup.near) * rays.directions[ray].norm(dim=-1)
        return (torch.log1p(density * length) * skipped).sum() / self.args.empty_samples

    def update_grid(self) -> None:
        self.renderer.eval()  # ranges of activations are not learnt from these points

        def density(points: torch.Tensor) -> torch.Tensor:
            mine = self.renderer.field.density(points[distributed.share()])
            return distributed.gather_shares(mine, len(points))

        with self.autocast():
            self.renderer.grid.update(
                density,
                self.renderer.step,
                alpha_threshold=self.args.grid_threshold,
                chunk=self.args.netchunk,
                generator=self.batches.generator,
            )

    # ---------------------------------------------------------------------------------- the loop

    def train(self, last_step: int) -> None:
        """Runs up to and including `last_step`, with bar, logs, checkpoints and periodic pictures.

        Raises TrainingFailed on a non-finite loss or a lasting collapse (the last good checkpoint
        stays), and Interrupted after saving when a signal asks for the end.
        """
        if self.step >= last_step:
            return
        main, stop = distributed.is_main(), threading.Event()  # stop: a step is never cut in half
        log = RunLog(self.args, self.folder, self.step + 1) if main else None
        bar = progress_bar(total=last_step, initial=self.step, desc=self.phase.name, unit="step", disable=not main)
        try:
            with signals_call(lambda *_: stop.set()), bar:
                self._run(last_step, log, bar, stop)
        finally:
            if log:
                self.unsaved.attempt(log.close)

    def _run(self, last_step: int, log: RunLog | None, bar, stop: threading.Event) -> None:
        window_start, window_rays = time.perf_counter(), 0
        while self.step < last_step:
            started = time.perf_counter()
            self._stop_wanted = stop.is_set()
            mse, rendering, batch = self.train_step()
            if self.phase.after_step(self.step):
                self.make_optimizers()
                if self.args.filter_rays:
                    self.batches.filter(self.renderer)
            self.recent.append(mse)
            self.rays += batch.total_rays
            window_rays += batch.total_rays
            self.seconds += time.perf_counter() - started
            bar.update()
            if self.step % LOOK_INTERVAL == 0 or self.step == last_step:
                mean_mse, psnr, drawn, content = self._look(self.recent, rendering, batch)
                self._fail_if_not_finite(mean_mse)
                self._fail_if_collapsed(drawn, content)
                rays_per_second = window_rays / (time.perf_counter() - window_start)
                bar.set_postfix_str(f"PSNR {psnr:.2f} dB, {rays_per_second / 1000:.1f}k rays/s")
                if _due(self.step, self.args.i_print):
                    self.curve.append((self.step, round(psnr, 3)))
                    if log:
                        values = self._scalars(mean_mse, psnr, rays_per_second, batch)
                        self.unsaved.attempt(log.scalars, values, self.step)
                window_start, window_rays = time.perf_counter(), 0
                if self.step % LOOK_INTERVAL == 0:
                    self.recent = []
            self._periodic(log, last_step)
            if self._stop_wanted or (distributed.world_size() == 1 and stop.is_set()):
                self.save()
                raise Interrupted(f"stopped at step {self.step}; saved, the same command resumes")

    @staticmethod
    def _look(recent: list[torch.Tensor], rendering: Rendering, batch: Batch) -> list[float]:
        """What is shown and checked, for one wait: the mean of recent MSEs, its PSNR in dB, and how much the
        colours that the field drew, and those of the photographs, vary from ray to ray."""
        mse = torch.stack(recent).mean()
        leaving = (1 - rendering.opacity.detach())[:, None]
        drawn = (rendering.rgb.detach() - leaving * batch.background).std(0).max()
        return torch.stack([mse, mse2psnr(mse), drawn, batch.target.std(0).max()]).tolist()

    def _fail_if_not_finite(self, mse: float) -> None:
        if not math.isfinite(mse):
            raise TrainingFailed(
                f"step {self.step}: the loss is not finite; the last checkpoint is kept: go on from it with "
                "--grad_clip 1, or start anew (--no_reload) with a lower --lrate"
            )

    def _fail_if_collapsed(self, drawn: float, content: float) -> None:
        """Says of a collapse when it is first seen, and gives up when it stays; see `_look`."""
        # Nothing drawn, or one flat colour drawn everywhere, where the photographs have content.
        if drawn > 1e-3 or content < 1e-2:
            self._collapsed_since = None
            return
        if self._collapsed_since is None:
            self._collapsed_since = self.step
            say(
                f"warning: collapse at step {self.step}: every ray has the background's colour or one flat colour; "
                "if it stays, start anew (--no_reload) with a lower --lrate, --density_activation softplus or "
                "--precrop_iters 500"
            )
        elif self.step - self._collapsed_since >= COLLAPSE_PATIENCE:
            raise TrainingFailed(
                f"step {self.step}: collapsed to a flat colour since step {self._collapsed_since}; start anew "
                "(--no_reload) with a lower --lrate, --density_activation softplus or --precrop_iters 500"
            )

    def _periodic(self, log: RunLog | None, last_step: int) -> None:
        args, step = self.args, self.step
        saves = _due(step, args.i_weights) or step == last_step
        if saves or step % CHECK_INTERVAL == 0:
            distributed.check_same([*self.parameters, *self.renderer.buffers()], f"step {step}")
        if saves:
            self.unsaved.attempt(self.save)
        pictures = _due(step, args.i_img)
        test = _due(step, args.i_testset) and step < last_step  # the last one is the closing evaluation's
        video = _due(step, args.i_video) and step < last_step
        if distributed.is_main():
            if pictures:
                self.unsaved.attempt(log.pictures, self._pictures(), step)
            if test:
                views = evaluate_views(
                    self.renderer, self.scene, self.scene.splits["test"], RenderLimits.from_flags(args)
                )
                self.unsaved.attempt(write_views, views, self.folder / f"testset_{step:06d}")
                self.unsaved.attempt(log.scalars, {"test/psnr": views.mean_psnr}, step)
                say(f"step {step}: test PSNR {views.mean_psnr:.2f} dB over {len(views)} views")
            if video:
                stem = self.folder / f"{args.expname}_spiral_{step:06d}"
                self.unsaved.attempt(
                    render_video, self.renderer, self.scene.render_path, stem, RenderLimits.from_flags(args)
                )
        if pictures or test or video:
            distributed.wait_for_main()

    def _scalars(self, mse: float, psnr: float, rays_per_second: float, batch: Batch) -> dict[str, float]:
        values = {
            "train/mse": mse,
            "train/psnr": psnr,
            "train/gradient_norm": float(self.gradient_norm),
            "train/rays_per_second": rays_per_second,
        }
        for name, optimizer in self.optimizers.items():
            values[f"train/learning_rate_{name}"] = optimizer.param_groups[0]["lr"]
        if batch.samples is not None:
            values["train/samples_per_ray"] = self.batches.samples_per_ray
            values["grid/occupied"] = float(self.renderer.grid.occupied.float().mean())
        watts = gpu_watts(self.device)
        return values if watts is None else values | {"train/gpu_watts": watts}

    def _pictures(self) -> dict[str, torch.Tensor]:
        """Render, depth, opacity and error of one held-out view."""
        view = (self.scene.splits["val"] or self.scene.splits["test"])[0]
        camera = self.scene.cameras[view].to(self.device)
        picture = render_image(self.renderer, camera, RenderLimits.from_flags(self.args))
        rgb, opacity = picture.rgb.cpu(), picture.opacity.cpu()
        return {
            "view/rgb": rgb.clamp(0, 1),
            "view/depth": colorize_depth(picture.depth, picture.opacity),
            "view/opacity": opacity.clamp(0, 1),
            "view/error": (rgb - self.scene.picture(view)[0]).abs().clamp(0, 1),
        }

    # -------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Writes `NNNNNN.tar` with nerf-pytorch's keys and what exact resume needs besides."""
        if distributed.is_main():
            save_checkpoint(self.folder / f"{self.step:06d}.tar", self.state_dict())

    def state_dict(self) -> dict:
        state = {"global_step": self.step, "phase": self.phase.name}
        state["identity"] = {**self.identity, "seed": self.batches.seed}
        state |= {"corner_rays": self.args.corner_rays, "residual": self.args.residual}
        state |= self.phase.state()
        for name, network in networks_of(self.renderer).items():
            state[f"{name}_state_dict"] = network.state_dict()
        for name, optimizer in self.optimizers.items():
            state[f"{name}_state_dict"] = optimizer.state_dict()
        if isinstance(self.renderer, OccupancyRenderer):
            state["grid_state_dict"] = self.renderer.grid.state_dict()
        state["trainer"] = {"seconds": self.seconds, "rays": self.rays, "batches": self.batches.state_dict()}
        state["trainer"] |= {"scaler": self.scaler.state_dict(), "processes": distributed.world_size()}
        state["trainer"] |= {"curve": self.curve}
        state["trainer"] |= {"recent": torch.stack(self.recent) if self.recent else torch.empty(0)}
        return state

    def summary(self) -> dict:
        """What `metrics.json` says of the training."""
        return {
            "steps": self.step,
            "seconds": self.seconds,
            "rays": self.rays,
            "processes": self.processes,
            "seed": self.batches.seed,
            "curve": self.curve,
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was saved: the next step is the one an unbroken run would take."""
        what = f"checkpoint of step {state.get('global_step')}"
        if "global_step" not in state:
            raise BrokenFile(f"{what}: does not say its step, so nothing can go on from it; give it to --ft_path")
        load_tensors(self.renderer, state, what)
        for name, optimizer in self.optimizers.items():
            try:
                optimizer.load_state_dict(fitting_optimizer_state(optimizer, state.get(f"{name}_state_dict")))
            except BrokenFile as error:
                raise BrokenFile(
                    f"{what}: its optimiser state is not one of --optimizer {self.args.optimizer} ({error}); "
                    f"give the one it was trained with, or {WAY_OUT}"
                ) from error
        self.step = state["global_step"]
        if "trainer" in state:  # nerf-pytorch's checkpoints have none
            self.seconds, self.rays = state["trainer"]["seconds"], state["trainer"]["rays"]
            self.curve = [tuple(point) for point in state["trainer"].get("curve", [])]
            self.recent = list(state["trainer"].get("recent", torch.empty(0)).to(self.device))
            self.batches.load_state_dict(state["trainer"]["batches"])
            if self.scaler.is_enabled() and state["trainer"].get("scaler"):
                self.scaler.load_state_dict(state["trainer"]["scaler"])
            before, now = state["trainer"].get("processes", 1), distributed.world_size()
            if before != now:
                print(
                    f"note: {before} processes trained up to here, {now} go on: the batch stays the same and is shared "
                    "out anew, so results agree but for the order of sums and noise drawn for single samples"
                )


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
