"""Cones: their Gaussians against Monte Carlo, contraction against autograd, encodings against integrals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rendering.cones import (
    axes,
    contract,
    cylinder_moments,
    frustum_moments,
    integrated_encoding,
    project,
    project_bins,
    uncontract,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frustum_points(t_start: float, t_end: float, radius: float, direction: torch.Tensor, count: int) -> torch.Tensor:
    """Uniform points `[count, 3]` of a frustum: t with density t^2, then a disc of radius t * radius."""
    g = generator()
    u = torch.rand(count, generator=g, dtype=torch.float64)
    t = (t_start**3 + u * (t_end**3 - t_start**3)) ** (1 / 3)
    size = radius * t * torch.rand(count, generator=g, dtype=torch.float64).sqrt()
    angle = 2 * math.pi * torch.rand(count, generator=g, dtype=torch.float64)
    unit = direction / direction.norm()
    side = torch.linalg.cross(unit, torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64))
    side = side / side.norm()
    other = torch.linalg.cross(unit, side)
    offset = size[:, None] * (angle.cos()[:, None] * side + angle.sin()[:, None] * other)
    return t[:, None] * direction + offset


@pytest.mark.parametrize("length", [1.0, 2.7])
def test_moments_are_those_of_a_million_points(length):
    direction = length * torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), dim=0)
    t_start, t_end, radius = 0.8, 1.9, 0.15
    points = frustum_points(t_start, t_end, radius, direction, 1_000_000)
    moments = frustum_moments(*(torch.tensor([x], dtype=torch.float64) for x in (t_start, t_end, radius)))
    basis = axes(21)
    seen = project(torch.zeros(1, 3, dtype=torch.float64), direction[None], moments, basis)
    along = points @ basis.T
    torch.testing.assert_close(seen.mean[0], along.mean(0), atol=3e-3, rtol=0)
    torch.testing.assert_close(seen.variance[0], along.var(0), atol=0, rtol=1e-2)


def test_moments_by_hand():
    """From the apex to 1 t has density 3 t^2: mean 3/4, mean square 3/5; across, discs have a quarter of r^2 t^2."""
    one = torch.ones(1, dtype=torch.float64)
    moments = frustum_moments(0 * one, one, 2 * one)
    assert moments.t_mean.item() == pytest.approx(3 / 4)
    assert moments.t_var.item() == pytest.approx(3 / 5 - 9 / 16)
    assert moments.r_var.item() == pytest.approx(2**2 * 3 / 5 / 4)


@settings(deadline=None)
@given(st.floats(0, 1e4), st.floats(1e-6, 1e4), st.floats(1e-6, 1e-1))
def test_moments_stay_inside_in_float32(start, length, radius):
    t0, t1 = torch.tensor([start]), torch.tensor([start + length])
    moments = frustum_moments(t0, t1, torch.tensor([radius]))
    assert t0 <= moments.t_mean <= t1 * (1 + 1e-6)
    assert moments.t_var >= 0 and moments.r_var >= 0
    assert moments.t_var <= (t1 - t0) ** 2 / 4 + 1e-12


def test_contraction_is_the_identity_inside_and_ends_at_two():
    x = torch.randn(1000, 3, generator=generator(), dtype=torch.float64) * torch.logspace(-3, 6, 1000)[:, None]
    z = contract(x)
    inside = x.norm(dim=-1) <= 1
    assert torch.equal(z[inside], x[inside]) and (z.norm(dim=-1) < 2).all()
    torch.testing.assert_close(uncontract(z), x, rtol=1e-6, atol=0)
    torch.testing.assert_close(contract(torch.tensor([[0.0, 0, 4]])), torch.tensor([[0.0, 0, 2 - 1 / 4]]))


def test_variance_in_contracted_space_is_that_of_the_jacobian():
    """J S J^T along each direction, with autograd's J and the whole covariance S."""
    count = 50
    origins = torch.randn(count, 3, generator=generator(1), dtype=torch.float64)
    directions = torch.randn(count, 3, generator=generator(2), dtype=torch.float64)
    t = torch.rand(2, count, generator=generator(3), dtype=torch.float64).sort(0).values * 8
    moments = frustum_moments(*t, torch.full((count,), 0.05, dtype=torch.float64))
    basis = axes(21)
    seen = project(origins, directions, moments, basis, contracted=True)
    means = origins + moments.t_mean[:, None] * directions
    for i in range(count):
        d = directions[i]
        across = torch.eye(3, dtype=torch.float64) - torch.outer(d, d) / d.square().sum()
        covariance = moments.t_var[i] * torch.outer(d, d) + moments.r_var[i] * across
        jacobian = torch.autograd.functional.jacobian(contract, means[i])
        expected = jacobian @ covariance @ jacobian.T
        torch.testing.assert_close(seen.mean[i], basis @ contract(means[i]))
        torch.testing.assert_close(seen.variance[i], torch.einsum("ni,ij,nj->n", basis, expected, basis))


def test_encoding_is_the_expectation():
    """Against Gauss-Hermite quadrature of E sin(2^k x) and E cos(2^k x)."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    mean = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    variance = torch.tensor([[0.01, 0.3, 0.0]], dtype=torch.float64)
    encoded = integrated_encoding(mean, variance, 4).view(4, 2, 3)
    for octave in range(4):
        x = 2**octave * (mean[0] + variance[0].sqrt() * nodes[:, None])
        torch.testing.assert_close(encoded[octave, 0], (weights[:, None] * x.sin()).sum(0), atol=1e-9, rtol=0)
        torch.testing.assert_close(encoded[octave, 1], (weights[:, None] * x.cos()).sum(0), atol=1e-9, rtol=0)


def test_an_encoding_without_variance_is_nerfs():
    from run_nerf_helpers import Embedder

    x = torch.randn(20, 3, generator=generator())
    torch.testing.assert_close(integrated_encoding(x, torch.zeros_like(x), 5), Embedder(5)(x)[:, 3:])


def test_the_directions_of_an_icosahedron():
    basis = axes(21)
    torch.testing.assert_close(basis.norm(dim=-1), torch.ones(21, dtype=torch.float64))
    products = (basis @ basis.T).abs().fill_diagonal_(0)
    assert products.max() < 0.86  # no two alike or opposite
    # Spread evenly: the sum of squared projections is the same for every direction.
    torch.testing.assert_close(basis.T @ basis, 7 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("contracted", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_bins_of_rays_are_projected_as_each_of_them(contracted, parallel):
    """From a few numbers a ray what `project` says of every bin, in the unit ball, across its border and far off."""
    generator = torch.Generator().manual_seed(3)
    origins = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 0.7
    directions = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    radii = 0.01 * torch.rand(50, generator=generator, dtype=torch.float64)
    t = torch.rand(50, 13, generator=generator, dtype=torch.float64).mul(4).exp().sub(1).sort(-1).values
    basis = axes(9)
    moments = cylinder_moments if parallel else frustum_moments
    together = project_bins(origins, directions, moments(t[:, :-1], t[:, 1:], radii[:, None]), basis, contracted)
    each = [part.repeat_interleave(12, 0) for part in (origins, directions, radii)]
    of_each = moments(t[:, :-1].reshape(-1), t[:, 1:].reshape(-1), each[2])
    alone = project(each[0], each[1], of_each, basis, contracted)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.flatten(1).T, b, rtol=1e-8, atol=1e-11)
