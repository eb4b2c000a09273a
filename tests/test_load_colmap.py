"""COLMAP models: text and binary say the same, lenses are undone, bounds hold the points, damage is one line."""

import random
import struct

import numpy as np
import pytest
import torch
from capture_files import COLMAP_MODELS, POINTS, TARGET, dot_places, photograph, ring, write_colmap, write_model
from helpers import seen_by
from PIL import Image

from load_colmap import _text_cameras, find_model, load_colmap_scene, read_model
from scenes.captures import bounds_of_points, normalisation
from scenes.lenses import Lens, fold_radius, undistortion_map
from utils.errors import BadInput


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("model", COLMAP_MODELS)
def test_a_point_is_seen_where_its_dot_is(tmp_path, model, binary):
    scene = load_colmap_scene(write_colmap(tmp_path, model, binary))
    points = normalisation(ring(10), "here").points(POINTS)
    k = COLMAP_MODELS[model][2]
    for i in range(10):
        found, expected = dot_places(scene.images[i].numpy()), seen_by(scene.cameras, i, points)
        assert np.abs(np.subtract(found, expected)).max() < 0.1
    if k is not None:  # else this test tells nothing
        bent = dot_places(photograph(ring(10)[0], k, model == "OPENCV_FISHEYE"))
        assert np.abs(np.subtract(bent, seen_by(scene.cameras, 0, points))).max() > 0.4
    assert scene.splits["test"] == [0, 8]


@pytest.mark.parametrize("model", COLMAP_MODELS)
def test_text_and_binary_are_the_same_model(tmp_path, model):
    a = read_model(find_model(write_colmap(tmp_path / "a", model, binary=True)))
    b = read_model(find_model(write_colmap(tmp_path / "b", model, binary=False)))
    assert a.lenses == b.lenses and list(a.points) == list(b.points)
    assert all((a.points[i] == b.points[i]).all() for i in a.points)
    for one, other in zip(a.pictures, b.pictures, strict=True):
        assert (one.name, one.camera) == (other.name, other.camera)
        assert (one.w2c == other.w2c).all() and (one.seen == other.seen).all()
    assert len(a.pictures[5].seen) == 0 and len(a.pictures[0].seen) == 43


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
def test_where_the_model_may_lie(tmp_path, place):
    write_colmap(tmp_path, place=place)
    assert find_model(tmp_path) == tmp_path / place
    assert len(load_colmap_scene(tmp_path).images) == 10


def test_a_second_model_is_not_read_and_that_is_said(tmp_path):
    write_colmap(tmp_path)
    (tmp_path / "sparse" / "1").mkdir()
    scene = load_colmap_scene(tmp_path, factor=3)
    assert "of 1 beside it nothing is" in scene.notes[0]
    assert scene.images.shape == (10, 30, 40, 3)


def test_bounds_hold_the_points_and_no_stray_ones(tmp_path):
    write_colmap(tmp_path, cloud=3000)
    move = normalisation(ring(10), "here")
    corners = TARGET + np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    box = move.points(corners)
    scene = load_colmap_scene(tmp_path)
    side = box.max(0) - box.min(0)
    low, high = scene.aabb.numpy()
    assert (low < box.min(0) + 0.1 * side).all() and (high > box.max(0) - 0.1 * side).all()
    assert (np.ptp(scene.aabb.numpy(), axis=0) < 1.3 * side).all()
    depth = np.concatenate([(pose[:, 3] - box) @ pose[:, 2] for pose in scene.cameras.c2w.numpy()])
    assert 0.5 * depth.min() < scene.near < 1.1 * depth.min() and depth.max() < scene.far < 1.5 * depth.max()

    cloud = TARGET + np.random.default_rng(1).uniform(-1, 1, (3000, 3))
    points = move.points(np.concatenate([cloud, TARGET + [[1e6, 0, 0]]]))
    c2w, seen = move.poses(ring(10)), [np.arange(3001)] * 10
    near, far, strays = bounds_of_points(c2w, points, seen)
    clean = bounds_of_points(c2w, points[:3000], [np.arange(3000)] * 10)
    assert (near, far) == pytest.approx(clean[:2], rel=0.02)
    np.testing.assert_allclose(strays, clean[2], rtol=0.05)


def test_without_points_bounds_are_those_of_any_capture(tmp_path):
    write_colmap(tmp_path)
    (tmp_path / "sparse/0/points3D.bin").unlink()
    scene = load_colmap_scene(tmp_path, near=0.7)
    assert scene.aabb.tolist() == [[-8] * 3, [8] * 3] and scene.near == 0.7
    assert any("not known" in note for note in scene.notes)


