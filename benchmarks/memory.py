"""Memory that rendering one large picture takes, above what the loaded model takes.

python benchmarks/memory.py logs/lego_cpu_qat/model_int8.safetensors ... [--size 800] [--memory 1024]

Each model file renders the first camera of its own path in a process of its own. The figure is the
growth of the largest resident size (Linux) since a first picture of a few pixels.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import common

from deploy.description import LARGEST_PICTURE

CHILD = """
import json, resource, sys, time
import torch
from deploy.backends.choose import select_backend
from deploy.model_file import load_renderer
from rendering.renderer import RenderLimits, render_image
path, size, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
cpu = torch.device("cpu")
renderer, cameras, metadata = load_renderer(path, cpu, select_backend("auto", cpu))
render_image(renderer, cameras[0].scaled(cameras.width / 16))
before, started = peak(), time.perf_counter()
picture = render_image(renderer, cameras[0].scaled(cameras.width / size), RenderLimits(memory=memory))
print(json.dumps({
    "precision": metadata["precision"], "network": [renderer.field.config.depth, renderer.field.config.width],
    "height": picture.rgb.shape[0], "width": picture.rgb.shape[1], "bytes_loaded": before,
    "bytes_above": peak() - before, "seconds": time.perf_counter() - started, "queries": picture.queries,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model files")
    parser.add_argument("--size", type=int, default=800, choices=range(16, LARGEST_PICTURE), metavar="PIXELS")
    parser.add_argument("--memory", type=int, default=1024, help="budget in MiB")
    options = parser.parse_args()
    results = {"facts": common.machine(), "budget": options.memory * 2**20, "models": []}
    for model in options.models:
        words = [sys.executable, "-c", CHILD, str(model.resolve()), str(options.size), str(options.memory * 2**20)]
        done = subprocess.run(words, cwd=common.ROOT, check=True, capture_output=True, text=True)
        entry = {"file": model.name, **json.loads(done.stdout)}
        results["models"].append(entry)
        above, loaded = entry["bytes_above"] / 2**20, entry["bytes_loaded"] / 2**20
        print(
            f"{model.name:<28}{entry['width']}x{entry['height']}: {above:.0f} MiB above {loaded:.0f} loaded, "
            f"{entry['seconds']:.1f} s"
        )
    common.save_results("memory_cpu", results)


if __name__ == "__main__":
    main()
