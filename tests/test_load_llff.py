"""LLFF folders: what is read, the frame it is put in, the boxes and paths made from it."""

import os
import pickle
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from capture_files import (
    FARTHEST,
    FILE_FOCAL,
    FILE_HEIGHT,
    FILE_WIDTH,
    NEAREST,
    made_up_poses,
    write_images,
    write_llff,
)
from PIL import Image

from load_llff import circular_path, load_llff_scene, recenter_poses, spherify_poses, spiral_path
from run_nerf_helpers import camera_rays, get_rays, ndc_rays
from scenes.images import area_downsample
from scenes.poses import average_pose, look_at
from utils.errors import BadInput


def test_map_coordinates_are_a_capture_like_any_other(tmp_path):
    plain = load_llff_scene(write_llff(tmp_path / "a"))
    poses = made_up_poses()
    poses[:, :, 3] += [441547.0, 5121946.0, 2345.0]
    moved = load_llff_scene(write_llff(tmp_path / "b", poses))
    torch.testing.assert_close(moved.cameras.c2w, plain.cameras.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.aabb, plain.aabb, atol=1e-4, rtol=0)


def test_photographs_that_only_their_tag_puts_upright(tmp_path):
    """Stored turned by a quarter, which the sizes in poses_bounds.npy prove; by a half, which they cannot."""
    plain = load_llff_scene(write_llff(tmp_path))
    for tag, turn in ((6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)):
        exif = Image.Exif()
        exif[0x0112] = tag
        write_images(tmp_path / "images_8", 6)
        for path in (tmp_path / "images_8").iterdir():
            Image.open(path).transpose(turn).save(path, exif=exif)
        scene = load_llff_scene(tmp_path)
        assert torch.equal(scene.images, plain.images) == (tag == 6)
        assert any("6 photographs" in note for note in scene.notes) == (tag == 3)


def edit_table(folder: Path, change) -> None:
    path = folder / "poses_bounds.npy"
    table = np.load(path)
    table = change(table) if callable(change) else change
    np.save(path, table)


def project(points: np.ndarray, c2w: np.ndarray, focal: float, height: int, width: int) -> np.ndarray:
    """Columns, rows and z-depth `[P, 3]` of world points `[P, 3]`, from the top left corner, in pixels."""
    x, y, z = ((points - c2w[:, 3]) @ c2w[:, :3]).T
    return np.stack([width / 2 + focal * x / -z, height / 2 - focal * y / -z, -z], axis=1)


def assert_rotations(c2w: np.ndarray) -> None:
    rotation = np.asarray(c2w, dtype=np.float64)[..., :3]
    assert np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max() < 1e-5
    assert (np.linalg.det(rotation) > 0).all()


# ------------------------------------------------------------------------- reading, and the frame


def test_a_point_seen_in_the_file_is_seen_at_the_same_place_in_the_scene(tmp_path):
    """Axes, focal, rescaling and recentring together: one similarity that no camera can notice."""
    poses = made_up_poses()
    scene = load_llff_scene(write_llff(tmp_path, poses))
    points = np.array([4.0, -7.0, 2.0]) + np.random.default_rng(5).uniform(-2, 2, (9, 3))
    seen = np.stack([project(points, pose, FILE_FOCAL, FILE_HEIGHT, FILE_WIDTH) for pose in poses])
    columns, rows = torch.tensor(seen[..., 0] / 8).float(), torch.tensor(seen[..., 1] / 8).float()

    cameras = scene.cameras
    origins, directions = camera_rays(columns, rows, cameras.K[:, None], cameras.c2w[:, None])
    # Each point is met by the rays of all cameras, at the file's depth times one scale.
    scale = 1 / (0.75 * NEAREST)
    met = origins + directions * torch.tensor(scale * seen[..., 2:]).float()
    assert (met - met.mean(0)).abs().max() < 1e-5
    # And the points keep their shape: no mirroring, no shear.
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    assert torch.allclose(torch.cdist(met[0], met[0]), torch.tensor(scale * distances).float(), atol=2e-5)
    assert np.linalg.det(points[1:4] - points[0]) * np.linalg.det((met[0, 1:4] - met[0, :1]).numpy()) > 0


