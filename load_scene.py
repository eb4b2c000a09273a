"""From the data flags to a scene: which format a folder is in, and which reader gets which flags."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from fields.kinds import FIELDS
from load_blender import load_blender_scene
from load_colmap import is_model, load_colmap_scene
from load_llff import load_llff_scene
from load_nerfstudio import load_nerfstudio_scene
from load_nsvf import load_nsvf_scene
from load_procedural import load_procedural_scene
from load_tiny_nerf import load_tiny_nerf_scene
from photographs.gathering import list_pictures
from photographs.video import SUFFIXES as VIDEO_SUFFIXES
from scenes.paths import read_path, spiral, walk
from scenes.poses import focus_point, level_orbit, orbit_path
from scenes.scales import check_scales
from scenes.scene import Cameras, Scene
from utils.bounds import FAR_AWAY, box_problem
from utils.errors import BadInput, one_line

UNBOUNDED_FAR = 1000.0  # world units, where there is no end: cameras stand within a few
DATASETS = ("procedural", "blender", "llff", "tiny_nerf", "nsvf", "nerfstudio", "colmap", "deepvoxels", "LINEMOD")


def load_scene(args: argparse.Namespace) -> Scene:
    """The scene that the data flags name. Raises BadInput where it cannot be read."""
    name, notes = recognise(args)
    args = argparse.Namespace(**vars(args))
    args.datadir = args.datadir and str(_place(args.datadir, name))
    return as_flags_say(args, READERS[name](args), notes)


def as_flags_say(args: argparse.Namespace, scene: Scene, notes: Sequence[str] = ()) -> Scene:
    """A scene that has been read, with the box, the contraction and the video's path that the flags ask for; prints
    `notes` and its own. Raises BadInput where it and they do not go together."""
    for note in dict.fromkeys([*notes, *scene.notes, *open_up(args, scene)]):  # files of one folder may say the same
        print(f"note: {one_line(note)}")
    if not scene.near < scene.far:
        raise BadInput(f"--near {scene.near:g} is not below --far {scene.far:g}; distances are in world units")
    if args.aabb:
        box = torch.tensor(args.aabb).view(2, 3)
        if not (box[0] < box[1]).all():
            raise BadInput(f"--aabb {args.aabb}: every x0 y0 z0 must be below its x1 y1 z1")
        scene.aabb = box
    problem = box_problem(scene.aabb) or ("" if scene.far <= FAR_AWAY else f"--far is beyond {FAR_AWAY:g} world units")
    if problem:
        raise BadInput(f"--datadir {args.datadir}: {problem}; give --aabb and --far, and look with --plot_cameras")
    check_scales(args.scales, scene)
    if args.scale_weights and len(args.scale_weights) != len(args.scales):
        raise BadInput(f"--scale_weights: {len(args.scale_weights)} of them for {len(args.scales)} of --scales")
    if args.render_sphere and scene.ndc:
        raise BadInput("--render_sphere: a scene in NDC is seen from one side only; add --no_ndc, or leave it out")
    scene.render_path = video_path(args, scene.render_path, scene.cameras, scene.ndc)
    return scene


def video_path(args: argparse.Namespace, path: Cameras, through: Cameras | None = None, ndc: bool = False) -> Cameras:
    """The path of the video by `--path`: as many cameras of a data set's own as wished, another kind of path past
    cameras `through` (None: those of its own), or a file's; or by `--render_sphere` a turn about the origin. ndc: whose
    box fits the path's own lens and size, so that those of a file are not heeded."""
    frames = args.path_frames or len(path)
    if args.path.endswith(".json"):
        of_file = read_path(Path(args.path), path)
        path = path.along(of_file.c2w) if ndc else of_file
        frames = args.path_frames or len(path)
    elif args.path != "auto":
        c2w = (path if through is None else through).c2w.numpy().astype("float64")
        kinds = {"walk": walk, "spiral": spiral, "orbit": lambda c2w, count: level_orbit(c2w, focus_point(c2w), count)}
        if args.path not in kinds:
            raise BadInput(f"--path {args.path}: expected auto, {', '.join(kinds)} or a FILE.json of camera poses")
        path = path.along(torch.as_tensor(kinds[args.path](c2w, frames), dtype=torch.float32))
    if args.render_sphere:
        radius = args.sphere_radius or float(path.c2w[:, :, 3].norm(dim=-1).median())
        return path.along(orbit_path(radius, args.sphere_elevation, frames))
    return path[torch.linspace(0, len(path), frames + 1)[:-1].long()]


