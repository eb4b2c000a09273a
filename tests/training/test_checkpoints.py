"""Atomic saving, digests, and falling back to the last whole checkpoint."""

import errno
import os

import pytest
import torch

from training import checkpoints
from utils import files
from utils.errors import BrokenFile, SaveError


def state(step: int) -> dict:
    return {
        "global_step": step,
        "network_fn_state_dict": {"w": torch.full((100,), float(step))},
        "phase": "float",
    }


def test_round_trip(tmp_path):
    checkpoints.save_checkpoint(tmp_path / "000003.tar", state(3))
    loaded = checkpoints.load_checkpoint(tmp_path / "000003.tar")
    assert loaded["global_step"] == 3 and torch.equal(loaded["network_fn_state_dict"]["w"], torch.full((100,), 3.0))
    assert os.listdir(tmp_path) == ["000003.tar"]


def test_every_single_flipped_byte_of_content_is_noticed(tmp_path):
    """A flip either breaks the container or the digest; never does altered content load."""
    path = tmp_path / "000001.tar"
    checkpoints.save_checkpoint(path, state(1))
    good = path.read_bytes()
    reference = checkpoints.load_checkpoint(path)["network_fn_state_dict"]["w"]
    loaded_unchanged = 0
    for position in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            loaded = checkpoints.load_checkpoint(path)
        except BrokenFile as error:
            assert "000001.tar" in str(error) and "\n" not in str(error)
            continue
        assert torch.equal(loaded["network_fn_state_dict"]["w"], reference)  # padding or zip bookkeeping
        loaded_unchanged += 1
    assert loaded_unchanged < 0.6 * len(good) / 7


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_checkpoint(tmp_path, share):
    path = tmp_path / "000001.tar"
    checkpoints.save_checkpoint(path, state(1))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BrokenFile, match="000001.tar"):
        checkpoints.load_checkpoint(path)


def test_checkpoint_that_is_something_else(tmp_path):
    path = tmp_path / "000001.tar"
    torch.save({"something": 1}, path)
    with pytest.raises(BrokenFile, match="network_fn_state_dict"):
        checkpoints.load_checkpoint(path)
    with pytest.raises(BrokenFile, match="no such"):
        checkpoints.load_checkpoint(tmp_path / "none.tar")


class Exploit:
    def __reduce__(self):
        return (os.mkdir, ("exploited",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network_fn_state_dict": Exploit()}, tmp_path / "000001.tar")
    with pytest.raises(BrokenFile):
        checkpoints.load_checkpoint(tmp_path / "000001.tar")
    assert not (tmp_path / "exploited").exists()


def test_newest_is_by_number_and_other_tars_do_not_count(tmp_path):
    for step in (999999, 1000000, 5):
        checkpoints.save_checkpoint(tmp_path / f"{step:06d}.tar", state(step))
    for name in ("model_qat.tar", "zzz.tar", "12.tar"):  # a predecessor's final file reset its step to 0
        (tmp_path / name).write_bytes(b"")
    path, loaded = checkpoints.load_newest(tmp_path)
    assert path.name == "1000000.tar" and loaded["global_step"] == 1000000


def test_broken_newest_falls_back_and_says_so(tmp_path, capsys):
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path / f"{step:06d}.tar", state(step))
    (tmp_path / "000003.tar").write_bytes(b"")
    (tmp_path / "000002.tar").write_bytes((tmp_path / "000002.tar").read_bytes()[:200])
    path, _ = checkpoints.load_newest(tmp_path)
    assert path.name == "000001.tar"
    out = capsys.readouterr().out
    assert "000003.tar" in out and "000002.tar" in out


def test_no_checkpoint_at_all(tmp_path):
    assert checkpoints.load_newest(tmp_path) is None


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_leaves_no_rest(tmp_path, monkeypatch, call):
    path = tmp_path / "000001.tar"
    checkpoints.save_checkpoint(path, state(1))
    before = path.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(SaveError, match="No space left") as error:
        checkpoints.save_checkpoint(path, state(2))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["000001.tar"]


def test_partial_files_of_a_killed_run_are_swept(tmp_path):
    (tmp_path / ".000007.tar.x1.part").write_bytes(b"half")
    (tmp_path / "000006.tar").write_bytes(b"kept")
    files.remove_partial_files(tmp_path)
    assert os.listdir(tmp_path) == ["000006.tar"]


def test_digest_sees_every_kind_of_change():
    base = {"a": torch.zeros(3), "b": [1, 2.5], "c": {"d": "x"}}
    changed = [
        {**base, "a": torch.tensor([0.0, 0.0, 1.0])},
        {**base, "a": torch.zeros(3, dtype=torch.float64)},
        {**base, "a": torch.zeros(3, 1)},
        {**base, "b": [1, 2.6]},
        {**base, "c": {"e": "x"}},
    ]
    digests = {files.digest(value) for value in [base, *changed]}
    assert len(digests) == 6
    assert files.digest(dict(reversed(base.items()))) == files.digest(base)
