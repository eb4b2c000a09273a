"""From options to the objects of a run: device, networks, renderer, folder."""

import argparse
from pathlib import Path

import torch

from deploy.description import LARGEST_GRID, MOST_SAMPLES, MOST_STEPS
from fields.nerf import field_config, make_field
from fields.tensorf import make_tensor_field
from rendering.hierarchical import HierarchicalRenderer
from rendering.occupancy_renderer import OccupancyRenderer, make_grid
from rendering.rays import RaySetup
from run_nerf_helpers import NeRF
from scenes.scene import Scene
from utils import distributed
from utils.errors import BadInput
from utils.files import atomic_write, remove_partial_files, saving

FIELD_KINDS = ("nerf", "tensorf")

# -------------------------------------------------------------------------------------- renderer


def ray_setup(args: argparse.Namespace, scene: Scene) -> RaySetup:
    return RaySetup(
        near=scene.near,
        far=scene.far,
        ndc_near=1.0 if scene.ndc else None,
        pixel_offset=0.0 if args.corner_rays else 0.5,
        background=scene.background,
    )


def make_renderer(
    args: argparse.Namespace, scene: Scene, device: torch.device, network: type[NeRF] = NeRF
) -> OccupancyRenderer | HierarchicalRenderer:
    """The renderer that `--sampler` names, untrained, its grid carved where images have alpha."""
    if args.model not in FIELD_KINDS:
        raise BadInput(f"--model {args.model}: a file is for --render_only; to train give {' or '.join(FIELD_KINDS)}")
    tensor = args.model == "tensorf"
    if tensor and args.sampler != "occupancy":
        raise BadInput("--model tensorf: has one field in one box; add --sampler occupancy")
    _check_cost(args)
    torch.manual_seed(args.seed)
    if args.sampler == "hierarchical":
        if args.filter_rays:
            raise BadInput("--filter_rays asks the occupancy grid; add --sampler occupancy")
        fine = make_field(field_config(args, fine=True), network) if args.N_importance > 0 else None
        renderer = HierarchicalRenderer(
            make_field(field_config(args), network),
            fine,
            ray_setup(args, scene),
            args.N_samples,
            args.N_importance,
            args.lindisp,
            args.perturb > 0,
            args.netchunk,
        )
        return renderer.to(device)
    grid = make_grid(scene, args.grid_resolution, device)
    field = make_tensor_field(args, grid.aabb) if tensor else make_field(field_config(args), network)
    step = args.march_step * float(grid.cell.max())
    if grid.diagonal > MOST_STEPS * step:
        raise BadInput(f"--march_step {args.march_step:g}: a ray would have more than {MOST_STEPS} samples; give more")
    return OccupancyRenderer(field, grid, ray_setup(args, scene), step, args.min_transmittance).to(device)


def _check_cost(args: argparse.Namespace) -> None:
    """Raises BadInput for what `model_metadata` lets no file ask for, before hours are spent on training."""
    for flag, most in (("grid_resolution", LARGEST_GRID), ("N_samples", MOST_SAMPLES), ("N_importance", MOST_SAMPLES)):
        if getattr(args, flag) > most:
            raise BadInput(f"--{flag} {getattr(args, flag)}: model files hold {most} at most; give less")


# ------------------------------------------------------------------------------------ run folder


def make_run_folder(args: argparse.Namespace) -> Path:
    """`basedir/expname`."""
    folder = Path(args.basedir) / args.expname
    if distributed.is_main():
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
    return folder


def record_flags(args: argparse.Namespace, folder: Path) -> None:
    """Writes args.txt and config.txt of a run that is about to train, and clears what a kill left of its files."""
    if not distributed.is_main():
        return
    remove_partial_files(folder)
    lines = [f"{name} = {value}\n" for name, value in sorted(vars(args).items())]
    atomic_write(folder / "args.txt", "".join(lines).encode(errors="surrogateescape"))
    if args.config is not None:
        atomic_write(folder / "config.txt", Path(args.config).read_bytes())
