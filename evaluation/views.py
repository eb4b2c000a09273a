"""Test views and videos: rendered, measured, written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from evaluation.measures import lpips, psnr, ssim
from evaluation.normals import colorize_normals, mean_angle, normals_of
from evaluation.videos import colorize_depth
from rendering.renderer import RenderLimits, render_image
from run_nerf_helpers import BEST_PSNR, to8b
from scenes.images import write_png
from scenes.scales import scaled, views_of
from scenes.scene import Scene, most_common
from utils.progress import progress_bar


@dataclass
class RenderedViews:
    """Pictures of some views beside their ground truth, with what was measured on them.

    images, targets: uint8 `[h, w, 3]` each, every view at its own size; measures are taken on these,
    8-bit on both sides. depths, normals: likewise, in colours; kept where asked for. psnr: dB, BEST_PSNR at most, lest
    one view without any error be all that counts. normal_degrees: mean angle to exact normals, where a scene has them.
    seconds: rendering time of each view, without loading or writing.
    """

    names: list[str] = field(default_factory=list)
    images: list[torch.Tensor] = field(default_factory=list)
    targets: list[torch.Tensor] = field(default_factory=list)
    depths: list[torch.Tensor] = field(default_factory=list)
    normals: list[torch.Tensor] = field(default_factory=list)
    normal_degrees: list[float] = field(default_factory=list)
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

    def psnr_against(self, others: "RenderedViews") -> float:
        """Mean PSNR, dB, to other pictures of the same views."""
        pairs = zip(self.images, others.images, strict=True)
        return float(np.mean([min(psnr(a.float() / 255, b.float() / 255), BEST_PSNR) for a, b in pairs]))

    def summary(self) -> dict:
        """This model's entry in `metrics.json`, but for its file. Height and width are those that most views have."""
        height, width = most_common([tuple(image.shape[:2]) for image in self.images])
        degrees = {"normal_degrees": float(np.nanmean(self.normal_degrees))} if self.normal_degrees else {}
        return {
            "psnr": self.mean_psnr,
            "ssim": _mean(self.ssim),
            "lpips": _mean(self.lpips),
            **degrees,
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
    renderer: torch.nn.Module,
    scene: Scene,
    views: Sequence[int],
    limits: RenderLimits,
    label: str = "test views",
    layers: bool = False,
) -> RenderedViews:
    """Renders `views` of a scene, without jitter or noise, and measures them on their valid pixels. layers: whether
    pictures of depth and normals are kept."""
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
        if layers or scene.normals is not None:
            normals = normals_of(picture, cameras[view], renderer.setup.pixel_offset).cpu()
        if scene.normals is not None:
            height, width = scene.cameras.size(view)
            result.normal_degrees.append(mean_angle(normals, scene.normals[view, :height, :width]))
        if layers:
            result.depths.append(colorize_depth(picture.depth, picture.opacity))
            result.normals.append(colorize_normals(normals, picture.opacity.cpu()))
        result.images.append(image)
        result.targets.append(target)
        progress.set_postfix_str(f"PSNR {result.mean_psnr:.2f} dB")
    return result


def evaluate_scales(
    renderer: torch.nn.Module,
    scene: Scene,
    views: Sequence[int],
    scales: Sequence[float],
    limits: RenderLimits,
    full: RenderedViews,
) -> dict[str, dict]:
    """Measures of some views at each scale, by what their images are shrunk by, and `mean`, of their measures. full:
    the views at their own size."""
    measured, some = {}, views_of(scene, views)
    for scale in scales:
        seen = full
        if scale != 1:
            small = scaled(some, scale)
            seen = evaluate_views(renderer, small, range(len(views)), limits, label=f"test views 1/{scale:g}")
        measured[f"{scale:g}"] = {key: value for key, value in seen.summary().items() if key != "per_view"}
    keys = "psnr", "ssim", "lpips"
    measured["mean"] = {key: _mean([entry[key] for entry in measured.values()]) for key in keys}
    return measured


def write_views(views: RenderedViews, folder: Path) -> None:
    """One PNG a view, numbered as nerf-pytorch numbers them; where they were kept, depth and normals in folders of
    these names beside them."""
    for place, pictures in (
        (folder, views.images),
        (folder / "depth", views.depths),
        (folder / "normals", views.normals),
    ):
        for i, picture in enumerate(pictures):
            write_png(place / f"{i:03d}.png", picture.numpy())


def strip_columns(pictures: dict[str, RenderedViews], final: str) -> dict[str, list[torch.Tensor]]:
    """What a strip shows of some models: the truth, float32 and the final one, and the depth and normals of that."""
    of_models = {name: pictures[name].images for name in ("float32", final) if name in pictures}
    last = pictures[final]
    return {"ground truth": last.targets, **of_models, "depth": last.depths, "normals": last.normals}


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