def test_recentred_average_pose_is_the_identity(tmp_path):
    scene = load_llff_scene(write_llff(tmp_path))
    assert_rotations(scene.cameras.c2w)
    assert np.abs(average_pose(scene.cameras.c2w.double().numpy()) - np.eye(4)[:3]).max() < 1e-6
    poses = recenter_poses(made_up_poses())
    assert np.abs(poses[:, :, 3].mean(0)).max() < 1e-12
    assert np.abs(average_pose(poses) - np.eye(4)[:3]).max() < 1e-12


def test_focal_and_size_are_those_of_the_images_read(tmp_path):
    scene = load_llff_scene(write_llff(tmp_path))
    assert (scene.cameras.height, scene.cameras.width) == (12, 16)
    expected = [[150 / 8, 0, 8], [0, 150 / 8, 6], [0, 0, 1]]
    assert scene.cameras.K.tolist() == [expected] * 6
    assert scene.render_path.K.tolist() == [expected] * 120
    assert scene.images.shape == (6, 12, 16, 3) and scene.images.dtype == torch.uint8


def test_sizes_that_do_not_divide_keep_the_field_of_view(tmp_path):
    scene = load_llff_scene(write_llff(tmp_path, factor=1), factor=7)
    assert (scene.cameras.height, scene.cameras.width) == (14, 18)  # 13.7, 18.3
    K = scene.cameras.K[0]
    assert 18 / K[0, 0] == pytest.approx(FILE_WIDTH / FILE_FOCAL)
    assert 14 / K[1, 1] == pytest.approx(FILE_HEIGHT / FILE_FOCAL)


def test_bounds_and_boxes_in_world_space(tmp_path):
    """Two cameras at the identity with a frustum that can be worked out by hand."""
    poses = np.eye(4)[None, :3].repeat(2, 0)
    scene = load_llff_scene(write_llff(tmp_path, poses), ndc=False, llffhold=2)
    near, far = 0.9 / 0.75, FARTHEST / NEAREST / 0.75
    assert (scene.near, scene.far) == (pytest.approx(near), pytest.approx(far))
    x, y = far * 64 / 150, far * 48 / 150  # half the image over the focal length, at the far end
    assert scene.aabb.tolist() == [pytest.approx([-x, -y, -far]), pytest.approx([x, y, -near])]
    assert not scene.ndc
    chosen = load_llff_scene(tmp_path, ndc=False, llffhold=2, near=2.0, far=3.0)
    assert (chosen.near, chosen.far) == (2, 3)
    assert chosen.aabb[1].tolist() == pytest.approx([3 * 64 / 150, 3 * 48 / 150, -2])


def test_bounds_and_box_in_ndc(tmp_path):
    """A camera at the origin sees just the NDC cube; the box is that with 1 % of margin."""
    poses = np.eye(4)[None, :3].repeat(2, 0)
    scene = load_llff_scene(write_llff(tmp_path, poses), llffhold=2, near=2.0, far=3.0)
    assert scene.ndc and (scene.near, scene.far) == (0, 1)
    assert scene.aabb.tolist() == [pytest.approx([-1.02, -1.02, -1]), pytest.approx([1.02, 1.02, 1])]


def test_ndc_box_reaches_what_converging_cameras_see_at_infinity(tmp_path):
    """Two cameras side by side, each turned 20 degrees towards the other's axis."""
    turn, half_width, half_height = np.radians(20), 64 / 150, 48 / 150  # of the image over the focal length
    eyes = np.array([[1.0, 0, 0], [-1.0, 0, 0]])  # 0.44 apart from the middle once rescaled
    ahead = [np.array([-eye[0] * np.sin(turn), 0, -np.cos(turn)]) for eye in eyes]
    poses = np.stack([look_at(e, e + a, np.array([0, 1.0, 0])) for e, a in zip(eyes, ahead, strict=True)])
    scene = load_llff_scene(write_llff(tmp_path, poses), llffhold=2)
    x = np.tan(turn + np.arctan(half_width)) / half_width  # the inner edge, where t = 1
    y = half_height / (np.cos(turn) - half_width * np.sin(turn)) / half_height  # its corners
    assert scene.aabb[1].tolist() == pytest.approx([1.02 * x, 1.02 * y, 1], rel=1e-5)
    assert scene.aabb[0].tolist() == pytest.approx([-1.02 * x, -1.02 * y, -1], rel=1e-5)


