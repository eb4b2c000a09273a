"""NSVF folders: cameras see what the files say, splits by prefix, and every way a folder can be wrong."""

import math

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from capture_files import CX, CY, FX, HEIGHT, POINTS, TARGET, WIDTH, dot_places, ring, write_nsvf
from helpers import seen_by

from load_nsvf import load_nsvf_scene
from run_nerf_helpers import camera_rays
from utils.errors import BadInput


@pytest.mark.parametrize("factor", [1, 2, 2.5])
@pytest.mark.parametrize("channels, matrix", [(4, False), (3, True)])
def test_a_point_is_seen_where_its_dot_is(tmp_path, channels, matrix, factor):
    write_nsvf(tmp_path, channels=channels, matrix=matrix)
    scene = load_nsvf_scene(tmp_path, factor=factor, testskip=1)
    assert scene.images.shape == (10, round(HEIGHT / factor), round(WIDTH / factor), channels)
    for i in range(10):
        columns, rows = dot_places(255 - (255 * scene.target(torch.tensor([i]))[0]).numpy())
        expected_columns, expected_rows = seen_by(scene.cameras, i, POINTS)
        assert np.abs(columns - expected_columns).max() < 0.05
        if matrix:  # NSVF's line has one focal length for both axes, and the dots lie where FX and FY put them
            assert np.abs(rows - expected_rows).max() < 0.05


def test_map_coordinates_and_byte_order_marks(tmp_path):
    """Numbers of millions are moved to the origin, in files that a Windows editor saved."""
    write_nsvf(tmp_path, matrix=True)
    far = np.array([441547.0, 5121946.0, 2345.0])
    for path in (tmp_path / "pose").iterdir():
        pose = np.loadtxt(path)
        pose[:3, 3] += far
        path.write_text("\n".join(" ".join(map(repr, row)) for row in pose.tolist()), encoding="utf-8-sig")
    box = np.loadtxt(tmp_path / "bbox.txt")
    box[:6] += np.tile(far, 2)
    (tmp_path / "bbox.txt").write_text(" ".join(map(repr, box.tolist())), encoding="utf-8-sig")
    scene = load_nsvf_scene(tmp_path, testskip=1)
    offset = far + TARGET + ring(10)[0, :, 3] - TARGET - scene.cameras.c2w[0, :, 3].numpy()
    torch.testing.assert_close(
        scene.cameras.c2w[:, :, 3].double(), torch.tensor(ring(10)[:, :, 3] + far - offset), atol=1e-5, rtol=0
    )
    assert scene.aabb.abs().max() < 10 and any("moved to the origin" in note for note in scene.notes)


def test_alpha_that_hides_nothing_is_dropped(tmp_path):
    write_nsvf(tmp_path, channels=3)
    for path in (tmp_path / "rgb").iterdir():
        imageio.imwrite(path, np.concatenate([imageio.imread(path), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], -1))
    scene = load_nsvf_scene(tmp_path)
    assert scene.images.shape[-1] == 3 and "hides nothing" in scene.notes[0]


