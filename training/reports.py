"""What a training shows of itself on the way: curves, pictures of a held-out view, test views, videos."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.normals import colorize_normals, normals_of
from evaluation.videos import colorize_depth, render_video
from evaluation.views import evaluate_views, write_views
from rendering.renderer import Renderer, RenderLimits, render_image
from scenes.scene import Scene
from training.run_log import RunLog
from utils import distributed
from utils.errors import Unsaved
from utils.progress import say


@dataclass(frozen=True)
class ReportSettings:
    """Intervals in steps, 0 for never. limits: of what rendering may take. wandb: as `--wandb`; flags: for it."""

    scalars: int = 100
    pictures: int = 0
    test_views: int = 0
    video: int = 0
    limits: RenderLimits = RenderLimits()
    wandb: str = "off"
    flags: dict | None = None

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "ReportSettings":
        limits = RenderLimits.from_flags(args)
        return cls(args.i_print, args.i_img, args.i_testset, args.i_video, limits, args.wandb, vars(args))


class Reports:
    """unsaved: remembers what could not be written. watch: called with the renderer and the number of each finished
    step. Between `open` and `close` the first process has a log."""

    def __init__(
        self,
        settings: ReportSettings,
        scene: Scene,
        folder: Path,
        unsaved: Unsaved,
        watch: Callable[[Renderer, int], None] = lambda renderer, step: None,
    ):
        self.settings, self.scene, self.folder, self.unsaved, self.watch = settings, scene, folder, unsaved, watch
        self.log: RunLog | None = None

    def open(self, first_step: int) -> None:
        if distributed.is_main():
            self.log = RunLog(self.folder, first_step, self.settings.wandb, self.settings.flags)

    def close(self) -> None:
        if self.log:
            self.unsaved.attempt(self.log.close)
            self.log = None

    def wants_scalars(self, step: int) -> bool:
        return due(step, self.settings.scalars)

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.unsaved.attempt(self.log.scalars, values, step)

    def after_step(self, renderer: Renderer, step: int, last_step: int) -> None:
        """Whatever is due after a step; all processes wait for the first, which makes it."""
        self.watch(renderer, step)
        settings = self.settings
        pictures = due(step, settings.pictures)
        test = due(step, settings.test_views) and step < last_step  # the last one is the closing evaluation's
        video = due(step, settings.video) and step < last_step
        if distributed.is_main():
            if pictures:
                self.unsaved.attempt(self.log.pictures, self._pictures(renderer), step)
            if test:
                views = evaluate_views(renderer, self.scene, self.scene.splits["test"], settings.limits)
                self.unsaved.attempt(write_views, views, self.folder / f"testset_{step:06d}")
                self.scalars({"test/psnr": views.mean_psnr}, step)
                say(f"step {step}: test PSNR {views.mean_psnr:.2f} dB over {len(views)} views")
            if video:
                stem = self.folder / f"{self.folder.name}_spiral_{step:06d}"
                self.unsaved.attempt(render_video, renderer, self.scene.render_path, stem, settings.limits)
        if pictures or test or video:
            distributed.wait_for_main()

    def _pictures(self, renderer: Renderer) -> dict[str, torch.Tensor]:
        """Render, depth, normals, opacity and error of one held-out view."""
        view = (self.scene.splits["val"] or self.scene.splits["test"])[0]
        camera = self.scene.cameras[view].to(renderer.device)
        picture = render_image(renderer, camera, self.settings.limits)
        normals = normals_of(picture, camera, renderer.setup.pixel_offset).cpu()
        rgb, opacity = picture.rgb.cpu(), picture.opacity.cpu()
        return {
            "view/rgb": rgb.clamp(0, 1),
            "view/depth": colorize_depth(picture.depth, picture.opacity),
            "view/normals": colorize_normals(normals, opacity),
            "view/opacity": opacity.clamp(0, 1),
            "view/error": (rgb - self.scene.picture(view)[0]).abs().clamp(0, 1),
        }


def due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
