"""A model file as a page: one HTML file that renders it in a browser, from disk, with nothing else.

The page holds the model, a renderer in WebAssembly (`deploy/web/kernels.c`), one in WebGPU (`deploy/web/webgpu.js`) for
most files where the browser has a device, and the program around them. Networks are executed as the integers that they
are.
"""

import html
import re
import zlib
from pathlib import Path

import numpy as np
import torch

from deploy.model_file import load_renderer
from deploy.web_model import has_few_bits, page_model
from rendering.renderer import Renderer
from scenes.scene import Cameras
from utils.files import atomic_write

SOURCES = Path(__file__).parent / "web"
# What WebGPU's engine has of each sampler, beside rays.wgsl.
SAMPLERS = {
    "occupancy": ["grid", "cells"],
    "light_field": ["grid", "cells"],
    "hierarchical": ["hierarchical"],
    "proposal": ["proposal"],
}
UNSAFE = (0, 13, 60)  # characters that HTML changes, or that would end the script: NUL, return, <


def export_page(file: Path) -> int:
    """Writes a model file's page beside it; returns its bytes. Raises BadInput for what no page renders."""
    page = file.with_suffix(".html")
    content = make_page(file)
    atomic_write(page, content)
    print(f"wrote {page} ({len(content)} bytes): open it in a browser")
    return len(content)


def make_page(file: Path) -> bytes:
    """The shorter of two: with the grid's cells as bits, and coded, which asks for a program that decodes them. Raises
    BadInput for what no page renders."""
    loaded = load_renderer(file, torch.device("cpu"))
    return min((page_of(file, loaded, code_cells) for code_cells in (False, True)), key=len)


def page_of(file: Path, loaded: tuple[Renderer, Cameras, dict], code_cells: bool) -> bytes:
    described, model = page_model(file, *loaded, code_cells)
    programs, shaders, decoder = ["camera.js"], [b"", b""], b""
    if described["packed"] or described["coded"]:
        programs.append("unfold.js")
    if described["coded"]:
        decoder = (SOURCES / "range_coder.wasm").read_bytes()
    if described["webgpu"]:
        rays, network = of_webgpu(described)
        own = (f"webgpu_{name}.js" for name in (*rays, *network))
        programs += ["webgpu_network.js", "webgpu.js", *(name for name in own if (SOURCES / name).exists())]
        shaders = [shader("rays", *rays), shader("network", *network)]
    scripts = [script(*programs, "page.js"), script("model.js", "worker.js")]
    parts = [*scripts, *shaders, (SOURCES / "kernels.wasm").read_bytes(), decoder, model]  # PARTS of unpack.js
    lengths = b"".join(len(part).to_bytes(4, "little") for part in parts)
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(lengths + b"".join(parts)) + packer.flush()
    filled = {
        "title": html.escape(f"{file.resolve().parent.name}: {file.name}"),
        "style": (SOURCES / "page.css").read_text(),
        "payload": to_text(packed),
        "packed": str(len(packed)),
        "bytes": str(file.stat().st_size),
        "script": script("unpack.js").decode(),
    }
    page = (SOURCES / "page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], page).encode()


def of_webgpu(described: dict) -> tuple[list[str], list[str]]:
    """What WebGPU's engine needs for a file, beside rays.wgsl and beside network.wgsl."""
    sampler, fields = described["sampler"], described["fields"]
    cones = fields[0]["kind"] == "mip"
    rays = ["cones" if cones else "points"]
    if sampler["kind"] == "proposal":
        rays += ["grid", "hull"] if "hull" in sampler else ["whole_rays"]
    few_bits = any(map(has_few_bits, fields))
    return rays + SAMPLERS[sampler["kind"]], ["gaussians"] * cones + ["few_bits"] * few_bits


def shader(*names: str) -> bytes:
    """WGSL of several files, in one."""
    return b"\n".join(script(f"{name}.wgsl") for name in names)


def script(*names: str) -> bytes:
    """Scripts in one, without their comments and indentation."""
    lines = "\n".join((SOURCES / name).read_text() for name in names).split("\n")
    kept = (re.sub(r"(^|\s)// .*", "", line).strip() for line in lines)
    return "\n".join(filter(None, kept)).encode()


def to_text(content: bytes) -> str:
    """Bytes as text that HTML leaves alone, seven bits to a byte of UTF-8: 8 / 7 of them, where base64 takes 4 / 3.

    A character below 128 is its seven bits. Where those were one of UNSAFE, a character of two bytes stands for them
    (its upper bits, from 1) and for the seven bits behind them.
    """
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    sevens = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7) @ (1 << np.arange(6, -1, -1, dtype=np.uint8))
    characters = np.append(sevens.astype(np.uint16), 0)
    taken = np.zeros(len(characters), bool)
    for at in np.flatnonzero(np.isin(sevens, UNSAFE)):
        if not taken[at]:
            characters[at] = UNSAFE.index(sevens[at]) + 1 << 7 | characters[at + 1]
            taken[at + 1] = True
    taken[-1] = True  # it is there to be taken only
    return "".join(map(chr, characters[~taken].tolist()))
