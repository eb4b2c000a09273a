"""What JSON files say of lenses, files, order and bounds counts, whichever reader reads them."""

import json
import math

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from capture_files import (
    CX,
    CY,
    FX,
    FY,
    HEIGHT,
    OPENCV,
    POINTS,
    TARGET,
    WIDTH,
    dot_places,
    edit_json,
    ring,
    write_blender,
    write_nerfstudio,
)
from helpers import seen_by
from PIL import Image

from load_blender import load_blender_scene
from load_nerfstudio import load_nerfstudio_scene
from scenes.capture_frame import normalisation
from scenes.file_names import FileFinder, natural_key
from scenes.lens_keys import read_lens
from scenes.point_cloud import read_ply_points
from utils.errors import BadInput

SIZE = (HEIGHT, WIDTH)


def frames_of(folder, change) -> None:
    """Changes each frame of a nerfstudio folder: `change(number, frame)`."""
    edit_json(folder, lambda c: [change(i, frame) for i, frame in enumerate(c["frames"])] and None)


# ---------------------------------------------------------------------------------- lenses


@pytest.mark.parametrize("k", [None, OPENCV], ids=["pinhole", "opencv"])
def test_blenders_reader_sees_dots_where_the_files_lens_puts_them(tmp_path, k):
    """fl_x, fl_y, cx, cy and distortion, beside a camera_angle_x that says something else."""
    scene = load_blender_scene(write_blender(tmp_path, k), testskip=1)
    for i in range(10):
        found, expected = dot_places(scene.images[i].numpy()), seen_by(scene.cameras, i, POINTS)
        assert np.abs(np.subtract(found, expected)).max() < 0.1
    assert scene.cameras.K[0].tolist() == [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
    assert scene.splits["test"] == [6, 7, 8, 9]


def angle(side: float, focal: float) -> float:
    return 2 * math.atan(0.5 * side / focal)


LENSES = {  # head, frame, and the focal lengths that they mean
    "pixels before angles": ({"fl_x": 90, "camera_angle_x": 1, "camera_angle_y": 1}, {}, (90, None)),
    "an angle": ({"camera_angle_x": angle(WIDTH, 90)}, {}, (90, 90)),
    "two angles": ({"camera_angle_x": angle(WIDTH, 90), "camera_angle_y": angle(HEIGHT, 80)}, {}, (90, 80)),
    "degrees": ({"x_fov": math.degrees(angle(WIDTH, 90)), "camera_angle_x": 1}, {}, (90, 90)),
    "across alone": ({"camera_angle_y": angle(HEIGHT, 80)}, {}, (80, 80)),
    "a frame's pixels": ({"fl_x": 90, "fl_y": 90}, {"fl_x": 70}, (70, 70)),
    "a frame's angle": ({"fl_x": 90, "fl_y": 90}, {"camera_angle_x": angle(WIDTH, 70)}, (70, 70)),
    "a frame's degrees": ({"camera_angle_x": 1}, {"x_fov": math.degrees(angle(WIDTH, 70))}, (70, 70)),
    "a frame's axis of stretched pixels": ({"fl_x": 90, "fl_y": 50}, {"fl_x": 70}, (70, 50)),
    "taken back by a frame": ({"fl_x": 90, "fl_y": 50}, {"fl_x": None, "fl_y": None, "x_fov": 90}, (60, 60)),
}


@pytest.mark.parametrize("case", LENSES)
def test_the_more_specific_statement_wins(case):
    head, frame, (fx, fy) = LENSES[case]
    lens = read_lens("here", head, frame, SIZE)
    assert lens.fx == pytest.approx(fx)
    assert lens.fy == pytest.approx(0.5 * HEIGHT / math.tan(0.5) if fy is None else fy)
    assert (lens.cx, lens.cy, lens.is_pinhole) == (WIDTH / 2, HEIGHT / 2, True)


def test_fisheyes_and_distortion_of_frames_and_lists():
    head = {"fl_x": 90, "is_fisheye": True, "k1": 0.1, "k4": 0.2}
    assert read_lens("here", head, {}, SIZE).distortion == (0.1, 0, 0, 0.2)
    lens = read_lens("here", head, {"camera_model": "OPENCV", "k4": 0, "p1": 0.3}, SIZE)
    assert (lens.fisheye, lens.distortion) == (False, (0.1, 0, 0.3, 0, 0))
    assert (
        read_lens("here", head | {"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": False, "k4": 0}, SIZE).fisheye
        is False
    )
    listed = read_lens("here", {"fl_x": 90, "distortion_params": [1, 2, 3, 0, 4, 5]}, {"k1": 9}, SIZE)
    assert listed.distortion == (9, 2, 4, 5, 3)


REFUSED = {
    "rational": ({"k5": 0.1}, "k5"),
    "tangential fisheye": ({"is_fisheye": True, "p1": 0.1}, "p1"),
    "word for a flag": ({"is_fisheye": "yes"}, "is_fisheye is 'yes'"),
    "equirectangular": ({"equirectangular": True}, "equirectangular"),
    "panorama": ({"latlong": True}, "latlong"),
    "orthographic": ({"orthographic": True}, "orthographic"),
    "f-theta": ({"ftheta_p0": 0.0}, "ftheta_p0"),
    "degrees": ({"fl_x": None, "x_fov": 190}, "degrees"),
    "skew": ({"skew": 0.1}, "skew"),
    "another type": ({"camera_type": "spherical"}, "camera_type 'spherical'"),
    "list too long": ({"distortion_params": [0] * 9}, "distortion_params"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("of_frame", [False, True], ids=["head", "frame"])
def test_other_lenses_are_refused_by_name(case, of_frame):
    keys, says = REFUSED[case]
    head = {"fl_x": 90} | ({} if of_frame else keys)
    with pytest.raises(BadInput, match="here: ") as error:
        read_lens("here", head, keys if of_frame else {}, SIZE)
    assert says in str(error.value)


def test_keys_that_are_not_heeded_are_said(tmp_path):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | {"rolling_shutter": [0, 0, 0.1, 0], "black_transparent": False, "envmap": ""})
    frames_of(tmp_path, lambda i, frame: frame.update(time=0.1 * i, depth_file_path="d.png"))
    (tmp_path / "masks").mkdir()
    notes = load_nerfstudio_scene(tmp_path).notes
    assert [any(key in note for note in notes) for key in ("rolling_shutter", "time ", "depth_file_path")] == [True] * 3
    assert not any("transparent" in note or "envmap" in note for note in notes)  # switched off
    assert any("masks: not read" in note for note in notes)


def test_mitsubas_axes_are_refused(tmp_path):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | {"from_mitsuba": True})
    with pytest.raises(BadInput, match="from_mitsuba"):
        load_nerfstudio_scene(tmp_path)


# ------------------------------------------------------------------------------------ masks


def test_instant_ngps_dynamic_masks_hide_what_is_not_black(tmp_path):
    """The other way round than mask_path; a frame may have both."""
    write_nerfstudio(tmp_path)
    left, top = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    left[:, :30], top[:9] = 1, 255
    imageio.imwrite(tmp_path / "images/dynamic_mask_002.png", left)
    imageio.imwrite(tmp_path / "top.png", top)
    frames_of(tmp_path, lambda i, frame: frame.update(mask_path="top.png") if i in (1, 2) else None)
    valid = load_nerfstudio_scene(tmp_path).valid.numpy()
    assert valid[0].all() and (valid[1] == (top > 0)).all() and (valid[2] == (top > 0) & (left == 0)).all()


def test_a_mask_that_leaves_nothing_is_named(tmp_path):
    write_nerfstudio(tmp_path)
    imageio.imwrite(tmp_path / "images/dynamic_mask_002.png", np.full(SIZE, 255, np.uint8))
    with pytest.raises(BadInput, match="dynamic_mask_002.png"):
        load_nerfstudio_scene(tmp_path)


def test_no_photograph_stands_in_for_a_missing_mask(tmp_path):
    write_nerfstudio(tmp_path)
    frames_of(tmp_path, lambda i, frame: frame.update(mask_path=f"masks/{i:03d}.png"))
    with pytest.raises(BadInput, match="masks/000.png: no such image"):
        load_nerfstudio_scene(tmp_path)
    (tmp_path / "masks").mkdir()
    for i in range(10):
        imageio.imwrite(tmp_path / f"masks/{i:03d}.png", np.full(SIZE, i % 2, np.uint8) | (np.eye(*SIZE) > 0))
    frames_of(tmp_path, lambda i, frame: frame.update(mask_path=f"C:\\old\\masks\\{i:03d}.png"))
    assert load_nerfstudio_scene(tmp_path).valid.all(-1).all(-1).tolist() == [False, True] * 5


# ------------------------------------------------------------------------------------ files

NAMES = {
    "backslashes": "images\\{}.png",
    "Windows": "C:\\Users\\me\\capture\\images\\{}.png",
    "another machine": "/home/me/old/capture/images/{}.png",
    "Instant-NGP's parent": "data/capture/images/{}.png",
    "another folder": "/somewhere/else/{}.png",
    "another suffix": "images/{}.jpg",
    "capitals": "images/{}.PNG",
    "no suffix": "./images/{}",
}


@pytest.mark.parametrize("case", NAMES)
def test_images_are_found_by_the_names_of_other_systems(tmp_path, case):
    plain = load_nerfstudio_scene(write_nerfstudio(tmp_path))
    frames_of(tmp_path, lambda i, frame: frame.update(file_path=NAMES[case].format(f"{i:03d}")))
    scene = load_nerfstudio_scene(tmp_path)
    assert torch.equal(scene.images, plain.images) and torch.equal(scene.cameras.c2w, plain.cameras.c2w)
    said = any("10 images are not where it says" in note for note in scene.notes)
    assert said == (case not in ("backslashes", "capitals", "no suffix"))


def test_what_is_found_elsewhere_is_no_other_frames_image(tmp_path):
    write_nerfstudio(tmp_path)
    frames_of(tmp_path, lambda i, frame: frame.update(file_path="left/001.png") if i == 4 else None)
    scene = load_nerfstudio_scene(tmp_path)
    assert len(scene.images) == 9 and any("1 of 10 frames" in note and "left/001.png" in note for note in scene.notes)


def test_names_in_any_case_of_suffix_and_the_first_of_two(tmp_path):
    for name in ("a.PNG", "b.JPG", "c.jpeg", "c.png", "d", "._e.png"):
        (tmp_path / name).touch()
    (tmp_path / "f.png").mkdir()
    finder = FileFinder(tmp_path)
    found = {name: finder.find(name) for name in ("a", "a.png", "b", "c", "d", "e", "f", "x" * 5000, "\ud800", "a.jpg")}
    assert {name: path.name for name, path in found.items() if path} == {
        "a": "a.PNG",
        "a.png": "a.PNG",
        "b": "b.JPG",
        "c": "c.png",
        "d": "d",
    }
    assert finder.find_moved("somewhere\\a.jpg").name == "a.PNG" and finder.find_moved("z/" * 3000) is None


def test_of_two_names_that_lead_to_one_file_the_first_has_it(tmp_path):
    """As of the folders of two cameras, of which one is left, in `images`."""
    (tmp_path / "images").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "images" / name).touch()
    files, moved = FileFinder(tmp_path).find_all(["a/0.png", "b/0.png", "a/1.png", "images/1.png", "a/0.png"])
    names = [file and file.name for file in files]
    assert (names, moved) == (["0.png", None, None, "1.png", "0.png"], [True, False, False, False, True])


