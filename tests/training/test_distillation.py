"""A field taught by another at the same samples: the loss by hand, its fading, and what it brings."""

import pytest
import torch
from helpers import HIERARCHICAL, TINY, fails_cleanly, make_trainer

import run_nerf_qat
from experiment import make_renderer
from load_scene import load_scene
from options import config_parser
from rendering.compositing import packed_weights
from rendering.points import Points
from training.batches import render_batch
from training.distillation import DENSITY_WEIGHT, FADED, Distillation


@pytest.fixture(scope="module")
def setting():
    """A teacher, a student of another seed, a batch, and the student's picture of it."""
    args = config_parser().parse_args(TINY)
    scene = load_scene(args)
    teacher = make_renderer(args, scene, torch.device("cpu"))
    trainer = make_trainer(scene, None, TINY, "--seed", "3")
    batch = trainer.batches.draw(trainer.renderer, 1)
    return teacher, trainer, batch, render_batch(trainer.renderer, batch)


def test_a_field_is_its_own_best_student(setting):
    _, trainer, batch, picture = setting
    itself = Distillation(trainer.renderer, 1.0)
    assert float(itself.loss(batch, picture, 0.0).detach()) == pytest.approx(0, abs=1e-12)


def test_loss_is_what_it_says(setting):
    teacher, _, batch, picture = setting
    rays, samples = batch.rays, batch.samples
    positions = rays.origins[samples.ray] + samples.t[:, None] * rays.directions[samples.ray]
    with torch.no_grad():
        density, rgb, _ = teacher.field(Points(positions, rays.viewdirs[samples.ray]))
    alpha = 1 - torch.exp(-density * samples.length)
    students = 1 - torch.exp(-picture.density * samples.length)
    weights, _ = packed_weights(density, samples)
    color = (weights * (picture.sample_rgb - rgb).square().mean(-1)).sum() / weights.sum().clamp_min(1)
    expected = 2.0 * (DENSITY_WEIGHT * (students - alpha).square().mean() + color)
    assert float(expected.detach()) > 1e-4
    torch.testing.assert_close(Distillation(teacher, 2.0).loss(batch, picture, 0.0), expected)


def test_it_fades_out(setting):
    teacher, _, batch, picture = setting
    distillation = Distillation(teacher, 1.0)
    whole = distillation.loss(batch, picture, 0.0)
    torch.testing.assert_close(distillation.loss(batch, picture, FADED / 2), whole / 2)
    assert float(distillation.loss(batch, picture, FADED)) == 0


def test_only_the_student_gets_gradients(setting):
    teacher, trainer, batch, picture = setting
    Distillation(teacher, 1.0).loss(batch, picture, 0.0).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in trainer.parameters)


def test_hierarchical_sampling_is_refused(tmp_path, capsys):
    flags = [*HIERARCHICAL, "--distill", "1", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("--distill", "--sampler occupancy"))
