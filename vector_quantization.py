"""VQ-TensoRF: planes whose entries are pruned, shared from a codebook, or kept (Li et al. 2023, CVPR).

An entry of a plane is a vector of channels. Those that hardly matter to the training rays are
pruned, those that matter most are kept, and those between are replaced by codes of a codebook, one
for their density channels and one for their colour channels. Sharing is exact: a plane is a table of
row numbers into codes and kept vectors, so training moves all users of a code together. Every number
is trained through its rounding, with a step that is learnt as well, and pays for the bits that an
adaptive coder would spend on it.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn as nn

from rendering import OccupancyRenderer, Rays, packed_weights, query_samples
from tensorf import (
    LINES,
    PLANES,
    TensorField,
    TensorNetwork,
    TensorVM,
    bilinear_corners,
    linear_corners,
    look_up,
    sizes_problem,
)

PRUNED, CODED, KEPT = 0, 1, 2  # states of a plane's entry
STEP = 0.15  # first step of rounding a plane, in root mean squares of what is rounded; of all else half of that
Q_MAX = 127
LEAST_SCALE = 0.04  # of a channel's values in steps: what an adaptive coder still learns of all-zero ones
ITERATIONS = 60  # of fitting a codebook, one batch each
CODEBOOK_DECAY = 0.9  # of the moving averages of a code, from one batch to the next
DEAD = 0.05  # codes with less than this share of the mean weight start anew


# ------------------------------------------------------------------------- rounding, and its price


class _RoundToStep(torch.autograd.Function):
    """x to whole multiples of a step, at most Q_MAX; gradients of LSQ (Esser et al. 2020, eq. 3)."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, step)
        return (x / step).round_().clamp_(-Q_MAX, Q_MAX).mul_(step)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, step = ctx.saved_tensors
        scaled = x / step
        inside = scaled.abs() <= Q_MAX
        d_step = gradient * (scaled.round().clamp(-Q_MAX, Q_MAX) - scaled * inside)
        return gradient * inside, d_step.sum_to_size(step.shape)