def test_a_json_of_any_name(tmp_path):
    write_nerfstudio(tmp_path)
    (tmp_path / "transforms.json").rename(tmp_path / "mine.json")
    assert len(load_nerfstudio_scene(tmp_path / "mine.json").images) == 10


def test_utf16_is_named(tmp_path):
    path = write_nerfstudio(tmp_path) / "transforms.json"
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(BadInput, match="UTF-16: save it as UTF-8"):
        load_nerfstudio_scene(tmp_path)


# ------------------------------------------------------------------------------- order, once


def test_natural_order():
    names = ["a10", "a2", "a02b", "b1", "a", "9" * 5000, "1"]
    assert sorted(names, key=natural_key) == ["1", "9" * 5000, "a", "a2", "a02b", "a10", "b1"]


def test_frames_are_taken_in_the_order_of_their_numbers(tmp_path):
    """Unpadded names, listed as text sorts them: hold-out and video path go by number."""
    write_nerfstudio(tmp_path, views=12)
    for i in range(12):
        (tmp_path / f"images/{i:03d}.png").rename(tmp_path / f"images/{i}.png")
    plain = load_nerfstudio_scene(write_nerfstudio(tmp_path / "b", views=12))
    frames_of(tmp_path, lambda i, frame: frame.update(file_path=f"images/{i}.png"))
    edit_json(tmp_path, lambda c: c | {"frames": sorted(c["frames"], key=lambda frame: frame["file_path"])})
    scene = load_nerfstudio_scene(tmp_path)
    assert torch.equal(scene.images, plain.images) and torch.equal(scene.render_path.c2w, plain.render_path.c2w)
    assert any("order of their names" in note for note in scene.notes)


