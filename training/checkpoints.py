"""Checkpoints: saved whole or not at all, checked when loaded; the newest good one; networks taken from them."""

import contextlib
import io
import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from rendering.renderer import Renderer
from training.checkpoint_checks import NUMPY_SCALARS, check_checkpoint
from utils.checks import check_plain, describe_mismatch, short
from utils.errors import BadInput, BrokenFile, blaming, first_line
from utils.files import atomic_write, digest

WORD = 8  # bytes that the largest number takes; tensors that lie side by side start at multiples of it
CHECKPOINT_NAME = re.compile(r"^\d{6,}\.tar$")


# ---------------------------------------------------------------------------------- checkpoints


def on_host(state: dict) -> dict:
    """Nested dicts, lists and tuples with their tensors on the CPU, all brought there in one copy.

    One by one, each of hundreds would make the device wait.
    """
    places: list[tuple[torch.Tensor, int]] = []  # what is to be brought, and the byte that it starts at
    end = 0

    def each(value, function):
        if isinstance(value, dict):
            return {key: each(entry, function) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(each(entry, function) for entry in value)
        return function(value) if isinstance(value, torch.Tensor) and value.device.type != "cpu" else value

    def place(tensor: torch.Tensor) -> None:
        nonlocal end
        places.append((tensor.detach(), end))
        end += -(-tensor.nbytes // WORD) * WORD

    each(state, place)
    if not places:
        return state
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for tensor, _ in places]
    content = torch.cat([torch.nn.functional.pad(part, (0, -len(part) % WORD)) for part in parts]).cpu()
    brought = (
        content[start : start + tensor.nbytes].clone().view(tensor.dtype).view(tensor.shape) for tensor, start in places
    )
    return each(state, lambda _: next(brought))


def save_checkpoint(path: Path, state: dict) -> None:
    """Saves `state` (tensors and plain values) under nerf-pytorch's format, with a digest of it."""
    state = on_host(state)
    buffer = io.BytesIO()
    torch.save({**state, "sha256": digest(state)}, buffer)
    atomic_write(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict:
    """A checkpoint's state. No code in it is run; a digest, if it carries one, must match.

    Raises BrokenFile for a missing, truncated, altered or foreign file, and for one that says something impossible.
    """
    if not Path(path).is_file():
        raise BrokenFile(f"{path}: no such checkpoint")
    try:
        _check_stored(path)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many types for the same thing: not a whole checkpoint
        raise BrokenFile(f"{path}: {_why_not_loaded(path, error)}") from error
    with blaming(path):
        state = check_plain(state)
        expected = state.pop("sha256", None) if isinstance(state, dict) else None
        if expected is not None and digest(state) != expected:
            raise BrokenFile("its content does not match its digest; the file was altered or damaged")
        check_checkpoint(state)
    for name in ("network_fn_state_dict", "network_fine_state_dict"):  # as DataParallel names them
        consume_prefix_in_state_dict_if_present(state.get(name) or {}, "module.")
    return state


def _check_stored(path: Path) -> None:
    """Raises BrokenFile where parts are compressed, which PyTorch never does: they may unfold to anything."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                raise BrokenFile("its parts are compressed, which those of a checkpoint never are")


def _why_not_loaded(path: Path, error: Exception) -> str:
    """What torch.load met, without its advice to run what the file says."""
    with contextlib.suppress(Exception), torch.serialization.safe_globals(NUMPY_SCALARS):
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if foreign:
            return (
                f"holds objects of {short(foreign[0])}; only tensors, numbers and text are loaded, for safety: "
                "save it again without them"
            )
    reason = "its pickle is damaged" if isinstance(error, pickle.UnpicklingError) else first_line(error)
    return f"not a whole checkpoint ({reason})"


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


def load_networks(renderer: Renderer, path: Path, state: dict | None = None) -> None:
    """Loads the networks of a checkpoint, ours or nerf-pytorch's, and our occupancy grid.

    Raises BrokenFile where the checkpoint is of another architecture.
    """
    state = load_checkpoint(path) if state is None else state
    _check_conventions(renderer, path, state)
    load_tensors(renderer, state, path)


def load_tensors(renderer: Renderer, state: dict, what: Path | str) -> None:
    """The part of `load_networks` that is not about flags; `what` begins its messages."""
    for name, field in renderer.fields.items():
        network, stored = field.network, state.get(f"{name}_state_dict")
        if stored is None:
            raise BrokenFile(
                f"{what}: has no {name}_state_dict; was it trained with another --sampler or --N_importance?"
            )
        try:
            network.load_state_dict(stored)
            mismatch = describe_mismatch(network.state_dict(), stored) or field.problem()
        except RuntimeError:
            mismatch = describe_mismatch(network.state_dict(), stored)
        if mismatch:
            raise BrokenFile(
                f"{what}: {name} is of another architecture: {mismatch}; give the flags it was trained with"
            )
    renderer.load_extra_state(state, what)


def _check_conventions(renderer: Renderer, path: Path, state: dict) -> None:
    """What a checkpoint's tensors do not show: rays, and whether layers add to their input."""
    corner_rays = renderer.setup.pixel_offset == 0
    if "corner_rays" not in state and not corner_rays:
        print(f"note: {path} is not ours; if nerf-pytorch trained it, its rays need --corner_rays")
    if state.get("corner_rays", corner_rays) != corner_rays:
        word = "with" if state["corner_rays"] else "without"
        raise BadInput(f"{path}: was trained {word} --corner_rays; give the same flags again")
    residual = is_residual(renderer)
    if state.get("residual", False) != residual:
        word = "without" if residual else "with"
        raise BadInput(f"{path}: was trained {word} --residual; give the same flags again")


def is_residual(renderer: Renderer) -> bool:
    return getattr(next(iter(renderer.fields.values())).config, "residual", False)