def laplace_bits(scaled: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """-log2 of what a Laplace distribution of a scale gives the unit interval around `scaled`."""
    far = scaled.abs()
    tail = -(far - 0.5) / scale + torch.log(-0.5 * torch.expm1(-1 / scale))
    near = (0.5 - far).clamp_min(0)  # where the interval holds zero
    middle = torch.log1p(-0.5 * (torch.exp(-near / scale) + torch.exp(-(0.5 + far) / scale)))
    return torch.where(far < 0.5, middle, tail) / -math.log(2)


class RoundedTensor(nn.Module):
    """A trained tensor `[..., R]` that is rounded to steps, one for each group of channels.

    value: the latent floats. log_step: `[G]`, natural logarithm. groups: channels of each group.
    """

    def __init__(self, value: torch.Tensor, groups: tuple[int, ...], step: float):
        super().__init__()
        self.groups = groups
        self.value = nn.Parameter(value.detach().clone())
        parts = self.value.detach().split(groups, -1)
        sizes = torch.stack([part.square().mean().sqrt() if part.numel() else part.new_ones(()) for part in parts])
        self.log_step = nn.Parameter((step * sizes).clamp_min(1e-6).log())

    def steps(self) -> torch.Tensor:
        """Of every channel `[R]`."""
        # Nothing here asks the device how long it is, as repeat_interleave would.
        return torch.cat([step.expand(size) for step, size in zip(self.log_step.exp(), self.groups, strict=True)])

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Takes on the number of rows of what is loaded."""
        stored = state_dict.get(f"{prefix}value")
        if stored is not None and stored.shape[1:] == self.value.shape[1:]:
            self.value.data = self.value.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self) -> torch.Tensor:
        return _RoundToStep.apply(self.value, self.steps())

    def integers(self) -> torch.Tensor:
        return (self.value / self.steps()).round().clamp(-Q_MAX, Q_MAX).to(torch.int8)

    def bits(self, share: int = 1, start: int = 0) -> torch.Tensor:
        """What storing it costs; estimated from every `share`-th of its rows from `start` on."""
        if not self.value.numel():
            return self.value.new_zeros(())
        rows = self.value.reshape(-1, self.value.shape[-1])
        rows = rows[start % min(share, len(rows)) :: share]
        scaled = rows / self.steps()
        scale = scaled.detach().abs().mean(0).clamp_min(LEAST_SCALE)
        return laplace_bits(scaled, scale).sum() * (self.value.numel() / scaled.numel())


class RoundedLinear(nn.Module):
    """A linear layer with a RoundedTensor for its weight."""

    def __init__(self, layer: nn.Linear, step: float):
        super().__init__()
        self.weight = RoundedTensor(layer.weight, (layer.in_features,), step)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight(), self.bias)


# ---------------------------------------------------------------------------------------- the field


class VQTensorVM(TensorNetwork):
    """A TensorVM whose planes are tables of rows.

    tables: for each plane `[K + n, R]`, codes first, then kept vectors in the order of their entries.
    rows: for each plane `[2, H, W]` (density, colour) numbers of rows, from 1; 0 stands for zeros.
    codes: how many rows of each table are codes, `[3]`.
    """

    def __init__(self, network: TensorVM, states: list[torch.Tensor], codes, numbers):
        """states: of each plane `[H, W]`; codes: `[K, R]`; numbers: `[2, H, W]` codes of CODED entries."""
        super().__init__(network.config, network.aabb, 1)
        self.tables, self.lines = nn.ModuleList(), nn.ModuleList()
        self.register_buffer("codes", torch.tensor([len(code) for code in codes]))
        groups = list(zip(network.config.density_ranks, network.config.color_ranks, strict=True))
        for i, (plane, state, code, number) in enumerate(zip(network.planes, states, codes, numbers, strict=True)):
            kept = state == KEPT
            self.tables.append(RoundedTensor(torch.cat([code, plane.detach()[kept]]), groups[i], STEP))
            rows = torch.zeros((2, *state.shape), dtype=torch.int32, device=state.device)
            rows[:, state == CODED] = 1 + number[:, state == CODED].int()
            rows[:, kept] = 1 + len(code) + torch.arange(int(kept.sum()), dtype=torch.int32, device=state.device)
            self.register_buffer(f"rows_{i}", rows)
        for line, group in zip(network.lines, groups, strict=True):
            self.lines.append(RoundedTensor(line, group, 0.5 * STEP))
        self.basis = RoundedLinear(network.basis, 0.5 * STEP)
        self.decoder = nn.Sequential(
            *(RoundedLinear(layer, 0.5 * STEP) if isinstance(layer, nn.Linear) else layer for layer in network.decoder)
        )

    @property
    def rows(self) -> list[torch.Tensor]:
        return [self.rows_0, self.rows_1, self.rows_2]

    @property
    def resolution(self) -> tuple[int, int, int]:
        return self.rows_0.shape[2], self.rows_0.shape[1], self.lines[0].value.shape[0]

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Takes on the resolution of what is loaded."""
        for i in range(3):
            stored = state_dict.get(f"{prefix}rows_{i}")
            if stored is not None and stored.ndim == 3:
                setattr(self, f"rows_{i}", self.rows[i].new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def problem(self) -> str:
        sizes = [rows.shape[1:] for rows in self.rows], [len(line.value) for line in self.lines]
        problem = super().problem() or sizes_problem(self.resolution, *sizes)
        for rows, table, codes in zip(self.rows, self.tables, self.codes.tolist(), strict=True):
            count = len(table.value)
            if not problem and not (0 <= codes <= count and rows.min() >= 0 and rows.max() <= count and len(rows) == 2):
                problem = f"rows beyond the {count} of a table"
        return problem

    def states(self) -> list[torch.Tensor]:
        """Of each plane's entries, `[H, W]`: PRUNED, CODED or KEPT."""
        return [
            torch.where(rows[0] == 0, PRUNED, torch.where(rows[0] <= count, CODED, KEPT))
            for rows, count in zip(self.rows, self.codes, strict=True)
        ]

    def rounded(self) -> dict[str, RoundedTensor]:
        return {name: module for name, module in self.named_modules() if isinstance(module, RoundedTensor)}

    def bits(self, share: int = 1, start: int = 0) -> torch.Tensor:
        """An estimate of what all rounded numbers take in the file; row numbers are not in it."""
        return sum(tensor.bits(share, start) for tensor in self.rounded().values())

    @torch.no_grad()
    def coarsen(self, factor: float) -> None:
        """Makes all steps larger by a factor; what is rounded stays."""
        for tensor in self.rounded().values():
            tensor.log_step += math.log(factor)

    def products(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density, components = at.new_zeros(at.shape[1]), []
        for i, ((column, row), axis, rank) in enumerate(zip(PLANES, LINES, self.config.density_ranks, strict=True)):
            rows, table = self.rows[i], self.tables[i]()
            index, weight = bilinear_corners(at[column], at[row], *rows.shape[1:])
            entries = torch.cat([table.new_zeros(1, table.shape[1]), table])
            line = self.lines[i]()
            of_line = look_up(line, *linear_corners(at[axis], len(line)))
            of_plane = [
                look_up(part.contiguous(), numbers.view(-1)[index], weight)
                for part, numbers in zip(entries.split(self.tables[i].groups, -1), rows, strict=True)
            ]
            density = density + (of_plane[0] * of_line[:, :rank]).sum(-1)
            components.append(of_plane[1] * of_line[:, rank:])
        return density, torch.cat(components, -1)

    def planes(self) -> list[torch.Tensor]:
        """Written out, `[H, W, R]` each, with gradients to codes and kept vectors."""
        planes = []
        for table, rows in zip(self.tables, self.rows, strict=True):
            values = table()
            entries = torch.cat([values.new_zeros(1, values.shape[1]), values])
            parts = zip(rows, entries.split(table.groups, -1), strict=True)
            planes.append(torch.cat([nn.functional.embedding(numbers, part) for numbers, part in parts], -1))
        return planes

    @torch.no_grad()
    def dense(self) -> TensorVM:
        """The same field with its planes written out."""
        network = TensorVM(self.config, self.resolution, self.aabb)
        for i, plane in enumerate(self.planes()):
            network.planes[i].copy_(plane)
            network.lines[i].copy_(self.lines[i]())
        network.basis.weight.copy_(self.basis.weight())
        for ours, theirs in zip(network.decoder, self.decoder, strict=True):
            if isinstance(ours, nn.Linear):
                ours.weight.copy_(theirs.weight())
                ours.bias.copy_(theirs.bias)
        return network.to(self.aabb.device)


# -------------------------------------------------------------------------------- what matters most


@torch.no_grad()
def plane_importance(renderer: OccupancyRenderer, rays: Iterable[Rays]) -> list[torch.Tensor]:
    """For each plane `[H, W]`: the rendering weights of all samples, shared out by bilinear footprint."""
    network = renderer.field.network
    totals = [plane.new_zeros(plane.shape[0] * plane.shape[1]) for plane in network.planes]
    for part in rays:
        samples = renderer.march(part)
        if not len(samples):
            continue
        density, _ = query_samples(renderer.field, part, samples)
        weights, _ = packed_weights(density, samples)
        points = part.take(samples.ray)
        at = network.in_entries(points.origins + samples.t[:, None] * points.directions)
        for total, plane, (column, row) in zip(totals, network.planes, PLANES, strict=True):
            index, footprint = bilinear_corners(at[column], at[row], *plane.shape[:2])
            total.index_add_(0, index.view(-1), (footprint * weights[:, None]).view(-1))
    return [total.view(plane.shape[:2]) for total, plane in zip(totals, network.planes, strict=True)]


def split_by_importance(importance: torch.Tensor, kept: float, pruned: float) -> torch.Tensor:
    """States of a plane's entries `[H, W]`: the most important are kept until they hold the share
    `kept` of all importance, the least important pruned as long as they hold less than `pruned`."""
    flat = importance.reshape(-1)
    order = flat.argsort(descending=True)
    passed = flat[order].double().cumsum(0) / flat.double().sum().clamp_min(1e-30)
    before = torch.cat([passed.new_zeros(1), passed[:-1]])
    states = torch.full(flat.shape, CODED, dtype=torch.uint8, device=flat.device)
    states[order[before < kept]] = KEPT
    states[order[(before >= kept) & (before >= 1 - pruned)]] = PRUNED
    states[flat == 0] = PRUNED
    return states.view(importance.shape)


@torch.no_grad()
def balance(network: TensorVM) -> None:
    """Moves the size of every channel from lines and mixing matrix into planes; the field stays the same.

    An error of one size in any channel of a plane is then an error of about one size in what is made
    of it, which one step for all and distances between vectors both take for granted.
    """
    start = 0
    for plane, line, rank in zip(network.planes, network.lines, network.config.density_ranks, strict=True):
        size = line.square().mean(0).sqrt().clamp_min(1e-8)
        end = start + plane.shape[-1] - rank
        column = network.basis.weight[:, start:end].square().mean(0).sqrt().clamp_min(1e-8)
        mean = column.mean()
        network.basis.weight[:, start:end] *= mean / column
        line /= size
        plane *= size * torch.cat([torch.ones_like(size[:rank]), column / mean])
        start = end


# ----------------------------------------------------------------------------------------- codebooks


@torch.no_grad()
def fit_codebook(
    vectors: torch.Tensor,
    weight: torch.Tensor,
    count: int,
    generator: torch.Generator,
    iterations: int = ITERATIONS,
    batch: int = 16384,
) -> torch.Tensor:
    """Codes `[count, R]` that are near to vectors `[N, R]` of weight `[N]`, N > 0; fewer if N is fewer.

    A k-means++ start (Arthur and Vassilvitskii 2007), then k-means by moving averages over batches
    (van den Oord et al. 2017, appendix A.1). Codes that nothing is near to start anew at the vectors
    with the largest weighted errors.
    """
    if len(vectors) <= count:
        return vectors.clone()
    some = _draw(torch.ones_like(weight), min(len(vectors), batch), generator)
    codes = _plus_plus(vectors[some], weight[some], count, generator)
    mass, total = vectors.new_zeros(count), torch.zeros_like(codes)
    for _ in range(iterations):
        part = _draw(weight, min(len(vectors), batch), generator) if len(vectors) > batch else slice(None)
        x, w = vectors[part], weight[part]
        nearest, error = assign(x, codes)
        mass = mass * CODEBOOK_DECAY + torch.zeros_like(mass).index_add_(0, nearest, w) * (1 - CODEBOOK_DECAY)
        total = total * CODEBOOK_DECAY
        total += torch.zeros_like(total).index_add_(0, nearest, x * w[:, None]) * (1 - CODEBOOK_DECAY)
        codes = torch.where(mass[:, None] > 0, total / mass.clamp_min(1e-20)[:, None], codes)
        dead = (mass < DEAD * mass.mean()).nonzero()[:, 0][: len(x)]
        worst = (error * w).topk(len(dead)).indices
        codes[dead], mass[dead], total[dead] = x[worst], w[worst], x[worst] * w[worst, None]
    return codes[codes.square().sum(-1).argsort()]  # neighbours in the file tell of each other


def _draw(weight: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of `count` different vectors, drawn by weight (Efraimidis and Spirakis 2006)."""
    uniform = torch.rand(len(weight), generator=generator, device=weight.device).clamp_min(1e-12)
    return (uniform.log() / weight.clamp_min(1e-20)).topk(count).indices


def _plus_plus(x: torch.Tensor, weight: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    chosen = [_draw(weight, 1, generator)]
    distance = torch.full((len(x),), torch.inf, device=x.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(-1))
        chosen.append(_draw(weight * distance, 1, generator))
    return x[torch.cat(chosen)].clone()


def assign(vectors: torch.Tensor, codes: torch.Tensor, chunk: int = 8192) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of the nearest code of each vector, and its squared distance, both `[N]`."""
    numbers, errors = [], []
    size = codes.square().sum(-1)
    for part in vectors.split(chunk):
        distance = torch.addmm(size, part, codes.T, alpha=-2)
        nearest = distance.min(-1)
        numbers.append(nearest.indices)
        errors.append((nearest.values + part.square().sum(-1)).clamp_min(0))
    return torch.cat(numbers), torch.cat(errors)


def vector_quantize(
    field: TensorField,
    importance: list[torch.Tensor],
    kept: float,
    pruned: float,
    codebook_size: int,
    seed: int,
    iterations: int = ITERATIONS,
) -> VQTensorVM:
    """A trained VM field in three kinds of entries; `kept`, `pruned`: as in `split_by_importance`, `iterations`:
    as in `fit_codebook`."""
    network = field.network
    generator = torch.Generator(network.aabb.device).manual_seed(seed)
    states, codebooks, numbers = [], [], []
    for plane, matter, rank in zip(network.planes, importance, network.config.density_ranks, strict=True):
        state = split_by_importance(matter, kept, pruned)
        coded = state == CODED
        number = torch.zeros((2, *state.shape), dtype=torch.long, device=state.device)
        groups = plane.detach()[coded].split([rank, plane.shape[-1] - rank], -1)
        codes = []
        for group, vectors in enumerate(groups):
            if len(vectors):
                codes.append(fit_codebook(vectors, matter[coded], codebook_size, generator, iterations))
                number[group, coded] = assign(vectors, codes[-1])[0]
            else:
                codes.append(vectors)
        states.append(state)
        codebooks.append(torch.cat(codes, -1))
        numbers.append(number)
    return VQTensorVM(network, states, codebooks, numbers)


@torch.no_grad()
def relative_error(network: VQTensorVM, planes: Sequence[torch.Tensor], importance: Sequence[torch.Tensor]) -> float:
    """What the network's planes lost of `planes [H, W, R]`: the squared error of density and of colour channels,
    weighted by importance `[H, W]`, each relative to the weighted square of what it was, and added."""
    errors, squares = torch.zeros(2), torch.zeros(2)
    for ours, plane, matter, rank in zip(
        network.planes(), planes, importance, network.config.density_ranks, strict=True
    ):
        for total, values in ((errors, ours - plane), (squares, plane)):
            by_channel = (values.square() * matter[..., None]).sum((0, 1)).cpu()
            total += torch.stack([by_channel[:rank].sum(), by_channel[rank:].sum()])
    return float((errors / squares.clamp_min(1e-30)).sum())
