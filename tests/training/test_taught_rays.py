"""What a teacher shows: kept on disk, gone on with, made anew for another teacher; and batches of it."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import CPU, TINY, make_run, make_trainer, same

from rendering.rays import Rays
from rendering.renderer import Rendering
from scenes.new_views import new_cameras
from scenes.scene import composite_over
from training import taught_rays
from training.batches import BatchSettings
from training.hard_rays import HardRays
from training.taught_rays import MANIFEST, PICTURES, Mixture, TaughtBatches, straight_alpha, taught_scene, teach
from utils.errors import BrokenFile

WHITE = torch.ones(3)
FLAGS = [
    *TINY, "--no_random_bkgd", "--field", "light_field", "--sampler", "light_field", "--netdepth", "4",
    "--ray_points", "3", "--samples_per_batch", "200",
]  # fmt: skip


class Teacher:
    """Paints each picture in a shade of the camera's height, half transparent; counts them."""

    device, background = CPU, WHITE

    def __init__(self):
        self.made = 0


@pytest.fixture
def teacher(monkeypatch) -> Teacher:
    def render(teacher, camera, limits):
        teacher.made += 1
        shade = torch.full((camera.height, camera.width, 3), float(camera.c2w[0, 2, 3]) / 10)
        opacity = torch.full(shade.shape[:2], 0.5)
        return Rendering(0.5 * shade + 0.5, torch.zeros_like(opacity), opacity)

    monkeypatch.setattr(taught_rays, "render_image", render)
    return Teacher()


def test_colours_and_opacity_make_the_picture_again():
    generator = torch.Generator().manual_seed(0)
    alone, alpha = torch.rand(50, 3, generator=generator), torch.rand(50, generator=generator)
    seen = composite_over(torch.cat([alone, alpha[:, None]], -1), WHITE)
    pixels = straight_alpha(seen, alpha, WHITE)
    assert pixels.dtype == torch.uint8
    again = composite_over(pixels.float() / 255, WHITE)
    assert float((again - seen).abs().max()) < 1.2 / 255
    assert straight_alpha(torch.ones(1, 3), torch.zeros(1), WHITE)[0, 3] == 0


def test_pictures_are_made_once(scene, teacher, tmp_path):
    cameras = new_cameras(scene, 30)
    pictures = teach(teacher, cameras, tmp_path, "a")
    assert pictures.shape == (30, 24, 24, 4) and teacher.made == 30
    shades = (cameras.c2w[:, 2, 3] / 10 * 255).clamp(0, 255)
    assert float((pictures[:, 0, 0, 0] - shades).abs().max()) <= 2
    assert torch.equal(teach(teacher, cameras, tmp_path, "a"), pictures) and teacher.made == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, PICTURES]
    assert os.path.getsize(tmp_path / PICTURES) < 30 * 24 * 24 * 4 + 200
    teach(teacher, cameras, tmp_path, "b")  # another teacher
    assert teacher.made == 60
    teach(teacher, new_cameras(scene, 30, seed=1), tmp_path, "b")
    assert teacher.made == 90


def test_what_was_interrupted_goes_on(scene, teacher, tmp_path):
    cameras = new_cameras(scene, 30)
    whole = teach(teacher, cameras, tmp_path, "a").clone()
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "done": 25}))
    np.lib.format.open_memmap(tmp_path / PICTURES, "r+")[25:] = 0
    teacher.made = 0
    assert torch.equal(teach(teacher, cameras, tmp_path, "a"), whole) and teacher.made == 5
    for nonsense in ("", "[]", '{"done": "x"}', json.dumps({**manifest, "done": 31}), json.dumps({**manifest, "x": 1})):
        (tmp_path / MANIFEST).write_text(nonsense)
        teacher.made = 0
        assert torch.equal(teach(teacher, cameras, tmp_path, "a"), whole) and teacher.made == 30


def test_pictures_that_were_given_up_are_not_taken_for_those_before(scene, teacher, tmp_path, monkeypatch):
    """Another teacher's are begun, and fail at once: the first one's manifest must not stand beside them."""
    cameras = new_cameras(scene, 10)
    whole = teach(teacher, cameras, tmp_path, "a").clone()
    with monkeypatch.context() as broken:
        broken.setattr(taught_rays, "straight_alpha", None)
        with pytest.raises(TypeError):
            teach(teacher, cameras, tmp_path, "b")
    teacher.made = 0
    assert torch.equal(teach(teacher, cameras, tmp_path, "a"), whole) and teacher.made == 10


def batches_of(scene, real: float, seed: int = 0, hard: float = 0.0) -> TaughtBatches:
    """Of pictures of one colour, which no photograph has."""
    cameras = new_cameras(scene, 6)
    pictures = torch.full((6, 24, 24, 4), 255, dtype=torch.uint8)
    pictures[..., 0] = 7
    settings = BatchSettings(queries=200, seed=seed)
    return TaughtBatches(
        settings, taught_scene(scene, pictures, cameras), scene, CPU, Mixture(real, hard, 100, batch=200)
    )


