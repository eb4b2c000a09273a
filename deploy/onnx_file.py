"""A file of integers as ONNX files beside it."""

from pathlib import Path

import torch

from deploy.backends.onnx_runtime import export_onnx
from deploy.model_file import load_renderer
from deploy.nerf_file import LOW_BIT
from utils.errors import BadInput

EXPORTED = ("int8", *LOW_BIT)  # precisions


def export(file: Path) -> dict[str, int]:
    """Writes the fields of a file of integers as ONNX beside it; returns bytes by file name. Raises BadInput for other
    files."""
    renderer, _, metadata = load_renderer(file, torch.device("cpu"))
    if metadata["precision"] not in EXPORTED:
        expected = " or ".join(EXPORTED)
        raise BadInput(f"{file}: --export_onnx takes an {expected} file, this one is {metadata['precision']}")
    sizes = export_onnx(renderer, file.with_suffix(".onnx"))
    for name, size in sizes.items():
        print(f"wrote {file.with_name(name)} ({size} bytes)")
    return sizes
