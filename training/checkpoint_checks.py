"""What a checkpoint may hold, looked at once, right after it was read, before anything is built from it.

A digest guards against accidents only, and nerf-pytorch's checkpoints and those of its forks have none.
First a checkpoint is held against itself (`check_checkpoint`), then its parts against the run that
is to go on from it. Entries that this program does not know are let be.
"""

import math

import numpy as np
import torch

from training.muon import Muon
from utils.checks import LARGEST_WHOLE, check_keys, check_number, check_whole, is_number, is_whole, short
from utils.errors import BrokenFile

# Whatever number NumPy has for a checkpoint's step or loss: nothing in these runs code.
_make_scalar = np.float64(0).__reduce__()[0]
NUMPY_SCALARS = [
    (_make_scalar, "numpy._core.multiarray.scalar"),
    (_make_scalar, "numpy.core.multiarray.scalar"),  # of NumPy 1
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
]

# What each optimiser remembers of a parameter, apart from its number of steps: of the parameter's shape.
MOMENTS = {torch.optim.Adam: ("exp_avg", "exp_avg_sq"), Muon: ("momentum_buffer",)}


# ----------------------------------------------------------------------------------- by itself


def check_checkpoint(state: dict) -> None:
    """Raises BrokenFile at the first entry that is not as `Trainer.state_dict` or nerf-pytorch write it."""
    if not isinstance(state, dict) or not isinstance(state.get("network_fn_state_dict"), dict):
        raise BrokenFile("not a NeRF checkpoint (it has no network_fn_state_dict)")
    for name in ("corner_rays", "residual"):
        if not isinstance(state.get(name, False), bool):
            raise BrokenFile(f"{name} is {short(state[name])}, expected True or False")
    phase = state.get("phase", "float")
    if not isinstance(phase, str) or not phase.isidentifier() or len(phase) > 40:
        raise BrokenFile(f"phase is {short(phase)}, expected the name of a phase of training")
    if "global_step" in state:
        check_whole("checkpoint", state, "global_step", 0, LARGEST_WHOLE)
    ours = [
        name
        for name in state
        if name.endswith("_state_dict") and name.startswith(("network_", "proposal_", "grid_", "exposure_state"))
    ]
    for name in ours:
        no_fine_network = name == "network_fine_state_dict" and state.get(name) is None  # forks write it as None
        if name in state and not no_fine_network:
            _check_tensors(name, state[name])
    for name in ("optimizer_state_dict", "muon_state_dict", "exposure_optimizer_state_dict"):
        if name in state:
            _check_optimizer(name, state[name])
    if "trainer" in state:
        _check_trainer(state["trainer"])
    for name in ("scheme", "identity"):
        if not isinstance(state.get(name, {}), dict):
            raise BrokenFile(f"{name} is {short(state[name])}, expected a table")


def _check_tensors(what: str, stored: dict) -> None:
    if not isinstance(stored, dict):
        raise BrokenFile(f"{what} is {short(stored)}, expected a table of tensors")
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise BrokenFile(f"{what}: {short(name)} is {short(tensor)}, expected a tensor under a name")
        if not torch.isfinite(tensor).all():
            raise BrokenFile(f"{what}: {short(name)} holds NaN or infinity")


def _check_optimizer(what: str, stored: dict) -> None:
    whole = isinstance(stored, dict) and isinstance(stored.get("state"), dict)
    groups = stored.get("param_groups") if whole else None
    if not isinstance(groups, list) or not all(_is_group(group) for group in groups):
        raise BrokenFile(f"{what}: no state and param_groups of an optimiser in it")
    for number, entry in stored["state"].items():
        if not is_whole(number) or not isinstance(entry, dict):
            raise BrokenFile(f"{what}: {short(number)} is {short(entry)}, expected the state of a parameter by number")


def _is_group(group) -> bool:
    numbers = group.get("params") if isinstance(group, dict) else None
    return isinstance(numbers, list) and all(map(is_whole, numbers))