def test_ndc_box_holds_all_samples_and_little_else(tmp_path):
    scene = load_llff_scene(write_llff(tmp_path))
    cameras, lows, highs = scene.cameras, [], []
    for i in range(len(cameras)):
        rays = get_rays(cameras.height, cameras.width, cameras.K[i], cameras.c2w[i])
        origins, spans = ndc_rays(cameras.height, cameras.width, float(cameras.K[0, 0, 0]), 1.0, *rays)
        points = torch.stack([origins + t * spans for t in torch.linspace(0, 1, 5)]).view(-1, 3)
        lows.append(points.amin(0))
        highs.append(points.amax(0))
    low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
    assert (scene.aabb[0] <= low + 1e-6).all() and (scene.aabb[1] >= high - 1e-6).all()
    extent, content = scene.aabb[1] - scene.aabb[0], high - low
    assert (extent < 1.12 * content).all()  # 2 % of margin, and half a pixel of 12 on either side


def test_ndc_rays_are_the_projection_of_world_rays():
    """NeRF's appendix C, against projecting points of the world ray one by one."""
    height, width, focal, near = 12, 16, 18.75, 1.0
    rng = np.random.default_rng(0)
    origins = torch.tensor(rng.uniform(-0.5, 0.5, (20, 3)))
    directions = torch.tensor(np.concatenate([rng.uniform(-0.4, 0.4, (20, 2)), -np.ones((20, 1))], 1))
    ndc_o, ndc_d = ndc_rays(height, width, focal, near, origins, directions)
    for depth in (1.0, 1.5, 10.0, 1e6):  # z-depth in front of the world's origin
        x, y, z = (origins + (depth + origins[:, 2:]) * directions).unbind(-1)
        assert torch.allclose(z, torch.tensor(-depth).double())
        by_hand = torch.stack([-focal / (width / 2) * x / z, -focal / (height / 2) * y / z, 1 + 2 * near / z], -1)
        t = 1 - near / depth
        assert torch.allclose(ndc_o + t * ndc_d, by_hand, atol=1e-9)
    assert torch.allclose(ndc_o[:, 2], torch.tensor(-1.0).double())  # starts on the near plane
    assert torch.allclose((ndc_o + ndc_d)[:, 2], torch.tensor(1.0).double())  # ends at infinity


@pytest.mark.parametrize(
    ("llffhold", "test"), [(8, [0]), (4, [0, 4]), (2, [0, 2, 4]), (100, [0])], ids=lambda value: str(value)
)
def test_splits(tmp_path, llffhold, test):
    splits = load_llff_scene(write_llff(tmp_path), llffhold=llffhold).splits
    assert splits["test"] == splits["val"] == test
    assert splits["train"] == [view for view in range(6) if view not in test]


@pytest.mark.parametrize("llffhold", [0, -1])
def test_without_holdout_the_most_central_view_is_tested(tmp_path, llffhold):
    poses = np.eye(4)[None, :3].repeat(5, 0)
    poses[:, 0, 3] = [-2, -1, 1, 0.1, 2]  # the mean is 0.02
    scene = load_llff_scene(write_llff(tmp_path, poses), llffhold=llffhold)
    assert scene.splits == {"train": [0, 1, 2, 4], "val": [3], "test": [3]}


