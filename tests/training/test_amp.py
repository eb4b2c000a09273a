"""Mixed precision: gradients are unscaled before they are measured, clipped or applied; learning-rate rules."""

import math

import pytest
import torch
from helpers import HIERARCHICAL, TINY, fails_cleanly, make_trainer

import run_nerf
from experiment import make_renderer
from load_scene import load_scene
from options import config_parser
from training.batches import BatchSettings
from training.optimizers import OptimizerSettings

ALONE = ["--optimizer", "adam", "--i_print", "1"]


@pytest.fixture(scope="module")
def scene():
    return load_scene(config_parser().parse_args(TINY))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_gradient_norm_is_that_of_full_precision(scene, tmp_path, amp):
    norms = {}
    for name in ("off", amp):
        trainer = make_trainer(scene, tmp_path, TINY, *ALONE, "--amp", name)
        trainer.step()
        norms[name] = float(trainer.gradient_norm)
    assert norms[amp] == pytest.approx(norms["off"], rel=0.1)  # and not 2^16 times it


def test_scaled_gradients_are_clipped_in_their_own_units(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY, *ALONE, "--amp", "fp16", "--grad_clip", "1e-4")
    trainer.step()
    norm = torch.stack([p.grad.norm() for p in trainer.parameters if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-4, rel=1e-2)


def test_an_overflow_skips_the_step_and_lowers_the_scale(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY, *ALONE, "--amp", "fp16")
    trainer.step()
    before, scale = [p.detach().clone() for p in trainer.parameters], trainer.scaler.get_scale()
    handle = trainer.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    trainer.step()
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert trainer.scaler.get_scale() == scale / 2
    again = make_trainer(scene, tmp_path, TINY, *ALONE, "--amp", "fp16")
    again.load_state_dict(trainer.state_dict())
    assert again.scaler.get_scale() == scale / 2


def test_fp16_on_a_cpu_is_one_clear_line(tmp_path, capsys):
    flags = [*TINY, "--amp", "fp16", "--device", "cpu", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf, *flags, says=("--amp fp16 needs a CUDA device", "--amp bf16"))


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--samples_per_batch", "32768"], 1.0),
        (["--samples_per_batch", "32768", "--lrate_rule", "linear"], 4.0),
        (["--samples_per_batch", "32768", "--lrate_rule", "sqrt"], 2.0),
        (["--samples_per_batch", "32768", "--lrate_rule", "linear", "--lrate_batch", "65536"], 0.5),
    ],
)
def test_learning_rate_rules(scene, tmp_path, flags, expected):
    trainer = make_trainer(scene, tmp_path, TINY, *flags)
    assert trainer.base_rates["optimizer"] == [pytest.approx(5e-3 * expected)]
    assert trainer.base_rates["muon"] == [pytest.approx(0.04 * expected)]


def test_a_hierarchical_batch_is_counted_in_network_queries(scene):
    # 64 rays, 8 coarse samples, and the fine network sees these and 8 more: 24 queries a ray.
    args = config_parser().parse_args([*HIERARCHICAL, "--lrate_rule", "linear", "--lrate_batch", "768"])
    queries = BatchSettings.from_flags(args).queries_for(make_renderer(args, scene, torch.device("cpu")))
    assert OptimizerSettings.from_flags(args).scale(queries) == pytest.approx(64 * 24 / 768)
