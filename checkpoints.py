"""Files that are either whole or not there: atomic saving, checked loading, the newest good one."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from errors import BrokenFile, SaveError, in_short

CHECKPOINT_NAME = re.compile(r"^\d{6,}\.tar$")


# What to do about it, by the system's number of an error.
WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space or choose another folder, then run again"),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOTDIR), "remove or rename what is in its place"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """While entered, what the system raises because `path` cannot be written becomes a SaveError."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that the locale cannot say
        way_out = WAYS_OUT.get(getattr(error, "errno", None), "choose a folder that can be written to")
        raise SaveError(f"{path}: could not be saved ({in_short(error)}); {way_out}", path) from error


def atomic_write(path: Path, content: bytes) -> None:
    """Writes `content` so that a reader, or a crash at any moment, sees the old file or the new.

    Raises SaveError where the disk is full or the folder not writable; the old file is untouched then.
    """
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; Windows cannot open folders and does not need it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partial_files(folder: Path) -> None:
    """Deletes what a killed `atomic_write` or `write_video` left behind."""
    for partial in folder.glob(".*.part*"):
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


# ---------------------------------------------------------------------------------- checkpoints


def digest(value) -> str:
    """SHA-256 over nested dicts, lists, tensors and numbers, in a fixed order."""
    hasher = hashlib.sha256()

    def feed(item) -> None:
        if isinstance(item, torch.Tensor):
            hasher.update(f"{item.dtype}{tuple(item.shape)}".encode())
            hasher.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(item, dict):
            hasher.update(f"dict{len(item)}".encode())
            for key in sorted(item, key=str):
                hasher.update(repr(key).encode())
                feed(item[key])
        elif isinstance(item, list | tuple):
            hasher.update(f"list{len(item)}".encode())
            for entry in item:
                feed(entry)
        else:
            hasher.update(repr(item).encode())

    feed(value)
    return hasher.hexdigest()


def save_checkpoint(path: Path, state: dict) -> None:
    """Saves `state` (tensors and plain values) under nerf-pytorch's format, with a digest of it."""
    buffer = io.BytesIO()
    torch.save({**state, "sha256": digest(state)}, buffer)
    atomic_write(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict:
    """A checkpoint's state. No code in it is run; a digest, if it carries one, must match.

    Raises BrokenFile for a missing, truncated, altered or foreign file.
    """
    if not Path(path).is_file():
        raise BrokenFile(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many types for the same thing: not a whole checkpoint
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise BrokenFile(f"{path}: not a whole checkpoint ({reason})") from error
    if not isinstance(state, dict) or "network_fn_state_dict" not in state:
        raise BrokenFile(f"{path}: not a NeRF checkpoint (it has no network_fn_state_dict)")
    expected = state.pop("sha256", None)
    if expected is not None and digest(state) != expected:
        raise BrokenFile(f"{path}: its content does not match its digest; the file was altered or damaged")
    return state


def checkpoint_files(folder: Path) -> list[Path]:
    """The numbered checkpoints of a run, oldest first. Other .tar files are not checkpoints."""
    found = [path for path in folder.glob("*.tar") if CHECKPOINT_NAME.match(path.name)]
    return sorted(found, key=lambda path: int(path.stem))


def load_newest(folder: Path, device: torch.device | str = "cpu") -> tuple[Path, dict] | None:
    """The newest checkpoint that is whole, or None; says so of every broken one it passes over."""
    for path in reversed(checkpoint_files(folder)):
        try:
            return path, load_checkpoint(path, device)
        except BrokenFile as error:
            print(f"warning: {error}; trying the one before")
    return None