# ---------------------------------------------------------------------------------------- images


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_other_sizes_are_made_in_memory(tmp_path):
    write_llff(tmp_path, factor=8)
    write_images(tmp_path / "images_2", 6, factor=2)
    before = listing(tmp_path)
    scene = load_llff_scene(tmp_path, factor=16)
    source = imageio.imread(tmp_path / "images_8" / "image004.png")
    assert scene.images[4].numpy().tolist() == area_downsample(source, 2).tolist()
    assert scene.cameras.K[0].tolist() == [[150 / 16, 0, 4], [0, 150 / 16, 3], [0, 0, 1]]
    assert "images_16" in scene.notes[0] and "images_8" in scene.notes[0]
    # 4 is made from 2, the only folder that it is a multiple of; the originals, once there, come first.
    four = load_llff_scene(tmp_path, factor=4)
    source = imageio.imread(tmp_path / "images_2" / "image001.png")
    assert four.images[1].numpy().tolist() == area_downsample(source, 2).tolist()
    assert listing(tmp_path) == before
    write_images(tmp_path / "images", 6, factor=1)
    source = imageio.imread(tmp_path / "images" / "image001.png")
    assert load_llff_scene(tmp_path, factor=4).images[1].numpy().tolist() == area_downsample(source, 4).tolist()
    assert load_llff_scene(tmp_path, factor=8).notes == []


@pytest.mark.parametrize("factor", [0, 1])
def test_factor_one_is_full_size(tmp_path, factor):
    scene = load_llff_scene(write_llff(tmp_path, factor=1), factor=factor)
    assert scene.images.shape == (6, FILE_HEIGHT, FILE_WIDTH, 3)
    assert scene.cameras.K[0, 0, 0] == FILE_FOCAL


def test_images_are_read_in_order_of_name_whatever_their_suffix(tmp_path):
    write_llff(tmp_path, made_up_poses(4))
    folder = tmp_path / "images_8"
    for path in folder.iterdir():
        path.unlink()
    for level, name in ((40, "c.PNG"), (20, "a.JPG"), (60, "d.jpeg"), (30, "b.png")):
        imageio.imwrite(folder / name, np.full((12, 16, 3), level, np.uint8))
    for name in ("._a.JPG", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"not an image")
    levels = load_llff_scene(tmp_path).images.float().mean((1, 2, 3)).tolist()
    assert levels == pytest.approx([20, 30, 40, 60], abs=1)


def test_alpha_of_photographs_is_composited_on_black(tmp_path):
    write_llff(tmp_path)
    for path in (tmp_path / "images_8").iterdir():
        pixels = np.full((12, 16, 4), 200, np.uint8)
        pixels[..., 3] = 255
        pixels[0, 0, 3], pixels[0, 1, 3] = 0, 51
        imageio.imwrite(path, pixels)
    images = load_llff_scene(tmp_path).images
    assert images.shape[-1] == 3
    assert images[2, 0, :3].tolist() == [[0] * 3, [40] * 3, [200] * 3]


# ----------------------------------------------------------------------------------------- paths


def test_spiral_path(tmp_path):
    scene = load_llff_scene(write_llff(tmp_path))
    path = scene.render_path.c2w.double().numpy()
    assert path.shape == (120, 3, 4)
    assert_rotations(path)
    # All frames look at one point: 0.25 of the way from 5 x the far bound to 0.9 x the near, in disparity.
    depth = 1 / (0.25 / (0.9 / 0.75) + 0.75 / (5 * FARTHEST / NEAREST / 0.75))
    along = np.array([0, 0, -depth]) - path[:, :, 3]
    assert np.abs(np.cross(along, path[:, :, 2])).max() < 1e-5
    assert (np.einsum("fi,fi->f", along, path[:, :, 2]) < 0).all()  # in front of them
    # Two turns in x and y, one in depth, within 90 % of the cameras' offsets.
    radii = np.percentile(np.abs(scene.cameras.c2w[:, :, 3].double().numpy()), 90, axis=0)
    quarter = 15  # frames in a quarter turn
    assert path[0, :, 3] == pytest.approx([radii[0], 0, 0], abs=1e-6)
    assert path[quarter, :, 3] == pytest.approx([0, -radii[1], -radii[2] * np.sqrt(0.5)], abs=1e-6)
    assert path[2 * quarter, :, 3] == pytest.approx([-radii[0], 0, -radii[2]], abs=1e-6)
    assert path[6 * quarter, :, 3] == pytest.approx([-radii[0], 0, radii[2]], abs=1e-6)
    assert spiral_path(path, np.array([1.0, 2.0]), frames=7).shape == (7, 3, 4)


