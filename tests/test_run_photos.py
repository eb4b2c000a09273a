"""run_photos.py as a user meets it: pictures of a scene whose cameras are known come back as cameras, and what is wrong
with others is said in one line."""

import json
import shutil

import cv2
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from helpers import fails_cleanly, run

import run_nerf_qat
import run_photos
from load_colmap import camera_to_world, read_model
from load_procedural import FIELD_OF_VIEW, PLINTH_BOTTOM, render
from photographs.gathering import Picture
from run_nerf_helpers import get_rays, to8b
from scenes.poses import look_at
from scenes.scene import Cameras, composite_over, pinhole

pytest.importorskip("pycolmap")

SIZE, VIEWS = 360, 16


def arc() -> np.ndarray:
    """Cameras on a part of a turn about the still life, `[N, 3, 4]`."""
    angles = np.linspace(0, 2.4, VIEWS)
    eyes = [np.array([3.3 * np.cos(a), 3.3 * np.sin(a), 1.5 + 0.3 * np.sin(3 * a)]) for a in angles]
    return np.stack([look_at(eye, np.array([0, 0, -0.1])) for eye in eyes])


def floor(cameras: Cameras) -> torch.Tensor:
    """What cameras see of a floor of speckles under the still life, which has little detail itself, `[N, H, W, 3]`."""
    random = np.random.default_rng(0)
    speckles = sum(cv2.resize(random.random((n, n, 3)), (1024, 1024), interpolation=cv2.INTER_CUBIC) for n in (64, 256))
    pictures = []
    for K, c2w in zip(cameras.K, cameras.c2w, strict=True):
        origins, directions = get_rays(SIZE, SIZE, K, c2w, 0.5)
        t = (PLINTH_BOTTOM - origins[..., 2]) / directions[..., 2]
        at = ((origins + t[..., None] * directions)[..., :2] * 128 + 512).numpy().astype(np.float32)
        seen = cv2.remap(speckles, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        pictures.append(torch.tensor(seen / 2, dtype=torch.float32).clamp(0, 1))
    return torch.stack(pictures)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The still life, a picture of it that is broken, and one of something else."""
    folder = tmp_path_factory.mktemp("photographs")
    lens = pinhole(0.5 * SIZE / np.tan(0.5 * FIELD_OF_VIEW), SIZE, SIZE).repeat(VIEWS, 1, 1)
    cameras = Cameras(torch.tensor(arc(), dtype=torch.float32), lens, SIZE, SIZE)
    images, _, _ = render(cameras, supersample=2)
    for i, picture in enumerate(composite_over(images.float() / 255, floor(cameras))):
        imageio.imwrite(folder / f"{i}.png", to8b(picture).numpy())
    (folder / "broken.jpg").write_bytes((folder / "0.png").read_bytes()[:500])
    other = np.random.default_rng(0).integers(0, 256, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    imageio.imwrite(folder / "other.png", other.repeat(8, 0).repeat(8, 1))
    return folder


@pytest.fixture(scope="module")
def scene(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "still_life"
    assert run(run_photos, photographs, "--out", out, "--threads", "1") == 0
    return out


def test_cameras_come_back(scene):
    """But for a turn, a shift and a scale, which photographs do not tell."""
    pictures = read_model(scene / "sparse" / "0").pictures
    assert [picture.name for picture in pictures] == [f"{i}.png" for i in range(VIEWS)]
    found, truth = np.stack([camera_to_world(picture.w2c) for picture in pictures]), arc()
    u, _, vh = np.linalg.svd((truth[:, :, :3] @ found[:, :, :3].transpose(0, 2, 1)).sum(0))
    turn = u @ np.diag([1, 1, np.linalg.det(u @ vh)]) @ vh
    cosines = (np.einsum("nij,nij->n", turn @ found[:, :, :3], truth[:, :, :3]) - 1) / 2
    assert np.degrees(np.arccos(cosines.clip(-1, 1))).max() < 0.5
    centred, wanted = (eyes - eyes.mean(0) for eyes in (found[:, :, 3] @ turn.T, truth[:, :, 3]))
    scale = (centred * wanted).sum() / (centred**2).sum()
    assert np.linalg.norm(scale * centred - wanted, axis=-1).max() < 0.01 * 3.3


def test_what_was_done_and_left_out_is_written(scene):
    report = json.loads((scene / "photos.json").read_text())
    assert report["registered"] == VIEWS and report["of"] == VIEWS + 2 and report["reprojection_error_pixels"] < 1.5
    rows = {row["source"]: row for row in report["pictures"]}
    assert rows["broken.jpg"]["left_out"].startswith("not readable")
    assert rows["other.png"]["left_out"].startswith("few matches")
    assert rows["3.png"]["registered"] and rows["3.png"]["features"] > 100 and rows["3.png"]["matched_pictures"] > 3
    assert imageio.imread(scene / "cameras.png").shape == (600, 1200, 3)


def test_what_is_done_is_not_done_again(photographs, scene, capsys):
    before = (scene / "sparse" / "0" / "images.bin").stat().st_mtime_ns
    assert run(run_photos, photographs, "--out", scene, "--threads", "1") == 0
    assert "is there already" in capsys.readouterr().out
    assert (scene / "sparse" / "0" / "images.bin").stat().st_mtime_ns == before


def test_broken_off_it_goes_on_to_the_same_cameras(photographs, scene, tmp_path):
    """With the pictures gathered and compared, and no model yet."""
    out = tmp_path / "again"
    shutil.copytree(scene, out)
    report = json.loads((out / "photos.json").read_text())
    gathered = [{name: row[name] for name in Picture("").describe()} for row in report["pictures"]]
    for row in gathered:
        row["left_out"] = "" if row["name"] else row["left_out"]
    (out / "photos.json").write_text(json.dumps({"asked": report["asked"], "pictures": gathered}))
    shutil.rmtree(out / "sparse")
    assert run(run_photos, photographs, "--out", out, "--threads", "1") == 0
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        assert (out / "sparse" / "0" / name).read_bytes() == (scene / "sparse" / "0" / name).read_bytes(), name


def test_a_run_takes_the_folder(scene, tmp_path):
    flags = [
        "--datadir", scene, "--factor", "8", "--N_iters", "4", "--qat_iters", "2", "--netwidth", "16", "--netdepth",
        "2", "--grid_resolution", "16", "--samples_per_batch", "256", "--i_video", "0", "--path_frames", "1",
        "--threads", "1", "--basedir", tmp_path, "--expname", "run", "--llffhold", "5",
    ]  # fmt: skip
    assert run(run_nerf_qat, *flags) == 0
    assert (tmp_path / "run" / "model_int8.safetensors").is_file()


# -------------------------------------------------------------------------------------- refusals


def test_pictures_without_cameras_name_the_command(photographs, capsys):
    fails_cleanly(capsys, run_nerf_qat, "--datadir", photographs, says=("18 pictures", "python run_photos.py"))


def test_sources_that_are_none(tmp_path, photographs, capsys):
    def refuses(*flags, says):
        fails_cleanly(capsys, run_photos, *flags, says=says)

    refuses(tmp_path / "nowhere", says=("nowhere", "no such folder or video"))
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "--out", tmp_path / "out", says=("holds no pictures", "JPEG"))
    (tmp_path / "empty" / "walk.mp4").write_bytes(b"no video")
    refuses(tmp_path / "empty", "--out", tmp_path / "out", says=("walk.mp4", "give that"))
    refuses(tmp_path / "empty" / "walk.mp4", "--out", tmp_path / "out", says=("walk.mp4", "cannot be decoded"))
    (tmp_path / "notes.txt").write_text("notes")
    refuses(tmp_path / "notes.txt", says=("notes.txt", "no video"))
    refuses(photographs, "--out", tmp_path, says=("is not empty", "another --out"))


def test_pictures_of_nothing_in_common(tmp_path, capsys):
    random = np.random.default_rng(0)
    for i in range(4):
        picture = random.integers(0, 256, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        (tmp_path / "in").mkdir(exist_ok=True)
        imageio.imwrite(tmp_path / "in" / f"{i}.png", picture)
    says = ("no two of 4 pictures show enough of the same", "closer together")
    fails_cleanly(capsys, run_photos, tmp_path / "in", "--out", tmp_path / "out", "--threads", "1", says=says)
    assert (tmp_path / "out" / "database.db").is_file()  # what was computed stays


def test_without_the_extra(photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    says = ("pip install -r requirements-photos.txt",)
    fails_cleanly(capsys, run_photos, photographs, "--out", tmp_path / "out", says=says)