def test_poses_are_turned_from_opencvs_axes(tmp_path):
    scene = load_nsvf_scene(write_nsvf(tmp_path), testskip=1)
    torch.testing.assert_close(scene.cameras.c2w.double(), torch.tensor(ring(10)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "line, cx, cy",
    [(f"{FX} {CX} {CY} 0.", CX, CY), (f"{FX}", WIDTH / 2, HEIGHT / 2), (f"{FX} 9", WIDTH / 2, HEIGHT / 2)],
)
def test_nsvfs_line_has_the_focal_and_perhaps_the_centre(tmp_path, line, cx, cy):
    write_nsvf(tmp_path)
    (tmp_path / "intrinsics.txt").write_text(f"\n{line}\n0. 0. 0.\n0.\n1.\n90 120\n")
    K = load_nsvf_scene(tmp_path).cameras.K[0]
    assert K.tolist() == [[FX, 0, cx], [0, FX, cy], [0, 0, 1]]


def test_splits_by_prefix_and_testskip(tmp_path):
    scene = load_nsvf_scene(write_nsvf(tmp_path, "0000112222"), testskip=2)
    assert scene.splits == {"train": [0, 1, 2, 3], "val": [4], "test": [5, 6]}
    torch.testing.assert_close(
        scene.cameras.c2w[5:, :, 3].double(), torch.tensor(ring(10)[[6, 8], :, 3]), atol=1e-5, rtol=0
    )
    assert scene.notes == []


def test_without_2_files_1_is_the_test_set_and_the_box_grows_about_its_centre(tmp_path):
    scene = load_nsvf_scene(write_nsvf(tmp_path, "000000011", channels=3), testskip=1)
    assert scene.splits == {"train": list(range(7)), "val": [], "test": [7, 8]}
    middle = TARGET + [0, -0.5, 1]
    expected = np.stack([middle - 1.2 * np.array([1, 1.5, 2]), middle + 1.2 * np.array([1, 1.5, 2])])
    np.testing.assert_allclose(scene.aabb.numpy(), expected, atol=1e-5)
    assert "1.2 times" in scene.notes[0]
    scene = load_nsvf_scene(write_nsvf(tmp_path / "train", "00000"), testskip=2)
    assert scene.splits == {"train": list(range(5)), "val": [], "test": [0, 2, 4]}
    assert any("TRAINING" in note for note in scene.notes)


def test_near_and_far_hold_the_box_and_no_more(tmp_path):
    """Every corner's z-depth lies between them for all cameras, and both are met."""
    write_nsvf(tmp_path)
    (tmp_path / "bbox.txt").write_text(" ".join(map(str, [*(TARGET - 0.5), *(TARGET + 0.5)])))
    scene = load_nsvf_scene(tmp_path, testskip=1)
    box = scene.aabb.numpy()
    corners = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    depth = np.concatenate([((pose[:, 3] - corners) @ pose[:, 2]) for pose in scene.cameras.c2w.numpy()])
    assert (scene.near, scene.far) == (pytest.approx(depth.min(), rel=1e-5), pytest.approx(depth.max(), rel=1e-5))
    assert 1 < scene.near < 2 and 3 < scene.far < 4
    assert (load_nsvf_scene(tmp_path, near=0.5, far=6).near, load_nsvf_scene(tmp_path, near=0.5, far=6).far) == (0.5, 6)
    (tmp_path / "bbox.txt").write_text(" ".join(map(str, [*(TARGET - 9), *(TARGET + 9)])))
    inside = load_nsvf_scene(tmp_path)
    assert inside.near == pytest.approx(inside.far / 500)


def test_background_is_white_and_the_path_goes_round_upright(tmp_path):
    scene = load_nsvf_scene(write_nsvf(tmp_path))
    assert scene.background == (1, 1, 1)
    path = scene.render_path.c2w.numpy()
    assert (path[:, 1, 1] > 0.75).all()  # up is y here, and not z
    middle = scene.aabb.mean(0)
    origins, directions = camera_rays(
        *(scene.render_path.K[:, i, 2] for i in (0, 1)), scene.render_path.K, scene.render_path.c2w
    )
    off_axis = torch.linalg.cross(directions, middle - origins).norm(dim=-1)
    assert off_axis.max() < 1e-4 * (middle - origins).norm(dim=-1).max()


# ------------------------------------------------------------------------------------- bad input


def change(folder, name: str, text: str) -> None:
    (folder / name).write_text(text)


BAD = {
    "no rgb": (lambda d: (d / "rgb").rename(d / "RGB"), "", "no folder rgb"),
    "image without pose": (lambda d: (d / "pose/0_0002.txt").unlink(), "rgb/0_0002.png", "no file 0_0002.*"),
    "pose without image": (lambda d: (d / "rgb/2_0007.png").unlink(), "pose/2_0007.txt", "no file 2_0007.*"),
    "two images of a name": (
        lambda d: imageio.imwrite(d / "rgb/0_0001.jpg", np.zeros((4, 4, 3), np.uint8)),
        "rgb/0_0001.",
        "same name",
    ),
    "unknown prefix": (
        lambda d: [(d / a / f"0_0001.{b}").rename(d / a / f"x_0001.{b}") for a, b in (("rgb", "png"), ("pose", "txt"))],
        "rgb/x_0001.png",
        "0_ (train)",
    ),
    "no training views": (
        lambda d: [p.unlink() for folder in ("rgb", "pose") for p in (d / folder).glob("0_*")],
        "rgb",
        "no training views",
    ),
    "no bbox": (lambda d: (d / "bbox.txt").unlink(), "bbox.txt", "not found"),
    "bbox of five": (lambda d: change(d, "bbox.txt", "0 0 0 1 1"), "bbox.txt", "5 numbers"),
    "bbox of eight": (lambda d: change(d, "bbox.txt", "0 0 0 1 1 1 .1 2"), "bbox.txt", "8 numbers"),
    "bbox turned round": (lambda d: change(d, "bbox.txt", "0 0 0 1 0 1"), "bbox.txt", "below"),
    "bbox NaN": (lambda d: change(d, "bbox.txt", "0 0 nan 1 1 1"), "bbox.txt", "NaN"),
    "bbox beyond float32": (lambda d: change(d, "bbox.txt", "0 0 0 1 1 1e300"), "bbox.txt", "1e+300 units off"),
    "bbox far off": (lambda d: change(d, "bbox.txt", "-1e38 0 0 1 1 1"), "bbox.txt", "1e+38 units off"),
    "bbox behind": (lambda d: change(d, "bbox.txt", "0 99 0 1 100 1"), "", "--aabb"),
    "no intrinsics": (lambda d: (d / "intrinsics.txt").unlink(), "intrinsics.txt", "not found"),
    "intrinsics empty": (lambda d: change(d, "intrinsics.txt", "\n"), "intrinsics.txt", "rows of []"),
    "intrinsics of five": (lambda d: change(d, "intrinsics.txt", "1 2 3 4 5"), "intrinsics.txt", "rows of [5]"),
    "matrix with a row cut": (
        lambda d: change(d, "intrinsics.txt", "105 0 62 0\n0 105 43 0\n0 0 1 0\n0 0 0"),
        "intrinsics.txt",
        "focal and principal point",
    ),
    "matrix with skew": (
        lambda d: change(d, "intrinsics.txt", "105 3 62\n0 105 43\n0 0 1"),
        "intrinsics.txt",
        "without skew",
    ),
    "focal denormal": (lambda d: change(d, "intrinsics.txt", "1e-310 62 43"), "intrinsics.txt", "focal"),
    "focal beyond float32": (lambda d: change(d, "intrinsics.txt", "1e300 62 43"), "intrinsics.txt", "focal"),
    "focal negative": (lambda d: change(d, "intrinsics.txt", "-105 62 43"), "intrinsics.txt", "focal"),
    "centre outside": (lambda d: change(d, "intrinsics.txt", "105 400 400"), "intrinsics.txt", f"{WIDTH}x{HEIGHT}"),
    "intrinsics words": (lambda d: change(d, "intrinsics.txt", "focal 105"), "intrinsics.txt", "not readable"),
    "pose of three rows": (
        lambda d: change(d, "pose/0_0000.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0"),
        "pose/0_0000.txt",
        "4x4",
    ),
    "pose transposed": (
        lambda d: np.savetxt(d / "pose/0_0000.txt", np.loadtxt(d / "pose/0_0000.txt").T),
        "pose/0_0000.txt",
        "transposed",
    ),
    "pose far off": (
        lambda d: change(d, "pose/2_0006.txt", "1 0 0 1e38\n0 1 0 0\n0 0 1 0\n0 0 0 1"),
        "pose/2_0006.txt",
        "1e+38 units off",
    ),
    "pose beyond float64": (
        lambda d: change(d, "pose/2_0006.txt", "1e300 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1"),
        "pose/2_0006.txt",
        "not a rotation",
    ),
    "pose infinite": (
        lambda d: change(d, "pose/2_0006.txt", "1 0 0 inf\n0 1 0 0\n0 0 1 0\n0 0 0 1"),
        "pose/2_0006.txt",
        "infinity",
    ),
    "pose scaled": (
        lambda d: change(d, "pose/0_0003.txt", "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1"),
        "pose/0_0003.txt",
        "not a rotation",
    ),
    "pose no text": (lambda d: (d / "pose/0_0003.txt").write_bytes(b"\xff\xfe\x00"), "pose/0_0003.txt", "not readable"),
    "image damaged": (lambda d: (d / "rgb/0_0003.png").write_bytes(b"PNG"), "rgb/0_0003.png", "not a readable image"),
}


@pytest.mark.filterwarnings("error")  # a warning is a second line
@pytest.mark.parametrize("case", BAD)
def test_bad_folder_is_one_line_that_names_the_file(tmp_path, case):
    spoil, file, says = BAD[case]
    spoil(write_nsvf(tmp_path))
    with pytest.raises(BadInput) as error:
        load_nsvf_scene(tmp_path, testskip=1)
    message = str(error.value)
    assert says in message and "\n" not in message
    assert not file or str(tmp_path / file) in message


def test_flags_that_cannot_be_met(tmp_path):
    write_nsvf(tmp_path, channels=3)
    with pytest.raises(BadInput, match="--random_bkgd"):
        load_nsvf_scene(tmp_path, needs_alpha=True)
    for factor in (0.5, math.nan):
        with pytest.raises(BadInput, match="--factor"):
            load_nsvf_scene(tmp_path, factor=factor)
