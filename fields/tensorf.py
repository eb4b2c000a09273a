"""TensoRF: a radiance field as sums of products of planes and lines (Chen et al. 2022, arXiv 2203.09517).

VM (eq. 4 and 5 there): for each of the three axes, R planes across it times R lines along it. CP
(eq. 3): products of three lines. Both give density features, which are summed, and colour
features, which a matrix mixes and a small network turns into colour with the viewing direction.

Planes are `[rows, columns, R]`, channels last, so that one point's channels lie together: a bilinear
look-up is then a weighted sum of four rows of a table, for which `embedding_bag` is several times
faster than `grid_sample`, forwards and backwards. Density and colour share a table, density first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from fields.field import Field, Group
from rendering.points import FieldOutput, Points
from run_nerf_helpers import get_embedder
from utils.bounds import box_problem

MOST_ENTRIES = 4096  # of a plane or line along an axis

# Which axes a plane spans (its columns, its rows), and the axis of the line that goes with it.
PLANES = ((0, 1), (0, 2), (1, 2))
LINES = (2, 1, 0)


@dataclass(frozen=True)
class TensorfConfig:
    """The architecture, but for the resolution and the box, which change in training.

    density_ranks, color_ranks: components along each of the three axes; of CP the sum is taken.
    features: colour features after mixing. feature_octaves, view_octaves: of the decoder's positional
    encodings. hidden: the decoder's width. Density is as in `FieldConfig`.
    """

    decomposition: str = "vm"
    density_ranks: tuple[int, int, int] = (16, 16, 16)
    color_ranks: tuple[int, int, int] = (48, 48, 48)
    features: int = 27
    feature_octaves: int = 2
    view_octaves: int = 2
    hidden: int = 128
    density_activation: str = "softplus"
    density_bias: float = -10.0
    density_scale: float = 25.0

    @property
    def bytes_per_row(self) -> int:
        """What a query takes: looked-up components and their products, features, and their encodings."""
        encoded = self.features * (2 * self.feature_octaves + 2)
        return 4 * (3 * (sum(self.density_ranks) + sum(self.color_ranks)) + 2 * encoded + 3 * self.hidden)

    def skeleton(self) -> "FactorNetwork":
        """The architecture, of the least resolution, without memory for its weights."""
        with torch.device("meta"):
            return self.make_network((2, 2, 2), torch.zeros(2, 3))

    def make_network(self, resolution: tuple[int, int, int], aabb: torch.Tensor) -> "FactorNetwork":
        return {"vm": TensorVM, "cp": TensorCP}[self.decomposition](self, resolution, aabb)


def bilinear_corners(
    column: torch.Tensor, row: torch.Tensor, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The four entries of a `rows x columns` table around points, and their weights.

    column, row: `[P]`, in entries: 0 is the first one's centre, `columns - 1` the last one's. Points
    outside count to the border. Returns flat numbers and weights, `[P, 4]`.
    """
    (left_entry, right), (top_entry, down) = _between(column, columns), _between(row, rows)
    step_right, step_down = min(1, columns - 1), columns * min(1, rows - 1)
    first = top_entry * columns + left_entry
    index = torch.stack([first, first + step_right, first + step_down, first + step_right + step_down], -1)
    left, up = 1 - right, 1 - down
    return index, torch.stack([left * up, right * up, left * down, right * down], -1)


