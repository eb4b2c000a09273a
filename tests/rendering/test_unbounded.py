"""Scenes without end: what is decided for captures with a background, and a small one learnt to its horizon."""

import json

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from capture_files import write_nerfstudio
from helpers import CPU, TINY, fails_cleanly, make_run, run

import run_nerf_qat
import run_r2l
from deploy.model_file import load_renderer
from load_procedural import camera_poses
from rendering.renderer import render_image
from run_nerf_helpers import get_rays, to8b
from scenes import glossy
from scenes.scene import pinhole

SIDE, VIEWS = 24, 30
PROPOSAL = [
    "--datadir", "CAPTURE", "--field", "mip", "--sampler", "proposal", "--proposal_bins", "24", "--final_bins", "16",
    "--N_rand", "160", "--use_viewdirs", "--netdepth", "2", "--netwidth", "48", "--multires", "6",
    "--density_activation", "softplus", "--density_bias", "-4", "--density_scale", "25", "--optimizer", "muon",
    "--lrate", "5e-3", "--muon_lrate", "0.04", "--lrate_decay", "0.6", "--i_img", "0", "--i_testset", "0",
    "--i_video", "0", "--i_weights", "0", "--path_frames", "2", "--threads", "1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Photographs of the glossy spheres before their surrounding, which is infinitely far."""
    folder = tmp_path_factory.mktemp("room")
    poses = camera_poses(list(range(VIEWS)))
    K = pinhole(0.9 * SIDE, SIDE, SIDE)
    frames = []
    (folder / "images").mkdir()
    for i, pose in enumerate(poses):
        origins, directions = (part.reshape(-1, 3).T.contiguous() for part in get_rays(SIDE, SIDE, K, pose))
        directions = directions / directions.norm(dim=0)
        distance = glossy.trace(origins, directions)
        hit = distance.isfinite()
        color = glossy.surrounding(directions, torch.full((SIDE * SIDE,), 1e3)).clamp(0, 1) ** (1 / 2.2)
        color[:, hit] = glossy.shade(origins[:, hit] + distance[hit] * directions[:, hit], directions[:, hit])
        imageio.imwrite(folder / "images" / f"{i:03d}.png", to8b(color.T.view(SIDE, SIDE, 3)).numpy())
        matrix = np.vstack([pose.numpy(), [0, 0, 0, 1]]).tolist()
        frames.append({"file_path": f"images/{i:03d}.png", "transform_matrix": matrix})
    head = {"w": SIDE, "h": SIDE, "fl_x": 0.9 * SIDE, "fl_y": 0.9 * SIDE, "cx": SIDE / 2, "cy": SIDE / 2}
    (folder / "transforms.json").write_text(json.dumps({**head, "frames": frames}))
    return folder


def flags_for(capture, *more) -> list[str]:
    return [str(capture) if flag == "CAPTURE" else flag for flag in PROPOSAL] + list(more)


def test_a_capture_is_contracted_by_itself(capture, capsys):
    _, scene, renderer = make_run(flags_for(capture))
    assert scene.ball == renderer.field.config.ball == 4.0
    assert renderer.setup.far == 1000 and renderer.curve == "reciprocal" and renderer.opaque
    assert "is contracted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--contract", "off"],
        ["--aabb", "-2", "-2", "-2", "2", "2", "2"],
        ["--sampler", "hierarchical"],
        ["--field", "nerf"],
    ],
    ids=["off", "box", "sampler", "field"],
)
def test_what_keeps_to_the_box(capture, flags):
    _, scene, renderer = make_run(flags_for(capture, *flags))
    assert scene.ball is None and renderer.setup.far < 100


def test_the_user_s_far_and_warp_win(capture):
    _, _, renderer = make_run(flags_for(capture, "--far", "50", "--ray_warp", "piecewise"))
    assert renderer.setup.far == 50 and renderer.curve == "piecewise"


def test_cut_out_subjects_have_a_box(scene):
    _, scene, renderer = make_run([*TINY, "--sampler", "proposal", "--field", "mip", "--N_rand", "64"])
    assert scene.ball is None and renderer.hull is not None


def test_where_space_cannot_be_contracted(tmp_path, capsys):
    write_nerfstudio(tmp_path / "c")
    flags = flags_for(tmp_path / "c", "--contract", "on", "--field", "nerf", "--basedir", tmp_path)
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("--contract on", "--field mip"))


def test_it_is_learnt_to_its_horizon_and_the_int_8_file_shows_it(capture, tmp_path):
    flags = flags_for(capture, "--N_iters", "400", "--qat_iters", "60", "--basedir", str(tmp_path), "--expname", "u")
    assert run(run_nerf_qat, *flags) == 0
    models = json.loads((tmp_path / "u" / "metrics.json").read_text())["models"]
    assert models["float32"]["psnr"] > 23.5  # the mean colour has 20
    assert models["int8"]["psnr"] > models["float32"]["psnr"] - 0.3
    renderer, path, _ = load_renderer(tmp_path / "u" / "model_int8.safetensors", CPU)
    picture = render_image(renderer, path[0])
    assert picture.opacity.min() > 0.999  # nothing shines through
    assert picture.depth.median() > 1 and picture.depth.max() > 20


def test_a_light_field_learns_from_a_teacher_without_end(capture, tmp_path, capsys):
    """Its places are even in disparity, and contracted as the teacher's are; cells it has none."""
    flags = flags_for(capture, "--N_iters", "60", "--qat_iters", "20", "--basedir", str(tmp_path))
    assert run(run_nerf_qat, *flags, "--expname", "teacher") == 0
    student = [*flags, "--field", "light_field", "--sampler", "light_field", "--netdepth", "4", "--ray_points", "6"]
    student += ["--teacher", str(tmp_path / "teacher" / "model_int8.safetensors"), "--pseudo_views", "4"]
    fails_cleanly(capsys, run_r2l, *student, "--expname", "s", says=("no occupied cells", "--ray_span near_far"))
    assert run(run_r2l, *student, "--expname", "s", "--ray_span", "near_far") == 0
    renderer, path, metadata = load_renderer(tmp_path / "s" / "model_int8.safetensors", CPU)
    assert metadata["sampler"]["ray_warp"] == "reciprocal" and metadata["sampler"]["ball"] > 0
    assert renderer.setup.far == 1000 and torch.isfinite(render_image(renderer, path[0]).rgb).all()
