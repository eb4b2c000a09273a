"""Pictures that a teacher makes from new cameras, and batches of their rays among those of photographs.

All pictures are one file of 8-bit colours and opacities, mapped and not read, with a manifest that says what they are
and how many are done: interrupted, making them goes on there, and of another teacher they are made anew.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rendering.renderer import Renderer, RenderLimits, render_image
from run_nerf_helpers import to8b
from scenes.scene import Cameras, Scene
from training.batches import Batch, BatchSettings, RayBatches
from utils import distributed
from utils.errors import BadInput, BrokenFile
from utils.files import digest, saving, write_json
from utils.progress import progress_bar

PICTURES, MANIFEST = "taught.npy", "taught.json"
SAVED_EVERY = 25  # pictures after which the manifest says that they are done
LAST_PART, REAL_AT_LAST = 0.8, 0.5  # share of the steps after which so much of a batch is of photographs


@dataclass(frozen=True)
class Manifest:
    """teacher: digest of its file. cameras: of poses and lenses. done: pictures there are, of `count`."""

    teacher: str
    cameras: str
    count: int
    height: int
    width: int
    done: int = 0

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """None where there is none that makes sense."""
        try:
            found = cls(**json.loads(path.read_text()))
            return found if 0 <= found.done <= found.count else None
        except (OSError, ValueError, TypeError):
            return None


def straight_alpha(rgb: torch.Tensor, opacity: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Colours `[..., 3]` seen over a background as uint8 `[..., 4]`: themselves, and opacity."""
    alpha = opacity.clamp(0, 1)[..., None]
    alone = (rgb - (1 - alpha) * background) / alpha.clamp_min(1e-3)
    return to8b(torch.cat([alone, alpha], -1))


def teach(
    teacher: Renderer,
    cameras: Cameras,
    folder: Path,
    of_teacher: str,
    limits: RenderLimits = RenderLimits(),  # noqa: B008
) -> torch.Tensor:
    """The teacher's pictures from cameras of one size, uint8 `[N, H, W, 4]`, on disk in `folder`; those that are there
    already are not made again. of_teacher: digest of its file. Raises SaveError where they cannot be written."""
    wanted = Manifest(of_teacher, digest([cameras.c2w, cameras.K]), len(cameras), cameras.height, cameras.width)
    path, manifest = folder / PICTURES, folder / MANIFEST
    if distributed.is_main():
        _make(teacher, cameras, path, manifest, wanted, limits)
    distributed.wait_for_main()
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _make(
    teacher: Renderer, cameras: Cameras, path: Path, manifest: Path, wanted: Manifest, limits: RenderLimits
) -> None:
    found = Manifest.read(manifest)
    there = (
        found is not None and replace(found, done=0) == wanted and path.is_file() and 0 <= found.done <= wanted.count
    )
    done = found.done if there else 0
    shape = (wanted.count, wanted.height, wanted.width, 4)
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = "r+" if there else "w+"
        pictures = np.lib.format.open_memmap(path, mode, np.uint8, None if there else shape)
        if pictures.shape != shape:
            raise BrokenFile(f"{path}: holds {pictures.shape}, its manifest says {shape}; remove both")
    cameras = cameras.to(teacher.device)
    bar = progress_bar(range(done, wanted.count), total=wanted.count, initial=done, desc="taught pictures", unit="view")
    for number in bar:
        seen = render_image(teacher, cameras[number], limits)
        pictures[number] = straight_alpha(seen.rgb, seen.opacity, teacher.background).cpu().numpy()
        if (number + 1) % SAVED_EVERY == 0 or number + 1 == wanted.count:
            with saving(path):
                pictures.flush()
            write_json(manifest, vars(replace(wanted, done=number + 1)))


def taught_scene(scene: Scene, pictures: torch.Tensor, cameras: Cameras) -> Scene:
    """The scene as its teacher shows it, all of it to train on."""
    views = {"train": list(range(len(pictures))), "val": [], "test": []}
    return replace(
        scene, images=pictures, cameras=cameras, splits=views, valid=None, depth=None, normals=None, notes=[]
    )


class TaughtBatches(RayBatches):
    """Rays that a teacher coloured, and among them those of photographs: `real` of each batch, and half of it in the
    last fifth of all `steps`."""

    def __init__(
        self, settings: BatchSettings, taught: Scene, photographs: Scene, device: torch.device, real: float, steps: int
    ):
        super().__init__(replace(settings, scales=(1,), scale_weights=None, precrop_steps=0), taught, device)
        self.photographs = RayBatches(replace(settings, seed=settings.seed + 1), photographs, device)
        self.real, self.steps = real, steps

    def share_of_photographs(self, step: int) -> float:
        return max(self.real, REAL_AT_LAST if self.real and step > LAST_PART * self.steps else 0)

    def filter(self, renderer: Renderer) -> None:
        super().filter(renderer)
        self.photographs.filter(renderer)

    def _rays(self, count: int, step: int, renderer: Renderer) -> Batch:
        """Photographs come first, as many as processes can share evenly: what does not fit falls off at the end."""
        processes = distributed.world_size()
        real = min(count, round(count * self.share_of_photographs(step) / processes) * processes)
        parts = [super()._rays(count - real, step, renderer)] if real < count else []
        parts = [self.photographs._rays(real, step, renderer), *parts] if real else parts
        if len(parts) == 1:
            return parts[0]
        first, second = parts
        rays = first.rays.and_then(second.rays)
        return Batch(rays, torch.cat([first.target, second.target]), first.background, count)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "photographs": self.photographs.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        if "photographs" not in state:
            raise BadInput("the checkpoint knows no photographs beside a teacher's pictures; choose another --expname")
        super().load_state_dict(state)
        self.photographs.load_state_dict(state["photographs"])
