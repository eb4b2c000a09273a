"""transforms.json captures: what the lens bent is straight, the frame is the promised one, masks count."""

import json
import math
import random

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from capture_files import (
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
    photograph,
    project,
    ring,
    write_nerfstudio,
)
from helpers import seen_by

from load_nerfstudio import load_nerfstudio_scene
from run_nerf_helpers import camera_rays
from scenes.captures import CAMERA_RADIUS, normalisation
from scenes.lenses import Lens, fold_radius, undistortion_map
from utils.errors import BadInput

LENSES = {"pinhole": (None, False), "opencv": (OPENCV, False), "fisheye": (FISHEYE, True)}


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("lens", LENSES)
def test_a_dot_at_its_bent_place_is_seen_at_the_pinholes(tmp_path, lens, factor):
    k, fisheye = LENSES[lens]
    scene = load_nerfstudio_scene(write_nerfstudio(tmp_path, k, fisheye), factor=factor)
    points = normalisation(ring(10), "here").points(POINTS)
    most = 0.0
    for i in range(10):
        found, expected = dot_places(scene.images[i].numpy()), seen_by(scene.cameras, i, points)
        assert np.abs(np.subtract(found, expected)).max() < 0.1
        most = max(most, np.abs(np.subtract(dot_places(photograph(ring(10)[i], k, fisheye)), expected)).max())
    assert lens == "pinhole" or most > 1  # else this test tells nothing


@pytest.mark.parametrize("lens", LENSES)
def test_rays_through_a_dot_meet_in_one_point_and_shapes_are_kept(tmp_path, lens):
    """Without the reader's own frame: nothing but its cameras and pictures."""
    scene = load_nerfstudio_scene(write_nerfstudio(tmp_path, *LENSES[lens]))
    places = [dot_places(image.numpy()) for image in scene.images]
    columns, rows = (torch.tensor(np.stack([place[axis] for place in places])) for axis in (0, 1))
    K, c2w = scene.cameras.K[:, None].double(), scene.cameras.c2w[:, None].double()
    origins, directions = camera_rays(columns, rows, K, c2w)
    d = directions / directions.norm(dim=-1, keepdim=True)
    across = torch.eye(3).double() - d[..., :, None] * d[..., None, :]
    met = torch.linalg.solve(across.sum(0), (across @ origins[..., None]).sum(0))[..., 0]
    off = (across @ (met - origins)[..., None])[..., 0].norm(dim=-1)
    assert off.max() < 0.02  # a tenth of a pixel at distance 4 is 0.004
    sides, true_sides = torch.cdist(met, met), torch.cdist(*[torch.tensor(POINTS)] * 2)
    scale = sides.sum() / true_sides.sum()
    torch.testing.assert_close(sides, scale * true_sides, rtol=0.01, atol=0)
    eyes = torch.tensor(ring(10)[:, :, 3])
    torch.testing.assert_close(
        torch.cdist(origins[:, 0], met), scale * torch.cdist(eyes, torch.tensor(POINTS)), rtol=0.01, atol=0
    )


def test_the_frame_is_centred_upright_and_of_nerfs_size(tmp_path):
    scene = load_nerfstudio_scene(write_nerfstudio(tmp_path))
    eyes, ahead = scene.cameras.c2w[:, :, 3], -scene.cameras.c2w[:, :, 2]
    assert float(eyes.norm(dim=-1).quantile(0.9)) == pytest.approx(CAMERA_RADIUS, rel=0.05)
    off_axis = torch.linalg.cross(ahead, eyes).norm(dim=-1)  # of the origin
    assert off_axis.max() < 0.2
    assert (scene.cameras.c2w[:, 2, 1] > 0.9).all()  # up is z
    assert scene.aabb.tolist() == [[-8] * 3, [8] * 3] and 0 < scene.near < 1 and scene.far > 8
    path = scene.render_path.c2w
    assert len(path) == 40 and (path[:, 2, 1] > 0.9).all()  # once round, level
    assert path[:, :, 3].norm(dim=-1).std() < 1e-4
    assert "--aabb" in scene.notes[0] and len(scene.notes) == 2
    chosen = load_nerfstudio_scene(tmp_path, near=1.5, far=7)
    assert (chosen.near, chosen.far) == (1.5, 7)


