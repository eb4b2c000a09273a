"""Our functions against the values of multinerf's own (Apache-2.0), where these are at hand: every case of the file.

In float64 to 1e-9, in float32 to what multinerf's own float32 allows. NERF_QAT_ORACLE names another file than the
public one, without its suffix.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from evaluation.normals import mean_angle
from fields.ref_nerf import SurfaceWeights
from fields.reflections import (
    directional_encoding,
    disagreement,
    linear_to_srgb,
    reflect,
    srgb_to_linear,
    turned_away,
    unit,
)
from rendering.compositing import seen_of, weights_from_density
from rendering.cones import (
    Moments,
    axes,
    contract,
    cylinder_moments,
    frustum_moments,
    integrated_encoding,
    project,
    uncontract,
)
from rendering.points import Cones
from rendering.proposal import DILATION, DILATION_SHARE
from rendering.ray_warps import Warp
from rendering.step_functions import (
    ANNEAL_SLOPE,
    cumulative,
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
from run_nerf_helpers import get_embedder
from training.optimizers import exponential_schedule

PLACE = Path(os.environ.get("NERF_QAT_ORACLE", ROOT.parent / "shared" / "oracle" / "mip360_public"))


@cache
def oracle() -> tuple[dict, dict]:
    """Arrays by name, and cases by name; none where there is no file."""
    if not PLACE.with_suffix(".npz").is_file():
        return {}, {}
    with np.load(PLACE.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    described = json.loads(PLACE.with_suffix(".json").read_text())
    (cases,) = (part for part in described.values() if isinstance(part, dict))
    return arrays, cases


class Case:
    """A case's arguments as attributes of one type, and what it expects."""

    def __init__(self, name: str, dtype: torch.dtype):
        arrays, cases = oracle()
        self.name, self.dtype, self.described = name, dtype, cases[name]["out"]
        self.expected = {output: torch.tensor(arrays[f"{name}/out/{output}"]) for output in self.described}
        for argument in cases[name]["in"]:
            setattr(self, argument, torch.tensor(arrays[f"{name}/in/{argument}"], dtype=dtype))

    def check(self, least: float = 1e-9, **computed: torch.Tensor) -> None:
        """Raises AssertionError where one is too far off, in float64 by `least`. Infinities have to be the same."""
        for output, ours in computed.items():
            theirs = self.expected[output]
            tolerance = least if self.dtype == torch.float64 else max(1e-6, 3 * self.described[output]["err32"])
            assert ours.dtype == self.dtype and ours.shape == theirs.shape, (output, ours.shape, theirs.shape)
            finite = theirs.isfinite()
            assert torch.equal(ours.double()[~finite].nan_to_num(), theirs[~finite].nan_to_num()), output
            off = (ours.double() - theirs)[finite].abs()
            # Relative where values are large: 1e-9 of a distance of 1e6 is beyond float64.
            assert (off <= tolerance * theirs[finite].abs().clamp_min(1) if self.dtype == torch.float64 else
                    off <= tolerance).all(), (output, float(off.max()))  # fmt: skip


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, -1)


def for_samples(like: torch.Tensor, *parts: torch.Tensor) -> list[torch.Tensor]:
    """What belongs to rays `[R, 3]` or `[R, 1]`, a row for every sample of `like [R, S]`."""
    return [part[:, None].expand(*like.shape, part.shape[-1]).reshape(-1, part.shape[-1]) for part in parts]


HALF = 0.5**0.5
ACROSS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [HALF, HALF, 0], [HALF, 0, HALF], [0, HALF, HALF]])
ACROSS = ACROSS.double() / ACROSS.double().norm(dim=-1, keepdim=True)


def covariance(variance: torch.Tensor) -> torch.Tensor:
    """The whole matrix `[..., 3, 3]` by what the six directions ACROSS see of it: variances are all we compute."""
    diagonal, of_sums = variance[..., :3], variance[..., 3:]
    matrix = torch.diag_embed(diagonal)
    for (i, j), of_sum in zip(((0, 1), (0, 2), (1, 2)), of_sums.unbind(-1), strict=True):
        matrix[..., i, j] = matrix[..., j, i] = of_sum - (diagonal[..., i] + diagonal[..., j]) / 2
    return matrix


