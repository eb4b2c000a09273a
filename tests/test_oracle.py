"""Our functions against the values of multinerf's own (Apache-2.0), where these are at hand.

In float64 to 1e-9, in float32 to what multinerf's own float32 allows.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from rendering.cones import Moments, axes, contract, frustum_moments, integrated_encoding, project, uncontract
from rendering.step_functions import (
    cumulative,
    dilated,
    distortion_loss,
    interlevel_loss,
    invert_cdf,
    outer_measure,
    quantiles,
    sample_intervals,
)

PLACE = ROOT.parent / "shared" / "oracle" / "mip360_public"
pytestmark = pytest.mark.skipif(not PLACE.with_suffix(".npz").is_file(), reason=f"no oracle at {PLACE.name}")
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@cache
def oracle() -> tuple[dict, dict]:
    with np.load(PLACE.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(Path(PLACE.with_suffix(".json")).read_text())["public"]


class Case:
    """A case's arguments as attributes of one type, and what it expects."""

    def __init__(self, name: str, dtype: torch.dtype):
        arrays, described = oracle()
        self.name, self.dtype, self.described = name, dtype, described[name]["out"]
        self.arrays = arrays
        for argument in described[name]["in"]:
            setattr(self, argument, torch.tensor(arrays[f"{name}/in/{argument}"], dtype=dtype))

    def check(self, **computed: torch.Tensor) -> None:
        for output, ours in computed.items():
            theirs = torch.tensor(self.arrays[f"{self.name}/out/{output}"])
            tolerance = 1e-9 if self.dtype == torch.float64 else max(1e-6, 3 * self.described[output]["err32"])
            assert ours.dtype == self.dtype and ours.shape == theirs.shape, (ours.shape, theirs.shape)
            assert (ours.double() - theirs).abs().max() <= tolerance, output


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, -1)


def flat(case: Case, *names: str) -> list[torch.Tensor]:
    """Rays' directions, and what belongs to samples, with a row for every sample."""
    samples = getattr(case, names[0]).shape[1]
    directions = case.d[:, None].expand(-1, samples, 3).reshape(-1, 3)
    return [directions, *(getattr(case, name).expand(-1, samples).reshape(-1) for name in names)]


@both
def test_frusta(dtype):
    case = Case("frustum_diag", dtype)
    directions, t0, t1, radius = flat(case, "t0", "t1", "base_radius")
    seen = project(torch.zeros_like(directions), directions, frustum_moments(t0, t1, radius), axes(3).to(dtype))
    case.check(mean=seen.mean.view(12, 24, 3), cov=seen.variance.view(12, 24, 3))


@both
def test_frusta_across_the_axes(dtype):
    """The whole covariance, by what six directions see of it."""
    case = Case("frustum_full", dtype)
    directions, t0, t1, radius = flat(case, "t0", "t1", "base_radius")
    diagonal = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=dtype) / 2**0.5
    basis = torch.cat([torch.eye(3, dtype=dtype), diagonal])
    seen = project(torch.zeros_like(directions), directions, frustum_moments(t0, t1, radius), basis)
    variance = seen.variance
    covariance = torch.diag_embed(variance[:, :3])
    for (i, j), of_sum in zip(((0, 1), (0, 2), (1, 2)), variance[:, 3:].T, strict=True):
        off = of_sum - (variance[:, i] + variance[:, j]) / 2
        covariance[:, i, j] = covariance[:, j, i] = off
    case.check(cov=covariance.view(12, 24, 3, 3))


@both
def test_lifted_gaussians(dtype):
    case = Case("lift_gaussian_diag", dtype)
    directions, *moments = flat(case, "t_mean", "t_var", "r_var")
    seen = project(torch.zeros_like(directions), directions, Moments(*moments), axes(3).to(dtype))
    case.check(mean=seen.mean.view(12, 24, 3), cov=seen.variance.view(12, 24, 3))


@both
def test_integrated_encoding(dtype):
    case = Case("ipe", dtype)
    waves = integrated_encoding(case.mean, case.var, 10).view(-1, 10, 2, 3)  # theirs has all sines first
    case.check(features=waves.transpose(1, 2).flatten(1))


