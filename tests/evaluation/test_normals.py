"""Normals from depths and from fields, and their angle to exact ones."""

import math

import pytest
import torch
from helpers import TINY, make_run, run

import run_nerf
from evaluation.normals import colorize_normals, mean_angle, normals_of
from load_procedural import load_procedural_scene
from rendering.renderer import Rendering
from run_nerf_helpers import get_rays
from scenes.scene import Cameras, pinhole


def camera(size: int = 40) -> Cameras:
    return Cameras(torch.eye(4)[:3][None], pinhole(50.0, size, size)[None], size, size)


def test_a_tilted_plane_has_its_normal_everywhere():
    view = camera()
    _, directions = get_rays(40, 40, view.K[0], view.c2w[0])
    ahead = torch.nn.functional.normalize(directions, dim=-1)
    normal = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, 0.9]), dim=0)
    depth = -3 / (ahead @ normal)  # of the plane n.x = -3
    picture = Rendering(torch.zeros(40, 40, 3), depth, torch.ones(40, 40))
    torch.testing.assert_close(normals_of(picture, view), normal.expand(40, 40, 3), atol=2e-4, rtol=0)


def test_exact_depths_of_spheres_have_their_normals():
    """Within what pixels are wide, and an edge is no slope."""
    scene = load_procedural_scene(64, train_views=1, val_views=0, test_views=1, kind="glossy")
    view = scene.cameras[0]
    _, directions = get_rays(64, 64, view.K[0], view.c2w[0])
    hit = scene.depth[0].isfinite()
    along = torch.where(hit, scene.depth[0] * directions.norm(dim=-1), 6.0)
    picture = Rendering(torch.zeros(64, 64, 3), along, hit.float())
    normals = normals_of(picture, view)
    assert not normals[~hit].any()
    assert mean_angle(normals, scene.normals[0]) < 6


def test_a_row_of_pixels_has_no_normals():
    view = Cameras(torch.eye(4)[:3][None], pinhole(5.0, 1, 4)[None], 1, 4)
    picture = Rendering(torch.zeros(1, 4, 3), torch.ones(1, 4), torch.ones(1, 4))
    assert not normals_of(picture, view).any()


def test_what_a_field_says_comes_first():
    said = torch.tensor([0.0, 0.6, 0.8]).expand(40, 40, 3)
    opacity = torch.ones(40, 40)
    opacity[3, 5] = 0.2
    picture = Rendering(torch.zeros(40, 40, 3), torch.ones(40, 40), opacity, extras={"normals": 0.5 * said})
    normals = normals_of(picture, camera())
    torch.testing.assert_close(normals[0], said[0])
    assert not normals[3, 5].any()


def test_angles_by_hand():
    a = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]])
    b = torch.tensor([[[0.0, 1, 0], [0, math.cos(0.02), math.sin(0.02)], [1, 0, 0]]])
    assert mean_angle(a, b) == pytest.approx((90 + math.degrees(0.02)) / 2, rel=1e-5)
    assert math.isnan(mean_angle(torch.zeros(1, 1, 3), torch.ones(1, 1, 3)))


def test_colours():
    normals = torch.tensor([[[1.0, 0, 0], [0, 0, -1], [0, 0, 0]]])
    colors = colorize_normals(normals, torch.tensor([[1.0, 1.0, 0.0]]))
    assert colors.tolist() == [[[255, 128, 128], [128, 128, 0], [255, 255, 255]]]


def test_pictures_beside_colour(tmp_path):
    flags = [*TINY, "--N_iters", "20", "--basedir", tmp_path, "--expname", "n", "--plot_weights"]
    proposals = ["--sampler", "proposal", "--proposal_bins", "16", "--final_bins", "8", "--N_rand", "64"]
    assert run(run_nerf, *flags, *proposals) == 0
    folder = tmp_path / "n"
    test = folder / "testset_000020"
    names = [sorted(p.name for p in place.glob("*.png")) for place in (test, test / "depth", test / "normals")]
    assert names[0] == names[1] == names[2] and names[0]
    assert {p.name for p in folder.glob("*.mp4")} == {f"n_spiral_000020_{k}.mp4" for k in ("rgb", "disp", "normals")}
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    assert (folder / "weights.png").stat().st_size > 5000


def test_the_sphere_path_goes_round(tmp_path):
    _, scene, _ = make_run([*TINY, "--render_sphere", "--sphere_elevation", "10", "--sphere_radius", "3"])
    eyes = scene.render_path.c2w[:, :, 3]
    torch.testing.assert_close(eyes.norm(dim=-1), torch.full((len(eyes),), 3.0))
    torch.testing.assert_close(eyes[:, 2], torch.full((len(eyes),), 3 * math.sin(math.radians(10))))
