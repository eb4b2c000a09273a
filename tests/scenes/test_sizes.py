"""Views of several sizes and orientations: each has its own lens, and what pads it is neither learnt nor measured."""

import dataclasses
import json

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from capture_files import (
    COLMAP_MODELS,
    CX,
    CY,
    FISHEYE,
    FX,
    FY,
    HEIGHT,
    OPENCV,
    POINTS,
    WIDTH,
    dot_places,
    edit_json,
    made_up_poses,
    photograph,
    ring,
    write_llff,
    write_model,
    write_nerfstudio,
)
from helpers import SHORT, TINY, run, seen_by

import run_nerf_qat
from evaluation.measures import psnr, ssim
from evaluation.views import evaluate_views, write_strip
from experiment import make_renderer
from load_colmap import load_colmap_scene
from load_llff import load_llff_scene
from load_nerfstudio import load_nerfstudio_scene
from load_scene import load_scene
from options import config_parser
from rendering.carving import make_grid
from rendering.renderer import RenderLimits
from scenes import images
from scenes.captures import normalisation
from scenes.images import area_downsample
from scenes.scene import Cameras
from training.batches import BatchSettings, RayBatches
from utils.errors import BadInput

CPU = torch.device("cpu")
# left, top, right, bottom of what is left of every second and third photograph: portrait, and a pixel less
PORTRAIT, TRIMMED = (18, 0, 106, 90), (0, 0, WIDTH - 1, HEIGHT)
LENSES = {"pinhole": (None, False), "opencv": (OPENCV, False), "fisheye": (FISHEYE, True)}


def crop_of(i: int) -> tuple[int, int, int, int]:
    return (0, 0, WIDTH, HEIGHT) if i % 3 == 0 else PORTRAIT if i % 3 == 1 else TRIMMED


def crop(path, i: int) -> tuple[int, int, float, float]:
    """Cuts photograph `i`, and returns its width, height, cx and cy."""
    left, top, right, bottom = crop_of(i)
    imageio.imwrite(path, imageio.imread(path)[top:bottom, left:right])
    return right - left, bottom - top, CX - left, CY - top


def nerfstudio(folder, lens: str):
    write_nerfstudio(folder, *LENSES[lens])

    def own_lenses(content):
        for i, frame in enumerate(content["frames"]):
            numbers = crop(folder / frame["file_path"], i)
            frame |= dict(zip(("w", "h", "cx", "cy"), numbers, strict=True))

    edit_json(folder, own_lenses)
    return load_nerfstudio_scene, folder


def colmap(folder, lens: str):
    """A camera for each image, whose number is the image's."""
    k, fisheye = LENSES[lens]
    model = {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}[lens]
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    (folder / "images").mkdir()
    poses = ring(10)
    names = [f"{i:03d}.png" for i in range(10)]
    values = COLMAP_MODELS[model][1]
    write_model(place, model, values, poses, names, POINTS, binary=False)
    cameras, lines = [], (place / "images.txt").read_text().splitlines()
    for i, pose in enumerate(poses):
        imageio.imwrite(folder / "images" / names[i], photograph(pose, k, fisheye))
        width, height, cx, cy = crop(folder / "images" / names[i], i)
        own = [FX, FY, cx, cy, *values[4:]]
        cameras.append(f"{i + 20} {model} {width} {height} {' '.join(map(str, own))}")
        lines[1 + 2 * i] = lines[1 + 2 * i].replace(f" 4 {names[i]}", f" {i + 20} {names[i]}")
    (place / "cameras.txt").write_text("\n".join(cameras))
    (place / "images.txt").write_text("\n".join(lines))
    return load_colmap_scene, folder


@pytest.mark.parametrize("factor", [1, 2.5])
@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("write", [nerfstudio, colmap])
def test_each_view_is_seen_through_its_own_lens(tmp_path, write, lens, factor):
    load, folder = write(tmp_path, lens)
    scene = load(folder, factor=factor)
    points = normalisation(ring(10), "here").points(POINTS)
    assert scene.images.shape[1:3] == (round(HEIGHT / factor), round(WIDTH / factor))
    sizes = set()
    for i in range(10):
        left, top, right, bottom = crop_of(i)
        size = round((bottom - top) / factor), round((right - left) / factor)
        assert scene.cameras.size(i) == size == (scene.cameras[i].height, scene.cameras[i].width)
        sizes.add(size)
        target, valid = scene.picture(i)
        assert target.shape == (*size, 3) and valid.shape == size
        assert lens != "pinhole" or valid.all()
        beyond = torch.ones_like(scene.valid[i])
        beyond[: size[0], : size[1]] = False
        assert not scene.valid[i][beyond].any() and not scene.images[i][beyond].any()
        found, expected = dot_places(255 * target.numpy()), seen_by(scene.cameras, i, points)
        assert np.abs(np.subtract(found, expected)).max() < 0.12
    assert any(f"images of {len(sizes)} sizes" in note for note in scene.notes)  # 119 and 120 may shrink to one
    assert (scene.render_path.height, scene.render_path.width) == scene.cameras.size(0)  # four of ten are whole
    assert torch.equal(scene.render_path.K[0], scene.cameras.K[0])


