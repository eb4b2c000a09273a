"""The training loop of every run script: batches, optimisers, schedule, logs, checkpoints."""

import argparse
import contextlib
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from checkpoints import save_checkpoint
from errors import BrokenFile, Interrupted, TrainingFailed
from evaluation import colorize_depth, evaluate_views, render_video, write_views
from experiment import render_limits
from occupancy import Samples
from progress import progress_bar
from rendering import OccupancyRenderer, Rays, Rendering, make_rays, networks_of, render_image
from run_nerf_helpers import camera_rays, img2mse, mse2psnr
from scene import Scene, composite_over

# The bar, and the checks that need a number from the device, look at it this often (steps).
LOOK_INTERVAL = 20
# A renderer that draws nothing for this many steps on end will not recover.
COLLAPSE_PATIENCE = 2000
EMPTY_SPACE_WEIGHT = 0.01  # of `empty_space_loss`; at ten times that a ReLU density dies in its first steps


# --------------------------------------------------------------------------------------- batches


@dataclass
class Batch:
    """rays `[R]`, their target colours `[R, 3]`, the background behind each `[R, 3]` or `[3]`, and
    for the occupancy sampler the points to query."""

    rays: Rays
    target: torch.Tensor
    background: torch.Tensor
    samples: Samples | None = None


class RayBatches:
    """Draws training rays with replacement, making them on the fly from 8-bit images.

    The hierarchical sampler gets `--N_rand` rays a batch. The occupancy sampler gets as many rays
    as fill `--samples_per_batch` network queries, so a step costs the same early and late.
    """

    def __init__(self, args: argparse.Namespace, scene: Scene, device: torch.device):
        train = scene.splits["train"]
        self.args = args
        self.images = scene.images[train].to(device)
        self.cameras = scene.cameras[train].to(device)
        self.background = torch.tensor(scene.background, device=device)
        self.generator = torch.Generator(device).manual_seed(args.seed)
        self.samples_per_ray = 16.0  # a running estimate, only for the occupancy sampler

    def draw(self, renderer: torch.nn.Module, step: int) -> Batch:
        if not isinstance(renderer, OccupancyRenderer):
            return self._rays(self.args.N_rand, step, renderer)
        wanted = self.args.samples_per_batch
        batch = self._rays(max(1, int(1.05 * wanted / self.samples_per_ray)), step, renderer)
        jitter = self._uniform(len(batch.rays)) if self.args.perturb > 0 else None
        samples = renderer.march(batch.rays, jitter)
        self.samples_per_ray = 0.9 * self.samples_per_ray + 0.1 * max(len(samples) / len(batch.rays), 0.1)
        if len(samples) > wanted:  # drop whole rays from the end
            kept_rays = int(samples.ray[wanted])
            samples = samples.first(int(torch.searchsorted(samples.ray, kept_rays)))
            batch = Batch(batch.rays[:kept_rays], batch.target[:kept_rays], batch.background)
            batch.background = _first(batch.background, kept_rays)
        batch.samples = samples
        return batch

    def _rays(self, count: int, step: int, renderer: torch.nn.Module) -> Batch:
        num_views, height, width = self.images.shape[:3]
        view = self._integers(num_views, 1 if self.args.no_batching else count).expand(count)
        if step <= self.args.precrop_iters:
            tall, wide = int(height * self.args.precrop_frac), int(width * self.args.precrop_frac)
        else:
            tall, wide = height, width
        row = (height - tall) // 2 + self._integers(max(tall, 1), count)
        column = (width - wide) // 2 + self._integers(max(wide, 1), count)
        offset = renderer.setup.pixel_offset
        origins, directions = camera_rays(column + offset, row + offset, self.cameras.K[view], self.cameras.c2w[view])
        rays = make_rays(origins, directions, renderer.setup, self.cameras)
        background = self._uniform(count, 3) if self.args.random_bkgd else self.background
        pixels = self.images[view, row, column].float() / 255
        return Batch(rays, composite_over(pixels, background), background)

    def _uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, device=self.images.device, generator=self.generator)

    def _integers(self, high: int, count: int) -> torch.Tensor:
        return torch.randint(high, (count,), device=self.images.device, generator=self.generator)

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state(), "samples_per_ray": self.samples_per_ray}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.samples_per_ray = state["samples_per_ray"]


def render_batch(
    renderer: torch.nn.Module,
    batch: Batch,
    generator: torch.Generator | None = None,
    raw_noise_std: float = 0.0,
) -> Rendering:
    """A batch through whichever renderer it was drawn for, differentiable in its fields."""
    if batch.samples is None:
        return renderer(batch.rays, batch.background, generator, raw_noise_std)
    return renderer(batch.rays, batch.background, batch.samples, generator, raw_noise_std)


