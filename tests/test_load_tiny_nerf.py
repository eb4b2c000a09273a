"""tiny_nerf_data.npz: what is read, and what is refused. The file is made here, from a procedural scene."""

import functools
import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from helpers import SHORT, TINY, fails_cleanly, run

import run_nerf
from load_procedural import load_procedural_scene
from load_tiny_nerf import load_tiny_nerf_scene
from utils.errors import BadInput

made_up_scene = functools.cache(load_procedural_scene)


def arrays(views: int = 12, size: int = 16) -> dict[str, np.ndarray]:
    scene = made_up_scene(size, white_background=False)
    poses = np.tile(np.eye(4, dtype=np.float32), (views, 1, 1))
    poses[:, :3] = scene.cameras.c2w[:views].numpy()
    images = scene.target(torch.arange(views)).numpy().astype(np.float32)
    return {"images": images, "poses": poses, "focal": np.array(float(scene.cameras.K[0, 0, 0]))}


def moved(distance: float) -> np.ndarray:
    poses = arrays()["poses"].astype(np.float64)
    poses[3, 0, 3] = distance
    return poses


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
        ({"focal": np.array(1e-310)}, "one positive number of pixels, about 16"),
        ({"focal": np.array(1e38)}, "one positive number"),
        ({"focal": np.array(20 + 1j)}, "focal.npy is of type complex128"),
        ({"focal": np.array("20")}, "focal.npy is of type <U2"),
        ({"poses": arrays()["poses"].astype(complex)}, "poses.npy is of type complex128"),
        ({"poses": moved(1e38)}, "1e\\+38 units off"),
        ({"poses": moved(1e300)}, "1e\\+300 units off"),
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


def test_an_extra_array_is_not_even_opened(tmp_path):
    """It may unfold to gigabytes, or be a pickle."""
    np.savez(tmp_path / "t.npz", **arrays(), extra=np.array([{}], dtype=object))
    assert len(load_tiny_nerf_scene(str(tmp_path / "t.npz")).images) == 12


def npy(shape: tuple, data: bytes, kind: str = "<f4") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def write_npz(path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> None:
    """The good arrays, but for `members`."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays().items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", members.get(name, content.getvalue()))


@pytest.mark.parametrize("name", ["images", "poses", "focal"])
@pytest.mark.parametrize("shape", [(10**12,), (6, 2**30), (-5, -7), (3, 10**30)])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_array_that_declares_more_than_it_holds_takes_no_memory(tmp_path, name, shape, method):
    path = tmp_path / "bad.npz"
    write_npz(path, method, **{name: npy(shape, bytes(64))})
    with pytest.raises(BadInput, match=f"{path}: not readable as .npz .*{name}.npy declares .* and holds 64"):
        load_tiny_nerf_scene(str(path))


def test_an_array_that_would_unfold_to_far_more_than_its_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bad.npz"
    write_npz(path, images=npy((2, 4000, 4000, 3), bytes(2 * 4000 * 4000 * 3), "|u1"))
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("unfolded"))
    with pytest.raises(BadInput, match="images.npy declares 96000.* bytes, .* can be there at most"):
        load_tiny_nerf_scene(str(path))


def spoil_entries(path, offsets: tuple[int, int], change) -> None:
    """Changes a byte of each entry's local header and of its place in the directory."""
    data = bytearray(path.read_bytes())
    for at in range(len(data) - 4):
        if data[at : at + 4] in (b"PK\3\4", b"PK\1\2"):
            place = at + offsets[data[at + 2] == 1]
            data[place] = change(data[place])
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("flag", [1, 32, 64])
def test_encrypted_and_patched_archives_are_refused(good, flag):
    spoil_entries(good, (6, 8), lambda byte: byte | flag)
    with pytest.raises(BadInput, match="not readable as .npz"):
        load_tiny_nerf_scene(str(good))


@pytest.mark.parametrize("method", [1, 6, 9, 12, 14, 93, 99])
def test_other_compression_is_refused(good, method):
    spoil_entries(good, (8, 10), lambda byte: method)
    with pytest.raises(BadInput, match="not readable as .npz"):
        load_tiny_nerf_scene(str(good))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_compression_is_refused(tmp_path, method):
    path = tmp_path / "bad.npz"
    write_npz(path, method)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(range(60))
    path.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="not readable as .npz"):
        load_tiny_nerf_scene(str(path))


HIERARCHICAL = ["--sampler", "hierarchical", "--N_samples", "8", "--N_rand", "64"]
NEVER_EMPTIED = ["--sampler", "occupancy", "--grid_interval", "99"]


@pytest.mark.parametrize("sampler", [HIERARCHICAL, NEVER_EMPTIED], ids=["hierarchical", "occupancy"])
def test_pictures_that_are_met_exactly_have_a_finite_psnr(tmp_path, sampler):
    """All black, and so is what an empty field renders: an error of zero, whose logarithm is none."""
    np.savez(tmp_path / "black.npz", **arrays() | {"images": np.zeros((12, 16, 16, 3), np.uint8)})
    flags = [f for f in TINY if f not in ("--white_bkgd", "--random_bkgd")]
    flags = [*flags, *SHORT, *sampler, "--density_bias", "-60", "--i_print", "10"]
    common = ["--datadir", tmp_path / "black.npz", "--basedir", tmp_path, "--expname", "black"]
    assert run(run_nerf, *flags, *common) == 0
    content = json.loads((tmp_path / "black" / "metrics.json").read_text())
    assert content["models"]["float32"]["psnr"] == 100
    assert content["train"]["curve"] and all(psnr == 100 for _, psnr in content["train"]["curve"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_no_npz_at_all(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(BadInput, match="not readable as .npz"):
        load_tiny_nerf_scene(str(tmp_path / "bad.npz"))
    with pytest.raises(BadInput, match="no such file"):
        load_tiny_nerf_scene(str(tmp_path / "absent.npz"))