def test_an_image_that_is_not_its_lens_is_named_among_those_of_other_sizes(tmp_path):
    load, folder = nerfstudio(tmp_path, "pinhole")
    turned = folder / "images" / "004.png"
    imageio.imwrite(turned, np.rot90(imageio.imread(folder / "images" / "003.png")))
    with pytest.raises(BadInput, match=f"transforms.json: {turned} is 90x120, its camera is for 88x90, another aspect"):
        load(folder)


def test_captures_of_one_size_have_no_padding(tmp_path):
    scene = load_nerfstudio_scene(write_nerfstudio(tmp_path))
    assert scene.valid is None and not any("sizes" in note for note in scene.notes)


def test_sizes_that_one_frame_cannot_hold_are_refused_before_they_are_read(tmp_path, monkeypatch):
    _, folder = nerfstudio(tmp_path, "pinhole")
    big = folder / "images" / "003.png"
    imageio.imwrite(big, np.zeros((8 * HEIGHT, 8 * WIDTH, 3), np.uint8))
    assert load_nerfstudio_scene(folder).images.shape[1:3] == (8 * HEIGHT, 8 * WIDTH)
    monkeypatch.setattr(images, "MOST_PADDING", 10**6)
    monkeypatch.setattr(images, "read_image", lambda path: pytest.fail("read"))
    with pytest.raises(BadInput, match=f"{big}: image is 960x720, most are far smaller.*too much memory"):
        load_nerfstudio_scene(folder)


# ---------------------------------------------------------------------------------- padding is not there


@pytest.fixture(scope="module")
def scene():
    return load_scene(config_parser().parse_args(TINY))


def pad(scene):
    """The same scene in a larger frame, with noise in what pads it."""
    count, height, width, channels = scene.images.shape
    noise = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (count, height + 5, width + 9, channels), generator=noise, dtype=torch.uint8)
    frame[:, :height, :width] = scene.images
    valid = torch.zeros(frame.shape[:3], dtype=torch.bool)
    valid[:, :height, :width] = True
    sizes = torch.tensor([[height, width]]).repeat(count, 1)
    cameras = Cameras(scene.cameras.c2w, scene.cameras.K, height + 5, width + 9, sizes)
    return dataclasses.replace(scene, images=frame, cameras=cameras, valid=valid)


@pytest.fixture(scope="module")
def padded(scene):
    return pad(scene)


def test_padding_does_not_carve_and_nothing_is_seen_in_it(scene):
    """Of half of each image: what only the other half has seen lies in the padding."""
    cameras = Cameras(scene.cameras.c2w, scene.cameras.K, 24, 12)
    half = dataclasses.replace(scene, images=scene.images[:, :, :12], cameras=cameras, splits={"train": [0, 1, 2]})
    alone, within = make_grid(half, 24, CPU), make_grid(pad(half), 24, CPU)
    assert torch.equal(alone.occupied, within.occupied) and torch.equal(alone.aabb, within.aabb)
    assert not alone.occupied.all()


def test_padding_is_neither_shown_nor_measured(scene, padded):
    renderer = make_renderer(config_parser().parse_args(TINY), scene, CPU)
    views = scene.splits["test"][:2]
    alone, within = (evaluate_views(renderer, one, views, RenderLimits(rays=4096)) for one in (scene, padded))
    for a, b in zip(alone.images + alone.targets, within.images + within.targets, strict=True):
        assert torch.equal(a, b)
    assert (within.psnr, within.ssim) == (pytest.approx(alone.psnr, abs=1e-9), pytest.approx(alone.ssim, abs=1e-9))
    assert (within.summary()["height"], within.summary()["width"]) == (24, 24)


@pytest.mark.parametrize("crop_steps", [0, 6])
def test_padding_is_not_drawn_and_the_middle_is_each_images_own(padded, crop_steps):
    sizes = padded.cameras.sizes.clone()
    train = padded.splits["train"]
    sizes[train[1]] = torch.tensor([24, 10])
    valid = padded.valid.clone()
    valid[train[1], :, 10:] = False
    odd = dataclasses.replace(padded, cameras=dataclasses.replace(padded.cameras, sizes=sizes), valid=valid)
    args = config_parser().parse_args([*TINY, "--precrop_iters", str(crop_steps)])
    batches = RayBatches(BatchSettings.from_flags(args), odd, CPU)
    assert torch.equal(batches.drawable(), valid[train])
    if crop_steps:
        middle = torch.zeros_like(batches.drawable())
        middle.view(-1)[batches._middle.long()] = True
        expected = torch.zeros_like(middle)
        expected[:, 6:18, 6:18] = True
        expected[1] = False
        expected[1, 6:18, 2:7] = True
        assert torch.equal(middle, expected)


def test_a_strip_of_portraits_and_landscapes(tmp_path):
    columns = {name: [torch.zeros(30, 40, 3).byte(), torch.zeros(40, 30, 3).byte()] for name in ("a", "b")}
    write_strip(tmp_path / "strip.png", columns)
    strip = imageio.imread(tmp_path / "strip.png")
    assert strip.shape == (32 + 2 * 300, 2 * 400, 3)
    upper, lower = strip[32:332], strip[332:]
    assert not upper.any() and not lower[:, 88:312].any() and (lower[:, :87] == 255).all()


