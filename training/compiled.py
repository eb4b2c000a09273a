"""Fields through torch.compile, and copies of them that are not."""

import copy
import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

import torch

from rendering.renderer import Renderer
from utils.errors import BadInput


def compile_fields(renderer: Renderer, backend: str | Callable = "inductor", start_anew: bool = True) -> None:
    """`torch.compile` for every field of a renderer, in place: state dicts keep their names.

    Both ways into a field are compiled, its call and its `density`: a method of a compiled module
    is not. A graph that would break raises instead of going on in Python. What an earlier phase
    compiled is dropped (`start_anew`), since its fake-quantisers stood otherwise. Raises BadInput
    for a field that cannot be, and where a compiler that the device needs is missing.
    """
    for one in renderer.fields.values():
        if not one.compiles:
            raise BadInput(f"--compile: --field {one.kind} asks for slopes of its own, which cannot be; leave it out")
    on_cpu = renderer.device.type == "cpu"
    if on_cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise BadInput("--compile needs a C++ compiler on a CPU (g++, clang++ or $CXX), none found; leave it out")
    if not on_cpu and not find_spec("triton"):
        raise BadInput("--compile needs the triton package on this device; install it or leave it out")
    torch._logging.set_logs(dynamo=logging.ERROR)  # else it warns that profiler marks do nothing
    if start_anew:
        torch._dynamo.reset()
    for one in renderer.fields.values():
        one.compile(backend=backend, fullgraph=True)
        if hasattr(one, "density"):  # a light field has none
            one.density = torch.compile(type(one).density.__get__(one), backend=backend, fullgraph=True)


def eager_copy(renderer: Renderer) -> Renderer:
    """A copy in evaluation mode that shares nothing with a renderer in training, and runs as it is written."""
    with torch.no_grad():
        copied = copy.deepcopy(renderer).eval()
    for one in copied.fields.values():
        vars(one).pop("density", None)  # compiled, it is the original's; the compiled call is not copied
    return copied
