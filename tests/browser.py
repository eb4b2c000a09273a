"""A browser without a window, by the DevTools protocol; for tests of pages."""

import base64
import io
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab that shows `address`, of width and height `size`. To be entered; its profile goes into `folder`."""

    def __init__(self, address: str, folder: Path, size: tuple[int, int] = (480, 360)):
        flags = ["--headless=new", "--no-sandbox", "--no-first-run", *SOFTWARE, "--remote-debugging-port=0"]
        command = [find_browser(), *flags, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", address]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.calls = 0

    def __enter__(self) -> "Browser":
        from websockets.sync.client import connect  # comes with viser

        lines = (re.search(r"ws://([\d.]+:\d+)/", line) for line in self.process.stderr)
        place = next(filter(None, lines))[1]
        tabs = []
        while not tabs:
            with urllib.request.urlopen(f"http://{place}/json") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
        self.socket = connect(tabs[0]["webSocketDebuggerUrl"], max_size=None)
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()

    def call(self, method: str, **parameters) -> dict:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            if answer.get("id") == self.calls:
                return answer["result"]

    def picture(self) -> np.ndarray:
        """What is shown, uint8 `[H, W, 3]`."""
        content = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def ask(self, script: str):
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, label: str) -> bool:
        """Presses the button with that text, if it is there."""
        button = f"[...document.querySelectorAll('button')].find(b => b.textContent.trim() == '{label}')"
        return bool(self.ask(f"(b => b && (b.click(), true))({button})"))

    def drag(self, start: tuple[int, int], end: tuple[int, int], moves: int = 8) -> None:
        """Moves the mouse from one place to another with its left button down."""

        def event(kind: str, at: float, **more) -> None:
            x, y = (a + (b - a) * at for a, b in zip(start, end, strict=True))
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", **more)

        event("mousePressed", 0.0, clickCount=1)
        for move in range(1, moves + 1):
            event("mouseMoved", move / moves, buttons=1)
            time.sleep(0.02)
        event("mouseReleased", 1.0, clickCount=1)