def test_names_with_folders_and_blanks(tmp_path):
    write_colmap(tmp_path, binary=False)
    (tmp_path / "images/left eye").mkdir()
    (tmp_path / "images/002.png").rename(tmp_path / "images/left eye/002.png")
    path = tmp_path / "sparse/0/images.txt"
    path.write_text(path.read_text().replace(" 002.png", " left eye/002.png"))
    scene = load_colmap_scene(tmp_path)
    points = normalisation(ring(10)[[0, 1, 3, 4, 5, 6, 7, 8, 9, 2]], "here").points(POINTS)
    assert np.abs(np.subtract(dot_places(scene.images[9].numpy()), seen_by(scene.cameras, 9, points))).max() < 0.1


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_of_several_models_the_one_with_the_most_images_is_read(tmp_path, binary):
    write_colmap(tmp_path, binary=binary)
    (tmp_path / "sparse/0").rename(tmp_path / "sparse/10")
    _, values, _ = COLMAP_MODELS["PINHOLE"]
    for name, views in (("0", 3), ("2", 10)):
        names = [f"{i:03d}.png" for i in range(views)]
        write_model(tmp_path / "sparse" / name, "PINHOLE", values, ring(10)[:views], names, POINTS, binary)
    (tmp_path / "sparse/11").mkdir()
    (tmp_path / "sparse/11/cameras.bin").touch()  # damaged, and not chosen
    assert find_model(tmp_path) == tmp_path / "sparse/2"  # of two as large the first
    scene = load_colmap_scene(tmp_path)
    assert len(scene.images) == 10 and "the most images registered, 10; of 0, 10, 11 beside it" in scene.notes[0]
    asked_for = load_colmap_scene(tmp_path / "sparse/0")
    assert len(asked_for.images) == 3 and not any("most images" in note for note in asked_for.notes)


def test_missing_images_are_left_out_and_counted(tmp_path):
    plain = load_colmap_scene(write_colmap(tmp_path))
    (tmp_path / "images/003.png").unlink()
    (tmp_path / "images/004.png").rename(tmp_path / "images/004.PNG")
    scene = load_colmap_scene(tmp_path)
    assert torch.equal(scene.images, plain.images[[0, 1, 2, 4, 5, 6, 7, 8, 9]])
    assert any("1 of 10 pictures" in note and "003.png" in note for note in scene.notes)
    assert scene.aabb.tolist() != [[-8] * 3, [8] * 3]  # the points are still those of the right views


def test_names_with_the_folder_they_were_taken_from(tmp_path):
    plain = load_colmap_scene(write_colmap(tmp_path, binary=False))
    path = tmp_path / "sparse/0/images.txt"
    path.write_text(path.read_text().replace(" 00", " photos\\00"))
    scene = load_colmap_scene(tmp_path)
    assert torch.equal(scene.images, plain.images) and any("10 images are not where" in note for note in scene.notes)