def test_an_image_that_is_listed_twice_is_one_view(tmp_path):
    write_nerfstudio(tmp_path)
    again = {"file_path": "./images/../images/003.png"}
    edit_json(tmp_path, lambda c: c | {"frames": [*c["frames"], c["frames"][3] | again, c["frames"][0]]})
    scene = load_nerfstudio_scene(tmp_path)
    assert len(scene.images) == 10 and any("2 frames name an image that another" in note for note in scene.notes)
    names = [f"images/{i:03d}.png" for i in (1, 2, 1)]
    edit_json(tmp_path, lambda c: c | {"train_filenames": names, "test_filenames": ["images/004.png"]})
    assert load_nerfstudio_scene(tmp_path).splits == {"train": [0, 1], "val": [], "test": [2]}


def test_missing_frames_are_left_out_of_the_files_lists_too(tmp_path):
    write_nerfstudio(tmp_path)
    (tmp_path / "images/002.png").unlink()
    names = [f"images/{i:03d}.png" for i in range(10)]
    edit_json(tmp_path, lambda c: c | {"train_filenames": names[:5], "test_filenames": names[5:]})
    scene = load_nerfstudio_scene(tmp_path)
    assert scene.splits == {"train": [0, 1, 2, 3], "val": [], "test": [4, 5, 6, 7, 8]}


