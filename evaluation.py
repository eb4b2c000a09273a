"""Test views and videos: rendered, measured, written."""

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import torch

from metrics import lpips, psnr, ssim
from rendering import RenderLimits, render_image
from run_nerf_helpers import BEST_PSNR, to8b
from scenes.images import write_png
from scenes.scene import Cameras, Scene, most_common
from utils.files import saving
from utils.progress import progress_bar


@dataclass
class RenderedViews:
    """Pictures of some views beside their ground truth, with what was measured on them.

    images, targets: uint8 `[h, w, 3]` each, every view at its own size; measures are taken on these,
    8-bit on both sides. psnr: dB, BEST_PSNR at most, lest one view without any error be all that counts.
    seconds: rendering time of each view, without loading or writing.
    """

    names: list[str] = field(default_factory=list)
    images: list[torch.Tensor] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float | None] = field(default_factory=list)
    lpips: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mean_psnr(self) -> float:
        return float(np.mean(self.psnr))

    def summary(self) -> dict:
        """This model's entry in `metrics.json`, but for its file. Height and width are those that most views have."""
        height, width = most_common([tuple(image.shape[:2]) for image in self.images])
        return {
            "psnr": self.mean_psnr,
            "ssim": _mean(self.ssim),
            "lpips": _mean(self.lpips),
            "seconds_per_frame": float(np.median(self.seconds)),
            "queries_per_frame": float(np.mean(self.queries)),
            "views": len(self),
            "height": height,
            "width": width,
            "per_view": [
                {"view": n, "psnr": p, "ssim": s, "lpips": d}
                for n, p, s, d in zip(self.names, self.psnr, self.ssim, self.lpips, strict=True)
            ],
        }


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def evaluate_views(
    renderer: torch.nn.Module, scene: Scene, views: Sequence[int], limits: RenderLimits, label: str = "test views"
) -> RenderedViews:
    """Renders `views` of a scene, without jitter or noise, and measures them on their valid pixels."""
    cameras = scene.cameras.to(renderer.device)
    result = RenderedViews()
    progress = progress_bar(views, desc=label, unit="view", leave=False)
    for view in progress:
        started = time.perf_counter()
        picture = render_image(renderer, cameras[view], limits)
        image = to8b(picture.rgb).cpu()
        result.seconds.append(time.perf_counter() - started)
        target, valid = scene.picture(view)
        target = to8b(target)
        a, b = image.float() / 255, target.float() / 255
        result.names.append(f"{view:03d}")
        if valid is not None:
            a = torch.where(valid[..., None], a, b)  # nothing to tell apart elsewhere
        exact = psnr(a, b) if valid is None else psnr(a[valid], b[valid])
        result.psnr.append(min(exact, BEST_PSNR))
        result.ssim.append(ssim(a, b, valid))
        result.lpips.append(lpips(a, b))
        result.queries.append(picture.queries)
        result.images.append(image)
        result.targets.append(target)
        progress.set_postfix_str(f"PSNR {result.mean_psnr:.2f} dB")
    return result


def write_views(views: RenderedViews, folder: Path) -> None:
    """One PNG a view, numbered as nerf-pytorch numbers them."""
    for i, image in enumerate(views.images):
        write_png(folder / f"{i:03d}.png", image.numpy())


