"""Files that are either whole or not there, and digests of what they hold."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from utils.errors import BrokenFile, SaveError, in_short

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


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes. Raises BrokenFile where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenFile(f"{path}: cannot be read ({in_short(error)}); give another file") from error


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
