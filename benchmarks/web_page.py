"""Pages of model files in a real browser: bytes, equality, the first picture, frames by engine, and while dragged.

python benchmarks/web_page.py FILE... [--name web_page]

Each picture is also rendered by Python, by the fastest backend here, in turn with the browser. Needs Chromium.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch

sys.path.insert(0, str(common.ROOT / "tests"))
from chromium import (  # noqa: E402 (what drives it is the tests')
    SOFTWARE_GPU,
    Tab,
    browser,
    find_chromium,
    picture_of_page,
    record_turn,
)

from deploy.backends.choose import select_backend  # noqa: E402
from deploy.model_file import load_renderer  # noqa: E402
from deploy.web_page import make_page  # noqa: E402
from rendering.renderer import Renderer, render_image  # noqa: E402
from run_nerf_helpers import to8b  # noqa: E402
from scenes.scene import Cameras  # noqa: E402

VIEWS, TURNS, DRAGGED = 3, 5, 3  # views of a path, pictures of each, and seconds of dragging
LARGE = 200  # pixels of the longer side of the picture that is timed beside the file's own
FIRST, PATIENCE = 60, 10  # seconds of waiting for a software adapter's first picture, and for more of them
CPU = torch.device("cpu")
DRAG = """new Promise((done) => {
    const before = page.drawn, started = performance.now();
    const move = () => {
        if (performance.now() - started > %d) return done((page.drawn - before) / (performance.now() - started) * 1000);
        page.camera.orbit(0.02, 0);
        page.changed();
        setTimeout(move, 8);
    };
    move();
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="model files")
    parser.add_argument("--name", default="web_page", help="of the file in docs/results")
    parser.add_argument("--gif", type=Path, help="measure nothing, but record the first file's page as it is turned")
    options = parser.parse_args()
    if find_chromium() is None:
        raise SystemExit("error: no Chromium here; apt-get install chromium")
    if options.gif:
        return record(options.files[0], options.gif)
    results = {"facts": common.machine(), "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        with browser(Path(folder) / "profile", "--disable-gpu") as tab:
            results["browser"] = tab.call("Browser.getVersion")["product"]
            for file in options.files:
                results["files"][name_of(file)] = measure(tab, file, page)
                print(name_of(file), results["files"][name_of(file)], flush=True)
        for file in options.files:
            results["files"][name_of(file)] |= measure_gpu(Path(folder) / f"gpu_{file.parent.name}", file, page)
    common.save_results(options.name, results)


def name_of(file: Path) -> str:
    return f"{file.resolve().parent.name}/{file.stem.removeprefix('model_')}"


def measure_gpu(profile: Path, file: Path, page: Path) -> dict:
    """The first view by WebGPU, where that renders such a file; here a software adapter, so only for being right."""
    page.write_bytes(make_page(file))
    with browser(profile, *SOFTWARE_GPU) as tab:
        # A window so small that nothing larger than the file's picture is drawn, which takes it long.
        tab.call("Emulation.setDeviceMetricsOverride", width=100, height=100, deviceScaleFactor=1, mobile=False)
        tab.open(f"{page.as_uri()}#webgpu")
        try:
            tab.wait_for("document.body && document.body.dataset.first && !page.drawing", FIRST)
        except TimeoutError:
            print(f"{name_of(file)}: no picture by {SOFTWARE_GPU} within {FIRST} s")
            return {}
        engine = tab.run("page.engine.name")
        if not engine.startswith("WebGPU"):
            return {}
        times = LARGE / max(tab.run("[page.model.camera.height, page.model.camera.width]"))
        found = {"engine": engine, "seconds": picture_of_page(tab, 0, 300)[1] / 1000}
        turns = min(TURNS, int(PATIENCE / found["seconds"]))
        if turns:
            seconds = [[picture_of_page(tab, 0, 300, by)[1] / 1000 for _ in range(turns)] for by in (1, times)]
            found["seconds"], found["large_seconds"] = map(statistics.median, seconds)
    return {"webgpu": found}


@torch.no_grad()
def measure(tab: Tab, file: Path, page: Path) -> dict:
    page.write_bytes(make_page(file))
    reference, path, _ = load_renderer(file, CPU)
    fastest = load_renderer(file, CPU, select_backend("auto", CPU))[0]
    tab.open(page.as_uri())
    tab.wait_for("document.body && document.body.dataset.first", 300)
    entry = {"bytes": file.stat().st_size, "page_bytes": page.stat().st_size}
    entry["first_seconds"] = float(tab.run("document.body.dataset.first")) / 1000
    entry["engine"] = tab.run("page.engine.name")
    tab.wait_for("!page.drawing", 300)
    in_browser, in_python, squares, largest, beyond = [], [], [], 0, 0
    for frame in torch.linspace(0, len(path), VIEWS + 1)[:-1].long().tolist():
        for _ in range(TURNS):
            shown, milliseconds = picture_of_page(tab, frame, 300)
            in_browser.append(milliseconds / 1000)
            started = time.perf_counter()
            render_image(fastest, path[frame])
            in_python.append(time.perf_counter() - started)
        apart = np.abs(shown.astype(int) - to8b(render_image(reference, path[frame]).rgb).numpy())
        squares.append((apart**2).mean() / 255**2)
        largest, beyond = max(largest, int(apart.max())), beyond + int((apart.max(-1) > 2).sum())
    mean = float(np.mean(squares))
    entry |= {"width": shown.shape[1], "height": shown.shape[0], "views": VIEWS, "largest_difference": largest}
    entry |= {"pixels_beyond_2": beyond, "psnr_to_reference": -10 * math.log10(mean) if mean else None}
    entry |= {"seconds": statistics.median(in_browser), "python_seconds": statistics.median(in_python)}
    entry["large"] = measure_large(tab, fastest, path)
    entry["dragged_frames_per_second"] = tab.run(DRAG % (1000 * DRAGGED), 60)
    entry["dragged_size"] = tab.run("document.body.dataset.size")
    return entry


def measure_large(tab: Tab, fastest: Renderer, path: Cameras) -> dict:
    """A picture of LARGE pixels, by both in turn."""
    times, in_browser, in_python = LARGE / max(path.height, path.width), [], []
    camera = path.scaled(1 / times)[0]
    for _ in range(TURNS):
        shown, milliseconds = picture_of_page(tab, 0, 300, times)
        in_browser.append(milliseconds / 1000)
        started = time.perf_counter()
        render_image(fastest, camera)
        in_python.append(time.perf_counter() - started)
    size = {"width": shown.shape[1], "height": shown.shape[0]}
    return {**size, "seconds": statistics.median(in_browser), "python_seconds": statistics.median(in_python)}


def record(file: Path, to: Path) -> None:
    """The page as it is turned about, as a GIF."""
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder) / "profile", size=(420, 540)) as tab:
        page = Path(folder) / "page.html"
        page.write_bytes(make_page(file))
        tab.open(page.as_uri())
        tab.wait_for("document.body && document.body.dataset.first", 300)
        record_turn(tab, to)
    print(f"wrote {to} ({to.stat().st_size} bytes), of a page of {len(make_page(file))} bytes")


if __name__ == "__main__":
    main()
