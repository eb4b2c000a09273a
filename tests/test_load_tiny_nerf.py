"""tiny_nerf_data.npz: what is read, and what is refused. The file is made here, from a procedural scene."""

import numpy as np
import pytest
import torch
from test_commands import SHORT, fails_cleanly, run
from test_training import TINY

import run_nerf
from errors import BadInput
from load_procedural import load_procedural_scene
from load_tiny_nerf import load_tiny_nerf_scene


def arrays(views: int = 12, size: int = 16) -> dict[str, np.ndarray]:
    scene = load_procedural_scene(size, white_background=False)
    poses = np.tile(np.eye(4, dtype=np.float32), (views, 1, 1))
    poses[:, :3] = scene.cameras.c2w[:views].numpy()
    images = scene.target(torch.arange(views)).numpy().astype(np.float32)
    return {"images": images, "poses": poses, "focal": np.array(float(scene.cameras.K[0, 0, 0]))}


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "tiny_nerf_data.npz"
    np.savez(path, **arrays())
    return path


def test_arrays_become_a_scene(good):
    made, scene = arrays(), load_tiny_nerf_scene(str(good))
    assert scene.images.shape == (12, 16, 16, 3) and scene.images.dtype == torch.uint8
    torch.testing.assert_close(scene.images.float() / 255, torch.tensor(made["images"]), atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(scene.cameras.c2w, torch.tensor(made["poses"][:, :3]))
    assert float(scene.cameras.K[0, 0, 0]) == pytest.approx(float(made["focal"]))
    assert scene.splits == {"train": list(range(10)), "val": [], "test": [10, 11]}
    assert not scene.has_alpha and scene.background == (0.0, 0.0, 0.0)


def test_the_106_views_split_as_the_original_does(tmp_path):
    made = arrays(4)
    poses = np.tile(made["poses"][:1], (106, 1, 1))
    np.savez(tmp_path / "t.npz", images=np.zeros((106, 4, 4, 3), np.uint8), poses=poses, focal=made["focal"])
    splits = load_tiny_nerf_scene(str(tmp_path / "t.npz")).splits
    assert (len(splits["train"]), len(splits["test"])) == (95, 11)


def test_a_run_takes_the_file_as_datadir(good, tmp_path):
    flags = [f for f in TINY if f not in ("--white_bkgd", "--random_bkgd")]
    assert run(run_nerf, *flags, *SHORT, "--datadir", good, "--basedir", tmp_path, "--expname", "tiny") == 0
    assert (tmp_path / "tiny" / "metrics.json").exists()


def test_flags_that_cannot_be_met_are_refused(good, tmp_path, capsys):
    fails_cleanly(capsys, run_nerf, *TINY, "--datadir", good, "--basedir", tmp_path, says=("leave out --white_bkgd",))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"images": None}, "no array images"),
        ({"focal": np.array([1.0, 2.0])}, "one positive number"),
        ({"focal": np.array(float("nan"))}, "one positive number"),
        ({"images": np.zeros((12, 16, 16))}, "expected \\[N, H, W, 3\\]"),
        ({"images": np.full((12, 4, 4, 3), 7.0)}, "reach from 7 to 7"),
        ({"images": np.full((12, 4, 4, 3), np.nan)}, "hold NaN"),
        ({"poses": np.zeros((11, 4, 4))}, "one for each image"),
        ({"poses": np.zeros((12, 4, 4))}, "not a rotation"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, says):
    made = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **made)
    with pytest.raises(BadInput, match=says):
        load_tiny_nerf_scene(str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_no_npz_at_all(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(BadInput, match="not readable as .npz"):
        load_tiny_nerf_scene(str(tmp_path / "bad.npz"))
    with pytest.raises(BadInput, match="no such file"):
        load_tiny_nerf_scene(str(tmp_path / "absent.npz"))
