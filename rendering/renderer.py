"""What every renderer is, and a whole picture by any of them.

A renderer takes rays to what they see. It knows fields only through `field(points) -> FieldOutput` and
`field.density(positions)`, and of training only what is asked of it here: what it is going to query (`plan`), what it
adds to the loss, and what it does after a step. A new one is a module of its own and a line in `kinds.py`.
"""

import argparse
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn

from rendering.points import FieldOutput, Points, joined
from rendering.rays import Rays, RaySetup, make_rays
from run_nerf_helpers import get_rays, iterate_chunks
from utils.errors import BrokenFile

# What a sample takes while a ray is marched: its position, cell number, distance and bookkeeping.
BYTES_PER_SAMPLE = 150
FIXED_BYTES = 2**26  # what matrix kernels and the allocator take however few the rays
POINTS_AT_ONCE = 65_536  # of one call of a network


@dataclass
class Rendering:
    """What a ray sees. rgb `[R, 3]` over the background; depth `[R]`, the expected distance along
    the unit ray given that it hit something (the far bound where it did not), world units;
    opacity `[R]`; coarse_rgb `[R, 3]` where there is a coarse pass; queries: network rows spent;
    density `[P]`, sample_rgb `[P, 3]`: what the field said of the samples it was given, if it was; levels: edges
    `[R, S + 1]` and weights `[R, S]` of each network that rays were binned by, in training with proposals. extras: what
    a ray sees of what else a field says of its samples, `[R, C]`, by name."""

    rgb: torch.Tensor
    depth: torch.Tensor
    opacity: torch.Tensor
    coarse_rgb: torch.Tensor | None = None
    queries: int = 0
    density: torch.Tensor | None = None
    sample_rgb: torch.Tensor | None = None
    levels: list[tuple[torch.Tensor, torch.Tensor]] | None = None
    extras: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class RenderLimits:
    """What a picture may take at once. rays: at most; memory: bytes beyond what is loaded."""

    rays: int = 32_768
    memory: int = 2**30

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "RenderLimits":
        return cls(rays=args.chunk, memory=args.render_memory * 2**20)


class Plan(ABC):
    """What some rays will ask of a field, found by walking them once, before it is listed.

    found: `[]`, how much there was to look into. A plan is made with room for a guess of that, so that a device need
    not be waited for to say it; whoever waits for something else afterwards asks for it too, and tells `holds_all`.
    """

    found: torch.Tensor

    @abstractmethod
    def counts(self) -> torch.Tensor:
        """Queries of each ray, `[R]`."""

    @abstractmethod
    def holds_all(self, found: int) -> bool:
        """Whether nothing is missing of so much."""

    @abstractmethod
    def whole(self) -> "Plan":
        """The same with nothing missing, for which a device is waited for."""

    @abstractmethod
    def samples(self, counts: torch.Tensor, total: int, most: int):
        """What `Renderer.forward` takes: the list for the first rays, `counts [R']` of each, `total` in all and
        `most` of one."""


