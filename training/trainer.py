"""The training loop of every command: whole steps, checkpoints, and exact resume.

`Trainer.step()` is a whole step: a batch, gradients, an update, and all that goes with it in renderer, field and
phase. `Trainer.train()` is steps with a bar, looks at how it goes, reports and checkpoints.
"""

import argparse
import contextlib
import math
import threading
import time
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import record_function

from rendering.renderer import Renderer, Rendering
from run_nerf_helpers import img2mse
from training.batches import Batch, RayBatches, render_batch
from training.checkpoint_checks import fitting_optimizer_state
from training.checkpoints import is_residual, load_tensors, save_checkpoint
from training.compiled import compile_fields
from training.exposure import Exposure
from training.optimizers import OptimizerSettings, Together, make_optimizers
from training.phases import Phase, Progress
from training.reports import Reports, due
from training.run_log import gpu_watts
from training.watch import CollapseWatch, emptied, fail_if_not_finite, look
from utils import distributed
from utils.checks import WAY_OUT
from utils.errors import BrokenFile, Interrupted
from utils.interrupts import signals_call
from utils.progress import progress_bar

# The bar, and the checks that need a number from the device, look at it this often (steps).
LOOK_INTERVAL = 20
CHECK_INTERVAL = 100  # steps after which processes compare their models, bit for bit


@dataclass(frozen=True)
class TrainerSettings:
    """amp: off, bf16 or fp16, of matrix products. noise_std: added to raw densities. grad_clip: largest norm of all
    gradients, 0 for any. compile: the fields. filter_rays: draw only those that can meet something. save_interval:
    steps between checkpoints, 0 for none but the last."""

    optimizers: OptimizerSettings = OptimizerSettings()
    amp: str = "off"
    noise_std: float = 0.0
    grad_clip: float = 0.0
    compile: bool = False
    filter_rays: bool = False
    save_interval: int = 10_000

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "TrainerSettings":
        return cls(
            optimizers=OptimizerSettings.from_flags(args),
            amp=args.amp,
            noise_std=args.raw_noise_std,
            grad_clip=args.grad_clip,
            compile=args.compile,
            filter_rays=args.filter_rays,
            save_interval=args.i_weights,
        )


class StepResult(NamedTuple):
    """mse: of the pixels of all processes, `[]`, not waited for. rendering, batch: of this process. losses: what was
    added to that, by name."""

    mse: torch.Tensor
    rendering: Rendering
    batch: Batch
    losses: dict[str, torch.Tensor]


