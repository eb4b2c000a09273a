"""How a TensoRF is trained: coarse to fine, in a box that shrinks once, with its regularisers."""

import argparse
from collections.abc import Sequence

import torch

from fields.tensorf import TensorVM, density_l1, resolution_for, total_variation
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.renderer import Rendering
from training.batches import Batch
from training.trainer import Phase

TV_SCALE = 2e-2  # TensoRF's: 2 for its sum over both directions, 0.01 of a plane


def tensorf_phase(args: argparse.Namespace, renderer: OccupancyRenderer) -> Phase:
    """Training by TensoRF's schedule (sec. 4.3 and its released configs).

    After each of `--upsample_steps` planes and lines get finer, their numbers of voxels spaced evenly
    in the logarithm up to `--voxels_final`; learning rates start anew, and fall to 1/10 in
    `--lrate_decay` thousand steps. After `--shrink_step` the box shrinks to what the occupancy grid
    still holds, and the L1 weight changes to its second value.
    """
    network = renderer.field.network
    finer = dict(zip(args.upsample_steps, voxels_by_level(args), strict=True))

    def schedule(step: int) -> float:
        since = max((at for at in args.upsample_steps if at <= step), default=0)
        return 0.1 ** ((step - since) / (1000 * args.lrate_decay))

    def after_step(step: int) -> bool:
        if step == args.shrink_step:
            box = renderer.grid.bounding_box()
            network.crop(torch.stack([torch.maximum(box[0], network.aabb[0]), torch.minimum(box[1], network.aabb[1])]))
        if step in finer:
            network.upsample(resolution_for(finer[step], network.aabb))
        return step == args.shrink_step or step in finer

    def extra_loss(batch: Batch, rendering: Rendering, step: int) -> torch.Tensor:
        shrunk = 0 < args.shrink_step <= step
        loss = args.l1_weight[shrunk] * density_l1(network)
        if isinstance(network, TensorVM) and any(args.tv_weight):
            loss = loss + smoothness_loss(args, network.planes, step / args.N_iters)
        return loss

    return Phase("float", schedule, after_step=after_step, extra_loss=extra_loss)


def smoothness_loss(args: argparse.Namespace, planes: Sequence[torch.Tensor], done: float) -> torch.Tensor:
    """Total variation of planes `[H, W, R]` by `--tv_weight`, which fades to a tenth until all is `done`."""
    of_density, of_color = total_variation(planes, args.density_ranks)
    return TV_SCALE * 0.1**done * (args.tv_weight[0] * of_density + args.tv_weight[1] * of_color)


def voxels_by_level(args: argparse.Namespace) -> list[int]:
    """Numbers of voxels after each of `--upsample_steps`."""
    levels = len(args.upsample_steps)
    ratio = args.voxels_final / args.voxels
    return [round(args.voxels * ratio ** ((level + 1) / levels)) for level in range(levels)]
