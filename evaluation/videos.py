"""Videos of colour, depth and normals."""

import contextlib
import errno
import os
from pathlib import Path

import cv2
import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import torch

from evaluation.normals import colorize_normals, normals_of
from rendering.renderer import RenderLimits, render_image
from run_nerf_helpers import to8b
from scenes.scene import Cameras
from utils.errors import BadInput
from utils.files import saving
from utils.progress import progress_bar


def render_video(
    renderer: torch.nn.Module, path: Cameras, stem: Path, limits: RenderLimits, render_factor: float = 0, fps: int = 30
) -> list[Path]:
    """Renders a camera path to `{stem}_rgb.mp4`, `{stem}_disp.mp4` and `{stem}_normals.mp4`; returns these files.

    render_factor: render this much smaller, 0 or 1 for full size.
    """
    path = (path.scaled(render_factor) if render_factor > 1 else path).to(renderer.device)
    if min(path.height, path.width) < 2:
        raise BadInput(f"--render_factor {render_factor:g}: leaves less than the 2 pixels a side that a video has")
    frames = []
    for i in progress_bar(range(len(path)), desc="video", unit="frame", leave=False):
        picture = render_image(renderer, path[i], limits)
        normals = normals_of(picture, path[i], renderer.setup.pixel_offset)
        layers = picture.rgb, normals, picture.depth[..., None], picture.opacity[..., None]
        frames.append(torch.cat(layers, -1).cpu())  # in one copy, and off the device
    rgb, normals, depth, opacity = torch.stack(frames).split([3, 3, 1, 1], -1)
    depth, opacity = depth[..., 0], opacity[..., 0]
    videos = {
        "rgb": lambda: to8b(rgb),
        "disp": lambda: colorize_depth(depth, opacity),
        "normals": lambda: colorize_normals(normals, opacity),
    }
    files = {name: stem.with_name(f"{stem.name}_{name}.mp4") for name in videos}
    with contextlib.ExitStack() as stack:  # what stands in the way of one need not in that of the others
        for name, colors in videos.items():
            stack.callback(lambda file=files[name], colors=colors: write_video(file, colors().numpy(), fps))
    return list(files.values())


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