def _check_trainer(trainer: dict) -> None:
    _check_has("trainer", trainer, "seconds", "rays", "batches")
    check_number("trainer", trainer, "seconds", 0, math.inf)
    check_whole("trainer", trainer, "rays", 0, LARGEST_WHOLE)
    check_whole("trainer", {"processes": 1} | trainer, "processes", 1, LARGEST_WHOLE)
    curve = trainer.get("curve", [])
    if not isinstance(curve, list) or not all(_is_point(point) for point in curve):
        raise BrokenFile(f"trainer: curve is {short(curve)}, expected pairs of step and PSNR")
    recent = trainer.get("recent", torch.empty(0))
    if not isinstance(recent, torch.Tensor) or recent.ndim != 1 or not recent.is_floating_point():
        raise BrokenFile(f"trainer: recent is {short(recent)}, expected errors of the latest steps")
    if not isinstance(trainer.get("scaler", {}), dict):
        raise BrokenFile(f"trainer: scaler is {short(trainer['scaler'])}, expected a table")
    _check_batches("batches", trainer["batches"])
    if "photographs" in trainer["batches"]:  # beside what a teacher shows
        _check_batches("photographs", trainer["batches"]["photographs"])


def _check_batches(what: str, batches: dict) -> None:
    _check_has(what, batches, "generator", "samples_per_ray")
    check_whole(what, {"seed": 0} | batches, "seed", -LARGEST_WHOLE, LARGEST_WHOLE)
    check_number(what, batches, "samples_per_ray", 0.05, 1e6)  # a mean of what is never below 0.1
    for name in {"generator", "drawable"} & set(batches):
        tensor = batches[name]
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8 or tensor.ndim != 1:
            raise BrokenFile(f"{what}: {name} is {short(tensor)}, expected bytes")


def _check_has(where: str, section: dict, *names: str) -> None:
    """Other versions may have more."""
    check_keys(where, section, {*names, *section} if isinstance(section, dict) else set(names))


def _is_point(point) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and is_whole(point[0]) and is_number(point[1])


# ------------------------------------------------------------------------------ against the run


def fitting_optimizer_state(optimizer: torch.optim.Optimizer, stored: dict | None) -> dict:
    """A state that `optimizer` can load: what it remembers of its parameters from `stored`, the rest its own.

    Rates and the like follow from the flags, so what a file says of them is not looked at. Raises
    BrokenFile where `stored` is not of such an optimiser over these parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    numbers = [group["params"] for group in groups]
    if stored is None or [group.get("params") for group in stored["param_groups"]] != numbers:
        raise BrokenFile("other groups of parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {}
    for number, entry in stored["state"].items():
        if not 0 <= number < len(parameters):
            raise BrokenFile(f"a parameter {number} that there is not")
        state[number] = _moments(optimizer, number, entry, parameters[number].shape)
    return {"state": state, "param_groups": groups}


def _moments(optimizer: torch.optim.Optimizer, number: int, entry: dict, shape: torch.Size) -> dict:
    names = MOMENTS[type(optimizer)]
    for name in names:
        tensor = entry.get(name)
        if not isinstance(tensor, torch.Tensor) or tensor.shape != shape or not tensor.is_floating_point():
            raise BrokenFile(f"{name} of parameter {number} is {short(tensor)}, expected floats {tuple(shape)}")
        if not torch.isfinite(tensor).all() or (name == "exp_avg_sq" and (tensor < 0).any()):
            raise BrokenFile(f"{name} of parameter {number} holds an impossible value")
    kept = {name: entry[name] for name in names}
    if isinstance(optimizer, torch.optim.Adam):  # which counts in a tensor; older versions of it in a number
        step = entry.get("step")
        count = float(step) if is_number(step) or (isinstance(step, torch.Tensor) and step.numel() == 1) else -1.0
        if not 0 <= count < math.inf:
            raise BrokenFile(f"step of parameter {number} is {short(step)}, expected a number of steps")
        kept["step"] = torch.tensor(count)
    return kept
