"""What may be written beside a model file, for those who have no Python: ONNX, and a page for browsers."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from deploy.backends.onnx_graph import import_onnx
from deploy.coders import constriction
from deploy.onnx_file import EXPORTED, export
from deploy.web_model import check_room
from deploy.web_page import export_page
from rendering.renderer import Renderer
from utils.errors import BadInput


@dataclass(frozen=True)
class Exports:
    """Which of them."""

    onnx: bool = False
    html: bool = False

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        alone = "with --render_only do only that, from the file alone"
        group.add_argument("--export_onnx", action="store_true", help=f"write the integer field as ONNX too; {alone}")
        page = "write the final file's page too, one HTML file that renders it in any browser"
        group.add_argument("--export_html", action="store_true", help=f"{page}; {alone}")

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "Exports":
        return cls(args.export_onnx, args.export_html)

    def check(self, renderer: Renderer, precision: str) -> None:
        """Raises BadInput where what is to be trained cannot be written so, before it is trained for hours."""
        if self.onnx:
            if precision not in EXPORTED:
                raise BadInput(f"--export_onnx is for {', '.join(EXPORTED)} files, not for {precision}; leave it out")
            import_onnx()
        if self.html:
            check_room(renderer)
            if precision == "vq" and constriction is None:
                raise BadInput("--export_html: a VQ-TensoRF's page needs the package constriction; install it")

    def __bool__(self) -> bool:
        return self.onnx or self.html

    def write(self, file: Path) -> dict[str, int]:
        """From a model file alone; returns bytes of each kind, as `metrics.json` names them."""
        sizes = {}
        if self.onnx:
            sizes["onnx_bytes"] = sum(export(file).values())
        if self.html:
            sizes["html_bytes"] = export_page(file)
        return sizes
