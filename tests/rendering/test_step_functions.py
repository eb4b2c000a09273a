"""Step functions: resampling, dilation and the losses of proposals, against brute force and by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rendering.step_functions import (
    dilated,
    distortion_loss,
    interlevel_loss,
    invert_cdf,
    mean_between,
    outer_measure,
    quantiles,
    sample_intervals,
    value_at,
)


def step_function(seed: int, rays: int = 6, bins: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges in [0, 1] and masses that add up to 1."""
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(rays, bins + 1, generator=g, dtype=torch.float64).sort(-1).values
    w = torch.rand(rays, bins, generator=g, dtype=torch.float64) ** 4
    return t, w / w.sum(-1, keepdim=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 40), st.booleans())
def test_samples_ascend_within_the_domain(seed, count, jittered):
    t, w = step_function(seed)
    jitter = torch.rand(len(t), 1, dtype=torch.float64) if jittered else None
    edges = sample_intervals(t, w, count, jitter)
    assert edges.shape == (len(t), count + 1)
    assert (edges.diff(dim=-1) >= -1e-12).all() and edges.min() >= 0 and edges.max() <= 1


def test_samples_follow_the_mass():
    """Of many quantiles the share in each bin is its mass, with jitter too."""
    t, w = step_function(3)
    for jitter in (None, torch.full((len(t), 1), 0.7, dtype=torch.float64)):
        at = invert_cdf(quantiles(20_000, t, jitter), t, w)
        for ray in range(len(t)):
            share = torch.histogram(at[ray], t[ray]).hist / 20_000
            torch.testing.assert_close(share, w[ray], atol=2e-4, rtol=0)


def test_inverse_of_the_cumulative_mass():
    t, w = torch.tensor([[0.0, 1, 2, 4]]), torch.tensor([[0.5, 0.0, 0.5]])
    u = torch.tensor([[0.0, 0.25, 0.5, 0.75, 0.999999]])
    torch.testing.assert_close(invert_cdf(u, t, w), torch.tensor([[0.0, 0.5, 2, 3, 4]]), atol=1e-5, rtol=0)


def test_dilation_is_the_highest_density_nearby():
    t, w = step_function(1)
    reach = 0.03
    edges, mass = dilated(t, w, reach)
    density = w / t.diff(dim=-1)
    raw = torch.zeros_like(mass)
    for ray in range(len(t)):
        for j in range(mass.shape[-1]):
            at = edges[ray, j]
            near = (t[ray, :-1] - reach <= at) & (at < t[ray, 1:] + reach)
            raw[ray, j] = density[ray][near].max() * (edges[ray, j + 1] - at) if near.any() else 0
    torch.testing.assert_close(mass, raw / raw.sum(-1, keepdim=True))


def test_an_exact_envelope_costs_nothing():
    t, w = step_function(5)
    assert interlevel_loss(t, w, t, w).max() < 1e-12
    wider = t[:, ::3], torch.stack([w[:, i : i + 3].sum(-1) for i in (0, 3, 6)], -1)
    assert interlevel_loss(t, w, *wider).max() < 1e-12


def test_what_sticks_out_costs():
    t = torch.tensor([[0.0, 1, 2]], dtype=torch.float64)
    w, envelope = torch.tensor([[0.6, 0.4]], dtype=torch.float64), torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    # Bin 0 touches the envelope's bins 0 and 1 (edges count as touching the next), bin 1 bin 1 only.
    torch.testing.assert_close(outer_measure(t, t, envelope), torch.tensor([[0.7, 0.4]], dtype=torch.float64))
    narrow = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    expected = torch.tensor([[0.3**2 / 0.6, 0.2**2 / 0.4]], dtype=torch.float64)
    torch.testing.assert_close(interlevel_loss(t, w, t, narrow), expected, rtol=1e-6, atol=0)


def test_distortion_is_the_double_sum():
    t, w = step_function(7)
    middle = (t[:, 1:] + t[:, :-1]) / 2
    apart = (middle[:, :, None] - middle[:, None, :]).abs()
    expected = (w[:, :, None] * w[:, None, :] * apart).sum((1, 2)) + (w.square() * t.diff(dim=-1)).sum(-1) / 3
    torch.testing.assert_close(distortion_loss(t, w), expected)


def test_distortion_by_hand():
    """Half of the mass in [0, 1], half in [1, 2]: 2 * 1/4 * 1 + 1/3 * (1/4 + 1/4); all in a bin of width 2: 2/3."""
    t = torch.tensor([[0.0, 1, 2]])
    assert distortion_loss(t, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.5 + 1 / 6)
    assert distortion_loss(torch.tensor([[0.0, 2]]), torch.tensor([[1.0]])).item() == pytest.approx(2 / 3)


def test_a_step_function_at_places_and_between_them():
    t, values = torch.tensor([[0.0, 1, 3]]), torch.tensor([[4.0, 1]])
    places = torch.tensor([[-1.0, 0, 0.5, 1, 2.9, 3, 4]])
    assert value_at(places, t, values)[0].tolist() == [0, 4, 4, 1, 1, 0, 0]
    means = mean_between(torch.tensor([[0.0, 0.5, 1, 2, 3]]), t, values)
    assert means[0].tolist() == [4, 4, 1, 1]
    assert mean_between(torch.tensor([[0.5, 2.5]]), t, values).item() == pytest.approx((0.5 * 4 + 1.5) / 2)