def taught(batch) -> torch.Tensor:
    """Which rays of a batch the teacher coloured."""
    return (batch.target - torch.tensor([7 / 255, 1, 1])).abs().amax(-1) < 1e-6


@pytest.mark.parametrize("real, early, late", [(0.2, 0.2, 0.5), (0.7, 0.7, 0.7), (0.0, 0.0, 0.0)])
def test_photographs_have_their_share(scene, real, early, late):
    _, _, renderer = make_run(FLAGS)
    batches = batches_of(scene, real)
    batches.draw_some(renderer, 20)  # until it knows how many rays fill a batch
    for step, share in ((1, early), (80, early), (81, late), (100, late)):
        found = 1 - float(taught(batches.draw(renderer, step)).float().mean())
        assert share - 1e-6 <= found <= share / 0.8 + 0.02  # what does not fit falls off the teacher's


def test_rays_of_a_batch_are_those_of_its_colours(scene):
    """A photograph's pixel and the ray through it belong together, in both parts."""
    _, _, renderer = make_run(FLAGS)
    batches = batches_of(scene, 0.5)
    batch = batches.draw(renderer, 1)
    real = batch.rays.take((~taught(batch)).nonzero()[:, 0])
    own = scene.cameras.c2w[scene.splits["train"]][:, :, 3]
    assert float(torch.cdist(real.origins, own).amin(1).max()) < 5e-3
    pseudo = batch.rays.take(taught(batch).nonzero()[:, 0])
    others = batches.cameras.c2w[:, :, 3]
    assert float(torch.cdist(pseudo.origins, others).amin(1).max()) < 5e-3


@pytest.mark.parametrize("hard", [0.0, 0.2])
def test_drawing_goes_on_where_it_was(scene, hard):
    _, _, renderer = make_run(FLAGS)
    whole, first, second = (batches_of(scene, 0.3, seed, hard) for seed in (0, 0, 9))

    def draw(batches: TaughtBatches, step: int):
        batch = batches.draw(renderer, step)
        batches.after_step(batch, renderer(batch.rays, batch.background, batch.samples))
        return batch

    drawn = [draw(whole, step) for step in range(1, 31)][-1]
    for step in range(1, 30):
        draw(first, step)
    assert first.hard is None or first.hard.full
    second.load_state_dict(first.state_dict())
    again = second.draw(renderer, 30)
    assert same(vars(drawn.rays), vars(again.rays)) and torch.equal(drawn.target, again.target)


def test_pictures_stay_on_disk(scene, teacher, tmp_path):
    """A light field's batches read what they draw, and copy no more."""
    cameras = new_cameras(scene, 30)
    pictures = teach(teacher, cameras, tmp_path, "a")
    batches = TaughtBatches(BatchSettings(), taught_scene(scene, pictures, cameras), scene, CPU, Mixture(real=0.0))
    assert batches.images.data_ptr() == pictures.data_ptr()


def test_a_light_field_learns_what_its_teacher_shows(scene, tmp_path):
    """Photographs as their own teacher: a few seconds of training see more than their mean colour."""
    trainer = make_trainer(scene, tmp_path, FLAGS, "--lrate", "5e-3", "--netwidth", "64")
    cameras = scene.cameras[scene.splits["train"]]
    pictures = scene.images[scene.splits["train"]]
    settings = replace(trainer.batches.settings, queries=500)
    trainer.batches = TaughtBatches(settings, taught_scene(scene, pictures, cameras), scene, CPU, Mixture(steps=300))
    errors = [float(trainer.step().mse) for _ in range(300)]
    assert np.mean(errors[-20:]) < 0.25 * np.mean(errors[:5])


def test_the_pool_of_hard_rays_by_hand():
    """It fills with the hardest two of each batch; once full, what was drawn gives way to the hardest fresh ones."""
    pool, generator = HardRays(4, CPU), torch.Generator().manual_seed(0)

    def numbered(*numbers: int) -> tuple[Rays, torch.Tensor, torch.Tensor]:
        column = torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 3)
        return Rays(column, column, column), column, column[:, 0]

    for batch in ((1, 5, 3), (9, 2, 7)):
        rays, _ = pool.draw(2, generator)
        assert len(rays) == 0
        pool.keep(*numbered(*batch), 2)
    assert pool.full and sorted(pool.rays["target"][:, 0].tolist()) == [3, 5, 7, 9]
    rays, target = pool.draw(1, generator)
    left = sorted({3.0, 5.0, 7.0, 9.0} - {float(target[0, 0])})
    assert torch.equal(rays.origins, target)
    pool.keep(*numbered(4, 6, 1), 2)
    assert sorted(pool.rays["origins"][:, 0].tolist()) == sorted([*left, 6.0])
    again = HardRays(4, CPU)
    again.load_state_dict(pool.state_dict())
    assert same(again.rays, pool.rays) and again.held == 4
    for wrong in ({}, {**pool.state_dict(), "held": 5}, {**pool.state_dict(), "target": torch.zeros(3, 3)}):
        with pytest.raises(BrokenFile):
            again.load_state_dict(wrong)
