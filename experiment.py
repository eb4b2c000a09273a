"""From options to the objects of a run: device, networks, renderer, folder."""

import argparse
from pathlib import Path

import torch

from checkpoint_checks import WAY_OUT, describe_mismatch
from checkpoints import load_checkpoint, load_newest
from identity import check_phase, check_same_run
from model_metadata import LARGEST_GRID, MOST_SAMPLES, MOST_STEPS
from occupancy import OccupancyGrid
from rendering import HierarchicalRenderer, OccupancyRenderer, RaySetup, RenderLimits, networks_of
from run_nerf_helpers import FieldConfig, NeRF, make_field
from scenes.scene import Scene
from tensorf import TensorfConfig, TensorField, TensorNetwork, resolution_for
from utils import distributed
from utils.bounds import box_problem
from utils.errors import BadInput, BrokenFile
from utils.files import atomic_write, remove_partial_files, saving

FIELD_KINDS = ("nerf", "tensorf")

# Carving first looks at the whole box this coarsely, to find the tight box that the grid is laid in.
SCOUT_RESOLUTION = 64


# -------------------------------------------------------------------------------------- renderer


def ray_setup(args: argparse.Namespace, scene: Scene) -> RaySetup:
    return RaySetup(
        near=scene.near,
        far=scene.far,
        ndc_near=1.0 if scene.ndc else None,
        pixel_offset=0.0 if args.corner_rays else 0.5,
        background=scene.background,
    )


def render_limits(args: argparse.Namespace) -> RenderLimits:
    return RenderLimits(rays=args.chunk, memory=args.render_memory * 2**20)


def field_config(args: argparse.Namespace, fine: bool = False) -> FieldConfig:
    """The coarse (or only) or the fine field that the flags describe."""
    return FieldConfig(
        depth=args.netdepth_fine if fine else args.netdepth,
        width=args.netwidth_fine if fine else args.netwidth,
        use_viewdirs=args.use_viewdirs,
        output_ch=5 if args.N_importance > 0 else 4,  # nerf-pytorch's: its checkpoints have the fifth
        multires=args.multires,
        multires_views=args.multires_views,
        i_embed=args.i_embed,
        density_activation=args.density_activation,
        density_bias=args.density_bias,
        density_scale=args.density_scale,
        residual=args.residual,
    )


def make_tensor_field(args: argparse.Namespace, box: torch.Tensor) -> TensorField:
    """An untrained TensoRF over a box `[2, 3]`, as the flags describe it."""
    config = TensorfConfig(
        decomposition=args.tensor,
        density_ranks=tuple(args.density_ranks),
        color_ranks=tuple(args.color_ranks),
        features=args.color_features,
        feature_octaves=args.feature_octaves,
        view_octaves=args.view_octaves,
        hidden=args.decoder_width,
        density_activation=args.density_activation,
        density_bias=args.density_bias,
        density_scale=args.density_scale,
    )
    return TensorField(config, config.make_network(resolution_for(args.voxels, box), box.cpu()))


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


def make_grid(scene: Scene, resolution: int, device: torch.device) -> OccupancyGrid:
    """A grid over the scene's box; with alpha, over the visual hull's box and carved to the hull."""
    if not scene.has_alpha:
        return OccupancyGrid(scene.aabb, resolution).to(device)
    train = scene.splits["train"]
    cameras, alpha = scene.cameras[train].to(device), scene.images[train][..., 3]
    if scene.valid is not None:  # what a mask or a lens hides may be there
        alpha = alpha.masked_fill(~scene.valid[train], 255)
    scout = OccupancyGrid(scene.aabb, SCOUT_RESOLUTION).to(device)
    scout.carve(cameras, alpha)
    if not scout.occupied.any():
        raise BadInput(
            "no point of the box is inside the silhouettes of all training views: wrong --aabb or poses, "
            "look at them with --plot_cameras"
        )
    box = scout.bounding_box()
    box = torch.stack([torch.maximum(box[0], scout.aabb[0]), torch.minimum(box[1], scout.aabb[1])])
    grid = OccupancyGrid(box, resolution).to(device)
    grid.carve(cameras, alpha)
    return grid


def find_checkpoint(
    args: argparse.Namespace, scene: Scene, folder: Path, phase: str = "float"
) -> tuple[Path, dict] | None:
    """The newest whole checkpoint of a run and its state, unless `--no_reload`.

    phase: of the command's training through rounding, "float" if it has none. Raises BadInput where the checkpoint
    is of another run than the flags describe; nothing has been touched by then.
    """
    found = None if args.no_reload else distributed.from_main(lambda: load_newest(folder))
    if found is not None:
        check_phase(phase, *found)
        if not args.render_only:
            check_same_run(args, scene, *found)
    return found


def load_networks(renderer: torch.nn.Module, path: Path, state: dict | None = None) -> None:
    """Loads the networks of a checkpoint, ours or nerf-pytorch's, and our occupancy grid.

    Raises BrokenFile where the checkpoint is of another architecture.
    """
    state = load_checkpoint(path) if state is None else state
    _check_conventions(renderer, path, state)
    load_tensors(renderer, state, path)


def load_tensors(renderer: torch.nn.Module, state: dict, what: Path | str) -> None:
    """The part of `load_networks` that is not about flags; `what` begins its messages."""
    for name, network in networks_of(renderer).items():
        stored = state.get(f"{name}_state_dict")
        if stored is None:
            raise BrokenFile(
                f"{what}: has no {name}_state_dict; was it trained with another --sampler or --N_importance?"
            )
        try:
            network.load_state_dict(stored)
            mismatch = describe_mismatch(network.state_dict(), stored)
            if not mismatch and isinstance(network, TensorNetwork):
                mismatch = network.problem()
        except RuntimeError:
            mismatch = describe_mismatch(network.state_dict(), stored)
        if mismatch:
            raise BrokenFile(
                f"{what}: {name} is of another architecture: {mismatch}; give the flags it was trained with"
            )
    if isinstance(renderer, OccupancyRenderer) and "grid_state_dict" in state:
        load_grid(renderer.grid, state["grid_state_dict"], what)


def load_grid(grid: OccupancyGrid, stored: dict[str, torch.Tensor], what: Path | str) -> None:
    cells = stored.get("occupied")
    if cells is not None and cells.ndim == 3 and cells.shape != grid.occupied.shape:
        raise BrokenFile(
            f"{what}: was trained with --grid_resolution {cells.shape[0]}, not {grid.resolution}; "
            "give the same again, or choose another --expname"
        )
    mismatch = describe_mismatch(grid.state_dict(), stored) or box_problem(stored["aabb"])
    if mismatch:
        raise BrokenFile(f"{what}: its occupancy grid cannot be used: {mismatch}; {WAY_OUT}")
    grid.load_state_dict(stored)


def _check_conventions(renderer: torch.nn.Module, path: Path, state: dict) -> None:
    """What a checkpoint's tensors do not show: rays, and whether layers add to their input."""
    corner_rays = renderer.setup.pixel_offset == 0
    if "corner_rays" not in state and not corner_rays:
        print(f"note: {path} is not ours; if nerf-pytorch trained it, its rays need --corner_rays")
    if state.get("corner_rays", corner_rays) != corner_rays:
        word = "with" if state["corner_rays"] else "without"
        raise BadInput(f"{path}: was trained {word} --corner_rays; give the same flags again")
    residual = getattr(next(iter(renderer.fields.values())).config, "residual", False)
    if state.get("residual", False) != residual:
        word = "without" if residual else "with"
        raise BadInput(f"{path}: was trained {word} --residual; give the same flags again")


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