def ring(views: int = 10, radius: float = 5.0, height: float = 2.0, level: bool = False) -> np.ndarray:
    """Cameras all round the point (1, 2, 3), which they look at, or past it if `level`."""
    center = np.array([1.0, 2.0, 3.0])
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)
    eyes = center + np.stack([radius * np.cos(angles), radius * np.sin(angles), 0 * angles + height], 1)
    aim = center + [0, 0, height] if level else center
    return np.stack([look_at(eye, aim) for eye in eyes])


def test_spherify_centres_and_scales_a_capture_all_round(tmp_path):
    scene = load_llff_scene(write_llff(tmp_path, ring()), ndc=False, spherify=True)
    c2w = scene.cameras.c2w.double().numpy()
    assert_rotations(c2w)
    assert np.linalg.norm(c2w[:, :, 3], axis=1) == pytest.approx(np.ones(10), abs=1e-5)  # on the unit sphere
    assert np.abs(c2w[:, :, 2] - c2w[:, :, 3]).max() < 1e-5  # and every one looks at its centre
    assert c2w[:, 2, 3] == pytest.approx(np.full(10, 2 / np.hypot(5, 2)), abs=1e-5)  # as high as it was
    scale = 1 / np.hypot(5, 2)
    assert (scene.near, scene.far) == (pytest.approx(0.9 * NEAREST * scale), pytest.approx(FARTHEST * scale))

    path = scene.render_path.c2w.double().numpy()
    assert_rotations(path)
    assert np.linalg.norm(path[:, :, 3], axis=1) == pytest.approx(np.ones(120), abs=1e-5)
    assert path[:, 2, 3] == pytest.approx(np.full(120, 2 * scale), abs=1e-5)
    assert np.abs(path[:, :, 2] - path[:, :, 3]).max() < 1e-5
    assert (path[:, 2, 1] > 0).all()  # z stays up


def test_spherify_of_a_level_ring_turns_about_its_axis():
    """Neither the mean direction nor the mean offset of such cameras exists."""
    poses, scale = spherify_poses(recenter_poses(ring(level=True)))
    assert scale == pytest.approx(1 / 5)
    assert np.abs(poses[:, 2, 3]).max() < 1e-9
    assert np.linalg.norm(poses[:, :2, 3], axis=1) == pytest.approx(np.ones(10))
    assert_rotations(circular_path(poses))


# ------------------------------------------------------------------------------------- bad input


def set_entry(row: int, column: int, value: float):
    def change(table):
        table[row, column] = value
        return table

    return change


def scaled_rotation(table):
    table[2, [0, 1, 2, 5, 6, 7, 10, 11, 12]] *= 1.1
    return table


def mirrored(table):
    table[1, [0, 5, 10]] *= -1  # the column that points down
    return table


BAD_TABLES = {
    "14 columns": (lambda t: t[:, :14], "N x 17"),
    "one row, flat": (lambda t: t[0], "N x 17"),
    "no rows": (lambda t: t[:0], "N x 17"),
    "text": (lambda t: t.astype(str).astype("U9") + "x", "not a numeric .npy array"),
    "NaN in a pose": (set_entry(3, 6, np.nan), "row 3 holds NaN or infinity"),
    "infinite bound": (set_entry(1, 16, np.inf), "row 1 holds NaN or infinity"),
    "no focal length": (set_entry(2, 14, 0), "row 2 holds a height, width or focal <= 0"),
    "near bound of zero": (set_entry(4, 15, 0), "row 4 holds bounds out of order"),
    "near bound negative": (set_entry(0, 15, -1), "row 0 holds bounds out of order"),
    "bounds swapped": (set_entry(5, 15, 99), "row 5 holds bounds out of order"),
    "scaled rotation": (scaled_rotation, "pose 2 is not a rotation"),
    "mirrored rotation": (mirrored, "pose 1 is not a rotation"),
    "portrait poses": (lambda t: set_entry(0, 4, 128)(set_entry(0, 9, 96)(t)), "96x128 images"),
    "cropped images": (lambda t: set_entry(3, 9, 144)(t), "144x96 images"),
    "denormal focal length": (set_entry(2, 14, 1e-310), "row 2 holds a focal length that no lens has"),
    "focal length beyond float32": (set_entry(2, 14, 1e300), "row 2 holds a focal length that no lens has"),
    "near bound denormal": (set_entry(1, 15, 1e-310), "row 1 holds absurd numbers"),
    "far bound beyond float32": (set_entry(1, 16, 1e300), "row 1 holds absurd numbers"),
    "far bound far off": (set_entry(1, 16, 1e20), "a far one reaches"),
    "camera beyond float32": (set_entry(3, 3, 1e300), "row 3 holds absurd numbers"),
    "camera far off": (set_entry(3, 3, -1e12), "a camera reaches"),
    "rotation beyond all": (set_entry(3, 0, 1e20), "pose 3 is not a rotation"),
    "two focal lengths": (set_entry(1, 14, 160), "--no_ndc"),
}


