"""A light field beside its teacher: quality, bytes and frames of every file, side by side, at several sizes.

python benchmarks/light_field.py STUDENT_FOLDER TEACHER_FOLDER [--config configs/lego_r2l_cpu.txt] [--factors 8 2 1]

The folders are those of finished runs. Every file renders the same test views in turn. What nerf-pytorch asks of its
8x256 networks for such a frame (64 coarse and 192 fine queries a ray) is timed on some rays, with random weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch

from deploy.backends.choose import select_backend
from deploy.model_file import load_renderer
from evaluation.measures import psnr, ssim
from fields.nerf import FieldConfig, make_field
from load_scene import load_scene
from options import config_parser
from rendering.hierarchical import HierarchicalRenderer
from rendering.rays import RaySetup
from rendering.renderer import Renderer, make_rays_of, render_image
from run_nerf_helpers import to8b
from utils.devices import prepare_device

STUDENT = ("float32", "bfloat16", "float16", "fake8", "int8_ptq", "int8")
RAYS_OF_NERF = 1000  # timed, of a frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, help="folder of a run of run_r2l.py")
    parser.add_argument("teacher", type=Path, help="folder of the run that taught it, by run_nerf_qat.py")
    parser.add_argument("--config", default="configs/lego_r2l_cpu.txt", help="whose data are looked at")
    parser.add_argument("--factors", type=float, nargs="+", default=[8, 2, 1], help="pictures this much smaller")
    parser.add_argument("--views", type=int, default=3, help="test views to render with each")
    parser.add_argument("--rounds", type=int, default=3, help="times each file renders every view")
    parser.add_argument("--name", default="light_field", help="of the file in docs/results")
    options, flags = parser.parse_known_args()
    args = config_parser().parse_args(["--config", options.config, *flags])
    device = prepare_device(args.device, args.threads, False, args.dist_timeout)
    models = load_models(options, device)
    results = {"facts": common.machine(options.config, str(device)), "views": options.views, "pictures": []}
    results["files"] = {name: describe(path, renderer) for name, (path, renderer) in models.items()}
    for factor in options.factors:
        args.factor = factor
        scene = load_scene(args)
        renderers = {name: renderer for name, (_, renderer) in models.items()}
        results["pictures"].append(measure(scene, renderers, options, device))
    common.save_results(options.name, results)


def load_models(options: argparse.Namespace, device: torch.device) -> dict[str, tuple[Path, Renderer]]:
    """Files and their renderers by name, the teacher's first."""
    backend = select_backend("auto", device)
    files = {f"teacher_{name}": options.teacher / f"model_{name}.safetensors" for name in ("float32", "int8")}
    files |= {name: options.student / f"model_{name}.safetensors" for name in STUDENT}
    return {name: (path, load_renderer(path, device, backend)[0]) for name, path in files.items() if path.is_file()}


def describe(path: Path, renderer: Renderer) -> dict:
    """Bytes, parameters, and operations of a query (and so, of a light field, of a ray)."""
    fields = [field.config for field in renderer.fields.values()]
    skeletons = [config.skeleton() for config in fields]
    layers = [config.graph.linears for config in fields]
    products = [
        sum(network.get_submodule(node.name).weight.numel() for node in linears)
        for network, linears in zip(skeletons, layers, strict=True)
    ]
    return {
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for network in skeletons for p in network.parameters()),
        "flops_per_query": 2 * max(products),
    }


@torch.no_grad()
def measure(scene, renderers: dict[str, Renderer], options: argparse.Namespace, device: torch.device) -> dict:
    """Every file on every view, in turns; PSNR against the photographs, in 8 bits."""
    test = scene.splits["test"]
    views = test[:: max(1, len(test) // options.views)][: options.views]
    targets = [to8b(scene.target(torch.tensor([view]))[0]).float() / 255 for view in views]
    seconds: dict[str, list[float]] = {name: [] for name in renderers}
    entries = {name: {"psnr": 0.0, "ssim": 0.0, "queries": 0.0} for name in renderers}
    for turn in range(options.rounds + 1):  # the first warms up, and is where quality is measured
        for view, target in zip(views, targets, strict=True):
            for name, renderer in renderers.items():
                camera = scene.cameras[view].to(device)
                elapsed, picture = timed(lambda one=renderer, at=camera: render_image(one, at))
                if turn:
                    seconds[name].append(elapsed)
                    continue
                image = to8b(picture.rgb).cpu().float() / 255
                entries[name]["psnr"] += psnr(image, target) / len(views)
                entries[name]["ssim"] += ssim(image, target, None) / len(views)
                entries[name]["queries"] += picture.queries / len(views)
    nerf = nerf_frame(scene, views[0], device)
    for name, entry in entries.items():
        times = {base: ratio(seconds[base], seconds[name]) for base in ("teacher_float32", "teacher_int8")}
        median = statistics.median(seconds[name])
        entry |= {"median_seconds": median, "times": times | {"nerf_pytorch": nerf / median}}
        entry["spread_seconds"] = [min(seconds[name]), max(seconds[name])]
        faster = ", ".join(f"{value:.1f} x {base}" for base, value in entry["times"].items())
        print(f"{scene.cameras.width:>4} {name:<16}{median:>9.4f} s {entry['psnr']:>6.2f} dB  {faster}", flush=True)
    size = {"width": scene.cameras.width, "height": scene.cameras.height}
    return {**size, "nerf_pytorch_seconds": nerf, "files": entries}


def timed(call: Callable):
    started = time.perf_counter()
    result = call()
    result.rgb.cpu()  # waits for the device
    return time.perf_counter() - started, result


def ratio(base: list[float], values: list[float]) -> float:
    """How many times faster, as the median of neighbours in time."""
    return statistics.median(b / v for b, v in zip(base, values, strict=True))


def nerf_frame(scene, view: int, device: torch.device) -> float:
    """Seconds of a frame of nerf-pytorch's queries by the renderer that asks them all, from some of its rays."""
    config = FieldConfig(output_ch=5)
    fields = [make_field(config).to(device) for _ in range(2)]
    setup = RaySetup(scene.near, scene.far, 1.0 if scene.ndc else None, background=scene.background)
    renderer = HierarchicalRenderer(*fields, setup, 64, 128).to(device).eval()
    rays = make_rays_of(renderer, scene.cameras[view].to(device))
    some = rays.take(torch.linspace(0, len(rays) - 1, RAYS_OF_NERF, device=device).long())
    renderer(some[:100], None)
    elapsed = statistics.median(timed(lambda: renderer(some, None))[0] for _ in range(3))
    return elapsed / RAYS_OF_NERF * len(rays)


if __name__ == "__main__":
    main()
