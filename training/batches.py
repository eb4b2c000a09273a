"""Training batches: rays drawn on the fly from 8-bit images, as many as fill the network's rows.

With several processes (`utils.distributed`) each draws the whole batch alike and keeps its share.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rendering.rays import Rays, RaySetup, make_rays
from rendering.renderer import Plan, Renderer, Rendering
from run_nerf_helpers import camera_rays
from scenes.scales import pyramid
from scenes.scene import Scene, composite_over
from training.pixel_numbers import packed_bits, pixel_numbers
from utils import distributed
from utils.errors import BadInput
from utils.progress import brief_bar

RAYS_AT_ONCE = 16384  # of all training rays, where they are gone through
PIXELS_AT_ONCE = 2**22  # of all training pixels, likewise


@dataclass(frozen=True)
class BatchSettings:
    """rays: of a batch, where each ray asks networks alike; queries: of a batch, where rays differ (`--N_rand` and
    `--samples_per_batch`). random_background: behind RGBA pixels, a colour for each ray. one_image: is all that a
    batch sees. precrop_steps, precrop_share: steps that see only the middle of images, and its share of each side.
    scales: what images are shrunk by, and scale_weights: of each in the loss, in proportion; equal if None."""

    rays: int = 4096
    queries: int = 32_768
    seed: int = 0
    random_background: bool = False
    one_image: bool = False
    precrop_steps: int = 0
    precrop_share: float = 0.5
    scales: tuple[float, ...] = (1,)
    scale_weights: tuple[float, ...] | None = None

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "BatchSettings":
        return cls(
            rays=args.N_rand,
            queries=args.samples_per_batch,
            seed=args.seed,
            random_background=args.random_bkgd,
            one_image=args.no_batching,
            precrop_steps=args.precrop_iters,
            precrop_share=args.precrop_frac,
            scales=tuple(args.scales),
            scale_weights=args.scale_weights and tuple(args.scale_weights),
        )

    def queries_for(self, renderer: Renderer) -> int:
        """Of networks, in a batch for a renderer."""
        return self.queries if renderer.queries_per_ray is None else self.rays * renderer.queries_per_ray

    def check_divides(self, renderer: Renderer) -> None:
        """Raises BadInput where several processes cannot share a batch out evenly."""
        if renderer.queries_per_ray is None:
            distributed.check_divides("--samples_per_batch", self.queries)
        else:
            distributed.check_divides("--N_rand", self.rays)


@dataclass
class Batch:
    """rays `[R]`, their target colours `[R, 3]`, the background behind each `[R, 3]` or `[3]`, and where the
    renderer planned what to query its `samples`. total_rays: of all processes; total_samples: likewise, before rays
    were dropped to keep to the batch's size. views `[R]`: the photographs that the colours are of, by number."""

    rays: Rays
    target: torch.Tensor
    background: torch.Tensor
    total_rays: int
    samples: object = None
    total_samples: int | None = None
    views: torch.Tensor | None = None

    @property
    def share(self) -> float:
        """Of all rays: sums over processes of means times it are means over all rays."""
        return len(self.rays) / self.total_rays


@dataclass(frozen=True)
class Fitting:
    """What of the rays drawn fits into a batch. total_rays: the first so many of all processes.
    total_samples: of all rays drawn. samples, most: of this process's share of the rays that fit, in
    all and of one ray. found: what the plan was to look into."""

    total_rays: int
    total_samples: int
    samples: int
    most: int
    found: int


