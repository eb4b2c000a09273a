"""Time of a training step of TensoRF: ours beside the original's code, with the same rays and the same field.

python benchmarks/tensorf_step.py CHECKOUT [--datadir data/nerf_synthetic/lego] [--rounds 5] [FLAGS...]

CHECKOUT is a folder of apchenstu/TensoRF. Our field is trained for `--warmup` steps and copied into
theirs, so that both skip, and look up colour, in the same places. A step is 4096 rays at 128^3 voxels
in float32, forwards, backwards and Adam. Theirs is timed without its mask, as in its first 2000
steps, and with a mask of the cells that ours holds for occupied. FLAGS are those of run_nerf.py.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import common
import torch

from experiment import Run, float_phase, make_renderer, make_trainer, prepare_device
from load_scene import load_scene
from options import config_parser
from training.batches import RayBatches
from training.trainer import Trainer

RAYS = 4096
STEPS = 3  # of one variant before it is the next one's turn
SETTINGS = [
    "--field", "tensorf", "--sampler", "occupancy", "--white_bkgd", "--density_activation", "softplus",
    "--density_bias", "-10", "--density_scale", "25", "--voxels", str(128**3), "--upsample_steps", "--shrink_step", "0",
    "--grid_resolution", "128", "--lrate", "0.02", "--lrate_decay", "30", "--grid_start", "1000000",
]  # fmt: skip
SAMPLES_PER_RAY = 1000  # more than any ray has: no ray of a batch is dropped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a TensoRF checkout")
    parser.add_argument("--datadir", default="data/nerf_synthetic/lego", help="the lego scene")
    parser.add_argument("--rounds", type=int, default=5, help=f"times {STEPS} steps of each variant")
    parser.add_argument("--warmup", type=int, default=200, help="steps of ours before anything is timed")
    options, flags = parser.parse_known_args()
    wanted = ["--samples_per_batch", str(RAYS * SAMPLES_PER_RAY * 100 // 105 + 1)]
    args = config_parser().parse_args([*SETTINGS, *wanted, "--datadir", options.datadir, *flags])
    device = prepare_device(args)
    scene = load_scene(args)
    renderer = make_renderer(args, scene, device)
    with tempfile.TemporaryDirectory() as work:
        trainer = make_trainer(Run(args, scene, Path(work), renderer, None), float_phase(args))
        our_steps(trainer, options.warmup)
    sys.path.insert(0, str(options.checkout))
    theirs = their_field(renderer, scene, device)
    variants = {
        "ours": lambda: our_steps(trainer, STEPS),
        "original_without_mask": lambda: their_steps(theirs, None, trainer.batches, renderer),
        "original_with_mask": lambda: their_steps(theirs, their_mask(renderer, device), trainer.batches, renderer),
    }
    seconds = {name: [] for name in variants}
    for steps in variants.values():
        steps()
    for _ in range(options.rounds):
        for name, steps in variants.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            steps()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - started) / STEPS)
    results = {"facts": common.machine(device=str(device)), "rays": RAYS, "warmup": options.warmup}
    results |= common.summary(seconds, "ours")
    for name in variants:
        print(f"{name:<24}{results[name]['median_ms']:>10.1f} ms{results[name]['of_ours']:>8.2f} x ours")
    common.save_results(f"tensorf_step_{device.type}", results)


def our_steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        trainer.batches.samples_per_ray = SAMPLES_PER_RAY
        assert trainer.step().batch.total_rays == RAYS


def their_field(renderer: torch.nn.Module, scene, device: torch.device) -> torch.nn.Module:
    """A TensorVMSplit with our factors, and its optimiser as its train.py makes it."""
    from models.tensoRF import TensorVMSplit  # of the checkout

    network = renderer.field.network
    config = network.config
    theirs = TensorVMSplit(
        network.aabb.clone(), list(network.resolution), device,
        density_n_comp=list(config.density_ranks), appearance_n_comp=list(config.color_ranks), app_dim=config.features,
        near_far=[scene.near, scene.far], shadingMode="MLP_Fea", alphaMask_thres=1e-4, density_shift=-10,
        distance_scale=25, pos_pe=6, view_pe=2, fea_pe=2, featureC=128, step_ratio=0.5, fea2denseAct="softplus",
    )  # fmt: skip
    with torch.no_grad():
        for i, rank in enumerate(config.density_ranks):
            plane, line = network.planes[i].permute(2, 0, 1)[None], network.lines[i].T[None, ..., None]
            theirs.density_plane[i].copy_(plane[:, :rank])
            theirs.density_line[i].copy_(line[:, :rank])
            theirs.app_plane[i].copy_(plane[:, rank:])
            theirs.app_line[i].copy_(line[:, rank:])
        theirs.basis_mat.weight.copy_(network.basis.weight)
    theirs.optimizer = torch.optim.Adam(theirs.get_optparam_groups(0.02, 0.001), betas=(0.9, 0.99))
    return theirs


def their_mask(renderer: torch.nn.Module, device: torch.device):
    """Our occupied cells as an alpha mask of theirs, whose axes run z, y, x."""
    from models.tensorBase import AlphaGridMask  # of the checkout

    grid = renderer.grid
    return AlphaGridMask(device, grid.aabb, grid.occupied.float().permute(2, 1, 0).contiguous())


def their_steps(theirs: torch.nn.Module, mask, batches: RayBatches, renderer: torch.nn.Module) -> None:
    theirs.alphaMask = mask
    samples = int(sum(size**2 for size in theirs.gridSize.tolist()) ** 0.5 / theirs.step_ratio)
    for step in range(STEPS):
        batch = batches._rays(RAYS, step + 1, renderer)
        rays = torch.cat([batch.rays.origins, batch.rays.viewdirs], -1)
        rgb, _ = theirs(rays, is_train=True, white_bg=True, ndc_ray=False, N_samples=samples)
        loss = torch.mean((rgb - batch.target) ** 2) + 8e-5 * theirs.density_L1()
        theirs.optimizer.zero_grad()
        loss.backward()
        theirs.optimizer.step()


if __name__ == "__main__":
    main()
