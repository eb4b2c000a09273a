"""Several scales: areas averaged, cameras that fit, rays shared out, each scale measured."""

import json

import pytest
import torch
from helpers import CPU, SMALL_TENSOR, TINY, fails_cleanly, make_run, make_trainer, run, same, whole_and_resumed

import run_nerf
import run_vq
from rendering.rays import PIXEL_RADIUS
from run_nerf_helpers import get_rays
from scenes.scales import pyramid, scaled
from scenes.scene import Cameras, Scene, pinhole
from training.batches import BatchSettings, RayBatches

SCALES = [*TINY, "--field", "mip", "--scales", "1", "2", "4"]


def small_scene(height: int = 8, width: int = 12, channels: int = 4, views: int = 3) -> Scene:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (views, height, width, channels), generator=generator).byte()
    K = pinhole(10.0, height, width).repeat(views, 1, 1)
    cameras = Cameras(torch.eye(4)[:3].repeat(views, 1, 1), K, height, width)
    splits = {"train": [0, 2], "val": [], "test": [1]}
    return Scene("s", images, cameras, splits, 1.0, 3.0, torch.tensor([[-1.0] * 3, [1.0] * 3]), cameras)


def test_a_pixel_is_the_mean_of_its_area_and_its_ray_goes_through_the_middle():
    scene = small_scene(channels=3)
    half = scaled(scene, 2)
    mean = scene.images.float().view(3, 4, 2, 6, 2, 3).mean((2, 4))
    assert (half.images.float() - mean).abs().max() <= 0.5
    _, fine = get_rays(8, 12, scene.cameras.K[0], scene.cameras.c2w[0])
    _, coarse = get_rays(4, 6, half.cameras.K[0], half.cameras.c2w[0])
    torch.testing.assert_close(coarse, fine.view(4, 2, 6, 2, 3).mean((1, 3)))


def test_alpha_is_averaged_premultiplied():
    scene = small_scene()
    half = scaled(scene, 2)
    premultiplied = scene.target(torch.arange(3))  # over black
    mean = premultiplied.view(3, 4, 2, 6, 2, 3).mean((2, 4))
    torch.testing.assert_close(half.target(torch.arange(3)), mean, atol=1.5 / 255, rtol=0)


def test_a_pixel_is_valid_where_all_of_it_is():
    scene = small_scene()
    scene.valid = torch.ones(3, 8, 12, dtype=torch.bool)
    scene.valid[1, 3, 5] = False
    half = scaled(scene, 2).valid
    assert not half[1, 1, 2] and half.sum() == half.numel() - 1


def test_frames_of_several_sizes_stay_in_their_corners():
    scene = small_scene()
    sizes = torch.tensor([[8, 12], [6, 12], [8, 9]])
    scene.cameras = Cameras.of_sizes(scene.cameras.c2w, scene.cameras.K, sizes)
    third = scaled(scene, 1.5)
    assert third.cameras.sizes.tolist() == [[5, 8], [4, 8], [5, 6]] and third.images.shape[1:3] == (5, 8)
    every = pyramid(scene, (1, 1.5))
    assert every.images.shape == (4, 8, 12, 4) and every.splits["train"] == [0, 1, 2, 3]
    assert every.valid.sum() == 8 * 12 + 8 * 9 + 5 * 8 + 5 * 6


@pytest.mark.parametrize("one_image", [False, True])
def test_rays_are_shared_out_by_weight_and_know_their_pixel(one_image):
    scene = small_scene()
    settings = BatchSettings(rays=900, seed=1, one_image=one_image, scales=(1, 2, 4), scale_weights=(2, 1, 1))
    batches = RayBatches(settings, scene, CPU)
    counts = torch.zeros(3)
    for _ in range(40 if one_image else 4):
        view, row, column = batches._kept_pixels(900, 1)
        scale = view // 2
        counts += torch.bincount(scale, minlength=3)
        height, width = batches.cameras.sizes[view].T
        assert (row < height).all() and (column < width).all()
        assert len(view.unique()) == 1 or not one_image
    shares = counts / counts.sum()
    assert (shares - torch.tensor([0.5, 0.25, 0.25])).abs().max() < (0.2 if one_image else 0.05)