class RayBatches:
    """Draws training rays with replacement, making them on the fly from 8-bit images.

    A renderer that asks networks alike for each ray gets so many rays a batch. Any other gets as many rays
    as fill so many network queries, so a step costs the same early and late.
    Where a scene says which pixels are valid, only those are drawn. Of several scales each gets its share of the
    rays, whatever its pixels: as a weight of its loss, but without the noise that weighing few rays would bring.
    """

    def __init__(self, settings: BatchSettings, scene: Scene, device: torch.device):
        self.settings = settings
        scene = scene if settings.scales == (1,) else pyramid(scene, settings.scales)
        train = scene.splits["train"]
        everything = train == list(range(len(scene.images)))  # then no copy is made: they may lie on disk
        self.images = (scene.images if everything else scene.images[train]).to(device)
        self.cameras = scene.cameras[train].to(device)
        self.background = torch.tensor(scene.background, device=device)
        self.seed = settings.seed
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        self.samples_per_ray: float | None = None  # a running estimate, of renderers that plan
        self._noise = torch.Generator(device)
        self.scale_weights = torch.tensor(settings.scale_weights or (1.0,) * len(settings.scales), device=device)
        self.candidates: torch.Tensor | None = None  # of `keep_only`; None: every pixel
        self._middle: torch.Tensor | None = None  # those of them that cropped steps see
        if scene.valid is not None:
            self.keep_only(pixel_numbers(scene.valid[train]))

    def keep_only(self, candidates: torch.Tensor) -> None:
        """From now on draws these pixels alone, with `--precrop_iters` those of them in the middle.

        candidates: flat numbers into the training images' `[view, row, column]`, ascending, int32
        (int64 where there are more pixels than that holds): four bytes a pixel. Raises BadInput where
        none are left.
        """
        if len(candidates) == 0:
            raise BadInput("no training pixel is left to learn from; check the masks, the poses and --aabb")
        self.candidates = candidates.to(self.images.device)
        if self.settings.precrop_steps <= 0:
            return
        middles = [self._middle_of(*self.cameras.size(view)) for view in range(len(self.cameras))]
        middles = torch.tensor(middles, device=self.images.device)
        parts = []
        for part in self.candidates.split(PIXELS_AT_ONCE):  # their places take ten times the room
            view, row, column = self._places(part)
            top, left, tall, wide = middles[view].unbind(-1)
            parts.append(part[(row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)])
        self._middle = torch.cat(parts)
        if len(self._middle) == 0:
            raise BadInput(
                f"--precrop_iters {self.settings.precrop_steps}: nothing to learn from is in the middle of the "
                "training images (masks, or lens correction); give 0, or a larger --precrop_frac"
            )

    def rays_of(self, numbers: torch.Tensor, renderer: Renderer) -> Iterator[Rays]:
        """The rays that a renderer asks for pixels by flat number, in parts."""
        for part in numbers.split(RAYS_AT_ONCE):
            yield self._rays_through(*self._places(part.to(self.images.device)), renderer.setup, renderer.wants_cones)

    def some_numbers(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Flat numbers of pixels that may be drawn: all, or `count` at random where there are more."""
        total = self.images[..., 0].numel() if self.candidates is None else len(self.candidates)
        chosen = torch.arange(total) if total <= count else torch.randint(total, (count,), generator=generator)
        return chosen if self.candidates is None else self.candidates[chosen.to(self.candidates.device)]

    def drawable(self) -> torch.Tensor:
        """Which of the training images' pixels may be drawn, `[V, H, W]`."""
        shape, device = self.images.shape[:3], self.images.device
        if self.candidates is None:
            return torch.ones(shape, dtype=torch.bool, device=device)
        drawable = torch.zeros(shape, dtype=torch.bool, device=device)
        for part in self.candidates.split(PIXELS_AT_ONCE):
            drawable.view(-1)[part] = True
        return drawable

    @torch.no_grad()
    def filter(self, renderer: Renderer) -> None:
        """From now on draws only pixels whose rays can meet something: others teach nothing.

        TensoRF's code filters rays so, by their bounding box first and by its alpha mask later.
        """
        kept = self.drawable()
        parts = kept.view(-1).split(RAYS_AT_ONCE)
        bar = brief_bar(parts, desc="choosing rays", unit="part", disable=not distributed.is_main())
        for first, pixels in zip(itertools.count(0, RAYS_AT_ONCE), bar, strict=False):
            inside = pixels.nonzero()[:, 0]
            pixels[inside] = torch.cat([renderer.meets(rays) for rays in self.rays_of(first + inside, renderer)])
        self.keep_only(pixel_numbers(kept))

    def noise(self, step: int) -> torch.Generator:
        """Random numbers of this process alone, for what is drawn a sample; the same in every run."""
        return self._noise.manual_seed(((self.seed * 10**8 + step) * 1000 + distributed.rank()) % 2**63)

    def draw(self, renderer: Renderer, step: int) -> Batch:
        """The batch of a step, counted from 1."""
        if renderer.queries_per_ray is not None:
            return self._rays(self.settings.rays, step, renderer)
        if self.samples_per_ray is None:
            self.samples_per_ray = renderer.usual_queries
        count = max(distributed.world_size(), int(1.05 * self.settings.queries / self.samples_per_ray))
        batch = self._rays(count, step, renderer)
        plan = renderer.plan(batch.rays, lambda: self._uniform(batch.total_rays)[distributed.share()])
        counts, fitting = self._count(plan, batch.total_rays)
        if not plan.holds_all(fitting.found):
            plan = plan.whole()
            counts, fitting = self._count(plan, batch.total_rays)
        per_ray = max(fitting.total_samples / batch.total_rays, 0.1)
        self.samples_per_ray = 0.9 * self.samples_per_ray + 0.1 * per_ray
        rays = distributed.size_of_share(fitting.total_rays)
        samples = plan.samples(counts[:rays], fitting.samples, fitting.most)
        background = batch.background[:rays] if batch.background.ndim == 2 else batch.background
        kept = batch.rays[:rays], batch.target[:rays], background
        views = None if batch.views is None else batch.views[:rays]
        return Batch(*kept, fitting.total_rays, samples, fitting.total_samples, views)

    def after_step(self, batch: Batch, rendering: Rendering) -> None:
        """To be called with what came of each batch."""

    def draw_some(self, renderer: Renderer, count: int) -> list[Batch]:
        """Batches of steps that see whole images."""
        return [self.draw(renderer, self.settings.precrop_steps + 1) for _ in range(count)]

    def _count(self, plan: Plan, total_rays: int) -> tuple[torch.Tensor, Fitting]:
        """Samples of each of this process's rays `[R]`, and what fits: the step's only wait for the device."""
        counts = plan.counts()
        up_to = torch.cumsum(distributed.gather_shares(counts, total_rays), 0)
        fitting_rays = (up_to <= self.settings.queries).sum().clamp_min(distributed.world_size())
        nth = torch.arange(distributed.rank(), total_rays, distributed.world_size(), device=counts.device)
        kept = torch.where(nth < fitting_rays, counts, 0)
        numbers = [fitting_rays, up_to[-1], kept.sum(), kept.amax(), plan.found]
        return counts, Fitting(*torch.stack(numbers).tolist())

    def _rays(self, count: int, step: int, renderer: Renderer) -> Batch:
        """This process's share of `count` rays."""
        view, row, column = self._pixels(count, step) if self.candidates is None else self._kept_pixels(count, step)
        background = (
            self._uniform(count, 3)[distributed.share()] if self.settings.random_background else self.background
        )
        view, row, column = (numbers[distributed.share()] for numbers in (view, row, column))
        rays = self._rays_through(view, row, column, renderer.setup, renderer.wants_cones)
        pixels = self.images[view, row, column].float() / 255
        return Batch(rays, composite_over(pixels, background), background, count, views=view)

    def _rays_through(
        self, view: torch.Tensor, row: torch.Tensor, column: torch.Tensor, setup: RaySetup, cones: bool = False
    ) -> Rays:
        """cones: whether rays are to know their pixels' size."""
        at = column + setup.pixel_offset, row + setup.pixel_offset
        K = self.cameras.K[view]
        focal = K[:, 0, 0] if cones else None
        return make_rays(*camera_rays(*at, K, self.cameras.c2w[view]), setup, self.cameras, focal)

    def _middle_of(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part of an image that cropped steps see, pixels."""
        tall, wide = int(height * self.settings.precrop_share), int(width * self.settings.precrop_share)
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def _pixels(self, count: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """View, row and column of `count` random pixels."""
        height, width = self.images.shape[1:3]
        top, left, tall, wide = 0, 0, height, width
        if step <= self.settings.precrop_steps:
            top, left, tall, wide = self._middle_of(height, width)
        view = self._integers(len(self.images), 1 if self.settings.one_image else count).expand(count)
        row = top + self._integers(max(tall, 1), count)
        column = left + self._integers(max(wide, 1), count)
        return view, row, column

    def _kept_pixels(self, count: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, of those that `keep_only` names. A view is as likely as it has pixels left."""
        candidates = self._middle if step <= self.settings.precrop_steps else self.candidates
        if len(self.settings.scales) > 1:
            return self._pixels_of_scales(count, candidates)
        if not self.settings.one_image:
            return self._places(candidates[self._integers(len(candidates), count)])
        view, _, _ = self._places(candidates[self._integers(len(candidates), 1)])
        first, end = self._places_of_views(candidates, torch.cat([view, view + 1]))
        # A remainder instead of a bound: where the view ends is known on the device only.
        return self._places(candidates[first + self._integers(2**62, count) % (end - first)])

    def _pixels_of_scales(
        self, count: int, candidates: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same, each of a scale drawn by the scales' weights; with `one_image` all of one image."""
        number, weights = len(self.settings.scales), self.scale_weights
        views = torch.arange(number + 1, device=candidates.device) * (len(self.images) // number)
        ends = self._places_of_views(candidates, views)
        first, left = ends[:-1], ends.diff()
        shares = torch.cumsum(weights * (left > 0), 0)  # the middle of a small copy may hold no pixel
        at_once = 1 if self.settings.one_image else count
        scale = torch.searchsorted(shares, self._uniform(at_once) * shares[-1], right=True).clamp_max(number - 1)
        chosen = candidates[first[scale] + self._integers(2**62, at_once) % left[scale]]
        if not self.settings.one_image:
            return self._places(chosen)
        view, _, _ = self._places(chosen)
        first, end = self._places_of_views(candidates, torch.cat([view, view + 1]))
        return self._places(candidates[first + self._integers(2**62, count) % (end - first)])

    def _places_of_views(self, candidates: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """How many of the candidates come before each of these views."""
        pixels = self.images.shape[1] * self.images.shape[2]
        return torch.searchsorted(candidates, (views * pixels).to(candidates.dtype))

    def _places(self, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """View, row and column, int64, of flat pixel numbers."""
        height, width = self.images.shape[1:3]
        number = number.long()
        row = number // width
        return row // height, row % height, number - row * width

    def _uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, device=self.images.device, generator=self.generator)

    def _integers(self, high: int, count: int) -> torch.Tensor:
        return torch.randint(high, (count,), device=self.images.device, generator=self.generator)

    def state_dict(self) -> dict:
        estimate = self.samples_per_ray or Renderer.usual_queries
        state = {"seed": self.seed, "generator": self.generator.get_state(), "samples_per_ray": estimate}
        if self.candidates is not None:  # they may be of a grid that has changed since
            state["drawable"] = packed_bits(self.drawable())
        return state

    def load_state_dict(self, state: dict) -> None:
        self.seed = state.get("seed", self.seed)
        try:
            self.generator.set_state(state["generator"].cpu())
        except RuntimeError as error:  # each kind of device has its own
            raise BadInput(
                f"the checkpoint's random numbers are none of --device {self.generator.device.type}; give the one it "
                "was trained on, or start from its networks by --ft_path"
            ) from error
        self.samples_per_ray = state["samples_per_ray"]
        if "drawable" in state:
            shape, packed = self.images.shape[:3], state["drawable"].cpu().numpy()
            if len(packed) != -(-shape.numel() // 8):
                raise BadInput("the checkpoint chose among training pixels of other images; choose another --expname")
            bits = np.unpackbits(packed, count=shape.numel())
            self.keep_only(pixel_numbers(torch.from_numpy(bits).view(shape).bool()))


def render_batch(
    renderer: Renderer, batch: Batch, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> Rendering:
    """A batch through the renderer it was drawn for, differentiable in its fields."""
    return renderer(batch.rays, batch.background, batch.samples, generator, noise_std)
