"""Frame time of our renderer against nerf-pytorch's own, same 8x256 weights; ours also in int8.

python benchmarks/render_vs_nerf_pytorch.py PATH_TO_A_NERF_PYTORCH_CHECKOUT --datadir data/nerf_synthetic/lego

Trains `configs/lego_cpu_bench.txt` first if its run folder holds no finished model (about ten
minutes on two cores), then renders the same test views
  - with our occupancy renderer, in float32 and calibrated to int8,
  - with our renderer without skipping and without early ends, for what skipping costs in quality,
  - with nerf-pytorch's `render`, 64 coarse and 128 more fine samples, in a process of its own,
and checks both ways that checkpoints are exchangeable. nerf-pytorch imports matplotlib, which our
requirements lack: `pip install matplotlib` first.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from render import make_variants

import run_nerf
from evaluation.measures import psnr
from experiment import make_renderer
from load_scene import load_scene
from options import config_parser
from rendering.hierarchical import HierarchicalRenderer
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.rays import make_rays
from rendering.renderer import render_image
from run_nerf_helpers import get_rays, to8b
from training.checkpoints import load_networks, load_newest

CONFIG = common.ROOT / "configs" / "lego_cpu_bench.txt"

# Runs in the checkout. `job.npz` holds cameras; networks come through a checkpoint in its format.
THEIRS = """
import os, time
import numpy as np, torch
import run_nerf
folder = {folder!r}
job = np.load(folder + "/job.npz")
run_nerf.device = torch.device("cpu")
words = ["--basedir", folder, "--expname", "theirs", "--use_viewdirs", "--white_bkgd",
         "--N_samples", "64", "--N_importance", "128", "--dataset_type", "blender",
         "--multires", {multires!r}, "--multires_views", {multires_views!r}]
args = run_nerf.config_parser().parse_args(words)
_, render_kwargs, start, grad_vars, optimizer = run_nerf.create_nerf(args)
assert start == {start}, "nerf-pytorch did not load our checkpoint"
render_kwargs.update(near=job["near"].item(), far=job["far"].item())
H, W, K = int(job["H"]), int(job["W"]), job["K"]
pictures, seconds = [], []
with torch.no_grad():
    for c2w in job["c2w"]:
        started = time.perf_counter()
        rgb, _, _, _ = run_nerf.render(H, W, K, chunk=args.chunk, c2w=torch.Tensor(c2w), **render_kwargs)
        seconds.append(time.perf_counter() - started)
        pictures.append(rgb.numpy())
np.savez(folder + "/answer.npz", rgb=np.stack(pictures), seconds=np.array(seconds))
# The other way round: a checkpoint written by its own code, of untrained networks.
args.expname, args.no_reload = "untrained", True
os.makedirs(folder + "/untrained")
torch.manual_seed(0)
kwargs, _, start, grad_vars, optimizer = run_nerf.create_nerf(args)
torch.save({{"global_step": 3, "network_fn_state_dict": kwargs["network_fn"].state_dict(),
            "network_fine_state_dict": kwargs["network_fine"].state_dict(),
            "optimizer_state_dict": optimizer.state_dict()}}, folder + "/theirs.tar")
kwargs.update(near=job["near"].item(), far=job["far"].item(), perturb=False, raw_noise_std=0.0)
with torch.no_grad():
    rays = torch.Tensor(job["rays"])
    rgb, _, _, _ = run_nerf.render(H, W, K, chunk=args.chunk, rays=rays, **kwargs)