def test_cameras_along_a_path_have_the_lens_of_the_most_common_size():
    K = torch.stack([torch.eye(3) * i for i in range(1, 6)])
    sizes = torch.tensor([[9, 7], [7, 9], [7, 9], [9, 7], [7, 9]])
    cameras = Cameras.of_sizes(torch.eye(4)[:3].expand(5, 3, 4), K, sizes)
    assert (cameras.height, cameras.width) == (9, 9)
    path = cameras.along(torch.eye(4)[:3].expand(2, 3, 4))
    assert (path.height, path.width) == (7, 9) and torch.equal(path.K, K[[1, 1]])
    assert cameras[[1, 3]].sizes.tolist() == [[7, 9], [9, 7]] and cameras[[1, 3]].height == 9
    assert (cameras[4].height, cameras[4].width) == (7, 9)


def test_a_run_on_views_of_several_sizes(tmp_path):
    _, folder = nerfstudio(tmp_path / "data", "opencv")
    flags = [flag for flag in TINY if flag not in ("--white_bkgd", "--random_bkgd")]
    common = [*flags, *SHORT, "--factor", "4", "--llffhold", "4", "--basedir", tmp_path, "--expname", "mixed"]
    common += ["--i_img", "20", "--precrop_iters", "5", "--datadir", folder]
    assert run(run_nerf_qat, *common) == 0
    sizes = [imageio.imread(file).shape[:2] for file in sorted((tmp_path / "mixed" / "testset_000040").glob("*.png"))]
    assert sizes == [(22, 30), (22, 22), (22, 30)]  # of views 0, 4 and 8
    entry = json.loads((tmp_path / "mixed" / "metrics.json").read_text())["models"]["int8"]
    assert (entry["height"], entry["width"], entry["views"]) == (22, 30, 3)
    scene = load_nerfstudio_scene(folder, factor=4, llffhold=4)
    target, valid = scene.picture(4)
    picture = torch.tensor(imageio.imread(tmp_path / "mixed" / "testset_000040" / "001.png")) / 255
    assert entry["per_view"][1]["psnr"] == pytest.approx(psnr(picture[valid], target[valid]), abs=1e-3)
    shown = torch.where(valid[..., None], picture, target)
    assert entry["per_view"][1]["ssim"] == pytest.approx(ssim(shown, target, valid), abs=1e-3)


# ------------------------------------------------------------------------------------------------ LLFF


def llff_of_two_sizes(folder):
    """The second image and its pose are twice as large, the third is turned, each with its pose's size."""
    write_llff(folder, made_up_poses())
    table = np.load(folder / "poses_bounds.npy")
    table[1, [4, 9, 14]] *= 2
    table[2, [4, 9]] = table[2, [9, 4]]
    np.save(folder / "poses_bounds.npy", table)
    rng = np.random.default_rng(0)
    imageio.imwrite(folder / "images_8" / "image001.png", rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    imageio.imwrite(folder / "images_8" / "image002.png", rng.integers(0, 256, (16, 12, 3), dtype=np.uint8))
    return folder


def test_llff_views_of_several_sizes_have_their_own_lenses(tmp_path):
    scene = load_llff_scene(llff_of_two_sizes(tmp_path), ndc=False)
    assert scene.cameras.sizes.tolist() == [[12, 16], [24, 32], [16, 12], [12, 16], [12, 16], [12, 16]]
    assert scene.cameras.K[:, 0, 0].tolist() == pytest.approx([150 / 8, 300 / 8, *[150 / 8] * 4])
    assert scene.cameras.K[:, :2, 2].tolist() == [[8, 6], [16, 12], [6, 8], [8, 6], [8, 6], [8, 6]]
    assert (scene.render_path.height, scene.render_path.width) == (12, 16)
    assert scene.valid.sum() == scene.cameras.sizes.prod(1).sum()
    content = imageio.imread(tmp_path / "images_8" / "image002.png")
    assert np.array_equal(scene.images[2, :16, :12].numpy(), content)


def test_ndc_of_views_of_several_sizes_is_refused_with_a_way_out(tmp_path):
    llff_of_two_sizes(tmp_path)
    table = np.load(tmp_path / "poses_bounds.npy")
    table[:, 14] = 150
    np.save(tmp_path / "poses_bounds.npy", table)
    with pytest.raises(BadInput, match="image001.png: image is 32x24 .*NDC needs one size: add --no_ndc"):
        load_llff_scene(tmp_path)


def test_each_image_is_shrunk_on_its_own(tmp_path):
    _, folder = nerfstudio(tmp_path, "pinhole")
    scene = load_nerfstudio_scene(folder, factor=4)
    whole = imageio.imread(folder / "images" / "004.png")
    assert np.array_equal(scene.images[4, :22, :22].numpy(), area_downsample(whole, 4))
    assert scene.cameras.K[4, 0].tolist() == pytest.approx([FX * 22 / 88, 0, (CX - 18) * 22 / 88])
