"""A real browser for tests: headless Chromium, driven over its pipe by the DevTools protocol."""

import base64
import contextlib
import io
import itertools
import json
import math
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NOT_OURS = ("No available adapters.",)  # what the browser says of itself: no page can ask for WebGPU without it
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """A page in a browser. console: what it wrote there as an error or warning, and what it threw."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from, self._numbers = to_browser, from_browser, itertools.count(1)
        self._unread, self._session, self.console = b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, seconds: float = 60, **parameters) -> dict:
        """The result of a method of the protocol. Raises RuntimeError for an error, TimeoutError where none came."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(seconds)
            self._note(answer)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _read(self, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while b"\0" not in self._unread:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {seconds:g} s")
            part = os.read(self._from, 2**20)
            if not part:
                raise RuntimeError("the browser ended")
            self._unread += part
        content, _, self._unread = self._unread.partition(b"\0")
        return json.loads(content)

    def _note(self, message: dict) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            text = parameters["entry"]["text"]
            self.console += [text] if text not in NOT_OURS else []
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.console.append(str([argument.get("value") for argument in parameters["args"]]))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str, seconds: float = 60):
        """The value of an expression, awaited if it is a promise. Raises RuntimeError for what it throws."""
        how = {"awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", seconds, expression=script, **how)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", script))
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60):
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{script}: not within {seconds:g} s; the console says {self.console}")

    def mouse(self, kind: str, x: float, y: float, button: str = "left", **more) -> None:
        """kind: Pressed, Moved, Released or Wheel."""
        held = {"buttons": 1, "button": button, "clickCount": 1} if kind != "Wheel" else {}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **held, **more)

    def screenshot(self) -> bytes:
        """A PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def picture_of_page(tab: Tab, frame: int, seconds: float = 60, times: float = 1) -> tuple[np.ndarray, float]:
    """What a model's page renders of a frame of its path, uint8 `[H, W, 3]`, `times` as large as its file has it, and
    the milliseconds that it took."""
    script = f"""page.picture({frame}, {times}).then(({{ width, height, pixels, milliseconds }}) => {{
        const text = Array.from(pixels, (byte) => String.fromCharCode(byte)).join("");
        return [width, height, btoa(text), milliseconds];
    }})"""
    width, height, text, milliseconds = tab.run(script, seconds)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3], milliseconds


def record_turn(tab: Tab, to: Path, frames: int = 24) -> None:
    """A turn about the scene of a model's page, each picture as it is drawn in full, as a GIF."""
    pictures = []
    for _ in range(frames):
        tab.run(f"page.camera.orbit({2 * math.pi / frames}, 0), page.changed()")
        tab.wait_for("!page.drawing", 300)
        shown = Image.open(io.BytesIO(tab.screenshot()))
        pictures.append(shown.convert("RGB").quantize(64, dither=Image.Dither.NONE))
    pictures[0].save(to, save_all=True, append_images=pictures[1:], duration=100, loop=0, optimize=True)


@contextlib.contextmanager
def browser(profile: Path, *flags: str, size: tuple[int, int] = (900, 700)) -> Iterator[Tab]:
    """A tab of a browser of its own, which ends with it. profile: an empty folder. flags: more for Chromium."""
    to_child, to_browser = os.pipe()
    from_browser, from_child = os.pipe()

    def pipes() -> None:  # the browser reads commands from 3 and writes to 4
        reads, writes = os.dup(to_child), os.dup(from_child)
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    command = [
        find_chromium(), "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}", "--no-first-run", "--disable-extensions", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, preexec_fn=pipes, pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(to_child)
    os.close(from_child)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(to_browser)
        os.close(from_browser)
