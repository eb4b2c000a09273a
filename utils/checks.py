"""Single values out of files, held against what they may be; each check raises BrokenFile with one line."""

import numpy as np
import torch

from utils.errors import BrokenFile

LARGEST_VALUE = 1e6  # of a weight, scale, norm or bias; products of several stay far from overflow


def check_tensors(what: str, state: dict[str, torch.Tensor], expected: dict) -> None:
    """Raises BrokenFile unless `state` holds exactly the expected tensors with possible values.

    expected: name to type and shape. `what` begins the message.
    """
    for name, (dtype, shape) in expected.items():
        if name not in state:
            raise BrokenFile(f"{what}: no tensor {name}")
        tensor = state[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise BrokenFile(f"{what}: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {shape}")
        if dtype.is_floating_point and not (tensor.float().abs() <= LARGEST_VALUE).all():  # nor is NaN
            raise BrokenFile(f"{what}: {name} holds NaN, infinity or a value beyond {LARGEST_VALUE:g}")
        if name.endswith("scale") and not (tensor > 0).all():
            raise BrokenFile(f"{what}: {name} holds a scale that is not positive")
    extra = [name for name in state if name not in expected]
    if extra:
        raise BrokenFile(f"{what}: unexpected tensor {short(extra[0])}")


def check_keys(where: str, section: dict, expected: set[str]) -> None:
    if not isinstance(section, dict):
        raise BrokenFile(f"{where}: {short(section)} is not a table")
    for key in sorted(expected - set(section)):
        raise BrokenFile(f"{where}: no {key}")
    for key in sorted(set(section) - expected):
        raise BrokenFile(f"{where}: unexpected {short(key)}")


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_number(where: str, section: dict, key: str, low: float, high: float) -> None:
    value = section[key]
    if not is_number(value) or not low <= value <= high:
        raise BrokenFile(f"{where}: {key} is {short(value)}, expected a number from {low:g} to {high:g}")


def check_whole(where: str, section: dict, key: str, low: int, high: int) -> None:
    if not is_whole(section[key]) or not low <= section[key] <= high:
        raise BrokenFile(f"{where}: {key} is {short(section[key])}, expected a whole number from {low} to {high}")


def check_numbers(where: str, values: list, count: int, low: float, high: float) -> None:
    if not isinstance(values, list) or len(values) != count:
        raise BrokenFile(f"{where}: {short(values)} is not {count} numbers")
    for value in values:
        check_number(where, {"entry": value}, "entry", low, high)


def check_one_of(where: str, section: dict, key: str, allowed: tuple) -> None:
    if not any(section[key] is value or (isinstance(value, str) and section[key] == value) for value in allowed):
        raise BrokenFile(f"{where}: {key} is {short(section[key])}, expected one of {', '.join(map(str, allowed))}")


def short(value) -> str:
    """What a file holds, in so few characters that a message stays one line, none of them a control character."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return " ".join(repr(value).split())[:60]


WAY_OUT = "delete it to resume from the one before, or choose another --expname"


def describe_mismatch(expected: dict, stored: dict) -> str:
    """The first difference in names, shapes or kinds of two state dicts, in words; empty if none."""
    for name, value in expected.items():
        if name not in stored:
            return f"no {name}"
        if stored[name].shape != value.shape:
            return f"{name} is {tuple(stored[name].shape)}, expected {tuple(value.shape)}"
        if _kind(stored[name]) != _kind(value):
            return f"{name} holds {stored[name].dtype}, expected {value.dtype}"
    unexpected = [name for name in stored if name not in expected]
    return f"unexpected {short(unexpected[0])}" if unexpected else ""


def _kind(tensor: torch.Tensor) -> str:
    return "float" if tensor.is_floating_point() else "bool" if tensor.dtype == torch.bool else "integer"


DEEPEST = 16  # tables and lists within one another
MOST_VALUES = 4_000_000  # in all of them; a list that holds another twice counts it twice
LARGEST_WHOLE = 2**63


def check_plain(value):
    """`value` with NumPy's numbers as Python's. Raises BrokenFile where it is deep, endless or holds an odd tensor."""
    left = MOST_VALUES

    def walk(item, depth: int):
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise BrokenFile(f"holds more than {MOST_VALUES} values, or lists in lists beyond {DEEPEST} deep")
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, torch.Tensor):
            _check_dense(item)
        elif isinstance(item, dict):
            for key, entry in item.items():
                if not isinstance(key, str):
                    walk(key, DEEPEST)
                item[key] = walk(entry, depth + 1)
        elif isinstance(item, list):
            item[:] = [walk(entry, depth + 1) for entry in item]
        elif isinstance(item, tuple):
            return tuple(walk(entry, depth + 1) for entry in item)
        elif is_whole(item) and abs(item) > LARGEST_WHOLE:
            raise BrokenFile("holds a whole number beyond 2^63")
        return item

    return walk(value, 0)


def _check_dense(tensor: torch.Tensor) -> None:
    """Refuses sparse, quantised, complex and empty-handed tensors, and few numbers that are repeated into many."""
    dense = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_complex() or tensor.is_meta)
    if not dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BrokenFile(f"holds a tensor {tuple(tensor.shape)} that is not plain numbers in memory")
