"""What of a TensoRF's planes matters to the training rays, and codebooks for what matters less.

VQ-TensoRF (Li et al. 2023, CVPR): an entry of a plane is a vector of channels. Those that hardly matter are
pruned, those that matter most are kept, and those between are replaced by codes of a codebook, one
for their density channels and one for their colour channels. What is trained then is in `fields.vq_tensorf`.
"""

from collections.abc import Iterable, Sequence

import torch

from fields.tensorf import (
    PLANES,
    TensorField,
    TensorVM,
    bilinear_corners,
)
from fields.vq_tensorf import CODED, KEPT, PRUNED, VQTensorVM
from rendering.compositing import packed_weights
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.queries import query_samples
from rendering.rays import Rays

ITERATIONS = 60  # of fitting a codebook, one batch each
CODEBOOK_DECAY = 0.9  # of the moving averages of a code, from one batch to the next
DEAD = 0.05  # codes with less than this share of the mean weight start anew


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
        density = query_samples(renderer.field, part, samples).density
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
