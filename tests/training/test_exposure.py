"""Photographs' exposure: how little it can explain, that it finds what was done to them, and what it is good for."""

import dataclasses

import pytest
import torch
from helpers import TINY, make_trainer

from evaluation.views import evaluate_views
from load_procedural import load_procedural_scene
from rendering.rays import Rays
from rendering.renderer import Rendering, RenderLimits
from scenes.scales import pyramid
from training.batches import Batch
from training.checkpoints import load_newest
from training.exposure import Exposure
from utils.errors import BrokenFile


def shown(exposure: Exposure, rgb: torch.Tensor, views, opacity: float = 1.0, behind=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """Rays of such colours as photographs show them."""
    opacity = torch.full((len(rgb),), opacity)
    rays = Rays(*torch.ones(3, len(rgb), 3))
    batch = Batch(rays, rgb, torch.tensor(behind), len(rgb), views=torch.as_tensor(views))
    seen = exposure(Rendering(rgb, opacity, opacity, coarse_rgb=rgb), batch)
    assert torch.equal(seen.rgb, seen.coarse_rgb)
    return seen.rgb


@pytest.fixture
def learnt() -> Exposure:
    exposure = Exposure(7, 2)
    with torch.no_grad():
        exposure.codes.copy_(torch.randn(7, 2, generator=torch.Generator().manual_seed(1)))
    return exposure


def test_untrained_it_changes_nothing():
    rgb = torch.rand(5, 3)
    torch.testing.assert_close(shown(Exposure(3, 3), rgb, [0, 1, 2, 1, 0], 0.5, (1.0, 1.0, 1.0)), rgb)


def test_its_mean_is_the_identity_and_its_rank_is_what_was_asked(learnt):
    matrices = learnt.matrices()
    torch.testing.assert_close(matrices.mean(0), torch.eye(3, 4), atol=1e-6, rtol=0)
    changes = (matrices - torch.eye(3, 4)).reshape(7, 12)
    assert torch.linalg.matrix_rank(changes, atol=1e-5) == 2


def test_each_ray_gets_its_photographs_map(learnt):
    rgb, views = torch.rand(4, 3), [6, 0, 3, 6]
    seen = shown(learnt, rgb, views)
    for ray, view in enumerate(views):
        matrix = learnt.matrices()[view]
        torch.testing.assert_close(seen[ray], matrix[:, :3] @ rgb[ray] + matrix[:, 3])


def test_what_stands_behind_is_not_photographed(learnt):
    behind = torch.tensor([0.2, 0.9, 0.4])
    assert torch.equal(shown(learnt, behind[None], [2], 0.0, behind.tolist())[0], behind)
    content, matrix = torch.tensor([0.5, 0.3, 0.1]), learnt.matrices()[2]
    over = 0.25 * content + 0.75 * behind
    expected = 0.25 * (matrix[:, :3] @ content + matrix[:, 3]) + 0.75 * behind
    torch.testing.assert_close(shown(learnt, over[None], [2], 0.25, behind.tolist())[0], expected)


def test_it_finds_gains_and_tints_up_to_their_mean():
    gains = torch.tensor([[0.8, 0.8, 0.8], [1.2, 1.2, 1.2], [1.1, 1.0, 0.9], [0.9, 1.0, 1.1]])  # of mean one
    exposure, random = Exposure(4, 3), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(exposure.parameters(), 1e-2)
    for _ in range(600):
        rgb, views = torch.rand(256, 3, generator=random), torch.randint(4, (256,), generator=random)
        loss = (shown(exposure, rgb, views) - gains[views] * rgb).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = exposure.matrices().detach()
    torch.testing.assert_close(found[:, :, :3], torch.diag_embed(gains), atol=0.01, rtol=0)
    torch.testing.assert_close(found[:, :, 3], torch.zeros(4, 3), atol=0.01, rtol=0)


def test_copies_of_another_scale_are_the_same_photographs(scene, learnt):
    """Which `pyramid` puts after all those of the scale before."""
    train = len(scene.splits["train"])
    copies = pyramid(scene, (1, 2)).cameras.c2w
    assert torch.equal(copies[:train], copies[train:])
    exposure = Exposure(train, 1)
    torch.nn.init.normal_(exposure.codes)
    rgb, views = torch.rand(3, 3), torch.tensor([0, 5, train - 1])
    assert torch.equal(shown(exposure, rgb, views), shown(exposure, rgb, views + train))


@pytest.fixture(scope="module")
def uneven():
    """The built-in scene, its training pictures darkened and tinted at random, its test pictures as they were."""
    scene = load_procedural_scene(24)
    train, random = scene.splits["train"], torch.Generator().manual_seed(0)
    gains = 1 - 0.5 * torch.rand(len(train), 1, 1, 1, generator=random) * torch.ones(3)
    gains = gains / gains.amax() * (1 - 0.1 * torch.rand(len(train), 1, 1, 3, generator=random))
    images = scene.images.clone()
    images[train, ..., :3] = (images[train, ..., :3] * gains).byte()
    # What the mean photograph would have shown is what test views are held against.
    test = scene.splits["test"]
    images[test, ..., :3] = (images[test, ..., :3] * gains.mean(0)).byte()
    return dataclasses.replace(scene, images=images)


def psnr(scene, folder, *flags: str) -> float:
    trainer = make_trainer(scene, folder, TINY, *flags)
    trainer.train(400)
    views = scene.splits["test"]
    return evaluate_views(trainer.renderer, scene, views, RenderLimits(), "float").summary()["psnr"]


def test_uneven_photographs_make_a_better_field_with_it(uneven, tmp_path):
    without, with_it = psnr(uneven, tmp_path / "without"), psnr(uneven, tmp_path / "with", "--exposure", "3")
    assert with_it > without + 0.5, (without, with_it)


def test_a_checkpoint_of_another_rank_is_refused(scene, tmp_path):
    make_trainer(scene, tmp_path, TINY, "--exposure", "3").train(2)
    state = load_newest(tmp_path)[1]
    with pytest.raises(BrokenFile, match="another --exposure"):
        make_trainer(scene, tmp_path, TINY, "--exposure", "2").load_state_dict(state)
    del state["exposure_state_dict"]
    with pytest.raises(BrokenFile, match="another --exposure"):
        make_trainer(scene, tmp_path, TINY, "--exposure", "3").load_state_dict(state)