class Trainer:
    """Trains a renderer; everything that exact resume needs is in `state_dict`.

    progress: of an earlier phase, which this one goes on from. reports: None shows and measures nothing on the way.
    identity: what a checkpoint is to remember of its run. exposure: of the photographs, learnt beside the renderer.
    """

    def __init__(
        self,
        renderer: Renderer,
        batches: RayBatches,
        phase: Phase,
        settings: TrainerSettings,
        folder: Path,
        reports: Reports | None = None,
        identity: dict | None = None,
        progress: Progress | None = None,
        exposure: Exposure | None = None,
    ):
        self.renderer, self.batches, self.phase, self.settings = renderer, batches, phase, settings
        self.folder, self.reports, self.identity = folder, reports, identity or {}
        self.progress, self.exposure = progress or Progress(), exposure
        self.device = renderer.device
        batches.settings.check_divides(renderer)
        if settings.compile:
            compile_fields(renderer)
        if settings.filter_rays:
            batches.filter(renderer)
        self.make_optimizers()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
        distributed.copy_from_main([*self.parameters, *renderer.buffers()])
        self.processes = distributed.world_size()
        self.recent: list[torch.Tensor] = []  # MSE of each step since the last multiple of LOOK_INTERVAL
        self.gradient_norm = math.nan  # of the latest step that was to be logged or clipped
        self.collapse = CollapseWatch()
        self._stop_wanted = False
        self._last_mse = torch.zeros((), device=self.device)

    @property
    def global_step(self) -> int:
        """How many steps are done, of all phases."""
        return self.progress.step

    def make_optimizers(self) -> None:
        """New optimisers, for the parameters that the renderer has now."""
        self.parameters = list(self.renderer.parameters())
        queries = self.batches.settings.queries_for(self.renderer)
        self.optimizers = make_optimizers(self.settings.optimizers, self.renderer, queries)
        if self.exposure is not None:
            self.parameters += self.exposure.parameters()
            self.optimizers["exposure_optimizer"] = self.exposure.make_optimizer()
        self.together = Together(self.optimizers)
        self.base_rates = {name: [group["lr"] for group in o.param_groups] for name, o in self.optimizers.items()}

    # ---------------------------------------------------------------------------------- one step

    def step(self) -> StepResult:
        """A whole step: optimisers, then the renderer's grid, fields that grow, and the phase."""
        started, done = time.perf_counter(), self.progress.step
        self.renderer.train()
        with record_function("batch"):
            batch = self.batches.draw(self.renderer, done + 1)
        if batch.total_samples == 0:
            fail_if_not_finite(float(self._last_mse), done)  # what empties a grid may be NaN
            raise emptied(done + 1)
        with record_function("forward"):
            rendering, mse, total, losses = self._losses(batch, done)
        with record_function("backward"):
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(total).backward()
            wants_stop = torch.full((), float(self._stop_wanted), device=self.device)
            mse, stop = distributed.sum_gradients(self.parameters, mse, wants_stop)
            if distributed.world_size() > 1:  # agreed on, so that all end with the same step
                self._stop_wanted = stop > 0
        with record_function("update"):
            self._update(done)
        self.batches.after_step(batch, rendering)
        self.progress.step += 1
        self._after_step(self.progress.step)
        self._last_mse = mse
        self.progress.rays += batch.total_rays
        self.progress.seconds += time.perf_counter() - started
        return StepResult(mse, rendering, batch, {name: loss.detach() for name, loss in losses.items()})

    def _losses(self, batch: Batch, done: int) -> tuple[Rendering, torch.Tensor, torch.Tensor, dict]:
        """The picture, the error of its pixels, that with all that is added to it, and the latter by name; of losses
        this process's share."""
        noise = self.batches.noise(done)
        with self.autocast():
            rendering = render_batch(self.renderer, batch, noise, self.settings.noise_std)
        shown = rendering if self.exposure is None else self.exposure(rendering, batch)
        mse = img2mse(shown.rgb, batch.target) * batch.share
        with self.autocast():
            of_rays = self.renderer.losses(batch, shown, noise)
            of_all = self.phase.losses(batch, rendering, done)  # the same for each process's rays: shared out here
            for one in reversed(self.renderer.fields.values()):
                of_all = one.losses(done, rendering.extras) | of_all
        total = reduce(add, of_rays.values(), mse)
        if of_all:
            total = total + batch.share * reduce(add, of_all.values())
        return rendering, mse, total, of_rays | of_all

    def _update(self, done: int) -> None:
        """One step of every optimiser with the gradients there are."""
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.base_rates[name], strict=True):
                group["lr"] = rate * self.phase.schedule(done)
            if name == "muon":
                optimizer.param_groups[0]["weight_decay"] = self.phase.weight_decay(done)
        self.scaler.unscale_(self.together)  # before they are measured or clipped
        if self.settings.grad_clip > 0 or (self.reports and self.reports.wants_scalars(done + 1)):
            limit = self.settings.grad_clip if self.settings.grad_clip > 0 else math.inf
            self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        self.scaler.step(self.together)
        self.scaler.update()

    def _after_step(self, step: int) -> None:
        """What renderer, fields and phase do once a step is taken; where they have new parameters, so do optimisers."""
        with self.autocast():
            renewed = self.renderer.after_step(step, self.batches.generator)
        if self.phase.after_step(step) or renewed:
            self.make_optimizers()
            if self.settings.filter_rays:
                self.batches.filter(self.renderer)

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.settings.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.settings.amp == "bf16" else torch.float16)

    # ---------------------------------------------------------------------------------- the loop

    def train(self, last_step: int) -> None:
        """Runs up to and including `last_step`, with bar, logs, checkpoints and reports.

        Raises TrainingFailed on a non-finite loss or a lasting collapse (the last good checkpoint
        stays), and Interrupted after saving when a signal asks for the end.
        """
        done = self.progress.step
        if done >= last_step:
            return
        stop = threading.Event()  # a step is never cut in half
        main = distributed.is_main()
        if self.reports:
            self.reports.open(done + 1)
        bar = progress_bar(total=last_step, initial=done, desc=self.phase.name, unit="step", disable=not main)
        try:
            with signals_call(lambda *_: stop.set()), bar:
                self._run(last_step, bar, stop)
        finally:
            if self.reports:
                self.reports.close()

    def _run(self, last_step: int, bar, stop: threading.Event) -> None:
        window_start, window_rays = time.perf_counter(), 0
        while self.progress.step < last_step:
            self._stop_wanted = stop.is_set()
            result = self.step()
            step = self.progress.step
            self.recent.append(result.mse)
            window_rays += result.batch.total_rays
            bar.update()
            if step % LOOK_INTERVAL == 0 or step == last_step:
                self._look(result, bar, window_rays, window_start)
                window_start, window_rays = time.perf_counter(), 0
                if step % LOOK_INTERVAL == 0:
                    self.recent = []
            self._save_and_report(last_step)
            if self._stop_wanted or (distributed.world_size() == 1 and stop.is_set()):
                self.save()
                raise Interrupted(f"stopped at step {step}; saved, the same command resumes")

    def _look(self, result: StepResult, bar, rays: int, since: float) -> None:
        """At how it goes: shown on the bar, checked, and at times kept. rays: drawn since a time."""
        step, seen = self.progress.step, look(self.recent, result.rendering, result.batch)
        fail_if_not_finite(seen.mse, step)
        self.collapse.check(seen, step)
        rays_per_second = rays / (time.perf_counter() - since)
        bar.set_postfix_str(f"PSNR {seen.psnr:.2f} dB, {rays_per_second / 1000:.1f}k rays/s")
        if self.reports and self.reports.wants_scalars(step):
            self.progress.curve.append((step, round(seen.psnr, 3)))
            if distributed.is_main():
                values = {"train/mse": seen.mse, "train/psnr": seen.psnr, "train/rays_per_second": rays_per_second}
                self.reports.scalars(values | self._scalars(result), step)

    def _scalars(self, result: StepResult) -> dict[str, float]:
        numbers = {"gradient_norm": self.gradient_norm, **result.losses}  # for one wait for the device
        numbers = zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True)
        values = {f"train/{name}": number for name, number in numbers}
        for name, optimizer in self.optimizers.items():
            values[f"train/learning_rate_{name}"] = optimizer.param_groups[0]["lr"]
        if result.batch.samples is not None:
            values["train/samples_per_ray"] = self.batches.samples_per_ray
        values |= self.renderer.scalars()
        watts = gpu_watts(self.device)
        return values if watts is None else values | {"train/gpu_watts": watts}

    def _save_and_report(self, last_step: int) -> None:
        step = self.progress.step
        saves = due(step, self.settings.save_interval) or step == last_step
        if saves or step % CHECK_INTERVAL == 0:
            distributed.check_same([*self.parameters, *self.renderer.buffers()], f"step {step}")
        if saves:
            self.progress.unsaved.attempt(self.save)
        if self.reports:
            self.reports.after_step(self.renderer, step, last_step)

    # -------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Writes `NNNNNN.tar` with nerf-pytorch's keys and what exact resume needs besides."""
        if distributed.is_main():
            save_checkpoint(self.folder / f"{self.progress.step:06d}.tar", self.state_dict())

    def state_dict(self) -> dict:
        state = {"global_step": self.progress.step, "phase": self.phase.name}
        state["identity"] = {**self.identity, "seed": self.batches.seed}
        state |= {"corner_rays": self.renderer.setup.pixel_offset == 0, "residual": is_residual(self.renderer)}
        state |= self.phase.state()
        for name, network in self.renderer.networks.items():
            state[f"{name}_state_dict"] = network.state_dict()
        for name, optimizer in self.optimizers.items():
            state[f"{name}_state_dict"] = optimizer.state_dict()
        if self.exposure is not None:
            state["exposure_state_dict"] = self.exposure.state_dict()
        state |= self.renderer.extra_state()
        state["trainer"] = {
            "seconds": self.progress.seconds,
            "rays": self.progress.rays,
            "batches": self.batches.state_dict(),
            "scaler": self.scaler.state_dict(),
            "processes": distributed.world_size(),
            "curve": self.progress.curve,
            "recent": torch.stack(self.recent) if self.recent else torch.empty(0),
        }
        return state

    def summary(self) -> dict:
        """What `metrics.json` says of the training."""
        return {
            "steps": self.progress.step,
            "seconds": self.progress.seconds,
            "rays": self.progress.rays,
            "processes": self.processes,
            "seed": self.batches.seed,
            "curve": self.progress.curve,
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was saved: the next step is the one an unbroken run would take."""
        what = f"checkpoint of step {state.get('global_step')}"
        if "global_step" not in state:
            raise BrokenFile(f"{what}: does not say its step, so nothing can go on from it; give it to --ft_path")
        load_tensors(self.renderer, state, what)
        if self.exposure is not None:
            self.exposure.load(state.get("exposure_state_dict"), what)
        for name, optimizer in self.optimizers.items():
            try:
                optimizer.load_state_dict(fitting_optimizer_state(optimizer, state.get(f"{name}_state_dict")))
            except BrokenFile as error:
                raise BrokenFile(
                    f"{what}: its optimiser state is not one of --optimizer {self.settings.optimizers.name} "
                    f"({error}); give the one it was trained with, or {WAY_OUT}"
                ) from error
        self.progress.step = state["global_step"]
        if "trainer" in state:  # nerf-pytorch's checkpoints have none
            self._load_progress(state["trainer"])

    def _load_progress(self, stored: dict) -> None:
        self.progress.seconds, self.progress.rays = stored["seconds"], stored["rays"]
        self.progress.curve = [tuple(point) for point in stored.get("curve", [])]
        self.recent = list(stored.get("recent", torch.empty(0)).to(self.device))
        self.batches.load_state_dict(stored["batches"])
        if self.scaler.is_enabled() and stored.get("scaler"):
            self.scaler.load_state_dict(stored["scaler"])
        before, now = stored.get("processes", 1), distributed.world_size()
        if before != now:
            print(
                f"note: {before} processes trained up to here, {now} go on: the batch stays the same and is shared "
                "out anew, so results agree but for the order of sums and noise drawn for single samples"
            )