def test_moving_turning_and_scaling_a_capture_changes_nothing(tmp_path):
    plain = load_nerfstudio_scene(write_nerfstudio(tmp_path))
    turn = cv2.Rodrigues(np.array([0.3, -1.2, 0.5]))[0]

    def change(content):
        for frame in content["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, :3] = turn @ pose[:3, :3]
            pose[:3, 3] = 17 * turn @ pose[:3, 3] + [100, -50, 3]
            frame["transform_matrix"] = pose.tolist()

    edit_json(tmp_path, change)
    moved = load_nerfstudio_scene(tmp_path)
    # Which way x points is free: compare what does not depend on it.
    assert torch.allclose(
        torch.cdist(*[plain.cameras.c2w[:, :, 3]] * 2), torch.cdist(*[moved.cameras.c2w[:, :, 3]] * 2), atol=1e-3
    )
    assert torch.allclose(plain.cameras.c2w[:, 2], moved.cameras.c2w[:, 2], atol=1e-3)
    assert (plain.near, plain.far) == pytest.approx((moved.near, moved.far), rel=0.05)


@pytest.mark.parametrize("turned", [False, True], ids=["parallel", "outward"])
def test_cameras_that_look_at_no_common_point_are_centred_themselves_and_it_is_said(tmp_path, turned):
    write_nerfstudio(tmp_path)

    def change(content):
        for i, frame in enumerate(content["frames"]):
            pose = np.array(frame["transform_matrix"])
            if turned:
                pose[:3, [0, 2]] *= -1  # about its own up: away from the middle
            else:
                pose[:3] = np.eye(4)[:3]
                pose[0, 3] = i
            frame["transform_matrix"] = pose.tolist()

    edit_json(tmp_path, change)
    scene = load_nerfstudio_scene(tmp_path)
    assert scene.cameras.c2w[:, :, 3].mean(0).abs().max() < 1e-5
    assert any("no common point" in note for note in scene.notes)
    assert torch.isfinite(scene.render_path.c2w).all() and 0 < scene.near < scene.far


def test_a_capture_that_surrounds_nothing_flies_along_its_cameras(tmp_path):
    write_nerfstudio(tmp_path)

    def change(content):
        del content["frames"][4:]

    edit_json(tmp_path, change)
    scene = load_nerfstudio_scene(tmp_path, llffhold=4)
    path = scene.render_path.c2w
    assert torch.allclose(path[0], scene.cameras.c2w[0], atol=0.02)
    assert torch.allclose(path[-1], scene.cameras.c2w[-1], atol=0.02)


# -------------------------------------------------------------------------------------- intrinsics


def test_a_frames_own_lens_wins_and_an_angle_will_do(tmp_path):
    write_nerfstudio(tmp_path)

    def change(content):
        content["frames"][2] |= {"fl_x": 77.0, "cx": 50.5, "k1": 0.01}
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            content["frames"][3] |= {key: None}
        content["frames"][3]["camera_angle_x"] = 2 * math.atan(0.5 * WIDTH / 90)

    edit_json(tmp_path, change)
    K = load_nerfstudio_scene(tmp_path).cameras.K
    assert K[1].tolist() == [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
    assert K[2].tolist() == [[77, 0, 50.5], [0, FY, CY], [0, 0, 1]]
    torch.testing.assert_close(K[3], torch.tensor([[90.0, 0, WIDTH / 2], [0, 90, HEIGHT / 2], [0, 0, 1]]))


def test_intrinsics_follow_images_that_were_shrunk_beforehand(tmp_path):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | {key: 4 * c[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")})
    torch.testing.assert_close(
        load_nerfstudio_scene(tmp_path).cameras.K[0], torch.tensor([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
    )


@pytest.mark.parametrize("k, fisheye", [({"k1": -0.3}, False), ({"k1": -0.4, "k2": 0.05}, False), ({"k1": -0.2}, True)])
def test_where_the_lens_model_folds_nothing_is_valid(k, fisheye):
    """Beyond its fold a polynomial shows a second, false picture of the middle."""
    distortion = tuple(
        k.get(name, 0.0) for name in (("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3"))
    )
    lens = Lens(400, 300, 60.0, 60.0, 200.0, 150.0, distortion, fisheye)
    fold = fold_radius(lens)
    growth = np.diff(bent_radius(fold * np.linspace(0, 1.1, 1101)[1:], k, fisheye))
    assert (growth[:990] > 0).all() and (growth[1010:] < 0).all()
    columns, _, inside = undistortion_map(lens)
    radius = np.hypot(*np.meshgrid((np.arange(400) + 0.5 - 200) / 60, (np.arange(300) + 0.5 - 150) / 60))
    assert not inside[radius > fold * 1.01].any()
    assert (radius > fold * 1.01).any()
    middle = columns[150, 200:][inside[150, 200:]]
    assert (np.diff(middle) > 0).all()


def bent_radius(r: np.ndarray, k: dict, fisheye: bool) -> np.ndarray:
    k1, k2 = k["k1"], k.get("k2", 0.0)
    a = np.arctan(r) if fisheye else r
    return a * (1 + k1 * a**2 + k2 * a**4)


# ------------------------------------------------------------------------------------------ masks


def test_what_undistortion_brings_in_from_outside_is_not_valid(tmp_path):
    """A pincushion pulls the photograph's edge inwards: the corners of the pinhole's picture were never seen."""
    k = {"k1": 0.25}
    scene = load_nerfstudio_scene(write_nerfstudio(tmp_path, k))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    c2w = np.eye(4)[:3]
    rays = np.stack([(columns - CX) / FX, -(rows - CY) / FY, -np.ones_like(rows)], -1).reshape(-1, 3)
    bent_columns, bent_rows = project(rays, c2w, k)
    inside = (bent_columns > 0) & (bent_columns < WIDTH) & (bent_rows > 0) & (bent_rows < HEIGHT)
    margin = np.minimum.reduce([abs(bent_columns), abs(bent_columns - WIDTH), abs(bent_rows), abs(bent_rows - HEIGHT)])
    clear = (margin > 0.05).reshape(HEIGHT, WIDTH)
    assert (scene.valid[0].numpy() == inside.reshape(HEIGHT, WIDTH))[clear].all()
    assert 0.01 < 1 - inside.mean() < 0.3
    assert load_nerfstudio_scene(write_nerfstudio(tmp_path / "barrel", OPENCV)).valid is None
    assert any("not learnt from" in note for note in scene.notes)


@pytest.mark.parametrize("factor", [1, 2])
def test_masks_are_read_shrunk_and_bent_with_their_images(tmp_path, factor):
    """A mask that hides the red dot alone: where the dot is seen, nothing is valid, bent lens or not."""
    for name, k in (("straight", None), ("bent", OPENCV)):
        folder = write_nerfstudio(tmp_path / name, k)
        for i, pose in enumerate(ring(10)):
            if i != 3:
                red = photograph(pose, k)[..., 0] > 0
                imageio.imwrite(folder / f"mask_{i}.png", np.where(red, 0, 255).astype(np.uint8))

        def change(content):
            for i, frame in enumerate(content["frames"]):
                if i != 3:
                    frame["mask_path"] = f"mask_{i}.png"

        edit_json(folder, change)
        scene = load_nerfstudio_scene(folder, factor=factor)
        assert scene.valid.dtype == torch.bool and scene.valid.shape == scene.images.shape[:3]
        assert scene.valid[3].all()
        for i in (0, 1, 2, 4):
            red = scene.images[i, ..., 0] > 0
            assert not scene.valid[i][red].any()
            assert 0.9 < scene.valid[i].float().mean() < 1 and red.any()


def test_alpha_is_bent_premultiplied(tmp_path):
    """What is invisible has a colour that must not bleed into what is seen."""
    folder = write_nerfstudio(tmp_path, OPENCV)
    for path in (folder / "images").iterdir():
        image = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        image[..., 0] = 255
        image[30:60, 40:80] = 0, 200, 0, 255
        imageio.imwrite(path, image)
    scene = load_nerfstudio_scene(folder, white_background=True)
    visible = scene.images[..., 3] > 8
    assert visible.any() and (scene.images[..., 0][visible] <= 16).all()
    assert scene.background == (1, 1, 1) and scene.aabb.tolist() == [[-1.5] * 3, [1.5] * 3]


# ------------------------------------------------------------------------------------------ splits


def test_every_eighth_view_or_the_files_own_lists(tmp_path):
    write_nerfstudio(tmp_path)
    splits = load_nerfstudio_scene(tmp_path).splits
    assert splits["test"] == [0, 8] and splits["train"] == [1, 2, 3, 4, 5, 6, 7, 9]
    names = [f"images/{i:03d}.png" for i in range(10)]
    lists = {"train_filenames": names[4:9], "test_filenames": ["images/003", names[1]], "val_filenames": [names[9]]}
    edit_json(tmp_path, lambda c: c | lists)
    scene = load_nerfstudio_scene(tmp_path)
    assert scene.splits == {"train": [2, 3, 4, 5, 6], "val": [7], "test": [1, 0]}
    assert len(scene.images) == 8  # views that no list names are not read
    edit_json(tmp_path, lambda c: c | {"test_filenames": []})
    scene = load_nerfstudio_scene(tmp_path)
    assert scene.splits["test"] == scene.splits["val"] == [5]
    assert "val views" in scene.notes[0]


# ------------------------------------------------------------------------------------- bad input


def put(**values):
    return lambda d: edit_json(d, lambda c: c | values)


def put_in_frame(**values):
    def change(content):
        content["frames"][1] |= values

    return lambda d: edit_json(d, change)


def write_mask(d, shape):
    imageio.imwrite(d / "m.png", np.zeros(shape, np.uint8))
    put_in_frame(mask_path="m.png")(d)


BAD = {
    "no file": (lambda d: (d / "transforms.json").unlink(), "transforms.json", "not found"),
    "no JSON": (lambda d: (d / "transforms.json").write_text("{"), "transforms.json", "JSON"),
    "deep JSON": (lambda d: (d / "transforms.json").write_text("[" * 100000), "transforms.json", "JSON"),
    "no text": (lambda d: (d / "transforms.json").write_bytes(b"\xff\xfe\xd8"), "transforms.json", "JSON"),
    "a list": (lambda d: (d / "transforms.json").write_text("[]"), "transforms.json", "no frames"),
    "no frames": (put(frames=[]), "transforms.json", "no frames"),
    "frames of numbers": (put(frames=[1, 2]), "transforms.json", "no frames"),
    "no pose": (put_in_frame(transform_matrix=None), "frame 1", "shape"),
    "pose of words": (put_in_frame(transform_matrix="x"), "frame 1", "transform_matrix"),
    "pose too large": (put_in_frame(transform_matrix=[[10**400] * 4] * 4), "frame 1", "transform_matrix"),
    "pose 3x3": (put_in_frame(transform_matrix=np.eye(3).tolist()), "frame 1", "(3, 3)"),
    "pose NaN": (put_in_frame(transform_matrix=[[math.nan] * 4] * 4), "frame 1", "NaN"),
    "pose mirrored": (put_in_frame(transform_matrix=np.diag([1, 1, -1.0, 1]).tolist()), "frame 1", "not a rotation"),
    "pose far off": (
        put_in_frame(transform_matrix=[[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        "transforms.json",
        "units off",
    ),
    "no file_path": (put_in_frame(file_path=None), "frame 1", "file_path"),
    "file_path a number": (put_in_frame(file_path=3), "frame 1", "file_path is 3"),
    "all images missing": (lambda d: (d / "images").rename(d / "gone"), "images/000.png", "nor any other of the 10"),
    "image of another size": (
        lambda d: imageio.imwrite(d / "images/004.png", np.zeros((HEIGHT, WIDTH + 9, 3), np.uint8)),
        "images/004.png",
        f"{WIDTH + 9}x{HEIGHT}",
    ),
    "another aspect": (put(w=100, h=100), "transforms.json", "aspect"),
    "model unknown": (put(camera_model="EQUIRECTANGULAR"), "transforms.json", "image_undistorter"),
    "model a list": (put(camera_model=[]), "transforms.json", "camera_model []"),
    "no focal": (put(fl_x=None), "transforms.json", "camera_angle_x"),
    "focal NaN": (put(fl_x=math.nan), "transforms.json", "fl_x is nan"),
    "focal a word": (put(fl_x="105"), "transforms.json", "fl_x is '105'"),
    "focal negative": (put(fl_x=-105), "transforms.json", "above zero"),
    "angle in degrees": (put(fl_x=None, camera_angle_x=60), "transforms.json", "radians"),
    "k1 infinite": (put(k1=math.inf), "transforms.json", "k1 is inf"),
    "k4 of a perspective lens": (put(k4=0.1), "transforms.json", "OPENCV_FISHEYE"),
    "mask missing": (put_in_frame(mask_path="none.png"), "none.png", "no such image"),
    "mask of another size": (lambda d: write_mask(d, (9, 9)), "m.png", "9x9"),
    "mask all black": (lambda d: write_mask(d, (HEIGHT, WIDTH)), "images/001.png", "no pixel is left"),
    "split unknown": (put(train_filenames=["a.png"]), "transforms.json", "a.png"),
    "split no list": (put(train_filenames="a.png"), "transforms.json", "no list"),
    "split empty": (put(train_filenames=[]), "transforms.json", "empty"),
    "split overlaps": (
        put(train_filenames=["images/001.png"], test_filenames=["images/001.png"]),
        "transforms.json",
        "001.png is in",
    ),
    "one place": (
        put(frames=[{"file_path": f"images/00{i}.png", "transform_matrix": np.eye(4).tolist()} for i in range(3)]),
        "transforms.json",
        "one place",
    ),
    "one frame": (
        lambda d: edit_json(d, lambda c: c | {"frames": c["frames"][:1]}),
        "--llffhold",
        "left to train on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_capture_is_one_line_that_names_the_file(tmp_path, case):
    spoil, file, says = BAD[case]
    spoil(write_nerfstudio(tmp_path))
    with pytest.raises(BadInput) as error:
        load_nerfstudio_scene(tmp_path)
    message = str(error.value)
    assert says in message and file in message and "\n" not in message


ODD = [
    math.nan, math.inf, -math.inf, 1e308, -1e8, 1e8, 1e-45, 0, -1, 1, 10**400, True, None, "", "x", "\0", [], [[]], {},
]  # fmt: skip
LENS_KEYS = ["w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2", "camera_angle_x"]
OTHER_KEYS = ["camera_model", "is_fisheye", "file_path", "mask_path", "transform_matrix", "frames"]
KEYS = [*LENS_KEYS, *OTHER_KEYS, "train_filenames", "test_filenames"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_odd_value_is_a_scene_of_finite_numbers_or_one_line(small):
    folder, original = small
    draw = random.Random(0)
    for _ in range(300):
        content = json.loads(original)
        if draw.random() < 0.5:
            content["camera_model"] = "OPENCV_FISHEYE"
        values = {key: draw.choice(ODD) for key in draw.sample(KEYS, draw.randint(1, 3))}
        (content["frames"][1] if draw.random() < 0.5 else content).update(values)
        (folder / "transforms.json").write_text(json.dumps(content))
        try:
            scene = load_nerfstudio_scene(folder, factor=10)
        except BadInput as error:
            assert "\n" not in str(error), values
        else:
            assert torch.isfinite(scene.cameras.c2w).all() and torch.isfinite(scene.cameras.K).all(), values
            assert torch.isfinite(scene.aabb).all() and 0 < scene.near < scene.far < math.inf, values


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("value", [1e8, -1e8, 1e-30, 1e5])
def test_one_camera_far_off_is_still_a_scene(tmp_path, axis, value):
    write_nerfstudio(tmp_path)

    def change(content):
        content["frames"][1]["transform_matrix"][axis][3] = value

    edit_json(tmp_path, change)
    scene = load_nerfstudio_scene(tmp_path)
    assert torch.isfinite(scene.cameras.c2w).all() and 0 < scene.near < scene.far < math.inf


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = write_nerfstudio(tmp_path_factory.mktemp("odd"), {"k1": 0.1}, views=4)
    return folder, (folder / "transforms.json").read_text()


def test_flags_that_cannot_be_met(tmp_path):
    write_nerfstudio(tmp_path)
    with pytest.raises(BadInput, match="--white_bkgd"):
        load_nerfstudio_scene(tmp_path, needs_alpha=True)
    with pytest.raises(BadInput, match="--factor"):
        load_nerfstudio_scene(tmp_path, factor=0.5)


def test_instant_ngps_names_without_suffix_and_a_byte_order_mark(tmp_path):
    write_nerfstudio(tmp_path)

    def change(content):
        for frame in content["frames"]:
            frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")

    edit_json(tmp_path, change)
    path = tmp_path / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(json.loads(path.read_text())).encode())
    assert len(load_nerfstudio_scene(tmp_path).images) == 10