def test_n_frames_is_a_limit(tmp_path):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | {"n_frames": 4})
    assert len(load_nerfstudio_scene(tmp_path, llffhold=2).images) == 4


# ----------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    "keys, low, high",
    [  # of photographs
        ({"aabb_scale": 2}, [-1 / 0.33] * 3, [1 / 0.33] * 3),  # twice Instant-NGP's cube of 1 / 0.33
        ({"aabb_scale": 1, "scale": 0.2, "offset": [0.5, 0.4, 0.6]}, [-2.5, -2, -3], [2.5, 3, 2]),
        ({"aabb": [[-1, -2, -0.5], [1, 2, 0.5]]}, [-1, -2, -0.5], [1, 2, 0.5]),
        ({"aabb_scale": 64}, [-16.12] * 3, [16.12] * 3),  # four times the cameras' distance is enough
    ],
)
def test_bounds_that_a_blender_file_states(tmp_path, keys, low, high):
    write_blender(tmp_path)
    centre(tmp_path, "transforms_train.json", "transforms_test.json")
    assert load_blender_scene(tmp_path).aabb[1, 0] == 1.5
    edit_json(tmp_path, lambda c: c | keys, "transforms_train.json")
    scene = load_blender_scene(tmp_path)
    assert scene.aabb[0].tolist() == pytest.approx(low, rel=0.01)
    assert scene.aabb[1].tolist() == pytest.approx(high, rel=0.01)
    assert 0 < scene.near < 3.5 and 4.2 < scene.far < 40
    assert any("says where content ends" in note for note in scene.notes)


