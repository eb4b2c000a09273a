"""Warps of distances: by hand, there and back, from zero and to infinity."""

import math

import pytest
import torch

from rendering.ray_warps import WARPS, Warp

S = torch.tensor([[0.0, 0.5, 1.0]])


def test_by_hand():
    assert Warp(2.0, 6.0, "linear").distances(S)[0].tolist() == [2, 4, 6]
    torch.testing.assert_close(Warp(2.0, 6.0, "reciprocal").distances(S), torch.tensor([[2.0, 3.0, 6.0]]))
    torch.testing.assert_close(Warp(2.0, 8.0, "log").distances(S), torch.tensor([[2.0, 4.0, 8.0]]))
    # What is left before infinity is 1, 5/8 and 1/4 at distances 0, 3/4 and 2.
    torch.testing.assert_close(Warp(0.0, 2.0, "piecewise").distances(S), torch.tensor([[0.0, 0.75, 2.0]]))


@pytest.mark.parametrize("curve", WARPS)
def test_there_and_back(curve):
    near, far = torch.tensor([[0.2], [1.5]], dtype=torch.float64), torch.tensor([[9.0], [1e4]], dtype=torch.float64)
    s = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sort(-1).values
    warp = Warp(near, far, curve)
    t = warp.distances(s)
    assert (t.diff(dim=-1) > 0).all() and (t >= near).all() and (t <= far).all()
    torch.testing.assert_close(warp.shares(t), s, rtol=0, atol=1e-11)


@pytest.mark.parametrize("curve", ["reciprocal", "piecewise"])
def test_infinity_is_an_end(curve):
    t = Warp(0.5, math.inf, curve).distances(torch.tensor([[0.0, 0.999, 1.0]]))
    assert t[0, 0] == 0.5 and 100 < t[0, 1] < 2000 and math.isinf(t[0, 2])


def test_float32_is_exact_far_away():
    """Where 1 - 0.5 / t would keep three digits of t = 1e6."""
    warp = Warp(0.1, 1e6, "piecewise")
    s = torch.tensor([[0.9, 0.9999, 0.999999]])
    exact = warp.distances(s.double())
    assert ((warp.distances(s).double() - exact) / exact).abs().max() < 0.1 * 2**-10