@pytest.mark.parametrize("name, count", [("basis_icosahedron_2", 21), ("basis_octahedron_1", 3)])
def test_directions(name, count):
    """As sets, up to sign."""
    theirs = torch.tensor(oracle()[0][f"{name}/out/basis"])
    closeness = (axes(count) @ theirs.T).abs()
    assert closeness.shape == (count, count)
    assert (closeness.amax(0) > 1 - 1e-9).all() and (closeness.amax(1) > 1 - 1e-9).all()


@both
def test_contraction(dtype):
    case = Case("contract", dtype)
    case.check(z=contract(case.x))
    case = Case("inv_contract", dtype)
    case.check(z=contract(case.x), x_again=uncontract(contract(case.x)))


@both
def test_the_whole_input_of_a_network(dtype):
    case = Case("contracted_features", dtype)
    rays, bins = len(case.origins), case.tdist.shape[1] - 1
    rows = [part[:, None].expand(-1, bins, 3).reshape(-1, 3) for part in (case.origins, case.directions)]
    t0, t1 = case.tdist[:, :-1].reshape(-1), case.tdist[:, 1:].reshape(-1)
    moments = frustum_moments(t0, t1, case.radii.expand(-1, bins).reshape(-1))
    seen = project(*rows, moments, case.basis.T.contiguous(), contracted=True)
    waves = integrated_encoding(*seen, 12).view(rays, bins, 12, 2, 21)
    case.check(features=waves.transpose(2, 3).flatten(2))


@pytest.mark.parametrize("count", [16, 33])
def test_samples(count):
    case = Case(f"sample_intervals_{count}", torch.float32)
    case.check(t_samples=sample_intervals(case.t, softmax(case.w_logits), count))
    case = Case(f"sample_{count}", torch.float32)
    case.check(centres=invert_cdf(quantiles(count, case.t), case.t, softmax(case.w_logits)))


@pytest.mark.parametrize("count", [16, 33])
def test_samples_in_float64(count):
    """multinerf makes its shares of mass in float32 whatever the precision, so its float64 centres are off by what
    that rounding moves them: the mass before them is held against ours instead."""
    case = Case(f"sample_{count}", torch.float64)
    theirs = torch.tensor(case.arrays[f"{case.name}/out/centres"])
    t, mass = case.t, cumulative(softmax(case.w_logits))
    above = torch.searchsorted(t, theirs, right=True).clamp(1, t.shape[-1] - 1)
    inside = (theirs - t.gather(-1, above - 1)) / (t.gather(-1, above) - t.gather(-1, above - 1))
    before = torch.lerp(mass.gather(-1, above - 1), mass.gather(-1, above), inside)
    assert (before - quantiles(count, t)).abs().max() <= 2**-23


@both
def test_inverse_cumulative_mass(dtype):
    case = Case("invert_cdf", dtype)
    case.check(t=invert_cdf(case.u, case.t, softmax(case.w_logits)))


@both
@pytest.mark.parametrize("reach", [0.01, 0.1])
def test_dilation(dtype, reach):
    case = Case(f"max_dilate_weights_{reach}", dtype)
    edges, mass = dilated(case.t, case.w, reach)
    case.check(t=edges, w=mass)


@both
def test_proposals(dtype):
    case = Case("inner_outer", dtype)
    case.check(outer=outer_measure(case.t0, case.t1, case.y1))
    case = Case("lossfun_outer", dtype)
    envelope = case.w_env.requires_grad_()
    loss = interlevel_loss(case.t, case.w, case.t_env, envelope)
    case.check(loss=loss.detach(), grad_w_env=torch.autograd.grad(loss.mean(), envelope)[0])


@both
def test_distortion(dtype):
    case = Case("lossfun_distortion", dtype)
    t, w = case.t.requires_grad_(), case.w.requires_grad_()
    loss = distortion_loss(t, w)
    grad_w, grad_t = torch.autograd.grad(loss.mean(), (w, t))
    case.check(loss=loss.detach(), grad_w=grad_w, grad_t=grad_t)
