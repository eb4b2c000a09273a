"""An int8 file as ONNX files beside it."""

from pathlib import Path

import torch

from deploy.backends.onnx_runtime import export_onnx
from deploy.model_file import load_renderer
from utils.errors import BadInput


def export(file: Path) -> dict[str, int]:
    """Writes an int8 file's fields as ONNX beside it; returns bytes by file name. Raises BadInput for other files."""
    renderer, _, metadata = load_renderer(file, torch.device("cpu"))
    if metadata["precision"] != "int8":
        raise BadInput(f"{file}: --export_onnx takes an int8 file, this one is {metadata['precision']}")
    sizes = export_onnx(renderer, file.with_suffix(".onnx"))
    for name, size in sizes.items():
        print(f"wrote {file.with_name(name)} ({size} bytes)")
    return sizes