def linear_corners(at: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two entries of a line around points `at [P]`, and their weights, both `[P, 2]`."""
    first, right = _between(at, count)
    return torch.stack([first, first + min(1, count - 1)], -1), torch.stack([1 - right, right], -1)


def _between(at: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of points `at [P]` along `count` entries: the number of the last entry that is not beyond each, so that
    there is one more, and how far on it lies, in [0, 1]."""
    at = at.clamp(0, count - 1)
    low = at.floor().clamp(max=max(count - 2, 0))
    return low.long(), at - low


def look_up(table: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sums `[P, R]` of rows of `table [..., R]`; no gradient flows to the weights."""
    return F.embedding_bag(index, table.reshape(-1, table.shape[-1]), per_sample_weights=weight, mode="sum")


class TensorNetwork(nn.Module, ABC):
    """A box, components of density and colour in it, and the decoder."""

    def __init__(self, config: TensorfConfig, aabb: torch.Tensor, mixed: int):
        super().__init__()
        self.config = config
        self.register_buffer("aabb", aabb.float().clone())
        self.basis = nn.Linear(mixed, config.features, bias=False)
        self.embed, embedded = get_embedder(config.feature_octaves, 0, config.features)
        self.embed_views, embedded_views = get_embedder(config.view_octaves, 0, 3)
        self.decoder = nn.Sequential(
            nn.Linear(embedded + embedded_views, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, 3),
        )
        nn.init.zeros_(self.decoder[-1].bias)

    @abstractmethod
    def products(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """At points `[3, P]` in entries: density components summed `[P]`, colour components `[P, M]`."""

    @property
    @abstractmethod
    def resolution(self) -> tuple[int, int, int]:
        """Entries along x, y and z."""

    def problem(self) -> str:
        """Why nothing can be looked up in what was loaded, though its tensors have the right names; empty if it can."""
        if not all(2 <= count <= MOST_ENTRIES for count in self.resolution):
            return f"{self.resolution} entries along the axes, expected 2 to {MOST_ENTRIES}"
        return box_problem(self.aabb)

    def in_entries(self, positions: torch.Tensor) -> torch.Tensor:
        """World positions `[P, 3]` as numbers of entries `[3, P]` along each axis: 0 and `resolution - 1` at the
        box's faces."""
        unit = (positions - self.aabb[0]) / (self.aabb[1] - self.aabb[0])
        return torch.stack([unit[:, axis] * (count - 1) for axis, count in enumerate(self.resolution)])

    def raw_density(self, positions: torch.Tensor) -> torch.Tensor:
        return self.products(self.in_entries(positions))[0]

    def forward(self, positions: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Density before its activation `[P]`, and colour logits `[P, 3]`."""
        density, components = self.products(self.in_entries(positions))
        features = self.basis(components)
        return density, self.decoder(torch.cat([self.embed(features), self.embed_views(directions)], -1))


class FactorNetwork(TensorNetwork):
    """What VM and CP share: planes and lines that change their resolution in training.

    Cropping and upsampling put new parameters in the place of old ones: optimisers must be made anew.
    """

    @abstractmethod
    def factors(self) -> list[nn.Parameter]:
        """Planes and lines: what is looked up."""

    @torch.no_grad()
    def crop(self, box: torch.Tensor) -> None:
        """Keeps only the entries that points inside `box [2, 3]` look at; the box becomes theirs."""
        at = self.in_entries(box)
        last = torch.tensor(self.resolution, device=box.device) - 1
        low = at[:, 0].floor().clamp(min=torch.zeros_like(last), max=last).long()
        high = at[:, 1].ceil().clamp(min=low + 1).clamp(max=last).long()
        size = (self.aabb[1] - self.aabb[0]) / last
        self._slice(low.tolist(), (high + 1).tolist())
        self.aabb.copy_(self.aabb[0] + torch.stack([low, high]) * size)

    @abstractmethod
    def _slice(self, low: list[int], high: list[int]) -> None:
        """Keeps the entries from `low` up to, but not with, `high`."""

    @abstractmethod
    def upsample(self, resolution: tuple[int, int, int]) -> None:
        """Interpolates planes and lines to another number of entries; the field stays nearly the same."""

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Takes on the resolution of what is loaded."""
        for name, parameter in self.named_parameters():
            stored = state_dict.get(prefix + name)
            resizes = name.startswith(("planes.", "lines.")) and stored is not None and stored.ndim == parameter.ndim
            if resizes and stored.shape[-1] == parameter.shape[-1]:
                parameter.data = parameter.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def sizes_problem(resolution: tuple[int, int, int], planes: list[Sequence[int]], lines: list[int]) -> str:
    """Where planes of `[H, W]` entries and lines do not belong to one box of entries; empty if they do."""
    expected = [(resolution[row], resolution[column]) for column, row in PLANES], [resolution[axis] for axis in LINES]
    fits = ([tuple(plane) for plane in planes], lines) == expected
    return "" if fits else "planes and lines of different numbers of entries"


class TensorVM(FactorNetwork):
    """Planes times lines; for axis i both have `density_ranks[i] + color_ranks[i]` channels."""

    def __init__(self, config: TensorfConfig, resolution: tuple[int, int, int], aabb: torch.Tensor):
        super().__init__(config, aabb, sum(config.color_ranks))
        ranks = [d + c for d, c in zip(config.density_ranks, config.color_ranks, strict=True)]
        self.planes = nn.ParameterList(
            _small(0.1, resolution[row], resolution[column], r) for (column, row), r in zip(PLANES, ranks, strict=True)
        )
        self.lines = nn.ParameterList(_small(0.1, resolution[axis], r) for axis, r in zip(LINES, ranks, strict=True))

    def factors(self) -> list[nn.Parameter]:
        return [*self.planes, *self.lines]

    @property
    def resolution(self) -> tuple[int, int, int]:
        return self.planes[0].shape[1], self.planes[0].shape[0], self.lines[0].shape[0]

    def problem(self) -> str:
        sizes = [plane.shape[:2] for plane in self.planes], [len(line) for line in self.lines]
        return super().problem() or sizes_problem(self.resolution, *sizes)

    def products(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density, components = at.new_zeros(at.shape[1]), []
        for plane, line, (column, row), axis, rank in zip(
            self.planes, self.lines, PLANES, LINES, self.config.density_ranks, strict=True
        ):
            product = look_up(plane, *bilinear_corners(at[column], at[row], *plane.shape[:2]))
            product = product * look_up(line, *linear_corners(at[axis], len(line)))
            density = density + product[:, :rank].sum(-1)
            components.append(product[:, rank:])
        return density, torch.cat(components, -1)

    def _slice(self, low: list[int], high: list[int]) -> None:
        for i, (plane, (column, row)) in enumerate(zip(self.planes, PLANES, strict=True)):
            self.planes[i] = nn.Parameter(plane[low[row] : high[row], low[column] : high[column]].clone())
        for i, (line, axis) in enumerate(zip(self.lines, LINES, strict=True)):
            self.lines[i] = nn.Parameter(line[low[axis] : high[axis]].clone())

    @torch.no_grad()
    def upsample(self, resolution: tuple[int, int, int]) -> None:
        for i, (plane, (column, row)) in enumerate(zip(self.planes, PLANES, strict=True)):
            self.planes[i] = nn.Parameter(_interpolate(plane, resolution[row], resolution[column]))
        for i, (line, axis) in enumerate(zip(self.lines, LINES, strict=True)):
            self.lines[i] = nn.Parameter(_interpolate(line[:, None], resolution[axis], 1)[:, 0])


class TensorCP(FactorNetwork):
    """Products of three lines, of `sum(density_ranks) + sum(color_ranks)` channels each."""

    def __init__(self, config: TensorfConfig, resolution: tuple[int, int, int], aabb: torch.Tensor):
        super().__init__(config, aabb, sum(config.color_ranks))
        rank = sum(config.density_ranks) + sum(config.color_ranks)
        self.lines = nn.ParameterList(_small(0.2, count, rank) for count in resolution)

    def factors(self) -> list[nn.Parameter]:
        return list(self.lines)

    @property
    def resolution(self) -> tuple[int, int, int]:
        return tuple(len(line) for line in self.lines)

    def products(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = 1.0
        for axis, line in enumerate(self.lines):
            product = product * look_up(line, *linear_corners(at[axis], len(line)))
        rank = sum(self.config.density_ranks)
        return product[:, :rank].sum(-1), product[:, rank:]

    def _slice(self, low: list[int], high: list[int]) -> None:
        for axis, line in enumerate(self.lines):
            self.lines[axis] = nn.Parameter(line[low[axis] : high[axis]].clone())

    @torch.no_grad()
    def upsample(self, resolution: tuple[int, int, int]) -> None:
        for axis, (line, count) in enumerate(zip(self.lines, resolution, strict=True)):
            self.lines[axis] = nn.Parameter(_interpolate(line[:, None], count, 1)[:, 0])


def _small(size: float, *shape: int) -> torch.Tensor:
    """Normal random numbers, but for a skeleton: on the meta device they import seconds of torch's compiler."""
    values = torch.empty(shape)
    return values if values.is_meta else values.normal_().mul_(size)


def _interpolate(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A table `[..., ..., R]` with other numbers of rows and columns, its corners kept."""
    channels_first = table.permute(2, 0, 1)[None]
    resized = F.interpolate(channels_first, size=(rows, columns), mode="bilinear", align_corners=True)
    return resized[0].permute(1, 2, 0).contiguous()


class TensorField(Field):
    """A TensorNetwork as a field. Outside its box there is nothing.

    training: a `TensorfTraining`, how it grows and what keeps it smooth; None where it is not trained so.
    """

    kind = "tensorf"
    # A field that starts out empty has gradients far below Adam's usual epsilon of 1e-8.
    adam = {"betas": (0.9, 0.99), "eps": 1e-15}

    def __init__(self, config: TensorfConfig, network: TensorNetwork, training=None):
        super().__init__(config, network)
        self.training_plan = training

    def forward(self, points: Points, raw_noise: torch.Tensor | None = None) -> FieldOutput:
        raw, logits = self.network(points.positions, points.directions)
        raw = raw if raw_noise is None else raw + raw_noise
        return FieldOutput(self._density(raw, points.positions), torch.sigmoid(logits.float()))

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        """Without the decoder."""
        return self._density(self.network.raw_density(positions), positions)

    def _density(self, raw: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        inside = ((positions >= self.network.aabb[0]) & (positions <= self.network.aabb[1])).all(-1)
        return self.activate_density(raw.float()) * inside

    def parameter_groups(self) -> list[Group]:
        """Muon may take the decoder's hidden matrices: planes and lines are tables, in which a row has nothing to do
        with the next, and what mixes and what draws colours are its first and its last layer."""
        return [
            Group((parameter,), self.rate_of(name), muon=name in ("decoder.0.weight", "decoder.2.weight"))
            for name, parameter in self.network.named_parameters()
        ]

    def rate_of(self, name: str) -> float:
        """The decoder learns slower than planes and lines (TensoRF: 0.001 and 0.02)."""
        return 0.05 if name.startswith(("basis", "decoder")) else 1.0

    def losses(self, step: int, seen: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        return self.training_plan.losses(self.network, step) if self.training_plan else {}

    def after_step(self, step: int, content_box: Callable[[], torch.Tensor | None]) -> bool:
        return self.training_plan is not None and self.training_plan.after_step(self.network, step, content_box)

    def problem(self) -> str:
        return self.network.problem()


# ------------------------------------------------------------------------------------- regularisers


def density_l1(network: FactorNetwork) -> torch.Tensor:
    """The sum over planes and lines of the mean magnitude of their density channels (sec. 4.3)."""
    ranks = network.config.density_ranks
    if isinstance(network, TensorCP):
        ranks = (sum(ranks),) * 3
    return sum(factor[..., :rank].abs().mean() for factor, rank in zip(network.factors(), 2 * ranks, strict=False))


def total_variation(planes: Sequence[torch.Tensor], density_ranks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum over planes `[H, W, R]` of mean squared differences, of density and of colour channels (sec. 4.3)."""
    density = color = 0.0
    for plane, rank in zip(planes, density_ranks, strict=True):
        down, right = (plane[1:] - plane[:-1]).square(), (plane[:, 1:] - plane[:, :-1]).square()
        density = density + down[..., :rank].mean() + right[..., :rank].mean()
        color = color + down[..., rank:].mean() + right[..., rank:].mean()
    return density, color


def resolution_for(voxels: int, aabb: torch.Tensor) -> tuple[int, int, int]:
    """Entries along each axis so that a box has about so many cubic cells."""
    extent = aabb[1] - aabb[0]
    side = float(extent.prod() / voxels) ** (1 / 3)
    return tuple(max(2, int(length / side + 1e-3)) for length in extent.tolist())