def _first(background: torch.Tensor, count: int) -> torch.Tensor:
    return background[:count] if background.ndim == 2 else background


# ------------------------------------------------------------------------ optimisers and schedules


def make_optimizers(args: argparse.Namespace, renderer: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Adam over everything, in nerf-pytorch's order; or Muon for hidden matrices, Adam for the rest.

    Muon (Jordan et al. 2024) orthogonalises each update. On these MLPs it gets in one minute where
    Adam gets in five.
    """
    named = [item for network in networks_of(renderer).values() for item in network.named_parameters()]
    if args.optimizer == "adam":
        return {"optimizer": torch.optim.Adam([p for _, p in named], lr=args.lrate, betas=(0.9, 0.999))}
    hidden = [p for name, p in named if p.ndim == 2 and not _is_head(name)]
    others = [p for name, p in named if p.ndim != 2 or _is_head(name)]
    return {
        "optimizer": torch.optim.Adam(others, lr=args.lrate, betas=(0.9, 0.99)),
        "muon": torch.optim.Muon(hidden, lr=args.muon_lrate, weight_decay=0.0, adjust_lr_fn="original"),
    }


def _is_head(name: str) -> bool:
    return name.startswith(("alpha_linear", "rgb_linear", "output_linear"))


def exponential_schedule(args: argparse.Namespace) -> Callable[[int], float]:
    """nerf-pytorch's decay, 1/10 every `--lrate_decay` thousand steps, after a linear warm-up."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / args.lrate_warmup) if args.lrate_warmup else 1.0
        return warmup * 0.1 ** (step / (args.lrate_decay * 1000))

    return factor


def cosine_schedule(first: float, start: int, length: int) -> Callable[[int], float]:
    """From `first` at step `start` to zero `length` steps later, along half a cosine."""
    return lambda step: first * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / max(length, 1))))


# -------------------------------------------------------------------------------------- the loop


