"""A run in the browser as it trains.

What is shown is a copy of the networks that the training thread makes between two steps, and only while a browser is
connected: what is learnt is the same, bit for bit, with and without.
"""

import argparse
import sys
import time
from pathlib import Path

from rendering.renderer import Renderer
from scenes.scene import Scene
from training.compiled import eager_copy
from utils import distributed
from utils.errors import BadInput, first_line
from utils.parser import within
from utils.progress import say
from viewer.page import Exhibit, Page, viser_or_say

INTERVAL = 2.0  # seconds between two copies, at the least
COPYING = 0.01  # share of the time that copies may take
RENDERING = 0.5  # share of the time that is rendered in beside the training


def check_viewer(wanted: bool, render_only: bool) -> None:
    """Raises BadInput where `--viewer` asks for what is not installed, or where nothing is trained."""
    if wanted and render_only:
        raise BadInput("--viewer shows a training; give the file that is to be seen to run_viewer.py")
    if wanted:
        viser_or_say()


class LiveViewer:
    """page: None where there is nothing to show, as in all processes but the first. Entered while a run trains."""

    def __init__(self, page: Page | None = None):
        self.page = page
        self._due = 0.0

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--viewer", action="store_true", help="show the run in the browser as it trains")
        add("--host", default="127.0.0.1", help="address that the page is served at, 0.0.0.0 for all of the machine's")
        add("--port", type=within(int, 0, 65535), default=7007, help="of the page; 0: any that is free")

    @classmethod
    def from_flags(cls, args: argparse.Namespace, renderer: Renderer, scene: Scene, folder: Path) -> "LiveViewer":
        """Serves from now on. Raises BadInput where it cannot."""
        if not args.viewer or not distributed.is_main():
            return cls()
        exhibit = Exhibit([eager_copy(renderer)], [cls._note(0)], scene.render_path, folder, scene, scene.ball)
        page = Page(exhibit, args.host, args.port, RENDERING)
        print(f"viewer: {page.address}", flush=True)
        return cls(page)

    def after_step(self, renderer: Renderer, step: int) -> None:
        """To be called with the number of each finished step: shows the networks as they are, when that is due."""
        if self.page is None or not self.page.watched or time.monotonic() < self._due:
            return
        started = time.monotonic()
        try:
            self.page.replace([eager_copy(renderer)], self._note(step))
        except RuntimeError as error:  # no memory left for a copy
            say(f"warning: the viewer ends, the run goes on: {first_line(error)}", sys.stderr)
            self.page.close()
            self.page = None
        ended = time.monotonic()
        self._due = ended + max(INTERVAL, (ended - started) / COPYING)

    @staticmethod
    def _note(step: int) -> str:
        return f"after step {step}" if step else "before the first step of this command"

    def __enter__(self) -> "LiveViewer":
        return self

    def __exit__(self, *_) -> None:
        if self.page is not None:
            self.page.close()
