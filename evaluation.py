"""Test views and videos: rendered, measured, written."""

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import torch

from checkpoints import saving
from images import write_png
from metrics import lpips, psnr, ssim
from progress import progress_bar
from rendering import RenderLimits, render_image
from run_nerf_helpers import to8b
from scene import Cameras, Scene


@dataclass
class RenderedViews:
    """Pictures of some views beside their ground truth, with what was measured on them.

    images, targets: uint8 `[V, H, W, 3]`; measures are taken on these, 8-bit on both sides.
    seconds: rendering time of each view, without loading or writing.
    """

    names: list[str]
    images: torch.Tensor
    targets: torch.Tensor
    psnr: list[float]
    ssim: list[float | None]
    lpips: list[float | None]
    seconds: list[float]
    queries: list[int]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mean_psnr(self) -> float:
        return float(np.mean(self.psnr))

    def summary(self) -> dict:
        """This model's entry in `metrics.json`, but for its file."""
        return {
            "psnr": self.mean_psnr,
            "ssim": _mean(self.ssim),
            "lpips": _mean(self.lpips),
            "seconds_per_frame": float(np.median(self.seconds)),
            "queries_per_frame": float(np.mean(self.queries)),
            "views": len(self),
            "height": self.images.shape[1],
            "width": self.images.shape[2],
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
    device = next(renderer.buffers()).device
    result = RenderedViews([], torch.empty(0), torch.empty(0), [], [], [], [], [])
    images, targets = [], []
    progress = progress_bar(views, desc=label, unit="view", leave=False)
    for view in progress:
        camera = scene.cameras[view].to(device)
        started = time.perf_counter()
        picture = render_image(renderer, camera, limits)
        image = to8b(picture.rgb).cpu()
        result.seconds.append(time.perf_counter() - started)
        target = to8b(scene.target(torch.tensor([view]))[0])
        a, b = image.float() / 255, target.float() / 255
        result.names.append(f"{view:03d}")
        valid = None if scene.valid is None else scene.valid[view]
        if valid is not None:
            a = torch.where(valid[..., None], a, b)  # nothing to tell apart elsewhere
        result.psnr.append(psnr(a, b) if valid is None else psnr(a[valid], b[valid]))
        result.ssim.append(ssim(a, b, valid))
        result.lpips.append(lpips(a, b))
        result.queries.append(picture.queries)
        images.append(image)
        targets.append(target)
        progress.set_postfix_str(f"PSNR {np.mean(result.psnr):.2f} dB")
    result.images, result.targets = torch.stack(images), torch.stack(targets)
    return result


def write_views(views: RenderedViews, folder: Path) -> None:
    """One PNG a view, numbered as nerf-pytorch numbers them."""
    for i, image in enumerate(views.images):
        write_png(folder / f"{i:03d}.png", image.numpy())


def write_strip(path: Path, columns: dict[str, torch.Tensor], rows: int = 3, height: int = 300) -> None:
    """Labelled pictures side by side: a column a name, uint8 `[V, H, W, 3]` each, `rows` views."""
    count = len(next(iter(columns.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(int))
    strips = []
    for name, pictures in columns.items():
        scale = height / pictures.shape[1]
        size = (round(pictures.shape[2] * scale), height)
        tiles = [cv2.resize(pictures[i].numpy(), size, interpolation=cv2.INTER_CUBIC) for i in chosen]
        header = np.full((32, size[0], 3), 255, np.uint8)
        cv2.putText(header, name, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
        strips.append(np.concatenate([header, *tiles]))
    write_png(path, np.concatenate(strips, axis=1))


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
    device = next(renderer.buffers()).device
    if render_factor > 1:
        path = path.scaled(render_factor)
    pictures = [
        render_image(renderer, path[i].to(device), limits)
        for i in progress_bar(range(len(path)), desc="video", unit="frame", leave=False)
    ]
    depth = torch.stack([p.depth.cpu() for p in pictures])
    opacity = torch.stack([p.opacity.cpu() for p in pictures])
    files = [stem.with_name(f"{stem.name}_rgb.mp4"), stem.with_name(f"{stem.name}_disp.mp4")]
    try:
        write_video(files[0], torch.stack([to8b(p.rgb).cpu() for p in pictures]).numpy(), fps)
    finally:  # what stands in the way of one need not in that of the other
        write_video(files[1], colorize_depth(depth, opacity).numpy(), fps)
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