np.save(folder + "/untrained.npy", rgb.numpy())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a nerf-pytorch checkout")
    parser.add_argument("--datadir", default="data/nerf_synthetic/lego", help="the lego scene")
    parser.add_argument("--basedir", default="logs", help="where the model is or will be trained")
    parser.add_argument("--views", type=int, default=3, help="test views to render with each")
    options = parser.parse_args()
    flags = ["--config", str(CONFIG), "--datadir", options.datadir, "--basedir", options.basedir]
    args = config_parser().parse_args(flags)
    folder = Path(args.basedir) / args.expname
    if not (folder / "metrics.json").exists():
        run_nerf.main(flags)

    scene = load_scene(args)
    renderer = make_renderer(args, scene, torch.device("cpu"))
    load_networks(renderer, *load_newest(folder))
    renderer.eval()
    dense = OccupancyRenderer(
        renderer.field, type(renderer.grid)(renderer.grid.aabb, 8), renderer.setup, renderer.step, 1e-12
    )
    views = scene.splits["test"][:: max(1, len(scene.splits["test"]) // options.views)][: options.views]
    targets = [to8b(t).numpy() for t in scene.target(torch.tensor(views))]

    with tempfile.TemporaryDirectory() as work:
        variants = make_variants(args, torch.device("cpu"), folder, Path(work))
    backend = next(name for name in variants if name.startswith("int8"))
    int8 = variants[backend][0]

    for one in (renderer, int8):
        render_image(one, scene.cameras[views[0]])  # warm up
    ours = [timed(renderer, scene.cameras[v]) for v in views for _ in range(3)]
    ours_int8 = [timed(int8, scene.cameras[v]) for v in views for _ in range(3)]
    without = [timed(dense, scene.cameras[v]) for v in views]
    with tempfile.TemporaryDirectory() as work:
        agreement = run_theirs(options.checkout, Path(work), args, scene, renderer, views)
        answer = np.load(Path(work) / "answer.npz")
        theirs_seconds, theirs = answer["seconds"].tolist(), answer["rgb"]
    # Paired: before and after.
    ours += [timed(renderer, scene.cameras[v]) for v in views for _ in range(3)]
    ours_int8 += [timed(int8, scene.cameras[v]) for v in views for _ in range(3)]

    def quality(pictures: list[np.ndarray]) -> float:
        pairs = zip(pictures, targets, strict=True)
        return float(np.mean([psnr(torch.tensor(p) / 255, torch.tensor(t) / 255) for p, t in pairs]))

    def summary(rendered: list[tuple]) -> dict:
        first_pass = rendered[: 3 * len(views) : 3]
        return {
            "seconds": [s for _, s, _ in rendered],
            "median_seconds": statistics.median(s for _, s, _ in rendered),
            "psnr": quality([to8b(torch.tensor(p)).numpy() for p, _, _ in first_pass]),
            "queries": float(np.mean([q for _, _, q in first_pass])),
        }

    results = {
        "facts": common.machine(str(CONFIG)),
        "picture": [scene.cameras.height, scene.cameras.width],
        "views": len(views),
        "ours": summary(ours),
        "ours_int8": summary(ours_int8) | {"backend": backend.removeprefix("int8 ")},
        "ours_without_skipping": {
            "median_seconds": statistics.median(s for _, s, _ in without),
            "psnr": quality([to8b(torch.tensor(p)).numpy() for p, _, _ in without]),
            "queries": float(np.mean([q for _, _, q in without])),
        },
        "nerf_pytorch": {
            "seconds": theirs_seconds,
            "median_seconds": statistics.median(theirs_seconds),
            "psnr": quality([to8b(torch.tensor(p)).numpy() for p in theirs]),
            "queries": 256 * scene.cameras.height * scene.cameras.width,
        },
        "largest_colour_difference_of_their_checkpoint_rendered_here": agreement,
    }
    results["speedup"] = results["nerf_pytorch"]["median_seconds"] / results["ours"]["median_seconds"]
    results["psnr_lost_by_skipping"] = results["ours_without_skipping"]["psnr"] - results["ours"]["psnr"]
    results["speedup_int8"] = results["nerf_pytorch"]["median_seconds"] / results["ours_int8"]["median_seconds"]
    for name in ("nerf_pytorch", "ours_without_skipping", "ours", "ours_int8"):
        entry = results[name]
        print(f"{name:<24}{entry['median_seconds']:>9.3f} s {entry['psnr']:>7.2f} dB {entry['queries']:>10.0f} queries")
    print(f"speed-up {results['speedup']:.1f}, in int8 {results['speedup_int8']:.1f}")
    print(f"lost by skipping {results['psnr_lost_by_skipping']:.3f} dB")
    common.save_results("render_vs_nerf_pytorch", results)


def timed(renderer: torch.nn.Module, camera) -> tuple[np.ndarray, float, int]:
    """A picture, its seconds and its queries."""
    started = time.perf_counter()
    picture = render_image(renderer, camera)
    return picture.rgb.numpy(), time.perf_counter() - started, picture.queries


def run_theirs(checkout: Path, work: Path, args, scene, renderer: torch.nn.Module, views: list[int]) -> float:
    """Has nerf-pytorch render our weights, and us render a checkpoint of its own; returns how far
    the latter two pictures differ at most, in colour units."""
    state = {key: value.clone() for key, value in renderer.field.network.state_dict().items()}
    # scale * relu(raw + bias) is nerf-pytorch's relu(raw') with the head's weights scaled.
    config = renderer.field.config
    state["alpha_linear.bias"] = config.density_scale * (state["alpha_linear.bias"] + config.density_bias)
    state["alpha_linear.weight"] = config.density_scale * state["alpha_linear.weight"]
    (work / "theirs").mkdir()
    empty = torch.optim.Adam([torch.nn.Parameter(value) for value in [*state.values()] * 2]).state_dict()
    checkpoint = {"global_step": args.N_iters, "optimizer_state_dict": empty}
    checkpoint |= {"network_fn_state_dict": state, "network_fine_state_dict": state}
    torch.save(checkpoint, work / "theirs" / f"{args.N_iters:06d}.tar")
    cameras = scene.cameras
    origins, directions = get_rays(cameras.height, cameras.width, cameras.K[0], cameras.c2w[views[0]], 0.0)
    middle = slice(cameras.height // 2 - 4, cameras.height // 2 + 4)
    rays = torch.stack([origins[middle, middle].reshape(-1, 3), directions[middle, middle].reshape(-1, 3)])
    np.savez(
        work / "job.npz", c2w=cameras.c2w[views].numpy(), K=cameras.K[0].numpy(), H=cameras.height,
        W=cameras.width, near=scene.near, far=scene.far, rays=rays.numpy(),
    )  # fmt: skip
    code = THEIRS.format(
        folder=str(work), start=args.N_iters, multires=str(args.multires), multires_views=str(args.multires_views)
    )
    common.run_python(code, checkout.resolve())

    flags = ["--use_viewdirs", "--corner_rays", "--N_importance", "128", "--white_bkgd", "--sampler", "hierarchical"]
    flags += ["--multires", str(args.multires), "--multires_views", str(args.multires_views)]
    theirs = make_renderer(config_parser().parse_args(flags), scene, torch.device("cpu")).eval()
    assert isinstance(theirs, HierarchicalRenderer)
    load_networks(theirs, work / "theirs.tar")
    with torch.no_grad():
        ours = theirs(make_rays(rays[0], rays[1], theirs.setup, cameras), torch.ones(3)).rgb
    return float((ours - torch.tensor(np.load(work / "untrained.npy"))).abs().max())


if __name__ == "__main__":
    main()