@pytest.mark.parametrize("scale, half", [(4, 1.5), (0.5, 0.25 / 0.33)])
def test_a_subject_that_is_cut_out_is_as_small_as_ever(tmp_path, scale, half):
    """BlenderNeRF states an aabb_scale of 4 for all scenes, which would leave a subject few of a grid's cells."""
    write_blender(tmp_path)
    centre(tmp_path, "transforms_train.json", "transforms_test.json")
    for path in tmp_path.glob("*/*.png"):
        rgb = imageio.imread(path)
        imageio.imwrite(path, np.concatenate([rgb, 255 * (rgb.max(-1, keepdims=True) > 0).astype(np.uint8)], -1))
    plain = load_blender_scene(tmp_path)
    edit_json(tmp_path, lambda c: c | {"aabb_scale": scale}, "transforms_train.json")
    scene = load_blender_scene(tmp_path)
    assert scene.aabb[1].tolist() == pytest.approx([half] * 3, rel=0.01)
    assert ((scene.near, scene.far) == (plain.near, plain.far)) == (scale == 4)
    assert any("are taken up to +-1.5" in note for note in scene.notes) == (scale == 4)


def centre(folder, *names) -> None:
    """Moves what is looked at to the origin, and cameras to about 4.03 from it."""
    distance = np.median(np.linalg.norm(ring(10)[:, :, 3] - TARGET, axis=-1))

    def change(content):
        for frame in content["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, 3] = (pose[:3, 3] - TARGET) * 4.03 / distance
            frame["transform_matrix"] = pose.tolist()

    for name in names:
        edit_json(folder, change, name)


def test_aabb_scale_bounds_a_capture(tmp_path):
    write_nerfstudio(tmp_path)
    centre(tmp_path, "transforms.json")
    edit_json(tmp_path, lambda c: c | {"aabb_scale": 1})
    poses = np.array([f["transform_matrix"] for f in json.loads((tmp_path / "transforms.json").read_text())["frames"]])
    scale = normalisation(poses[:, :3], "here").scale
    scene = load_nerfstudio_scene(tmp_path)
    sides = (scene.aabb[1] - scene.aabb[0]).tolist()
    assert sides == pytest.approx([scale / 0.33] * 3, rel=0.1)  # the box holds the cube, which was turned a little
    assert any("says where content ends" in note for note in scene.notes)


NO_BOUNDS = [
    {"aabb_scale": 0},
    {"aabb_scale": -1},
    {"aabb_scale": "4"},
    {"aabb": [[0, 0, 0]]},
    {"aabb": [[1] * 3, [0] * 3]},
    {"aabb_scale": 1, "offset": "x"},
    {"aabb_scale": 1, "scale": 0},
]


@pytest.mark.parametrize("keys", NO_BOUNDS)
def test_bounds_that_are_none_are_refused(tmp_path, keys):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | keys)
    with pytest.raises(BadInput, match="aabb|offset|scale"):
        load_nerfstudio_scene(tmp_path)


def test_bounds_that_leave_out_the_subject_are_not_heeded_and_that_is_said(tmp_path):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | {"aabb": [[90] * 3, [91] * 3]})
    scene = load_nerfstudio_scene(tmp_path)
    assert scene.aabb.tolist() == [[-8] * 3, [8] * 3] and any("not heeded" in note for note in scene.notes)


def write_ply(path, points, kind="binary_little_endian", count=None):
    header = f"ply\nformat {kind} 1.0\ncomment x\nelement vertex {len(points) if count is None else count}\n"
    header += "property float x\nproperty double y\nproperty float32 z\nproperty uchar red\nend_header\n"
    if kind == "ascii":
        body = "\n".join(" ".join(map(repr, point)) + " 9" for point in points.tolist()).encode()
    else:
        order = "<" if "little" in kind else ">"
        rows = np.zeros(len(points), [("x", order + "f4"), ("y", order + "f8"), ("z", order + "f4"), ("red", "u1")])
        rows["x"], rows["y"], rows["z"] = points.T
        body = rows.tobytes()
    path.write_bytes(header.encode() + body)
    return path


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_points_of_every_kind(tmp_path, kind):
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    points[7, 1] = math.nan
    found = read_ply_points(write_ply(tmp_path / "a.ply", points, kind))
    np.testing.assert_allclose(found, np.delete(points, 7, 0), atol=1e-7)


