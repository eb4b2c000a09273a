"""Which reader a folder goes to, and that a run learns from every format."""

import argparse
import json

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from capture_files import HEIGHT, OPENCV, WIDTH, edit_json, write_blender, write_colmap, write_nerfstudio, write_nsvf
from helpers import HIERARCHICAL, TINY, fails_cleanly, run

import run_nerf
from load_scene import MARKS, READERS, dataset_type, load_scene, video_path
from options import DATASETS, config_parser
from utils.errors import BadInput

OCCUPANCY = [flag for flag in TINY if flag not in ("--white_bkgd", "--random_bkgd")]
COARSE_FINE = [flag for flag in HIERARCHICAL if flag != "--white_bkgd"]


def parse(*words: object) -> argparse.Namespace:
    return config_parser().parse_args([str(word) for word in words])


def masked(folder):
    """A bent lens and a mask on one frame."""
    write_nerfstudio(folder, OPENCV | {"k1": 0.2})
    imageio.imwrite(folder / "mask.png", np.tile(np.array([0, 255], np.uint8).repeat(WIDTH // 2), (HEIGHT, 1)))
    edit_json(folder, lambda c: c["frames"][1].update(mask_path="mask.png"))
    return folder


FORMATS = {
    "nsvf": lambda d: write_nsvf(d),
    "nerfstudio": masked,
    "colmap": lambda d: write_colmap(d, "OPENCV"),
}


def test_every_choice_has_a_reader_or_says_that_it_has_none():
    assert set(DATASETS) == set(READERS) | {"deepvoxels", "LINEMOD"}
    assert {name for name, _ in MARKS} <= set(READERS)


@pytest.mark.parametrize(
    "files, expected",
    [
        (["transforms_train.json", "transforms.json"], "blender"),
        (["poses_bounds.npy"], "llff"),
        (["poses_bounds.npy", "images/a.png", "sparse/0/cameras.bin"], "colmap"),
        (["poses_bounds.npy", "images_8/a.png", "sparse/0/cameras.bin"], "llff"),
        (["transforms.json", "sparse/0/cameras.bin"], "nerfstudio"),
        (["rgb/a", "pose/a"], "nsvf"),
        (["sparse/cameras.txt"], "colmap"),
        (["cameras.bin"], "colmap"),
        (["cameras.txt"], "colmap"),
        (["rgb/a"], None),
    ],
)
def test_auto_looks_at_the_folder(tmp_path, capsys, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if expected is None:
        says = (str(tmp_path), "transforms.json (nerfstudio)", "rgb + pose (nsvf)", "sparse (colmap)")
        fails_cleanly(capsys, run_nerf, "--datadir", tmp_path, "--basedir", tmp_path / "logs", says=says)
    else:
        assert dataset_type(parse("--datadir", tmp_path)) == expected


def test_auto_without_a_folder_and_with_a_file():
    assert dataset_type(parse()) == "procedural"
    assert dataset_type(parse("--datadir", "x/tiny.npz")) == "tiny_nerf"


@pytest.mark.parametrize("kind", ["auto", "explicit"])
@pytest.mark.parametrize(
    "name, write, file",
    [
        ("nerfstudio", write_nerfstudio, "transforms.json"),
        ("blender", write_blender, "transforms_train.json"),
        ("blender", write_blender, "transforms_test.json"),
        ("colmap", write_colmap, "sparse/0/cameras.bin"),
        ("colmap", write_colmap, "sparse/0"),
        ("colmap", write_colmap, "sparse"),
    ],
)
def test_a_file_of_a_folder_means_the_folder(tmp_path, monkeypatch, name, write, file, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "data")
    place = "~/data"  # as a config may say it, where no shell expands it
    args = parse("--datadir", f"{place}/{file}", "--dataset_type", "auto" if kind == "auto" else name, "--factor", "9")
    assert dataset_type(args) == name
    scene, expected = load_scene(args), load_scene(parse("--datadir", place, "--factor", "9"))
    assert scene.images.shape == expected.images.shape and scene.name == "data" and args.datadir.startswith("~")


def test_colmaps_lens_goes_before_what_was_made_of_it(tmp_path, capsys):
    write_colmap(tmp_path, "OPENCV")
    np.save(tmp_path / "poses_bounds.npy", np.zeros(3))
    assert len(load_scene(parse("--datadir", tmp_path, "--factor", "9")).images) == 10
    assert "--dataset_type llff" in capsys.readouterr().out
    with pytest.raises(BadInput, match="poses_bounds.npy"):
        load_scene(parse("--datadir", tmp_path, "--dataset_type", "llff"))


def test_notes_are_one_line_each_and_said_once(tmp_path, capsys):
    write_blender(tmp_path)
    for split in ("train", "test"):
        name = f"transforms_{split}.json"
        edit_json(tmp_path, lambda c: c["frames"].append(c["frames"][0] | {"file_path": "a\nb\ud800" * 999}), name)
    (tmp_path / "masks").mkdir()
    load_scene(parse("--datadir", tmp_path, "--factor", "9"))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("note: ") and len(line) < 700 for line in lines)
    assert sum("masks" in line for line in lines) == 1 and sum("have no image" in line for line in lines) == 1


def bent_blender(folder):
    """Blender's layout with a lens of its own, whose undistorted pictures have pixels that nobody saw."""
    return write_blender(folder, OPENCV | {"k1": 0.2})


LEARNT = [(write, flags) for write in FORMATS.values() for flags in (OCCUPANCY, COARSE_FINE)] + [
    (bent_blender, COARSE_FINE)
]


@pytest.mark.parametrize("write, flags", LEARNT)
def test_a_run_learns_from_it(tmp_path, write, flags):
    data = write(tmp_path / "data")
    more = ["--datadir", data, "--factor", "5", "--N_iters", "30", "--i_weights", "0", "--basedir", tmp_path]
    assert run(run_nerf, *flags, *more, "--expname", "run", "--testskip", "1") == 0
    entry = json.loads((tmp_path / "run/metrics.json").read_text())["models"]["float32"]
    assert np.isfinite(entry["psnr"]) and entry["psnr"] > 6 and (entry["height"], entry["width"]) == (18, 24)


@pytest.mark.parametrize("name", FORMATS)
def test_flags_reach_the_readers(tmp_path, name):
    data = FORMATS[name](tmp_path)
    given = ["--near", "0.3", "--far", "9", "--aabb", "-1", "-2", "-3", "1", "2", "3", "--path_frames", "4"]
    scene = load_scene(parse("--datadir", data, "--dataset_type", name, "--factor", "2", *given))
    assert (scene.near, scene.far, len(scene.render_path)) == (0.3, 9, 4)
    assert scene.aabb.tolist() == [[-1, -2, -3], [1, 2, 3]]
    assert scene.images.shape[1:3] == (45, 60)


@pytest.mark.parametrize(
    "flags",
    [
        ["--aabb", "-1", "-1", "-1", "1", "1", "inf"],
        ["--aabb", "-1e38", "-1", "-1", "1", "1", "1"],
        ["--aabb", "nan", "-1", "-1", "1", "1", "1"],
        ["--aabb", "0", "0", "0", "1", "1", "1e-30"],
        ["--near", "nan"],
        ["--far", "nan"],
        ["--far", "inf"],
        ["--far", "1e30"],
    ],
)
def test_bounds_that_nothing_can_lie_in_are_refused_in_one_line(tmp_path, capsys, flags):
    common = ["--procedural_size", "8", "--basedir", tmp_path / "logs", "--expname", "x", "--plot_cameras"]
    fails_cleanly(capsys, run_nerf, *common, *flags, says=(flags[0],))


def test_plot_cameras_draws_a_capture(tmp_path):
    data = FORMATS["colmap"](tmp_path / "data")
    assert run(run_nerf, "--datadir", data, "--basedir", tmp_path, "--expname", "c", "--plot_cameras") == 0
    assert (tmp_path / "c/cameras.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["walk", "orbit", "spiral"])
def test_the_video_goes_on_the_path_that_is_asked_for(kind):
    own = load_scene(parse(*TINY, "--path_frames", 6)).render_path
    asked = load_scene(parse(*TINY, "--path_frames", 6, "--path", kind)).render_path
    assert asked.c2w.shape == (6, 3, 4) and torch.isfinite(asked.c2w).all()
    assert not torch.allclose(asked.c2w, own.c2w) and (asked.height, asked.width) == (own.height, own.width)
    args = parse("--path", kind, "--path_frames", 5)
    assert video_path(args, own).c2w.shape == (5, 3, 4)  # of a file, which knows its own path only


def test_a_path_that_is_none_is_refused():
    with pytest.raises(BadInput, match="--path zigzag: expected auto, walk"):
        load_scene(parse(*TINY, "--path", "zigzag"))


def test_in_ndc_a_files_lens_is_not_heeded(tmp_path):
    """The box of NDC fits one lens: other pictures would be of rays that the model never learnt."""
    own = load_scene(parse(*TINY)).render_path
    poses = [{"camera_to_world": [*c2w.flatten().tolist(), 0, 0, 0, 1], "fov": 20} for c2w in own.c2w[:2]]
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"render_height": 30, "render_width": 50, "camera_path": poses}))
    free, bound = (
        video_path(parse(*TINY, "--path_frames", "0", "--path", file), own, ndc=ndc) for ndc in (False, True)
    )
    assert (free.height, free.width) == (30, 50) and free.K[0, 0, 0] != own.K[0, 0, 0]
    assert (bound.height, bound.width) == (own.height, own.width) and torch.equal(bound.K[0], own.K[0])
    assert torch.equal(free.c2w, bound.c2w)