def open_up(args: argparse.Namespace, scene: Scene) -> list[str]:
    """Decides by `--contract` whether space is contracted. Where it is, `scene.ball` says from where on, and far is far
    away; where not, there is no ball. Returns what to say of it. Raises BadInput where it cannot be."""
    can = FIELDS[args.field].contracts and not scene.ndc
    reaches_out = args.sampler == "proposal" or (args.sampler == "light_field" and args.ray_span == "near_far")
    auto = args.contract == "auto" and can and scene.ball is not None and reaches_out and not args.aabb
    if not auto and args.contract != "on":
        scene.ball = None
        return []
    if not can:
        raise BadInput("--contract on: is of --field mip, ref and light_field, and not of NDC, where infinity is near")
    scene.ball = scene.ball or float(scene.cameras.c2w[:, :, 3].norm(dim=-1).max())
    scene.far = args.far or max(scene.far, UNBOUNDED_FAR)
    why = "asked for" if args.contract == "on" else "a capture with a background; --contract off keeps to its box"
    return [f"space beyond {scene.ball:.3g} units from the origin is contracted, far is {scene.far:g} ({why})"]


def dataset_type(args: argparse.Namespace) -> str:
    """What `--dataset_type` says, or for `auto` what the folder looks like."""
    return recognise(args)[0]