def of_rays(case: Case, like: torch.Tensor, directions: torch.Tensor, moments: Moments) -> dict[str, torch.Tensor]:
    """Means, and covariances whole or their diagonals as the case wants them."""
    (rows,) = for_samples(like, directions)
    flat = Moments(*(part.reshape(-1) for part in moments))
    seen = project(torch.zeros_like(rows), rows, flat, ACROSS.to(case.dtype))
    variance = seen.variance.view(*like.shape, 6)
    whole = case.expected["cov"].ndim == 4
    return {"mean": seen.mean[:, :3].view(*like.shape, 3), "cov": covariance(variance) if whole else variance[..., :3]}


def seen_through(mean: torch.Tensor, cov: torch.Tensor, basis: torch.Tensor, contracted: bool = False) -> torch.Tensor:
    """Variances `[..., N]` of Gaussians with any covariance: of each of its axes as of a needle, added up."""
    lengths, axes_of = torch.linalg.eigh(cov.double())
    total = 0
    for i in range(3):
        needle, share = axes_of[..., i].reshape(-1, 3).to(mean), lengths[..., i].reshape(-1).to(mean)
        zero = torch.zeros_like(share)
        moments = Moments(zero, share, zero)
        total = total + project(mean.reshape(-1, 3), needle, moments, basis, contracted).variance
    return total.view(*mean.shape[:-1], -1)


# ------------------------------------------------------------------- a check for each kind of case


def frusta(case):
    like = torch.broadcast_to(case.t0, torch.broadcast_shapes(case.t0.shape, case.t1.shape))
    case.check(**of_rays(case, like, case.d, frustum_moments(case.t0, case.t1, case.base_radius.expand_as(like))))


def cylinders(case):
    case.check(**of_rays(case, case.t0, case.d, cylinder_moments(case.t0, case.t1, case.radius.expand_as(case.t0))))


def lifted(case):
    case.check(**of_rays(case, case.t_mean, case.d, Moments(case.t_mean, case.t_var, case.r_var)))


def cast_rays(case):
    t0, t1 = case.tdist[:, :-1], case.tdist[:, 1:]
    origins, directions, radii = for_samples(t0, case.origins, case.directions, case.radii)
    cones = Cones(origins, directions, t0.reshape(-1), t1.reshape(-1), radii[:, 0])
    seen = cones.along(ACROSS.to(case.dtype))
    shape = (*t0.shape, -1)
    case.check(means=seen.mean[:, :3].view(shape), covs=covariance(seen.variance.view(shape)))


def encoding(case):
    """Theirs has all sines first."""
    octaves = case.expected["features"].shape[-1] // 6
    waves = integrated_encoding(case.mean, case.var, octaves)
    waves = waves.view(*case.mean.shape[:-1], octaves, 2, 3)
    case.check(features=waves.transpose(-2, -3).flatten(-3))