def test_cones_are_as_wide_as_their_pixels(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, SCALES)
    batch = trainer.batches.draw(trainer.renderer, 1)
    focal = scene.cameras.K[0, 0, 0]
    widths = torch.unique((batch.rays.radii * focal / PIXEL_RADIUS).round(decimals=3))
    assert widths.tolist() == pytest.approx([1, 2, 4], rel=0.05)


def test_each_scale_is_measured(tmp_path):
    assert run(run_nerf, *SCALES, "--N_iters", "60", "--basedir", tmp_path, "--expname", "s") == 0
    entry = json.loads((tmp_path / "s" / "metrics.json").read_text())["models"]["float32"]
    assert list(entry["scales"]) == ["1", "2", "4", "mean"]
    assert entry["scales"]["1"]["psnr"] == pytest.approx(entry["psnr"])
    assert entry["scales"]["4"]["height"] == round(entry["height"] / 4)
    mean = sum(entry["scales"][scale]["psnr"] for scale in ("1", "2", "4")) / 3
    assert entry["scales"]["mean"]["psnr"] == pytest.approx(mean)


def test_resume_is_bit_for_bit(scene, tmp_path):
    flags = [*SCALES, "--precrop_iters", "4"]
    a, b = whole_and_resumed(scene, tmp_path, flags)
    assert same(a["network_fn_state_dict"], b["network_fn_state_dict"])


def test_ndc_of_a_scale_is_that_of_the_frame():
    """Where pixels come out not quite square, a place has the same coordinates at every scale."""
    from rendering.rays import RaySetup, make_rays

    scene = small_scene(height=7, width=12)
    setup = RaySetup(near=0.0, far=1.0, ndc_near=1.0)
    odd = scaled(scene, 2).cameras[0]
    assert (odd.height, odd.width) == (4, 6)
    place = torch.tensor([[0.4, -0.3, -5.0]])
    ends = []
    for camera in (scene.cameras[0], odd):
        rays = make_rays(torch.zeros(1, 3), place, setup, camera, camera.K[0, 0, 0])
        t = (rays.origins[:, 2] + 1 - 2 / 5) / -rays.directions[:, 2]  # z of a depth of 5 is 1 - 2 / 5
        ends.append(rays.origins + t[:, None] * rays.directions)
    torch.testing.assert_close(ends[0], ends[1])


def test_bad_scales(tmp_path, capsys):
    flags = [*TINY, "--N_iters", "2", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf, *flags, "--scales", "2", "1", says=("--scales 2 1", "ascending"))
    fails_cleanly(capsys, run_nerf, *flags, "--scales", "0.5", "1", says=("--scales",))
    fails_cleanly(capsys, run_nerf, *flags, "--scales", "1", "100", says=("--scales", "pixels"))
    fails_cleanly(capsys, run_nerf, *flags, "--scales", "1", "2", "--scale_weights", "1", says=("--scale_weights",))
    _, scene, _ = make_run(TINY)
    assert scene.cameras.height >= 8


@pytest.mark.parametrize("field", ["nerf", "mip"])
def test_samples_as_long_as_pixels_with_chosen_rays(tmp_path, field):
    """Rays that are only looked along know their pixels' size too."""
    flags = [*TINY, "--field", field, "--cone_steps", "1", "--filter_rays", "--N_iters", "4", "--basedir", tmp_path]
    assert run(run_nerf, *flags) == 0


def test_samples_as_long_as_pixels_of_a_tensor_field(tmp_path):
    """Whose importance is measured along training rays."""
    tensor = ["--field", "tensorf", *SMALL_TENSOR, "--importance_rays", "200", "--cone_steps", "1"]
    assert run(run_vq, *TINY, *tensor, "--N_iters", "4", "--qat_iters", "2", "--basedir", tmp_path) == 0