def test_photographs_that_only_their_tag_puts_upright(tmp_path):
    plain = load_colmap_scene(write_colmap(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 8
    for path in (tmp_path / "images").iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path, exif=exif)
    assert torch.equal(load_colmap_scene(tmp_path).images, plain.images)


def test_pictures_are_in_the_order_of_their_numbers_and_each_counts_once(tmp_path):
    """Names without leading zeros, which text sorts otherwise; and one picture that the model has twice."""
    plain = load_colmap_scene(write_colmap(tmp_path, binary=False, views=12))
    path = tmp_path / "sparse/0/images.txt"
    lines = path.read_text().splitlines()
    for i in range(12):
        (tmp_path / f"images/{i:03d}.png").rename(tmp_path / f"images/img{i}.png")
        lines[1 + 2 * i] = lines[1 + 2 * i].replace(f"{i:03d}.png", f"img{i}.png")
    path.write_text("\n".join([*lines, *lines[5:7]]) + "\n")
    scene = load_colmap_scene(tmp_path)
    assert torch.equal(scene.images, plain.images) and torch.equal(scene.cameras.c2w, plain.cameras.c2w)


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_text_as_windows_editors_save_it(tmp_path, mark):
    write_colmap(tmp_path, binary=False)
    for path in (tmp_path / "sparse/0").iterdir():
        path.write_text(path.read_text().replace("\n", "\r\n"), encoding=mark, newline="")
    if mark == "utf-8-sig":
        assert len(load_colmap_scene(tmp_path).images) == 10
    else:
        with pytest.raises(BadInput, match="cameras.txt.*UTF-16: save it as UTF-8"):
            load_colmap_scene(tmp_path)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_a_name_in_another_encoding_is_to_be_renamed(tmp_path, binary):
    write_colmap(tmp_path, binary=binary)
    path = tmp_path / f"sparse/0/images.{'bin' if binary else 'txt'}"
    path.write_bytes(path.read_bytes().replace(b"003.png", "测试.png".encode("gbk")))
    with pytest.raises(BadInput, match="images.*rename the images"):
        load_colmap_scene(tmp_path)


def test_map_coordinates_are_a_capture_like_any_other(tmp_path):
    _, values, _ = COLMAP_MODELS["PINHOLE"]
    plain = load_colmap_scene(write_colmap(tmp_path))
    far, poses, names = np.array([441547.0, 5121946.0, 2345.0]), ring(10), [f"{i:03d}.png" for i in range(10)]
    poses[:, :, 3] += far
    points = TARGET + far + np.random.default_rng(0).uniform(-1, 1, (40, 3))
    write_model(tmp_path / "sparse/0", "PINHOLE", values, poses, names, points, binary=True)
    moved = load_colmap_scene(tmp_path)
    torch.testing.assert_close(moved.cameras.c2w, plain.cameras.c2w, atol=1e-5, rtol=0)
    assert moved.far < 2 * plain.far


def test_masks_beside_a_model_are_said_not_to_be_read(tmp_path):
    (write_colmap(tmp_path) / "masks").mkdir()
    assert any("masks are not read" in note for note in load_colmap_scene(tmp_path).notes)


# ------------------------------------------------------------------------------------- bad input


def write(stem: str, text: str):
    return lambda folder: (folder / f"sparse/0/{stem}.txt").write_text(text)


def camera(text: str):
    return write("cameras", f"4 PINHOLE {text}")


IMAGE = "1 1 0 0 0 0 0 0 4 a.png\n"
BAD = {
    "no model": (lambda d: (d / "sparse").rename(d / "dense"), "", "run colmap mapper"),
    "no images file": (lambda d: (d / "sparse/0/images.txt").unlink(), "images.txt", "not found beside"),
    "no photographs": (lambda d: (d / "images").rename(d / "pictures"), "images/000.png", "no such image"),
    "nothing registered": (write("images", "# none\n"), "sparse/0", "no image is registered"),
    "camera missing": (write("cameras", "5 PINHOLE 120 90 9 9 9 9"), "sparse/0", "camera 4"),
    "model not read": (
        write("cameras", "1 EUCM 120 90 " + "1 " * 6),
        "cameras.txt",
        "EUCM; expected one of SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV, "
        "SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE, OPENCV_FISHEYE, FOV, THIN_PRISM_FISHEYE, "
        "RAD_TAN_THIN_PRISM_FISHEYE: run colmap image_undistorter",
    ),
    "parameter missing": (camera("120 90 1 2 3"), "cameras.txt", "fx fy cx cy"),
    "focal NaN": (camera("120 90 nan 9 9 9"), "cameras.txt", "finite"),
    "focal zero": (camera("120 90 0 9 9 9"), "cameras.txt", "above zero"),
    "size zero": (camera("0 90 9 9 9 9"), "cameras.txt", "above zero"),
    "another aspect": (camera("90 90 9 9 9 9"), "sparse/0", "aspect"),
    "camera of words": (camera("wide high"), "cameras.txt", "not a whole"),
    "camera cut": (camera("120"), "cameras.txt", "not a whole"),
    "pose NaN": (write("images", IMAGE.replace("1 1", "1 nan")), "images.txt", "a.png"),
    "no rotation": (write("images", IMAGE.replace("1 1", "1 0")), "images.txt", "a.png"),
    "pose cut": (write("images", "1 1 0 0 0 0 0\n\n"), "images.txt", "not a whole"),
    "keypoint of words": (write("images", IMAGE + "1 2 x\n"), "images.txt", "not a whole"),
    "point of words": (write("points3D", "1 a b c 1 2 3 0"), "points3D.txt", "not a whole"),
    "point cut": (write("points3D", "1 2 3"), "points3D.txt", "2 numbers"),
    "point NaN": (write("points3D", "1 2 nan 3 1 2 3 0"), "points3D.txt", "point 1"),
    "no text": (lambda d: (d / "sparse/0/images.txt").write_bytes(b"\xff\xfe\x00"), "images.txt", "not a whole"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_model_is_one_line_that_names_the_file(tmp_path, case):
    spoil, file, says = BAD[case]
    spoil(write_colmap(tmp_path, binary=False))
    with pytest.raises(BadInput) as error:
        load_colmap_scene(tmp_path)
    message = str(error.value)
    assert says in message and file in message and "\n" not in message


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small binary model's folder, and its files' bytes."""
    place = tmp_path_factory.mktemp("colmap")
    write_model(place, "OPENCV", COLMAP_MODELS["OPENCV"][1], ring(3), ["a.png", "b.png", "c.png"], POINTS, binary=True)
    return place, {stem: (place / f"{stem}.bin").read_bytes() for stem in ("cameras", "images", "points3D")}


def refuses(good, stem: str, content: bytes, must: bool) -> None:
    """A damaged file is one line that names it; some damage (`must` false) leaves a model, of finite numbers."""
    place, files = good
    for name, original in files.items():
        (place / f"{name}.bin").write_bytes(content if name == stem else original)
    try:
        model = read_model(place)
    except BadInput as error:
        assert "\n" not in str(error) and str(place) in str(error)
    else:
        assert not must
        assert all(np.isfinite(one.w2c).all() for one in model.pictures)
        assert all(np.isfinite(point).all() for point in model.points.values())


@pytest.mark.parametrize("stem", ["cameras", "images", "points3D"])
def test_a_file_cut_anywhere_is_refused(good, stem):
    content = good[1][stem]
    for end in range(len(content)):
        refuses(good, stem, content[:end], must=True)
    refuses(good, stem, content + b"\0", must=True)
    refuses(good, stem, content, must=False)


@pytest.mark.parametrize("stem", ["cameras", "images", "points3D"])
def test_bytes_overwritten_are_refused_or_harmless(good, stem):
    content, draw = good[1][stem], random.Random(0)
    for _ in range(100):
        place, new = draw.randrange(len(content)), draw.randbytes(draw.randint(1, 12))
        refuses(good, stem, (content[:place] + new + content[place + len(new) :])[: len(content)], must=False)


@pytest.mark.parametrize("stem, places", [("cameras", [0]), ("images", [0, 78]), ("points3D", [0, 51])])
@pytest.mark.parametrize("count", [2**31, 2**40, 2**63, 2**64 - 1])
def test_counts_in_headers_reserve_nothing(good, stem, places, count):
    """Number of entries; of an image's keypoints (after 8 + 64 bytes and its name); of a point's track."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for place in places:
        content = good[1][stem]
        refuses(good, stem, content[:place] + struct.pack("<Q", count) + content[place + 8 :], must=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_an_unknown_binary_model_is_named(good):
    content = bytearray(good[1]["cameras"])
    for number, says in ((13, "number 13"), (99, "number 99")):
        content[12:16] = struct.pack("<I", number)
        place, files = good
        (place / "cameras.bin").write_bytes(bytes(content))
        with pytest.raises(BadInput, match=f"{says}.*colmap image_undistorter"):
            read_model(place)


@pytest.mark.parametrize(
    ("model", "values", "bend"),
    [
        (
            "FULL_OPENCV",
            "60 62 59 44 0.1 -0.02 0.003 -0.002 0.01 0.2 0.03 0.004",
            lambda x, y, s: (
                x * (1 + 0.1 * s - 0.02 * s**2 + 0.01 * s**3) / (1 + 0.2 * s + 0.03 * s**2 + 0.004 * s**3)
                + 2 * 0.003 * x * y - 0.002 * (s + 2 * x**2),
                y * (1 + 0.1 * s - 0.02 * s**2 + 0.01 * s**3) / (1 + 0.2 * s + 0.03 * s**2 + 0.004 * s**3)
                + 0.003 * (s + 2 * y**2) - 2 * 0.002 * x * y,
            ),
        ),
        ("SIMPLE_RADIAL_FISHEYE", "60 59 44 -0.05", lambda x, y, s: fisheye(x, y, s, -0.05, 0.0)),
        ("RADIAL_FISHEYE", "60 59 44 -0.05 0.01", lambda x, y, s: fisheye(x, y, s, -0.05, 0.01)),
    ],
)  # fmt: skip
def test_further_lenses_bend_as_colmap_says(tmp_path, model, values, bend):
    """Each pixel of the pinhole picture comes from where COLMAP's formula of the lens puts its ray."""
    numbers = [float(value) for value in values.split()]
    (tmp_path / "cameras.txt").write_text(f"1 {model} 120 90 {values}\n")
    lens = _text_cameras(tmp_path / "cameras.txt")[1]
    fx, fy = (numbers[0], numbers[1]) if model == "FULL_OPENCV" else (numbers[0], numbers[0])
    columns, rows, inside = undistortion_map(lens)
    x, y = np.meshgrid((np.arange(120) + 0.5 - 59) / fx, (np.arange(90) + 0.5 - 44) / fy)
    bent_x, bent_y = bend(x, y, x**2 + y**2)
    np.testing.assert_allclose(columns, fx * bent_x + 59 - 0.5, atol=2e-3)
    np.testing.assert_allclose(rows, fy * bent_y + 44 - 0.5, atol=2e-3)
    assert inside.mean() > 0.5


def fisheye(x: np.ndarray, y: np.ndarray, s: np.ndarray, k1: float, k2: float) -> tuple[np.ndarray, np.ndarray]:
    radius = np.sqrt(s)
    angle = np.arctan(radius)
    scale = angle * (1 + k1 * angle**2 + k2 * angle**4) / radius
    return x * scale, y * scale


def test_lenses_that_opencv_has_not(tmp_path):
    """FOV bends as Devernay and Faugeras have it; a thin prism that is none is a fisheye, another is none."""
    pytest.importorskip("pycolmap")
    file = tmp_path / "cameras.txt"

    def map_of(model: str, values: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        file.write_text(f"1 {model} 120 90 {values}\n")
        return undistortion_map(_text_cameras(file)[1])

    columns, rows, inside = map_of("FOV", "60 62 59 44 0.9")
    x, y = np.meshgrid((np.arange(120) + 0.5 - 59) / 60, (np.arange(90) + 0.5 - 44) / 62)
    radius = np.hypot(x, y)
    scale = np.arctan(2 * radius * np.tan(0.9 / 2)) / 0.9 / radius
    np.testing.assert_allclose(columns, 60 * x * scale + 58.5, atol=1e-3)
    np.testing.assert_allclose(rows, 62 * y * scale + 43.5, atol=1e-3)
    assert inside.all()

    fisheye = map_of("OPENCV_FISHEYE", "60 62 59 44 0.05 -0.02 0.003 0.001")
    plain = map_of("THIN_PRISM_FISHEYE", "60 62 59 44 0.05 -0.02 0 0 0.003 0.001 0 0")
    for one, other in zip(fisheye[:2], plain[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    prism = map_of("THIN_PRISM_FISHEYE", "60 62 59 44 0.05 -0.02 0.002 0.001 0.003 0.001 0.01 0.02")
    assert np.abs(prism[0] - plain[0]).max() > 0.2
    rad_tan = map_of("RAD_TAN_THIN_PRISM_FISHEYE", "60 62 59 44 0.05 -0.02 0.003 0.001 0 0 0 0 0 0 0 0")
    np.testing.assert_allclose(rad_tan[0], plain[0], atol=2e-3)


def test_a_lens_that_folds_shows_nothing_beyond(tmp_path):
    pytest.importorskip("pycolmap")
    (tmp_path / "cameras.txt").write_text("1 THIN_PRISM_FISHEYE 400 300 60 60 200 150 -0.3 0 0 0 0 0 0 0\n")
    columns, _, inside = undistortion_map(_text_cameras(tmp_path / "cameras.txt")[1])
    middle = columns[150, 200:][inside[150, 200:]]
    assert 0.1 < inside.mean() < 0.9 and (np.diff(middle) > 0).all()


def test_a_lens_of_the_extra_without_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    (tmp_path / "cameras.txt").write_text("1 FOV 120 90 60 62 59 44 0.9\n")
    with pytest.raises(BadInput, match="model FOV needs pycolmap: pip install -r requirements-photos.txt"):
        undistortion_map(_text_cameras(tmp_path / "cameras.txt")[1])


def test_a_rational_lens_folds_where_its_radius_stops_growing():
    k = (0.1, -0.3, 0.0, 0.0, 0.02, 0.2, 0.05, 0.001)
    fold = fold_radius(Lens(400, 300, 60.0, 60.0, 200.0, 150.0, k))
    s = (fold * np.linspace(0, 1.1, 1101)) ** 2
    bent = np.sqrt(s) * (1 + k[0] * s + k[1] * s**2 + k[4] * s**3) / (1 + k[5] * s + k[6] * s**2 + k[7] * s**3)
    growth = np.diff(bent)
    assert (growth[:990] > 0).all() and (growth[1010:] < 0).all()
    pole = fold_radius(Lens(400, 300, 60.0, 60.0, 200.0, 150.0, (0.0, 0.0, 0.0, 0.0, 0.0, -1.0)))
    assert pole == pytest.approx(1.0)  # 1 - r^2 below: the radius grows without end


def test_masks_do_not_come_from_a_pinhole(tmp_path):
    assert load_colmap_scene(write_colmap(tmp_path)).valid is None
    bent = load_colmap_scene(write_colmap(tmp_path / "b", "OPENCV_FISHEYE"))
    assert bent.valid is None or (bent.valid.dtype == torch.bool and bent.valid.float().mean() > 0.5)