class Trainer:
    """Trains a renderer from `step` on; everything that exact resume needs is in `state_dict`.

    phase: `float` or `qat`, kept in checkpoints and shown on the bar. after_step: called with the
    number of each finished step, for what a phase adds (freezing observers, say).
    """

    def __init__(
        self,
        args: argparse.Namespace,
        scene: Scene,
        renderer: torch.nn.Module,
        folder: Path,
        schedule: Callable[[int], float],
        phase: str = "float",
        after_step: Callable[[int], None] | None = None,
    ):
        self.args, self.scene, self.renderer, self.folder = args, scene, renderer, folder
        self.phase, self.schedule, self.after_step = phase, schedule, after_step
        self.device = next(renderer.parameters()).device
        self.batches = RayBatches(args, scene, self.device)
        self.optimizers = make_optimizers(args, renderer)
        self.base_rates = {name: o.param_groups[0]["lr"] for name, o in self.optimizers.items()}
        self.step, self.seconds, self.rays = 0, 0.0, 0
        self._last_mse = torch.zeros(())
        self._collapsed_since: int | None = None

    # ---------------------------------------------------------------------------------- one step

    def train_step(self) -> tuple[torch.Tensor, Rendering, Batch]:
        """Advances by one optimiser step; returns the fine MSE (not synchronised) and its picture."""
        self.renderer.train()
        batch = self.batches.draw(self.renderer, self.step + 1)
        if batch.samples is not None and len(batch.samples) == 0:
            self._fail_if_not_finite(self._last_mse)  # what empties a grid may be NaN
            raise TrainingFailed(
                f"step {self.step + 1}: no ray meets an occupied cell, the field has emptied; "
                "lower --grid_threshold or --lrate, or check --aabb with --plot_cameras"
            )
        with self.autocast():
            rendering = render_batch(self.renderer, batch, self.batches.generator, self.args.raw_noise_std)
        mse = img2mse(rendering.rgb, batch.target)
        loss = mse if rendering.coarse_rgb is None else mse + img2mse(rendering.coarse_rgb, batch.target)
        if self.args.empty_samples > 0 and batch.samples is not None:
            loss = loss + EMPTY_SPACE_WEIGHT * self.empty_space_loss(batch.rays)
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.base_rates[name] * self.schedule(self.step)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.args.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self.renderer.parameters(), self.args.grad_clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.step += 1
        if isinstance(self.renderer, OccupancyRenderer) and self.step % self.args.grid_interval == 0:
            self.update_grid()
        self._last_mse = mse.detach()
        return self._last_mse, rendering, batch

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.args.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def empty_space_loss(self, rays: Rays) -> torch.Tensor:
        """What the field says of places that the grid skips, where nothing else ever asks it.

        The mean of log(1 + optical depth of a whole ray at that density), over random points
        between near and far on the batch's rays.
        """
        setup, generator = self.renderer.setup, self.batches.generator
        ray = torch.randint(len(rays), (self.args.empty_samples,), device=self.device, generator=generator)
        t = torch.rand(len(ray), device=self.device, generator=generator)
        t = setup.near + (setup.far - setup.near) * t
        points = rays.origins[ray] + t[:, None] * rays.directions[ray]
        skipped = ~self.renderer.grid.holds(points)
        with self.autocast():
            density = self.renderer.field.density(points)  # of all: the number of rows stays the same
        length = (setup.far - setup.near) * rays.directions[ray].norm(dim=-1)
        return (torch.log1p(density * length) * skipped).mean()

    def update_grid(self) -> None:
        self.renderer.eval()  # ranges of activations are not learnt from these points
        with self.autocast():
            self.renderer.grid.update(
                self.renderer.field.density,
                self.renderer.step,
                alpha_threshold=self.args.grid_threshold,
                chunk=self.args.netchunk,
                generator=self.batches.generator,
            )

    # ---------------------------------------------------------------------------------- the loop

    def train(self, last_step: int) -> None:
        """Runs up to and including `last_step`, with bar, logs, checkpoints and periodic pictures.

        Raises TrainingFailed on a non-finite loss or a lasting collapse (the last good checkpoint
        stays), and Interrupted after saving when SIGINT or SIGTERM arrives.
        """
        if self.step >= last_step:
            return
        writer = SummaryWriter(self.folder / "tensorboard", purge_step=self.step + 1)
        recent: list[torch.Tensor] = []
        with (
            _StopFlag() as stop,
            progress_bar(total=last_step, initial=self.step, desc=self.phase, unit="step") as bar,
        ):
            window_start, window_rays = time.perf_counter(), 0
            while self.step < last_step:
                started = time.perf_counter()
                mse, rendering, batch = self.train_step()
                if self.after_step:
                    self.after_step(self.step)
                recent.append(mse)
                self.rays += len(batch.rays)
                window_rays += len(batch.rays)
                self.seconds += time.perf_counter() - started
                bar.update()
                if self.step % LOOK_INTERVAL == 0 or self.step == last_step:
                    mean_mse = torch.stack(recent).mean()
                    self._fail_if_not_finite(mean_mse)
                    self._fail_if_collapsed(rendering, batch)
                    psnr = float(mse2psnr(mean_mse))
                    elapsed = time.perf_counter() - window_start
                    rays_per_second = window_rays / elapsed
                    bar.set_postfix_str(f"PSNR {psnr:.2f} dB, {rays_per_second / 1000:.1f}k rays/s")
                    if _due(self.step, self.args.i_print):
                        self._log_scalars(writer, psnr, rays_per_second, batch)
                    recent, window_start, window_rays = [], time.perf_counter(), 0
                self._periodic(writer, last_step)
                if stop.requested:
                    self.save()
                    raise Interrupted(f"stopped at step {self.step}; saved, the same command resumes")
        writer.close()

    def _fail_if_not_finite(self, mse: torch.Tensor) -> None:
        if not torch.isfinite(mse):
            raise TrainingFailed(
                f"step {self.step}: the loss is not finite; the last checkpoint is kept, "
                "lower --lrate or set --grad_clip 1"
            )

    def _fail_if_collapsed(self, rendering: Rendering, batch: Batch) -> None:
        """Says of a collapse when it is first seen, and gives up when it stays."""
        # Nothing drawn, or one flat colour drawn everywhere, where the photographs have content.
        leaving = (1 - rendering.opacity.detach())[:, None]
        drawn = (rendering.rgb.detach() - leaving * batch.background).std(0).max()
        if drawn > 1e-3 or batch.target.std(0).max() < 1e-2:
            self._collapsed_since = None
            return
        if self._collapsed_since is None:
            self._collapsed_since = self.step
            tqdm.write(
                f"warning: collapse at step {self.step}: every ray has the background's colour or one flat colour; "
                "if it stays, lower --lrate, use --density_activation softplus or --precrop_iters 500"
            )
        elif self.step - self._collapsed_since >= COLLAPSE_PATIENCE:
            raise TrainingFailed(
                f"step {self.step}: collapsed to a flat colour since step {self._collapsed_since}; the last "
                "checkpoint is kept, lower --lrate, use --density_activation softplus or --precrop_iters 500"
            )

    def _periodic(self, writer: SummaryWriter, last_step: int) -> None:
        args, step = self.args, self.step
        if _due(step, args.i_weights) or step == last_step:
            self.save()
        if _due(step, args.i_img):
            self._log_pictures(writer)
        if _due(step, args.i_testset) and step < last_step:  # the last one is the closing evaluation's
            views = evaluate_views(self.renderer, self.scene, self.scene.splits["test"], render_limits(args))
            write_views(views, self.folder / f"testset_{step:06d}")
            writer.add_scalar("test/psnr", views.mean_psnr, step)
            tqdm.write(f"step {step}: test PSNR {views.mean_psnr:.2f} dB over {len(views)} views")
        if _due(step, args.i_video) and step < last_step:
            render_video(
                self.renderer,
                self.scene.render_path,
                self.folder / f"{args.expname}_spiral_{step:06d}",
                render_limits(args),
            )

    def _log_scalars(self, writer: SummaryWriter, psnr: float, rays_per_second: float, batch: Batch) -> None:
        writer.add_scalar("train/psnr", psnr, self.step)
        writer.add_scalar("train/rays_per_second", rays_per_second, self.step)
        for name, optimizer in self.optimizers.items():
            writer.add_scalar(f"train/learning_rate_{name}", optimizer.param_groups[0]["lr"], self.step)
        if batch.samples is not None:
            writer.add_scalar("train/samples_per_ray", self.batches.samples_per_ray, self.step)
            writer.add_scalar("grid/occupied", self.renderer.grid.occupied.float().mean(), self.step)

    def _log_pictures(self, writer: SummaryWriter) -> None:
        """Render, depth, opacity and error of one held-out view."""
        view = (self.scene.splits["val"] or self.scene.splits["test"])[0]
        camera = self.scene.cameras[view].to(self.device)
        picture = render_image(self.renderer, camera, render_limits(self.args))
        error = (picture.rgb.cpu() - self.scene.target(torch.tensor([view]))[0]).abs()
        writer.add_image("view/rgb", picture.rgb.cpu().clamp(0, 1), self.step, dataformats="HWC")
        writer.add_image("view/depth", colorize_depth(picture.depth, picture.opacity), self.step, dataformats="HWC")
        writer.add_image("view/opacity", picture.opacity.cpu(), self.step, dataformats="HW")
        writer.add_image("view/error", error, self.step, dataformats="HWC")

    # -------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Writes `NNNNNN.tar` with nerf-pytorch's keys and what exact resume needs besides."""
        save_checkpoint(self.folder / f"{self.step:06d}.tar", self.state_dict())

    def state_dict(self) -> dict:
        state = {"global_step": self.step, "phase": self.phase, "corner_rays": self.args.corner_rays}
        for name, network in networks_of(self.renderer).items():
            state[f"{name}_state_dict"] = network.state_dict()
        for name, optimizer in self.optimizers.items():
            state[f"{name}_state_dict"] = optimizer.state_dict()
        if isinstance(self.renderer, OccupancyRenderer):
            state["grid_state_dict"] = self.renderer.grid.state_dict()
        state["trainer"] = {"seconds": self.seconds, "rays": self.rays, "batches": self.batches.state_dict()}
        return state

    def summary(self) -> dict:
        """What `metrics.json` says of the training."""
        return {"steps": self.step, "seconds": self.seconds, "rays": self.rays}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was saved: the next step is the one an unbroken run would take."""
        for name, network in networks_of(self.renderer).items():
            network.load_state_dict(state[f"{name}_state_dict"])
        for name, optimizer in self.optimizers.items():
            try:
                optimizer.load_state_dict(state[f"{name}_state_dict"])
            except (KeyError, ValueError) as error:
                raise BrokenFile(
                    f"checkpoint of step {state['global_step']}: its optimiser state is not one of "
                    f"--optimizer {self.args.optimizer} ({error}); give the one it was trained with"
                ) from error
        if isinstance(self.renderer, OccupancyRenderer):
            self.renderer.grid.load_state_dict(state["grid_state_dict"])
        self.step = state["global_step"]
        if "trainer" in state:  # nerf-pytorch's checkpoints have none
            self.seconds, self.rays = state["trainer"]["seconds"], state["trainer"]["rays"]
            self.batches.load_state_dict(state["trainer"]["batches"])


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


class _StopFlag:
    """While entered, SIGINT and SIGTERM only set `requested`, so that a step is never cut in half."""

    def __enter__(self) -> "_StopFlag":
        self.requested = False
        self._previous = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: leave signals alone
                self._previous[number] = signal.signal(number, self._request)
        return self

    def _request(self, *_) -> None:
        self.requested = True

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
