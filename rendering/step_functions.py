"""Step functions along rays: masses in bins, resampled, dilated, and held against each other.

Edges t `[R, n + 1]` ascend; masses w `[R, n]` of the bins between them are not negative and add up to at most 1.
By these mip-NeRF 360 (Barron et al. 2022, sec. 3 and 4) learns where to sample.
"""

import math

import torch

# What masses and widths are held above: float32's, whatever the precision, so that both agree.
EPS = torch.finfo(torch.float32).eps
# mip-NeRF 360's: how fast what a proposal saw comes to be trusted. What is added so that no place is ruled out.
ANNEAL_SLOPE, PADDING = 10.0, 1e-5


def cumulative(w: torch.Tensor) -> torch.Tensor:
    """The mass before each edge, `[R, n + 1]`, from 0 to 1."""
    inner = w[..., :-1].cumsum(-1).clamp_max(1)
    zero = torch.zeros_like(w[..., :1])
    return torch.cat([zero, inner, zero + 1], -1)


def invert_cdf(u: torch.Tensor, t: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Where a share `u [R, m]`, in [0, 1), of the mass lies before; w adds up to 1."""
    mass = cumulative(w)
    above = torch.searchsorted(mass.detach(), u.contiguous(), right=True).clamp(1, mass.shape[-1] - 1)
    low, high = mass.gather(-1, above - 1), mass.gather(-1, above)
    left, right = t.gather(-1, above - 1), t.gather(-1, above)
    share = ((u - low) / (high - low)).nan_to_num(0).clamp(0, 1)
    return left + share * (right - left)


def value_at(places: torch.Tensor, t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What a step function with `values [R, n]` in its bins is at `places [R, m]`; 0 outside."""
    above = torch.searchsorted(t.contiguous(), places.contiguous(), right=True)
    inside = (above > 0) & (above < t.shape[-1])
    return torch.where(inside, values.gather(-1, (above - 1).clamp(0, values.shape[-1] - 1)), 0)


def mean_between(places: torch.Tensor, t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Its mean between neighbouring places, `[R, m - 1]`, where it is defined; NaN where it nowhere is."""
    total = torch.cat([torch.zeros_like(values[..., :1]), (values * t.diff(dim=-1)).cumsum(-1)], -1)
    above = torch.searchsorted(t.contiguous(), places.contiguous(), right=True).clamp(1, t.shape[-1] - 1)
    left, right = t.gather(-1, above - 1), t.gather(-1, above)
    share = ((places - left) / (right - left)).nan_to_num(0).clamp(0, 1)
    before = torch.lerp(total.gather(-1, above - 1), total.gather(-1, above), share)
    return before.diff(dim=-1) / places.clamp(t[..., :1], t[..., -1:]).diff(dim=-1)


def quantiles(count: int, t: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
    """Evenly spaced shares of mass in [0, 1), `[R, count]`: centred, or all of a ray shifted by one number of `jitter
    [R, 1]` in [0, 1), which uses each ray's evenness and yet sees every place."""
    if jitter is None:
        pad = 1 / (2 * count)
        return torch.linspace(pad, 1 - pad - EPS, count, dtype=t.dtype, device=t.device).expand(len(t), count)
    first = EPS + (1 - EPS) / count
    room = (1 - first) / (count - 1) - EPS
    even = torch.linspace(0, 1 - first, count, dtype=t.dtype, device=t.device)
    return even + jitter * room


def sample_intervals(
    t: torch.Tensor, w: torch.Tensor, count: int, jitter: torch.Tensor | None = None, domain: tuple = (0.0, 1.0)
) -> torch.Tensor:
    """Edges `[R, count + 1]` of bins whose centres are quantiles of (t, w): edges lie half way between centres, and the
    outermost as far from theirs as the next ones, within the domain."""
    centres = invert_cdf(quantiles(count, t, jitter), t, w)
    middle = (centres[..., 1:] + centres[..., :-1]) / 2
    first, last = 2 * centres[..., :1] - middle[..., :1], 2 * centres[..., -1:] - middle[..., -1:]
    return torch.cat([first, middle, last], -1).clamp(*domain)


def next_bins(
    t: torch.Tensor, w: torch.Tensor, count: int, reach: float, trust: float, jitter: torch.Tensor | None
) -> torch.Tensor:
    """Edges `[R, count + 1]` of bins drawn from what a level saw, widened by `reach` to either side (0: as it is).
    trust: from 0, by which all places are alike, to 1 (mip-NeRF 360, supplement: annealing)."""
    if reach:
        t, w = dilated(t, w, reach)
        t, w = t[:, 1:-1], w[:, 1:-1]
    anneal = ANNEAL_SLOPE * trust / ((ANNEAL_SLOPE - 1) * trust + 1)
    logits = torch.where(t[:, 1:] > t[:, :-1], anneal * (w + PADDING).log(), -math.inf)
    return sample_intervals(t, torch.softmax(logits, -1), count, jitter)


def dilated(
    t: torch.Tensor, w: torch.Tensor, reach: float, domain: tuple = (0.0, 1.0)
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest density within `reach` of every place, as edges `[R, 3n + 1]` and masses that add up to 1: what a
    proposal saw in one view also holds a little to either side (mip-NeRF 360, supplement)."""
    density = w / (t[..., 1:] - t[..., :-1]).clamp_min(EPS**2)
    starts, ends = t[..., :-1] - reach, t[..., 1:] + reach
    edges = torch.cat([t, starts, ends], -1).sort(-1).values.clamp(*domain)
    at = edges[..., :-1].contiguous()
    first = torch.searchsorted(ends.contiguous(), at, right=True)  # of the bins that reach so far
    last = torch.searchsorted(starts.contiguous(), at, right=True) - 1
    mass = largest_between(density, first, last) * (edges[..., 1:] - edges[..., :-1])
    return edges, mass / mass.sum(-1, keepdim=True).clamp_min(EPS**2)


def largest_between(values: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The largest of `values [R, n]` from place `first` to `last`, both `[R, m]`; 0 where there is none.

    From the maxima of all stretches of 1, 2, 4, ... values: two of them cover any stretch."""
    tables, step = [values], 1
    while 2 * step <= values.shape[-1]:
        table = tables[-1]
        tables.append(torch.cat([torch.maximum(table[..., :-step], table[..., step:]), table[..., -step:]], -1))
        step *= 2
    count = last - first + 1
    level = (count.clamp_min(1) * 1.0).log2().floor().long()  # exact: powers of two are
    flat, n = torch.cat(tables, -1), values.shape[-1]
    left = (level * n + first).clamp(0, flat.shape[-1] - 1)
    right = (level * n + last + 1 - 2**level).clamp(0, flat.shape[-1] - 1)
    largest = torch.maximum(flat.gather(-1, left), flat.gather(-1, right))
    return torch.where(count > 0, largest, 0)


def outer_measure(t: torch.Tensor, t_envelope: torch.Tensor, w_envelope: torch.Tensor) -> torch.Tensor:
    """For each bin of t `[R, n]` the mass of all bins of an envelope that touch it (mip-NeRF 360, eq. 12)."""
    mass = torch.cat([torch.zeros_like(w_envelope[..., :1]), w_envelope.cumsum(-1)], -1)
    after = torch.searchsorted(t_envelope.contiguous(), t.contiguous(), right=True)  # the first edge beyond each
    low = (after - 1).clamp(0, t_envelope.shape[-1] - 1)
    high = after.clamp(0, t_envelope.shape[-1] - 1)
    return mass.gather(-1, high)[..., 1:] - mass.gather(-1, low)[..., :-1]


def interlevel_loss(
    t: torch.Tensor, w: torch.Tensor, t_envelope: torch.Tensor, w_envelope: torch.Tensor
) -> torch.Tensor:
    """How far masses w stick out of an envelope, bin by bin `[R, n]` (mip-NeRF 360, eq. 13)."""
    beyond = (w - outer_measure(t, t_envelope, w_envelope)).clamp_min(0)
    return beyond.square() / (w + EPS)


def distortion_loss(t: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """How spread out masses are along each ray `[R]` (mip-NeRF 360, eq. 15): the expected distance of two places drawn
    by them. In one pass over the bins, from the masses before each: bins ascend, so no |m_i - m_j| is needed."""
    middle = (t[..., 1:] + t[..., :-1]) / 2
    before = w.cumsum(-1) - w
    moment = (w * middle).cumsum(-1) - w * middle
    between = 2 * (w * (middle * before - moment)).sum(-1)
    within = (w.square() * (t[..., 1:] - t[..., :-1])).sum(-1) / 3
    return between + within
