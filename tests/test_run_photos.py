"""run_photos.py as a user meets it: pictures of a scene whose cameras are known come back as cameras, and what is wrong
with others is said in one line."""

import json
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
from helpers import fails_cleanly, run
from still_life import VIEWS, arc, photograph, spoil

import run_nerf_qat
import run_photos
from load_colmap import camera_to_world, read_model
from photographs.gathering import Picture
from utils.errors import BadInput

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    photograph(folder)
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
    sheet = imageio.imread(scene / "left_out.png")
    broken, other = np.split(sheet, 2, axis=1)
    assert len(np.unique(broken[20:180, 20:280])) == 1 and other[20:180, 70:230].std() > 50  # none, and noise
    assert (other[200:, :, 0] < 128).any()  # what is wrong with it


def test_each_spoiled_picture_is_named_with_what_is_wrong(photographs, tmp_path, capsys):
    """Also where they are so many that all ways to find cameras are gone."""
    pictures, out = tmp_path / "pictures", tmp_path / "scene"
    shutil.copytree(photographs, pictures)
    spoil(pictures)
    assert run(run_photos, pictures, "--out", out, "--threads", "1") == 0
    report = json.loads((out / "photos.json").read_text())
    assert report["registered"] == VIEWS and report["models"] == [VIEWS, 5]
    said = {row["source"]: row["left_out"] for row in report["pictures"] if row["left_out"]}
    expected = {
        "5_copy.png": "the same picture as 5.png", "blurred.png": "blurred", "broken.jpg": "not readable",
        "other.png": "few matches", "wall.png": "little to see",
    }  # fmt: skip
    expected |= {f"hall_{i}.png": "of another place" for i in range(5)}
    assert said.keys() == expected.keys()
    for source, reason in expected.items():
        assert said[source].startswith(reason), source
    assert f"they are on one sheet: {out / 'left_out.png'}" in capsys.readouterr().out


def test_a_folder_is_the_same_however_it_is_named(photographs, scene, capsys, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    assert run(run_photos, photographs.name, "--out", scene, "--threads", "1") == 0
    assert "is there already" in capsys.readouterr().out


def test_other_flags_begin_anew_and_say_so(photographs, scene, tmp_path, capsys, monkeypatch):
    """Nothing of before is left, also where it then fails."""
    out = tmp_path / "scene"
    shutil.copytree(scene, out)

    def stops(*_):
        raise BadInput("stopped")

    monkeypatch.setattr(run_photos, "gather", stops)
    assert run(run_photos, photographs, "--out", out, "--seed", "1") == 2
    assert "begun anew" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["photos.json"]


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
