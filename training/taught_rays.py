"""Pictures that a teacher makes from new cameras, and batches of their rays among those of photographs.

All pictures are one file of 8-bit colours and opacities, mapped and not read, with a manifest that says what they are
and how many are done: interrupted, making them goes on there, and of another teacher they are made anew.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rendering.renderer import Renderer, Rendering, RenderLimits, render_image
from run_nerf_helpers import to8b
from scenes.scene import Cameras, Scene
from training.batches import Batch, BatchSettings, RayBatches
from training.hard_rays import HardRays
from utils import distributed
from utils.errors import BadInput, BrokenFile
from utils.files import digest, saving, write_json
from utils.progress import progress_bar

PICTURES, MANIFEST = "taught.npy", "taught.json"
SAVED_EVERY = 25  # pictures after which the manifest says that they are done
HARD_BATCHES = 20  # whose hard rays are held, as in R2L
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
    there = found is not None and replace(found, done=0) == wanted and path.is_file()
    done = found.done if there else 0
    shape = (wanted.count, wanted.height, wanted.width, 4)
    if not there:  # first: nobody may take pictures that are begun now for those that were there
        write_json(manifest, vars(wanted))
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


@dataclass(frozen=True)
class Mixture:
    """real: share of a batch that is of photographs; half of it is in the last fifth of all `steps`. hard: share that
    was hard before, of a pool of HARD_BATCHES batches' worth; batch: rays in one."""

    real: float = 0.2
    hard: float = 0.0
    steps: int = 0
    batch: int = 0


class TaughtBatches(RayBatches):
    """Rays that a teacher coloured, and among them those of photographs, and those that were hard."""

    def __init__(
        self, settings: BatchSettings, taught: Scene, photographs: Scene, device: torch.device, mixture: Mixture
    ):
        super().__init__(replace(settings, scales=(1,), scale_weights=None, precrop_steps=0), taught, device)
        self.photographs = RayBatches(replace(settings, seed=settings.seed + 1), photographs, device)
        self.real, self.steps = mixture.real, mixture.steps
        self.hard_count = int(mixture.hard * mixture.batch)
        self.hard = None
        if mixture.hard:
            if distributed.world_size() > 1:
                raise BadInput("--hard_rays: each of several processes would keep others; leave it out, or use one")
            self.hard = HardRays(HARD_BATCHES * self.hard_count, device)
        self._old = 0  # rays at the beginning of the latest batch that came from the pool

    def share_of_photographs(self, step: int) -> float:
        return max(self.real, REAL_AT_LAST if self.real and step > LAST_PART * self.steps else 0)

    def filter(self, renderer: Renderer) -> None:
        super().filter(renderer)
        self.photographs.filter(renderer)

    def _rays(self, count: int, step: int, renderer: Renderer) -> Batch:
        """Photographs come first, as many as processes can share evenly: what does not fit falls off at the end."""
        processes = distributed.world_size()
        real = min(count, round(count * self.share_of_photographs(step) / processes) * processes)
        batch = super()._rays(count - real, step, renderer)
        if real:
            batch = joined(self.photographs._rays(real, step, renderer), batch)
        if self.hard:
            rays, target = self.hard.draw(self.hard_count, self.generator)
            self._old = len(rays)
            batch = joined(Batch(rays, target, batch.background, len(rays)), batch)
        return batch

    def after_step(self, batch: Batch, rendering: Rendering) -> None:
        if self.hard:
            fresh = slice(self._old, None)
            error = (rendering.rgb.detach()[fresh].float() - batch.target[fresh]).square().mean(-1)
            self.hard.keep(batch.rays[fresh], batch.target[fresh], error, self.hard_count)

    def state_dict(self) -> dict:
        hard = {"hard": self.hard.state_dict()} if self.hard else {}
        return {**super().state_dict(), "photographs": self.photographs.state_dict(), **hard}

    def load_state_dict(self, state: dict) -> None:
        if "photographs" not in state:
            raise BadInput("the checkpoint knows no photographs beside a teacher's pictures; choose another --expname")
        super().load_state_dict(state)
        self.photographs.load_state_dict(state["photographs"])
        if self.hard:
            self.hard.load_state_dict(state.get("hard"))


def joined(first: Batch, second: Batch) -> Batch:
    """Two parts of one batch, over one background."""
    rays, target = first.rays.and_then(second.rays), torch.cat([first.target, second.target])
    return Batch(rays, target, first.background, first.total_rays + second.total_rays)