class Renderer(nn.Module, ABC):
    """What all renderers have: fields, how pixels become rays, and the device that they live on.

    kind: in model files and flags. queries_per_ray: what each ray asks of networks in training; None where that is
    found out by `plan`, and a batch then has as many rays as fill its queries, at first as many as if each asked
    `usual_queries`. background: what stands behind everything, `[3]`. points_at_once: of one network call, at most.
    """

    kind: ClassVar[str]
    field_names: ClassVar[tuple[str, ...]] = ("network_fn",)  # that `fields` may have
    field_kinds: ClassVar[tuple[str, ...]] = ()  # of those that it asks; none named: any that has a density
    queries_per_ray: int | None = None
    usual_queries: ClassVar[float] = 16.0

    def __init__(self, setup: RaySetup, points_at_once: int = POINTS_AT_ONCE):
        super().__init__()
        self.setup, self.points_at_once = setup, points_at_once
        self.register_buffer("background", torch.tensor(setup.background), persistent=False)

    @property
    def wants_cones(self) -> bool:
        """Whether a field asks for more of a pixel than its ray."""
        return any(getattr(field, "wants_cones", False) for field in self.fields.values())

    @property
    def parallel(self) -> bool:
        """Whether rays of one camera do not spread: their pixels are cylinders then."""
        return self.setup.ndc_near is not None

    @property
    def device(self) -> torch.device:
        """Where rays have to be, and where whatever is made for its fields belongs."""
        return self.background.device

    @property
    @abstractmethod
    def fields(self) -> dict[str, nn.Module]:
        """Its fields, under nerf-pytorch's checkpoint names."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks inside its fields, under the same names."""
        return {name: field.network for name, field in self.fields.items()}

    @abstractmethod
    def bytes_per_ray(self) -> int:
        """An upper bound of what a ray takes while a picture is rendered."""

    @abstractmethod
    def forward(
        self,
        rays: Rays,
        background: torch.Tensor | None = None,
        samples=None,
        generator: torch.Generator | None = None,
        noise_std: float = 0.0,
    ) -> Rendering:
        """background: `[3]` or `[R, 3]`; None adds none. samples: of a plan of these rays; None: the renderer finds
        its own. noise_std: of what is added to raw densities in training, drawn from `generator`."""

    def ask_all(self, field: nn.Module, points: Points, raw_noise: torch.Tensor | None) -> FieldOutput:
        """A field at any number of points, so many at once."""
        chunks = list(iterate_chunks(len(points), self.points_at_once)) or [slice(0, 0)]
        return joined([ask(field, points[c], None if raw_noise is None else raw_noise[c]) for c in chunks])

    def levels(self, rays: Rays) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each network that rays are binned by, ending with the field: edges `[R, S + 1]`, multiples of the
        direction, and weights `[R, S]`; none where there are no proposals."""
        return []

    # ---------------------------------------------------------------------------------- in training

    def plan(self, rays: Rays, uniform: Callable[[], torch.Tensor] | None = None) -> Plan | None:
        """What rays will ask; None where `queries_per_ray` says it. uniform: gives a number in [0, 1) for each ray."""
        return None

    def meets(self, rays: Rays) -> torch.Tensor:
        """Which rays `[R]` can meet anything."""
        return torch.ones(len(rays), dtype=torch.bool, device=rays.origins.device)

    def losses(self, batch, rendering: Rendering, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """What is added to the error of the colours of a `training.batches.Batch`, by name. Each is this process's
        share of a mean over the rays of all."""
        return {}

    def after_step(self, step: int, generator: torch.Generator) -> bool:
        """To be called with the number of each finished step; true where a field has new parameters."""
        return any([field.after_step(step, self.content_box) for field in self.fields.values()])

    def content_box(self) -> torch.Tensor | None:
        """The box `[2, 3]` that holds what there is, where the renderer knows of one."""
        return None

    def occupied(self):
        """The `occupancy.OccupancyGrid` of all there is, where the renderer has one."""
        return None

    def extra_state(self) -> dict:
        """What a checkpoint holds of it beside networks, by the checkpoint's keys."""
        return {}

    def load_extra_state(self, state: dict, what: str) -> None:
        """Takes its part of a checkpoint's `state`. Raises BrokenFile, beginning with `what`, where it does not fit."""

    def scalars(self) -> dict[str, float]:
        """What is worth a curve beside the loss, by name."""
        return {}

    # ------------------------------------------------------------------------------- in model files

    @abstractmethod
    def describe(self) -> dict:
        """Its entry `sampler` in a model file: its kind, and all but tensors that it takes to build it again."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a model file holds of it beside fields."""
        return {}

    @staticmethod
    @abstractmethod
    def check(described: dict) -> None:
        """Raises BrokenFile where an entry is not as `describe` gives it, or asks for more than can be."""

    @classmethod
    @abstractmethod
    def from_description(
        cls, described: dict, fields: dict[str, nn.Module], setup: RaySetup, tensors: dict[str, torch.Tensor]
    ) -> "Renderer":
        """From a checked entry; takes out of `tensors` what `tensors` put in. Raises BrokenFile or ValueError."""

    # ------------------------------------------------------------------------------------- by flags

    @staticmethod
    @abstractmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        """Adds the flags that it alone reads."""

    @classmethod
    @abstractmethod
    def from_flags(
        cls,
        args: argparse.Namespace,
        scene,
        setup: RaySetup,
        device: torch.device,
        make_field: Callable[..., nn.Module],
    ) -> "Renderer":
        """Untrained, for a scene. make_field: from `box [2, 3]` to a field; `fine=True` gives that of a fine pass,
        `small=N` one of two layers of N channels, for densities alone."""


def extras_of(field: nn.Module) -> dict[str, int]:
    """Channels of what else a field says while rendering, by name; backends' fields may say nothing."""
    return getattr(field, "extras", {})


def ask(field: nn.Module, points: Points, raw_noise: torch.Tensor | None) -> FieldOutput:
    """Noise is for training only, so fields that cannot train need not know of it."""
    return field(points) if raw_noise is None else field(points, raw_noise)


def make_rays_of(renderer: Renderer, camera, frame=None) -> Rays:
    """The rays of a whole picture, row by row. frame: the camera whose picture NDC fits; None: this one."""
    setup = renderer.setup
    origins, directions = get_rays(camera.height, camera.width, camera.K[0], camera.c2w[0], setup.pixel_offset)
    focal = camera.K[0, 0, 0] if renderer.wants_cones else None
    return make_rays(origins.reshape(-1, 3), directions.reshape(-1, 3), setup, frame or camera, focal)


@torch.no_grad()
def render_image(renderer: Renderer, camera, limits: RenderLimits = RenderLimits()) -> Rendering:  # noqa: B008
    """A whole picture from one camera, as many rays at a time as the limits allow.

    Returns a Rendering whose fields are `[H, W, ...]`. Raises BrokenFile where a colour is not a finite number.
    """
    was_training = renderer.training
    renderer.eval()
    parts = list(render_parts(renderer, make_rays_of(renderer, camera), limits))
    renderer.train(was_training)
    return whole_picture(parts, camera.height, camera.width)


@torch.no_grad()
def render_parts(renderer: Renderer, rays: Rays, limits: RenderLimits) -> Iterator[Rendering]:
    """What rays see, as many of them at a time as the limits allow, by a renderer in evaluation mode."""
    at_once = max(1, min(limits.rays, (limits.memory - FIXED_BYTES) // renderer.bytes_per_ray()))
    for c in iterate_chunks(len(rays), at_once):
        yield renderer(rays[c], renderer.background)


def whole_picture(parts: list[Rendering], height: int, width: int) -> Rendering:
    """Its rays' Renderings, row by row, as one whose fields are `[H, W, ...]`. Raises BrokenFile where a colour is not
    a finite number."""
    rgb = torch.cat([p.rgb for p in parts])
    if not torch.isfinite(rgb).all():
        raise BrokenFile(
            "the field gives colours that are not finite numbers: its weights overflow, training has failed or its "
            "file was altered; render another checkpoint or model"
        )
    shape = (height, width)
    return Rendering(
        rgb.view(*shape, 3),
        torch.cat([p.depth for p in parts]).view(shape),
        torch.cat([p.opacity for p in parts]).view(shape),
        queries=sum(p.queries for p in parts),
        extras={name: torch.cat([p.extras[name] for p in parts]).view(*shape, -1) for name in parts[0].extras},
    )