def write_strip(path: Path, columns: dict[str, list[torch.Tensor]], rows: int = 3, height: int = 300) -> None:
    """Labelled pictures side by side: a column a name, uint8 `[h, w, 3]` each, `rows` views."""
    count = len(next(iter(columns.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(int))
    strips = []
    for name, pictures in columns.items():
        tiles = []
        for picture in (pictures[i] for i in chosen):
            scale = height / picture.shape[0]
            size = (max(1, round(picture.shape[1] * scale)), height)
            tiles.append(cv2.resize(picture.numpy(), size, interpolation=cv2.INTER_CUBIC))
        width = max(tile.shape[1] for tile in tiles)
        tiles = [_centred(tile, width) for tile in tiles]
        header = np.full((32, width, 3), 255, np.uint8)
        cv2.putText(header, name, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
        strips.append(np.concatenate([header, *tiles]))
    write_png(path, np.concatenate(strips, axis=1))


def _centred(tile: np.ndarray, width: int) -> np.ndarray:
    """`[H, W, 3]` between white margins that make it `width` wide."""
    left = (width - tile.shape[1]) // 2
    return np.pad(tile, ((0, 0), (left, width - tile.shape[1] - left), (0, 0)), constant_values=255)


# ---------------------------------------------------------------------------------------- videos


STAGES = ("traversal", "encoding", "network", "compositing")


def stage_table(renderer: torch.nn.Module, camera: Cameras, limits: RenderLimits, repeats: int = 5) -> str:
    """Where the time of a frame goes, as text: milliseconds and share of each stage, frames per second.

    Stages are those of the occupancy renderer on the CPU; "the rest" is moving rows between them.
    """
    render_image(renderer, camera, limits)  # warm up
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        render_image(renderer, camera, limits)
        seconds.append(time.perf_counter() - started)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        render_image(renderer, camera, limits)
    frame = float(np.median(seconds))
    profiled = {event.key: event.cpu_time_total * 1e-6 for event in profiler.key_averages()}
    total = max(e.time_range.end for e in profiler.events()) - min(e.time_range.start for e in profiler.events())
    parts = {name: profiled.get(name, 0.0) / (total * 1e-6) for name in STAGES}
    parts["the rest"] = max(0.0, 1 - sum(parts.values()))
    lines = [f"{'stage':<14}{'ms':>9}{'share':>8}"]
    lines += [f"{name:<14}{1e3 * frame * share:>9.2f}{share:>8.0%}" for name, share in parts.items()]
    return "\n".join([*lines, f"{'frame':<14}{1e3 * frame:>9.2f}{1 / frame:>8.2f} frames/s"])


def render_video(
    renderer: torch.nn.Module, path: Cameras, stem: Path, limits: RenderLimits, render_factor: float = 0, fps: int = 30
) -> list[Path]:
    """Renders a camera path to `{stem}_rgb.mp4` and `{stem}_disp.mp4`; returns the two files.

    render_factor: render this much smaller, 0 or 1 for full size.
    """
    path = (path.scaled(render_factor) if render_factor > 1 else path).to(renderer.device)
    frames = []
    for i in progress_bar(range(len(path)), desc="video", unit="frame", leave=False):
        picture = render_image(renderer, path[i], limits)
        layers = picture.rgb, picture.depth[..., None], picture.opacity[..., None]
        frames.append(torch.cat(layers, -1).cpu())  # in one copy, and off the device
    rgb, depth, opacity = torch.stack(frames).split([3, 1, 1], -1)
    files = [stem.with_name(f"{stem.name}_rgb.mp4"), stem.with_name(f"{stem.name}_disp.mp4")]
    try:
        write_video(files[0], to8b(rgb).numpy(), fps)
    finally:  # what stands in the way of one need not in that of the other
        write_video(files[1], colorize_depth(depth[..., 0], opacity[..., 0]).numpy(), fps)
    return files


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """uint8 `[F, H, W, 3]` to H.264; odd sides lose a row or column, which the codec requires."""
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    part = path.with_name(f".{path.stem[:60]}.part{path.suffix}")  # ffmpeg goes by the suffix
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.suppress(OSError):  # of a pipe to an ffmpeg that has ended, which does not say why
                imageio.mimwrite(part, list(frames), fps=fps, quality=8, macro_block_size=2, ffmpeg_log_level="quiet")
            if frames_in(part) != len(frames):
                raise OSError(errno.ENOSPC, "ffmpeg could not finish it")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def frames_in(video: Path) -> int:
    """How many pictures a video holds; 0 if it is not whole."""
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(video))[0]
    except RuntimeError:
        return 0


def colorize_depth(depth: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """Depth `[..., H, W]` (world units) as coloured disparity, uint8 `[..., H, W, 3]`, near is red.

    The colours span the 2nd to 98th percentile of the disparity of opaque pixels, so that a stray
    point does not darken the rest; what is transparent fades to white.
    """
    disparity = 1 / depth.clamp_min(1e-6).cpu()
    solid = disparity[opacity.cpu() > 0.5].numpy()
    low, high = np.percentile(solid, [2, 98]) if len(solid) else (0.0, 1.0)
    level = ((disparity - low) / max(high - low, 1e-9)).clamp(0, 1)
    grey = (level * 255).round().to(torch.uint8).numpy()
    color = cv2.applyColorMap(grey.reshape(-1, 1), cv2.COLORMAP_TURBO).reshape(*grey.shape, 3)[..., ::-1]
    covered = opacity.cpu().clamp(0, 1)[..., None]
    return (torch.from_numpy(color.copy()) * covered + 255 * (1 - covered)).round().to(torch.uint8)
