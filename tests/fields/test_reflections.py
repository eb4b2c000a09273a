"""Reflected directions: harmonics against quadrature and closed forms, mirrors, linear colour."""

import math

import pytest
import torch

from fields.reflections import (
    degrees_of,
    directional_encoding,
    encoding_width,
    linear_to_srgb,
    reflect,
    srgb_to_linear,
    unit,
)


def sphere(rows: int = 64, columns: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and weights of a quadrature that is exact for harmonics up to degree 60: Gauss-Legendre times even
    angles."""
    import numpy as np

    z, share = (torch.tensor(part) for part in np.polynomial.legendre.leggauss(rows))
    angle = 2 * math.pi * torch.arange(columns, dtype=torch.float64) / columns
    across = (1 - z.square()).sqrt()[:, None]
    directions = torch.stack(torch.broadcast_tensors(across * angle.cos(), across * angle.sin(), z[:, None]), -1)
    weights = (share[:, None] * 2 * math.pi / columns).expand(rows, columns)
    return directions.reshape(-1, 3), weights.reshape(-1)


def harmonics(directions: torch.Tensor, levels: int = 5) -> torch.Tensor:
    """Complex Y_lm `[P, N]`, without roughness."""
    real, imaginary = directional_encoding(directions, torch.zeros_like(directions[..., :1]), levels).chunk(2, -1)
    return torch.complex(real, imaginary)


def test_harmonics_are_orthonormal():
    """Over the whole sphere, up to degree 16: the definition of spherical harmonics, of which these are some."""
    directions, weights = sphere()
    y = harmonics(directions)
    product = y.conj().T @ (weights[:, None] * y)
    assert y.shape[-1] == encoding_width(5) // 2 == 36
    torch.testing.assert_close(product, torch.eye(36, dtype=product.dtype), atol=1e-12, rtol=0)


def test_harmonics_by_hand():
    """Y_10, Y_11 and Y_22 with the Condon-Shortley phase."""
    d = unit(torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64))
    x, y, z = d[0].tolist()
    ours = harmonics(d, 2)[0]
    assert ours[0] == pytest.approx(math.sqrt(3 / (4 * math.pi)) * z)
    assert ours[1] == pytest.approx(-math.sqrt(3 / (8 * math.pi)) * complex(x, y))
    assert ours[4] == pytest.approx(0.25 * math.sqrt(15 / (2 * math.pi)) * complex(x, y) ** 2)


def test_roughness_is_the_mean_over_a_spread():
    """The expectation under a von Mises-Fisher lobe, by quadrature. The closed form is Ref-NeRF's approximation of its
    Bessel functions (eq. 8), good for narrow lobes; here to a few parts in a thousand."""
    directions, weights = sphere()
    axis, concentration = unit(torch.tensor([0.2, -0.7, 0.4], dtype=torch.float64)), 80.0
    lobe = weights * torch.exp(concentration * (directions @ axis - 1))
    mean = (lobe[:, None] / lobe.sum() * directional_encoding(directions, torch.zeros(len(lobe), 1), 4)).sum(0)
    ours = directional_encoding(axis[None], torch.full((1, 1), 1 / concentration, dtype=torch.float64), 4)[0]
    torch.testing.assert_close(ours, mean, atol=4e-3, rtol=0)
    assert mean.abs().max() > 0.2


def test_float32_loses_nothing_at_degree_sixteen():
    generator = torch.Generator().manual_seed(0)
    d = unit(torch.randn(5000, 3, generator=generator, dtype=torch.float64))
    roughness = 0.1 * torch.rand(5000, 1, generator=generator, dtype=torch.float64)
    exact = directional_encoding(d, roughness, 5)
    single = directional_encoding(d.float(), roughness.float(), 5)
    assert (single.double() - exact).abs().max() < 4e-6
    assert degrees_of(5) == [1, 2, 4, 8, 16]


def test_rough_surfaces_forget_high_degrees():
    d = unit(torch.tensor([[0.3, 0.2, -0.9]]))
    sharp, rough = (directional_encoding(d, torch.full((1, 1), r), 4)[0] for r in (0.0, 1.0))
    columns = torch.tensor([degree for degree in degrees_of(4) for _ in range(degree + 1)] * 2)
    torch.testing.assert_close(rough, sharp * torch.exp(-0.5 * columns * (columns + 1)))


def test_mirrors_and_unit_vectors():
    up = torch.tensor([[0.0, 0.0, 1.0]])
    torch.testing.assert_close(reflect(torch.tensor([[0.6, 0.0, 0.8]]), up), torch.tensor([[-0.6, 0.0, 0.8]]))
    zero = torch.zeros(1, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(unit(zero).sum(), zero)
    assert torch.isfinite(slope).all()


def test_srgb_both_ways():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64, requires_grad=True)
    y = linear_to_srgb(x)
    torch.testing.assert_close(srgb_to_linear(y), x, atol=2e-6, rtol=0)  # the two pieces meet within that
    assert y[0] == 0 and y[-1].item() == pytest.approx(1) and y[214].item() == pytest.approx(0.5, abs=1e-3)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(slope).all() and (slope > 0).all()