@pytest.mark.filterwarnings("error")  # a warning is a second line
@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_poses_bounds_is_reported_in_one_line_that_names_it(tmp_path, case):
    change, said = BAD_TABLES[case]
    edit_table(write_llff(tmp_path), change)
    with pytest.raises(BadInput) as error:
        load_llff_scene(tmp_path)
    assert str(tmp_path / "poses_bounds.npy") in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_poses_bounds_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = write_llff(tmp_path) / "poses_bounds.npy"
    np.save(path, np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="not a numeric .npy array"):
        load_llff_scene(tmp_path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(BadInput, match="not a numeric .npy array"):
        load_llff_scene(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"<html>404</html>"])
def test_unreadable_poses_bounds(tmp_path, content):
    path = write_llff(tmp_path) / "poses_bounds.npy"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a numeric .npy array") as error:
        load_llff_scene(tmp_path)
    assert str(path) in str(error.value)


def test_truncated_poses_bounds(tmp_path):
    path = write_llff(tmp_path) / "poses_bounds.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInput, match="not a numeric .npy array"):
        load_llff_scene(tmp_path)


def test_missing_folder_or_file(tmp_path):
    with pytest.raises(BadInput, match="--datadir") as error:
        load_llff_scene(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(error.value)
    (write_llff(tmp_path) / "poses_bounds.npy").unlink()
    with pytest.raises(BadInput, match="not found") as error:
        load_llff_scene(tmp_path)
    assert str(tmp_path / "poses_bounds.npy") in str(error.value)


def test_images_and_poses_must_pair_up(tmp_path):
    write_llff(tmp_path)
    (tmp_path / "images_8" / "image002.png").unlink()
    with pytest.raises(BadInput, match="5 images but poses_bounds.npy has 6 poses") as error:
        load_llff_scene(tmp_path)
    assert str(tmp_path / "images_8") in str(error.value)


def test_no_images(tmp_path):
    write_llff(tmp_path)
    with pytest.raises(BadInput, match="found images_8; expected images_4 .*--factor 4"):
        load_llff_scene(tmp_path, factor=4)
    with pytest.raises(BadInput, match="expected images with"):
        load_llff_scene(tmp_path, factor=1)
    for path in (tmp_path / "images_8").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="expected images_8") as error:
        load_llff_scene(tmp_path)
    assert str(tmp_path) in str(error.value)
    (tmp_path / "images_8").rmdir()
    with pytest.raises(BadInput, match=r"no images\* folder"):
        load_llff_scene(tmp_path)


def test_a_broken_image_is_named(tmp_path):
    path = write_llff(tmp_path) / "images_8" / "image003.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="not a readable image") as error:
        load_llff_scene(tmp_path)
    assert str(path) in str(error.value)


def test_images_of_two_sizes(tmp_path):
    path = write_llff(tmp_path) / "images_8" / "image005.png"
    imageio.imwrite(path, np.zeros((12, 17, 3), np.uint8))
    with pytest.raises(BadInput, match="17x12") as error:
        load_llff_scene(tmp_path)
    assert str(path) in str(error.value)


def test_different_focal_lengths_are_kept_in_world_space(tmp_path):
    edit_table(write_llff(tmp_path), set_entry(1, 14, 160))
    focals = load_llff_scene(tmp_path, ndc=False).cameras.K[:, 0, 0].tolist()
    assert focals == [150 / 8, 160 / 8, *[150 / 8] * 4]