def recognise(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The dataset type, and what to say of the choice."""
    if args.dataset_type in ("deepvoxels", "LINEMOD"):
        raise BadInput(f"--dataset_type {args.dataset_type}: not supported; use {', '.join(READERS)}")
    if args.dataset_type != "auto":
        if args.dataset_type != "procedural" and not args.datadir:
            raise BadInput(f"--dataset_type {args.dataset_type} needs --datadir, the folder with the data")
        return args.dataset_type, []
    if not args.datadir:
        return "procedural", []
    given = Path(args.datadir).expanduser()
    if given.suffix == ".npz":
        return "tiny_nerf", []
    if given.suffix.lower() == ".json" and given.name not in BLENDER_FILES:
        return "nerfstudio", []
    folder = _place(args.datadir)
    for name, marks in MARKS:
        if not all((folder / mark).exists() for mark in marks):
            continue
        if name == "llff" and _has_colmap_too(folder):
            return "colmap", [
                f"{folder}: COLMAP's own model is read, which knows the lens, and not poses_bounds.npy: "
                "--dataset_type llff reads that, for forward-facing scenes in NDC"
            ]
        return name, []
    raise BadInput(f"{given}: {what_is_missing(given)}")


def what_is_missing(given: Path) -> str:
    """Of a folder that no reader knows, and the way out."""
    if not given.exists():
        return "no such data folder; give --datadir another folder"
    pictures = len(list_pictures(given)) if given.is_dir() else 0
    if pictures or given.suffix.lower() in VIDEO_SUFFIXES:
        found = f"holds {pictures} pictures" if pictures else "is a video"
        return f"{found}, and nothing says where its cameras were: python run_photos.py {given} finds that"
    return f"has none of {known_marks()}; give --datadir another folder"


def _place(datadir: str, name: str | None = None) -> Path:
    """The folder that a reader takes, where `--datadir` may be a file in it; nerfstudio's takes the file as well."""
    place = Path(datadir).expanduser()
    if place.suffix.lower() == ".json":
        return place if name == "nerfstudio" else place.parent
    if place.is_file() and place.suffix != ".npz":
        return place.parent
    return place.parent if place.name == "sparse" and (place.parent / "images").is_dir() else place


def _has_colmap_too(folder: Path) -> bool:
    """Whether an LLFF folder holds what it was made from: COLMAP's model, and images at full size."""
    shrunk_alone = not (folder / "images").is_dir() and any(folder.glob("images_*"))
    return not shrunk_alone and any(map(is_model, (folder / "sparse", *(folder / "sparse").glob("*"))))


def known_marks() -> str:
    """What a folder of each format holds, in words."""
    return ", ".join(f"{' + '.join(marks)} ({name})" for name, marks in MARKS)


# --------------------------------------------------------------------- a reader for each format


def _procedural(args: argparse.Namespace) -> Scene:
    scene = load_procedural_scene(args.procedural_size, white_background=args.white_bkgd, kind=args.procedural_scene)
    scene.near, scene.far = args.near or scene.near, args.far or scene.far
    return scene


def _blender(args: argparse.Namespace) -> Scene:
    return load_blender_scene(
        args.datadir,
        factor=(args.factor or 1) * (2 if args.half_res else 1),
        testskip=args.testskip,
        white_background=args.white_bkgd,
        needs_alpha=args.white_bkgd or args.random_bkgd,
        near=args.near,
        far=args.far,
    )


def _tiny_nerf(args: argparse.Namespace) -> Scene:
    if args.random_bkgd or args.white_bkgd or (args.factor or 1) != 1:
        raise BadInput("tiny_nerf images are 100x100 on black: leave out --white_bkgd, --random_bkgd and --factor")
    return load_tiny_nerf_scene(args.datadir, near=args.near, far=args.far)


def _llff(args: argparse.Namespace) -> Scene:
    factor = 8 if args.factor is None else args.factor
    if factor != int(factor):
        raise BadInput(f"--factor {factor:g}: LLFF folders hold whole factors (images_4, images_8); give one")
    if args.random_bkgd:
        raise BadInput("--random_bkgd needs images with alpha, and LLFF photographs have none; leave it out")
    return load_llff_scene(
        args.datadir,
        factor=int(factor),
        ndc=not args.no_ndc,
        spherify=args.spherify,
        llffhold=args.llffhold,
        near=args.near,
        far=args.far,
    )


def _nsvf(args: argparse.Namespace) -> Scene:
    return load_nsvf_scene(
        args.datadir,
        factor=args.factor or 1,
        testskip=args.testskip,
        needs_alpha=args.random_bkgd,
        near=args.near,
        far=args.far,
    )


def _capture(load: Callable[..., Scene], args: argparse.Namespace) -> Scene:
    return load(
        args.datadir,
        factor=args.factor or 1,
        llffhold=args.llffhold,
        white_background=args.white_bkgd,
        needs_alpha=args.white_bkgd or args.random_bkgd,
        near=args.near,
        far=args.far,
    )


READERS = {
    "procedural": _procedural,
    "blender": _blender,
    "llff": _llff,
    "tiny_nerf": _tiny_nerf,
    "nsvf": _nsvf,
    "nerfstudio": partial(_capture, load_nerfstudio_scene),
    "colmap": partial(_capture, load_colmap_scene),
}
BLENDER_FILES = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
# What tells formats apart, the first that fits: LLFF and nerfstudio folders may hold COLMAP's files as well.
MARKS = (
    ("blender", ("transforms_train.json",)),
    ("llff", ("poses_bounds.npy",)),
    ("nerfstudio", ("transforms.json",)),
    ("nsvf", ("rgb", "pose")),
    ("colmap", ("sparse",)),
    ("colmap", ("cameras.bin",)),
    ("colmap", ("cameras.txt",)),
)
