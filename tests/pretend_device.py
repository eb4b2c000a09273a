"""An accelerator that is not there: its tensors say that they are on `pretend:0`, and lie in the CPU's memory.

    with PretendDevice() as device:
        run_nerf.main([..., "--device", "pretend"])
    device.waits  # what would have made a GPU wait, and where

What a GPU refuses, this refuses: an operation on tensors of both sides (MixedDevices), and NumPy's view of
a tensor on the device. What makes a GPU wait is counted: bringing numbers over in either direction, and
operations whose result has a size that only the device knows. What is computed is what the CPU computes,
so results can be compared. Not seen: kernels that exist, or are limited, on CUDA only.

It rests on torch's registration of a backend in Python, which torch calls experimental.
"""

import functools
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")

# Which of a tensor's entries there are is known on the device alone, and with it the size of what they return.
SIZED_BY_CONTENT = {
    aten.nonzero.default, aten.masked_select.default, aten.bincount.default, aten._unique2.default,
    aten.unique_dim.default, aten.unique_consecutive.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
ANSWERS_IN_PYTHON = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
TAKES_INDICES = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip
BRINGS_OVER = {aten._to_copy.default, aten.copy_.default}


class MixedDevices(AssertionError):
    """One operation was given tensors of both sides."""


@dataclass(frozen=True)
class Wait:
    """what: of the operation. place: file and line in the project. from_host: whether it carried data to the device."""

    what: str
    place: str
    from_host: bool


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device; `lying` is where its numbers are."""

    @staticmethod
    def __new__(cls, lying: torch.Tensor) -> "PretendTensor":
        layout = {"strides": lying.stride(), "storage_offset": lying.storage_offset(), "dtype": lying.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, lying.shape, device=torch.device("pretend", 0), **layout)
        tensor.lying = lying
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _perform(operation, args, kwargs or {})


def _lying(value):
    return value.lying if isinstance(value, PretendTensor) else value


def _on_pretend(value):
    plain = isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor)
    return PretendTensor(value) if plain else value


def _is_pretend(device) -> bool:
    return device is not None and torch.device(device).type == "pretend"


def _place() -> str:
    """The innermost line of the project that is being executed."""
    frame = sys._getframe()
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and file != Path(__file__).resolve():
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _count(what: str, from_host: bool = False) -> None:
    if PretendDevice.current is not None:
        PretendDevice.current.waits.append(Wait(what, _place(), from_host))


def _perform(operation, args: tuple, kwargs: dict):
    """One operation, on what its tensors hold; see the module's first lines."""
    name = operation._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    there = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    if operation in BRINGS_OVER:
        return _bring_over(operation, name, args, kwargs)
    if here:
        _look_at_operands(operation, name, args, there)
    wanted = kwargs.get("device")
    if _is_pretend(wanted):
        kwargs = {**kwargs, "device": CPU, "pin_memory": None} if "pin_memory" in kwargs else {**kwargs, "device": CPU}
    result = operation(*tree_map(_lying, args), **tree_map(_lying, kwargs))
    if operation in ANSWERS_IN_PYTHON or not (here or _is_pretend(wanted)):
        return result
    return _same_objects(operation, args, kwargs, tree_map(_on_pretend, result))


def _look_at_operands(operation, name: str, args: tuple, there: list[torch.Tensor]) -> None:
    """Counts what has to be waited for, and refuses what lies on the other side."""
    if operation in SIZED_BY_CONTENT or operation in ANSWERS_IN_PYTHON:
        _count(name)
    if operation in TAKES_INDICES and isinstance(args[0], PretendTensor):
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            _count(f"{name} by a mask")
        if any(not isinstance(index, PretendTensor) for index in indices):
            _count(f"{name} by numbers from the host", from_host=True)
        there = [tensor for tensor in there if not any(tensor is index for index in indices)]
    strangers = [tuple(tensor.shape) for tensor in there if tensor.ndim > 0]  # single numbers may come along
    if strangers:
        raise MixedDevices(f"{_place()}: {name} of a tensor on the device and of {strangers} on the CPU")


def _bring_over(operation, name: str, args: tuple, kwargs: dict):
    """Copies, which alone may be between the two sides."""
    if operation is aten.copy_.default:
        target, source = args[:2]
        goes = isinstance(target, PretendTensor)
        if goes != isinstance(source, PretendTensor):
            _count(name, from_host=goes)
        _lying(target).copy_(_lying(source))
        return target
    wanted = kwargs.get("device")
    was = isinstance(args[0], PretendTensor)
    goes = was if wanted is None else _is_pretend(wanted)
    if goes != was:
        _count(name, from_host=goes)
    given = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "non_blocking")}
    result = operation(_lying(args[0]), **given)
    return PretendTensor(result) if goes else result