def plain_encoding(case):
    octaves = (case.expected["features"].shape[-1] // 3 - 1) // 2
    encoded = get_embedder(octaves)[0](case.x.double()).to(case.dtype) if case.dtype == torch.float64 else None
    encoded = get_embedder(octaves)[0](case.x) if encoded is None else encoded
    x, waves = encoded[..., :3], encoded[..., 3:].view(*case.x.shape[:-1], octaves, 2, 3)
    case.check(features=torch.cat([x, waves.transpose(-2, -3).flatten(-3)], -1))


def expected_sine(case):
    case.check(mean_of_sin=integrated_encoding(case.mean, case.var, 1)[..., : case.mean.shape[-1]])


def along_a_basis(case):
    basis = case.basis.T.contiguous()
    case.check(mean=case.mean @ basis.T, var=seen_through(case.mean, case.cov, basis))


def directions(case):
    """As sets, up to sign."""
    theirs = case.expected["basis"]
    closeness = (axes(len(theirs)) @ theirs.T).abs()
    assert closeness.shape == (len(theirs), len(theirs))
    assert (closeness.amax(0) > 1 - 1e-9).all() and (closeness.amax(1) > 1 - 1e-9).all()


def contraction(case):
    case.check(z=contract(case.x))
    if "x_again" in case.expected:
        case.check(x_again=uncontract(contract(case.x)))


def jacobian_of_contraction(case):
    case.check(jacobian=torch.stack([torch.autograd.functional.jacobian(contract, x) for x in case.x]))


def linearised_contraction(case):
    variance = seen_through(case.mean, case.cov, ACROSS.to(case.dtype), contracted=True)
    case.check(mean=contract(case.mean), cov=covariance(variance))


def whole_input(case):
    t0, t1 = case.tdist[:, :-1], case.tdist[:, 1:]
    origins, directions, radii = for_samples(t0, case.origins, case.directions, case.radii)
    cones = Cones(origins, directions, t0.reshape(-1), t1.reshape(-1), radii[:, 0])
    basis = case.basis.T.contiguous()
    octaves = case.expected["features"].shape[-1] // (2 * len(basis))
    waves = integrated_encoding(*cones.along(basis, contracted=True), octaves)
    case.check(features=waves.view(*t0.shape, octaves, 2, len(basis)).transpose(2, 3).flatten(2))


def warps(case, curve):
    warp = Warp(case.near, case.far, curve)
    t = warp.distances(case.s)
    case.check(t=t, s_again=warp.shares(t))


def intervals(case, count):
    """multinerf makes its shares of mass in float32 whatever the precision, so its float64 places are off by what that
    rounding moves them: the mass before them is held against ours there."""
    ours = sample_intervals(case.t, softmax(case.w_logits), int(count))
    if case.dtype == torch.float32:
        case.check(t_samples=ours)


def centres(case, count):
    mass = softmax(case.w_logits)
    if case.dtype == torch.float32:
        return case.check(centres=invert_cdf(quantiles(int(count), case.t), case.t, mass))
    t, mass, theirs = case.t, cumulative(mass), case.expected["centres"]
    above = torch.searchsorted(t, theirs, right=True).clamp(1, t.shape[-1] - 1)
    inside = (theirs - t.gather(-1, above - 1)) / (t.gather(-1, above) - t.gather(-1, above - 1))
    before = torch.lerp(mass.gather(-1, above - 1), mass.gather(-1, above), inside)
    assert (before - quantiles(int(count), t)).abs().max() <= 2**-23


def inverse_mass(case):
    case.check(t=invert_cdf(case.u, case.t, softmax(case.w_logits)))


def dilation(case, reach):
    edges, mass = dilated(case.t, case.w, float(reach))
    case.check(t=edges, w=mass)


def outer(case):
    """The inner measure is what an envelope must not be below: ours never asks for it."""
    case.check(outer=outer_measure(case.t0, case.t1, case.y1))


def interlevel(case):
    envelope = case.w_env.requires_grad_()
    loss = interlevel_loss(case.t, case.w, case.t_env, envelope)
    case.check(loss=loss.detach(), grad_w_env=torch.autograd.grad(loss.mean(), envelope)[0])


def distortion(case):
    t, w = case.t.requires_grad_(), case.w.requires_grad_()
    loss = distortion_loss(t, w)
    grad_w, grad_t = torch.autograd.grad(loss.mean(), (w, t))
    case.check(loss=loss.detach(), grad_w=grad_w, grad_t=grad_t)


def percentiles_of(t: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return invert_cdf(t.new_tensor([0.05, 0.5, 0.95]).expand(len(t), 3), t, w)


def percentiles(case):
    case.check(percentiles=percentiles_of(case.t, case.w))


def resampled(case):
    case.check(v=mean_between(case.t, case.tp, case.vp))


def queried(case):
    case.check(y=value_at(case.tq, case.t, case.y))


def next_level(case, done):
    """What `ProposalRenderer` does to its first level's bins, but for its PADDING, which multinerf lacks."""
    bins, count = case.weights.shape[-1], case.expected["sdist"].shape[-1] - 1
    s, w = dilated(case.sdist, case.weights, DILATION + DILATION_SHARE / bins)
    s, w = s[:, 1:-1], w[:, 1:-1]
    anneal = ANNEAL_SLOPE * float(done) / ((ANNEAL_SLOPE - 1) * float(done) + 1)
    logits = torch.where(s[:, 1:] > s[:, :-1], anneal * w.log(), -torch.inf)
    s = sample_intervals(s, softmax(logits), count)
    if case.dtype == torch.float32:  # as of `intervals`
        case.check(sdist=s, tdist=Warp(case.near, case.far, "reciprocal").distances(s))
    else:
        assert (s - case.expected["sdist"]).abs().max() < 2e-6


def alpha_weights(case, opaque):
    length = case.tdist.diff(dim=-1) * case.dirs.norm(dim=-1, keepdim=True)
    if opaque:
        length = torch.cat([length[:, :-1], torch.full_like(length[:, :1], 1e10)], -1)
    weights, leaving = weights_from_density(case.density, length)
    case.check(weights=weights, trans=torch.cat([torch.ones_like(weights[:, :1]), 1 - weights.cumsum(-1)], -1)[:, :-1])
    assert (leaving - (1 - weights.sum(-1))).abs().max() < 1e-5


def volume(case):
    """But for their mean distance, a geometric one: ours is the arithmetic."""
    weights = case.weights
    opacity = weights.sum(-1)
    seen = seen_of({"rgb": case.rgbs, "normals": case.normals}, weights)
    rgb = seen["rgb"] + (1 - opacity).clamp_min(0)[:, None] * case.bg
    t = torch.cat([case.tdist, case.t_far.expand(len(opacity), 1)], -1)
    w = torch.cat([weights, (1 - opacity).clamp_min(0)[:, None]], -1)
    p5, median, p95 = percentiles_of(t, w).unbind(-1)
    case.check(rgb=rgb, acc=opacity, normals=seen["normals"], p5=p5, median=median, p95=p95)


def mirrored(case):
    case.check(refdirs=reflect(-case.viewdirs[:, None], case.normals))


def normalised(case):
    case.check(unit=unit(case.x))
    case.check(jacobian=torch.stack([torch.autograd.functional.jacobian(unit, x) for x in case.x]))


def harmonics(case, levels):
    case.check(features=directional_encoding(case.xyz, case.kappa_inv, int(levels)))


def orientation(case):
    seen = seen_of({"away": turned_away(case.normals, -case.viewdirs[:, None])}, case.weights)
    case.check(loss=SurfaceWeights().orientation * seen["away"].mean())


def agreement(case):
    seen = seen_of({"apart": disagreement(case.normals, case.normals_pred)}, case.weights)
    case.check(loss=SurfaceWeights(agreement=3e-4).agreement * seen["apart"].mean())


def angle(case):
    """Theirs keeps cosines float32's epsilon below 1."""
    degrees = mean_angle(case.normals, case.normals_gt, case.weights)
    case.check(least=1e-6, degrees=torch.tensor(degrees, dtype=case.dtype))


def colour(case):
    case.check(srgb=linear_to_srgb(case.x), linear=srgb_to_linear(case.x))


def learning_rate(case):
    """Past their warm-up, which is a sine; ours is a line. 2e-3 to 2e-5 in 25,000 steps is 1/10 in 12,500."""
    schedule = exponential_schedule(12.5)
    past = (case.step >= 512) & (case.step <= 25_000)
    ours = torch.tensor([2e-3 * schedule(int(step)) for step in case.step[past]], dtype=torch.float64)
    assert past.any() and (ours - case.expected["rate"][past]).abs().max() < 1e-9


def safe_exponential(case):
    pytest.skip("densities here are ReLU or softplus, never an exponential")


CHECKS = {
    r"frustum_(?:diag|full).*": frusta,
    r"cylinder.*": cylinders,
    r"lift_gaussian.*": lifted,
    r"cast_rays_cone.*": cast_rays,
    r"ipe.*": encoding,
    r"pos_enc.*": plain_encoding,
    r"expected_sin.*": expected_sine,
    r"lift_and_diagonalize.*": along_a_basis,
    r"basis_.*": directions,
    r"(?:contract|inv_contract)(?:_(?!jacobian|ed).*)?": contraction,
    r"contract_jacobian.*": jacobian_of_contraction,
    r"track_linearize.*": linearised_contraction,
    r"contracted_features.*": whole_input,
    r"ray_warp_(linear|reciprocal|log|piecewise).*": warps,
    r"sample_intervals_(\d+).*": intervals,
    r"sample_(\d+).*": centres,
    r"invert_cdf.*": inverse_mass,
    r"max_dilate_weights_([\d.]+).*": dilation,
    r"inner_outer.*": outer,
    r"lossfun_outer.*": interlevel,
    r"lossfun_distortion.*": distortion,
    r"weighted_percentile.*": percentiles,
    r"resample.*": resampled,
    r"query.*": queried,
    r"next_level_([\d.]+).*": next_level,
    r"alpha_weights(_opaque)?.*": alpha_weights,
    r"volumetric_rendering.*": volume,
    r"reflect.*": mirrored,
    r"l2_normalize.*": normalised,
    r"ide_(\d+).*": harmonics,
    r"orientation_loss.*": orientation,
    r"predicted_normal_loss.*": agreement,
    r"weighted_mae.*": angle,
    r"srgb.*": colour,
    r"learning_rate.*": learning_rate,
    r"safe_exp.*": safe_exponential,
}


@pytest.mark.skipif(not oracle()[1], reason=f"no oracle at {PLACE.name}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", oracle()[1])
def test_case(name, dtype):
    found = [(match, check) for pattern, check in CHECKS.items() if (match := re.fullmatch(pattern, name))]
    assert len(found) == 1, f"{len(found)} checks for {name}"
    match, check = found[0]
    check(Case(name, dtype), *match.groups())