def test_wrong_flags(tmp_path):
    write_llff(tmp_path)
    with pytest.raises(BadInput, match="--spherify.*--no_ndc"):
        load_llff_scene(tmp_path, ndc=True, spherify=True)
    with pytest.raises(BadInput, match="--factor -1"):
        load_llff_scene(tmp_path, factor=-1)
    with pytest.raises(BadInput, match="--llffhold 1"):
        load_llff_scene(tmp_path, llffhold=1)


def test_ndc_of_a_capture_all_round_is_refused(tmp_path):
    write_llff(tmp_path, ring())
    with pytest.raises(BadInput, match="view .* looks sideways.*--no_ndc.*--spherify"):
        load_llff_scene(tmp_path)
    assert len(load_llff_scene(tmp_path, ndc=False).images) == 10


def test_spherify_of_one_place_is_refused(tmp_path):
    write_llff(tmp_path, np.stack([look_at(np.zeros(3), np.array(at)) for at in ([1.0, 0, 0], [0, 1.0, 0])]))
    with pytest.raises(BadInput, match="--spherify"):
        load_llff_scene(tmp_path, ndc=False, spherify=True, llffhold=2)


# ------------------------------------------------------------------------------------ real: fern


@pytest.fixture(scope="module")
def fern(fern_dir):
    return load_llff_scene(fern_dir)


def test_fern_facts(fern, fern_dir):
    assert fern.name == "fern"
    assert fern.images.shape == (20, 378, 504, 3)
    assert fern.splits["test"] == [0, 8, 16] and len(fern.splits["train"]) == 17
    focal = 3260.526333 * 504 / 4032  # poses_bounds.npy: 3024 x 4032, focal 3260.526
    assert fern.cameras.K[0, 0, 0] == pytest.approx(focal, abs=1e-3)
    assert focal == pytest.approx(407.566, abs=1e-3)
    assert (fern.ndc, fern.near, fern.far, fern.notes) == (True, 0, 1, [])
    assert load_llff_scene(fern_dir, llffhold=0).splits["test"] == [12]
    world = load_llff_scene(fern_dir, ndc=False)
    assert world.near == pytest.approx(0.9 / 0.75)
    assert world.far == pytest.approx(80.00209740 / (0.75 * 16.98529618), rel=1e-6)  # the file's largest, smallest


def test_fern_matches_across_views_lie_on_epipolar_lines(fern):
    """Poses, focal length and images of two training views agree, whatever the scene's frame.

    SIFT finds the matches, so the geometry is tested against nothing but the photographs. The median
    distance is 0.40 pixels here; with a focal length 10 % longer 0.56, with rows counted upwards 4.7,
    with the poses of the neighbouring view 7.1.
    """
    one, two = 3, 13
    sift = cv2.SIFT_create(nfeatures=1500)
    found = [sift.detectAndCompute(cv2.cvtColor(fern.images[v].numpy(), cv2.COLOR_RGB2GRAY), None) for v in (one, two)]
    (points_one, features_one), (points_two, features_two) = found
    pairs = cv2.BFMatcher().knnMatch(features_one, features_two, k=2)
    good = [best for best, second in pairs if best.distance < 0.7 * second.distance]
    assert len(good) > 100
    pixels_one = torch.tensor([points_one[match.queryIdx].pt for match in good]) + 0.5
    pixels_two = torch.tensor([points_two[match.trainIdx].pt for match in good]) + 0.5

    def rays(view, pixels):
        return camera_rays(pixels[:, 0], pixels[:, 1], fern.cameras.K[view], fern.cameras.c2w[view])

    (origin_one, along_one), (origin_two, along_two) = rays(one, pixels_one), rays(two, pixels_two)
    # The angle between the second ray and the plane of the baseline and the first ray, in pixels.
    normal = torch.linalg.cross(origin_two - origin_one, along_one)
    sine = (normal * along_two).sum(-1) / (normal.norm(dim=-1) * along_two.norm(dim=-1))
    off = (sine * fern.cameras.K[0, 0, 0]).abs()
    assert off.median() < 0.5