def _same_objects(operation, args: tuple, kwargs: dict, result):
    """What an operation in place, or one with `out`, returns is what it was given."""
    if "out" in kwargs:
        return kwargs["out"]
    arguments = operation._schema.arguments
    written = arguments and arguments[0].alias_info is not None and arguments[0].alias_info.is_write
    if not written:
        return result
    return args[0] if result is not None else None


# ------------------------------------------------------- what reaches the device without asking the mode


class _Backend:
    """What torch asks the module of a backend."""

    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    synchronize = staticmethod(lambda *_: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return PretendTensor(torch.empty(size, dtype=dtype, device=CPU))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return PretendTensor(torch.empty_strided(size, stride, dtype=dtype, device=CPU))


def _copy_from(source, target, non_blocking=False):
    crosses = isinstance(source, PretendTensor) != isinstance(target, PretendTensor)
    if crosses:
        _count("copy", from_host=isinstance(target, PretendTensor))
    _lying(target).copy_(_lying(source))
    return target


def _in_low_precision(operation):
    """A matrix product as autocast has it: in 16 bits, whatever it is given."""

    def run(*args):
        dtype = torch.get_autocast_dtype("pretend")
        wide = (torch.float32, torch.float64)
        cast = [a.to(dtype) if isinstance(a, torch.Tensor) and a.dtype in wide else a for a in args]
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return operation(*cast)

    return run


@functools.cache
def _register() -> tuple[torch.library.Library, ...]:
    """Makes `pretend` a device that torch knows, for the life of the process. The libraries must be kept."""
    _setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
    memory = torch.library.Library("aten", "IMPL")
    memory.impl("empty.memory_format", _empty, "PrivateUse1")
    memory.impl("empty_strided", _empty_strided, "PrivateUse1")
    memory.impl("_copy_from", _copy_from, "PrivateUse1")
    autocast = torch.library.Library("aten", "IMPL")
    for name in ("linear", "mm", "matmul", "addmm", "bmm"):
        autocast.impl(name, _in_low_precision(getattr(aten, name).default), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return memory, autocast, others


class _Generator(torch.Generator):
    """The device draws the CPU's numbers."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, CPU if _is_pretend(device) else device)


def _tensor(make):
    def tensor(data, *, dtype=None, device=None, requires_grad=False, pin_memory=False):
        made = make(data, dtype=dtype, device=None if _is_pretend(device) else device)
        return (made.to(device) if _is_pretend(device) else made).requires_grad_(requires_grad)

    return tensor


def _tolist(convert):
    def tolist(self):
        if isinstance(self, PretendTensor):
            _count("tolist")
        return convert(_lying(self))

    return tolist


def _numpy(convert):
    def numpy(self, *args, **kwargs):
        if isinstance(self, PretendTensor):
            raise MixedDevices(f"{_place()}: NumPy cannot look at a tensor on the device; .cpu() first")
        return convert(self, *args, **kwargs)

    return numpy


class PretendDevice(TorchDispatchMode):
    """While entered, `pretend` is a device. waits: what it would have been waited for, in order."""

    current: "PretendDevice | None" = None

    def __init__(self):
        _register()
        super().__init__()
        self.waits: list[Wait] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _perform(operation, args, kwargs or {})

    def __enter__(self) -> "PretendDevice":
        self._replaced = torch.Generator, torch.tensor, torch.Tensor.tolist, torch.Tensor.numpy
        generator, tensor, tolist, numpy = self._replaced
        torch.Generator, torch.tensor = _Generator, _tensor(tensor)
        torch.Tensor.tolist, torch.Tensor.numpy = _tolist(tolist), _numpy(numpy)
        PretendDevice.current = self
        super().__enter__()
        return self

    def __exit__(self, *error):
        super().__exit__(*error)
        PretendDevice.current = None
        torch.Generator, torch.tensor, torch.Tensor.tolist, torch.Tensor.numpy = self._replaced

    def table(self) -> str:
        """The places waited at, most often first, for messages."""
        counted = Counter(f"{wait.what} {wait.place}" for wait in self.waits)
        return "\n".join(f"{number:6d} {what}" for what, number in counted.most_common(30))