DAMAGE = {
    "cut": lambda b: b[:-5],
    "cut in the header": lambda b: b[:40],
    "empty": lambda b: b"",
    "no header": lambda b: b"ply\n" * 9,
    "more vertices than there are": lambda b: b.replace(b"vertex 9", b"vertex 99999999999"),
    "no number": lambda b: b.replace(b"vertex 9", b"vertex"),
    "a list": lambda b: b.replace(b"double", b"list x y"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_damaged_ply_is_one_line(tmp_path, kind, damage):
    path = write_ply(tmp_path / "a.ply", np.ones((9, 3)), kind)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(BadInput, match="a.ply: not a whole PLY file of points"):
        read_ply_points(path)


def test_ply_points_bound_both_readers(tmp_path):
    """A cube of points around the target: box, near and far are its own, and not those of nothing known."""
    cube = TARGET + np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    stray = np.concatenate([cube, TARGET + [[1e5, 0, 0]]])
    for name, write in (("a", write_nerfstudio), ("b", write_blender)):
        folder = write(tmp_path / name)
        write_ply(folder / "sparse_pc.ply", stray)
        file = "transforms.json" if name == "a" else "transforms_train.json"
        edit_json(folder, lambda c: c | {"ply_file_path": "sparse_pc.ply"}, file)
    capture, blender = load_nerfstudio_scene(tmp_path / "a"), load_blender_scene(tmp_path / "b")
    side = 2 * normalisation(ring(10), "here").scale
    assert ((capture.aabb[1] - capture.aabb[0]) < 1.6 * side).all() and (
        (capture.aabb[1] - capture.aabb[0]) > 0.9 * side
    ).all()
    torch.testing.assert_close(blender.aabb.mean(0).numpy(), TARGET.astype(np.float32), atol=0.1, rtol=0)
    assert ((blender.aabb[1] - blender.aabb[0]) < 2.6).all() and 0.3 < blender.near < 2 < blender.far < 6


def test_a_ply_that_is_not_there_is_said(tmp_path):
    write_nerfstudio(tmp_path)
    edit_json(tmp_path, lambda c: c | {"ply_file_path": "none.ply"})
    assert any("none.ply is not there" in note for note in load_nerfstudio_scene(tmp_path).notes)


# ------------------------------------------------------------------- numbers and alpha of captures


def test_map_coordinates_are_a_capture_like_any_other(tmp_path):
    plain = load_nerfstudio_scene(write_nerfstudio(tmp_path))

    def move(i, frame):
        for axis, offset in enumerate((441547.0, 5121946.0, 2345.0)):
            frame["transform_matrix"][axis][3] += offset

    frames_of(tmp_path, move)
    moved = load_nerfstudio_scene(tmp_path)
    torch.testing.assert_close(moved.cameras.c2w, plain.cameras.c2w, atol=1e-5, rtol=0)
    frames_of(tmp_path, lambda i, frame: [row.__setitem__(3, 5e6) for row in frame["transform_matrix"][:3]])
    with pytest.raises(BadInput, match="one place"):
        load_nerfstudio_scene(tmp_path)


@pytest.mark.parametrize("hidden, half", [(0, 8), (1, 8), (900, 8), (9000, 1.5)])
def test_the_box_goes_by_how_much_alpha_hides(tmp_path, hidden, half):
    """Of 10,800 pixels a picture: none, one, a corner, or all but a subject that is cut out."""
    write_nerfstudio(tmp_path)
    for path in (tmp_path / "images").iterdir():
        alpha = np.full(HEIGHT * WIDTH, 255, np.uint8)
        alpha[:hidden] = 0
        imageio.imwrite(path, np.concatenate([imageio.imread(path), alpha.reshape(*SIZE, 1)], -1))
    scene = load_nerfstudio_scene(tmp_path, needs_alpha=True)
    assert scene.images.shape[-1] == (4 if hidden else 3)
    assert scene.aabb.tolist() == [[-half] * 3, [half] * 3]


def test_photographs_that_only_their_tag_puts_upright(tmp_path):
    """Stored turned by a quarter; w and h are those of the picture as viewers show it."""
    plain = load_nerfstudio_scene(write_nerfstudio(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (tmp_path / "images").iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert torch.equal(load_nerfstudio_scene(tmp_path).images, plain.images)
    edit_json(tmp_path, lambda c: {"camera_angle_x": 1.0, "frames": c["frames"]})
    scene = load_nerfstudio_scene(tmp_path)
    assert scene.images.shape[1:3] == (WIDTH, HEIGHT) and any("10 photographs" in note for note in scene.notes)
