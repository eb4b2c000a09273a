"""Every command-line flag, once, a function a group; kinds of field, renderer and compressor add their own.

nerf-pytorch's flags keep their names, defaults and meaning. All commands take all flags, so that one config file does
for each; the help of a command shows what it reads, from daily to rare.
"""

import argparse
import os

from compressors.kinds import COMPRESSORS
from compressors.vq import VQCompressor
from deploy.backends.choose import BACKENDS
from deploy.description import MOST_FRAMES
from deploy.exports import Exports
from fields.kinds import FIELDS
from load_scene import DATASETS
from rendering.kinds import RENDERERS
from utils.bounds import FAR_AWAY
from utils.parser import Parser, positive, within
from viewer.live import LiveViewer

PATH = os.path.expanduser  # what a shell does, for paths in config files and behind a `=`
# Groups that a command does not read, by the beginnings of their titles.
NOT_READ = {
    "run_nerf": ("compression", "teacher"),
    "run_nerf_qat": ("tensor field", "compression of a tensor field", "light field", "light_field", "teacher"),
    "run_r2l": ("pixels", "reflections", "tensor field", "compression of a tensor field"),
    "run_vq": (
        "network",
        "pixels",
        "reflections",
        "hierarchical",
        "proposal",
        "compression of a network",
        "light field",
        "light_field",
        "teacher",
    ),
}


def config_parser(command: str | None = None) -> Parser:
    """The parser of all run scripts; a config file holds the same names as `key = value` lines.

    command: whose help it is to show; None shows all.
    """
    usage = f"{command}.py [--config FILE] [FLAGS]" if command else None  # all of them are listed below it
    parser = Parser(formatter_class=argparse.ArgumentDefaultsHelpFormatter, usage=usage)
    parser.add_argument(
        "--config",
        is_config_file=True,
        type=PATH,
        metavar="FILE",
        help="of lines `flag = value`, as in configs/; the command line overrides them",
    )
    group = parser.add_argument_group
    add_run_flags(group("run"))
    add_data_flags(group("data"))
    add_training_flags(group("training"))
    add_field_flags(group("field"))
    for kind in FIELDS.values():
        kind.add_flags(group(kind.title))
    add_sampling_flags(group("sampling"))
    for name, renderer in RENDERERS.items():
        renderer.add_flags(group(f"{name} sampling (--sampler {name})"))
    add_teacher_flags(group("teacher (run_r2l.py)"))
    add_compression_flags(group("compression (run_nerf_qat.py, run_vq.py, run_r2l.py)"))
    layers = group("compression of a network (run_nerf_qat.py)")
    layers.add_argument(
        "--quant",
        default="qat",
        choices=list(COMPRESSORS),
        help="int8 trained with fake quantisation, or only calibrated; BitNeRF with 4-bit or with ternary weights",
    )
    bases = [base for kind in COMPRESSORS.values() for base in reversed(kind.__mro__)]
    for base in dict.fromkeys(base for base in bases if "add_flags" in vars(base)):  # what several share, once
        base.add_flags(layers)
    VQCompressor.add_flags(group("compression of a tensor field (run_vq.py)"))
    add_rendering_flags(group("rendering and evaluation"))
    add_logging_flags(group("logging, in steps (0: never)"))
    LiveViewer.add_flags(group("viewer"))
    add_machine_flags(group("machine"))
    if command == "run_r2l":
        parser.set_defaults(field="light_field", sampler="light_field")
    for shown in parser._action_groups:
        if command and shown.title.startswith(NOT_READ[command]):
            for action in shown._group_actions:
                action.help = argparse.SUPPRESS
    return parser


class OldModel(argparse.Action):
    """`--model KIND` as `--field KIND`, which it was called before; anything else is a file."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if values in FIELDS:
            namespace.field = values
        else:
            namespace.model = values


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--expname", default="nerf", help="experiment name; results go to basedir/expname")
    add("--basedir", type=PATH, default="./logs/", help="where to store checkpoints and logs")
    add("--no_reload", action="store_true", help="start anew instead of resuming from the newest checkpoint")
    add("--ft_path", type=PATH, help="checkpoint (.tar) whose networks to start from, ours or nerf-pytorch's")
    add("--seed", type=int, default=0, help="seed of every random draw")


def add_data_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--datadir", help="input data folder, or a file in it; without it the built-in procedural scene is used")
    add(
        "--dataset_type",
        default="auto",
        choices=["auto", *DATASETS],
        help="auto looks at what is in --datadir (deepvoxels and LINEMOD are named only to say so: not supported)",
    )
    add("--factor", type=positive(float), help="downsample images by this on each side (LLFF: 8 unless given)")
    add(
        "--scales",
        type=positive(float),
        nargs="+",
        default=[1.0],
        help="train on images shrunk by each of these, and measure each: as if seen from as many times farther away",
    )
    add(
        "--scale_weights",
        type=within(float, 1e-6, 1e6),
        nargs="+",
        help="of each scale in the loss, by its share of the rays (default: equal)",
    )
    add("--white_bkgd", action="store_true", help="composite RGBA images on white, else on black (NSVF: always white)")
    add("--random_bkgd", action="store_true", help="train RGBA images on a random colour per ray: no white fog")
    add("--plot_cameras", action="store_true", help="write cameras.png (cameras, near and far, box) and exit")
    add("--near", type=within(float, 1e-6), help="nearest content, z-depth in world units (default: by dataset)")
    add("--far", type=positive(float), help="farthest content, z-depth in world units (default: by dataset)")
    add("--aabb", type=float, nargs=6, metavar="X", help="box of the content: x0 y0 z0 x1 y1 z1, world units")
    add("--llffhold", type=int, default=8, help="LLFF, nerfstudio, COLMAP: every Nth view is a test view")
    add("--testskip", type=int, default=8, help="load 1/N of the val and test images of Blender and NSVF data; 1: all")
    add("--half_res", action="store_true", help="load Blender data at half resolution (400x400 of 800x800)")
    add("--no_ndc", action="store_true", help="LLFF: world space instead of normalised device coordinates")
    add("--spherify", action="store_true", help="LLFF: a capture all round the subject; needs --no_ndc")
    add(
        "--procedural_scene",
        default="still_life",
        choices=["still_life", "glossy"],
        help="the built-in scene: objects on a plinth, or mirrors and rough spheres for --field ref",
    )
    add("--procedural_size", type=positive(int), default=100, help="side of the procedural images, pixels")
    add("--corner_rays", action="store_true", help="rays through pixel corners, as nerf-pytorch has them")
    add("--shape", default="greek", help=argparse.SUPPRESS)  # deepvoxels only; nerf-pytorch's configs may name it


def add_training_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--N_iters", type=within(int, 0), default=200000, help="optimiser steps of the float network")
    add(
        "--optimizer",
        default="adam",
        choices=["adam", "muon"],
        help="muon: for the hidden matrices, Adam for the rest",
    )
    add("--lrate", type=positive(float), default=5e-4, help="Adam's learning rate")
    add("--muon_lrate", type=positive(float), default=0.02, help="Muon's learning rate")
    add(
        "--lrate_decay",
        type=positive(float),
        default=250,
        help="thousands of steps in which both rates fall to 1/10",
    )
    add("--lrate_warmup", type=int, default=0, help="steps of linear warm-up; 0: none")
    add(
        "--amp",
        default="off",
        choices=["off", "bf16", "fp16"],
        help="matrix products in 16 bits while training; fp16 (CUDA only) scales the loss",
    )
    add("--compile", action="store_true", help="torch.compile the networks for training; the first steps are slow")
    add("--grad_clip", type=within(float, 0), default=0.0, help="largest gradient norm, 0 for no clipping")
    add("--no_batching", action="store_true", help="take the rays of a step from one image only")
    add(
        "--exposure",
        type=within(int, 0, 12),
        default=0,
        metavar="RANK",
        help="learn how bright and what tint each photograph is: an affine change of its colours, all of them of this "
        "rank (3 will do); test views and files have their mean; 0: none",
    )
    add("--precrop_iters", type=int, default=0, help="steps that see only the middle of the images; 0: none")
    add("--precrop_frac", type=within(float, 0, 1), default=0.5, help="share of each side that the middle is, 0 to 1")
    add(
        "--lrate_rule",
        default="fixed",
        choices=["fixed", "sqrt", "linear"],
        help="multiply learning rates by (batch / --lrate_batch), by its square root, or not at all",
    )
    add("--lrate_batch", type=positive(int), default=8192, help="network queries per step that --lrate is meant for")


def add_field_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--field", default="nerf", choices=list(FIELDS), help="what is trained")
    add("--density_activation", default="relu", choices=["relu", "softplus"], help="raw output to density")
    add(
        "--density_bias",
        type=within(float, -FAR_AWAY, FAR_AWAY),
        default=0.0,
        help="added to the raw density before its activation",
    )
    add(
        "--density_scale",
        type=within(float, 1e-6, FAR_AWAY),
        default=1.0,
        help="density per activated output, 1/world unit",
    )


def add_sampling_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--sampler",
        default="hierarchical",
        choices=list(RENDERERS),
        help="NeRF's coarse and fine pass; one network and a grid that skips empty space; or small networks that find "
        "where along a ray to ask the large one",
    )
    add(
        "--perturb", type=within(float, 0, 1), default=1.0, help="0 for no jitter of the training samples, 1 for jitter"
    )
    add(
        "--raw_noise_std",
        type=within(float, 0),
        default=0.0,
        help="std of the noise added to raw density in training; 0: none",
    )


def add_teacher_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--teacher", type=PATH, metavar="FILE", help="model file that colours rays for a light field to learn from")
    add("--pseudo_views", type=positive(int), default=750, help="pictures that it makes from new cameras")
    add(
        "--pseudo_zoom", type=within(float, 1, 100), default=2.0, help="the most that they are zoomed in, 1: not at all"
    )
    add(
        "--real",
        type=within(float, 0, 0.9),
        default=0.2,
        help="share of a batch that is of photographs, 0 to 0.9, and half in the last fifth of the steps; 0: none ever",
    )
    add(
        "--hard_rays",
        type=within(float, 0, 0.9),
        default=0.0,
        help="share of a batch that is drawn again of rays that had large errors, 0 to 0.9; 0: none (one process only)",
    )


def add_compression_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--qat_iters", type=within(int, 0), default=20000, help="optimiser steps through the rounding, after --N_iters")
    add(
        "--qat_lrate_scale",
        type=positive(float),
        default=0.1,
        help="their first learning rate, relative to --lrate",
    )
    add(
        "--qat_schedule",
        default="cosine",
        choices=["cosine", "exponential", "bitnet"],
        help="how it falls: cosine, to zero; exponential, by --lrate_decay; bitnet, linearly to zero, lower from half "
        "way, with weight decay until then (muon only)",
    )
    add(
        "--distill",
        type=within(float, 0),
        default=0.0,
        help="weight of a loss towards the float model at every sample, fading out; 0 for none (occupancy sampler)",
    )
    Exports.add_flags(group)


def add_rendering_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--render_only", action="store_true", help="do not train: load what there is and render the path")
    add("--render_test", action="store_true", help="with --render_only: the test views instead of the path")
    add(
        "--model",
        action=OldModel,
        metavar="FILE",
        help="with --render_only: the model file to render, or a shared folder (default: the run folder's)",
    )
    add(
        "--render_factor",
        type=within(float, 0),
        default=0,
        help="render videos this much smaller, 4 or 8 for a fast preview",
    )
    add(
        "--path_frames",
        type=within(int, 0, MOST_FRAMES),
        default=0,
        help="frames of the video path, 0 for the dataset's own number",
    )
    add(
        "--path",
        default="auto",
        help="the video's: auto (the data's own), orbit, walk, spiral, or a viewer's FILE.json",
    )
    add("--render_sphere", action="store_true", help="the video goes round the origin, up is z, whatever path there is")
    add("--sphere_elevation", type=within(float, -89, 89), default=30.0, help="its height above the horizon, degrees")
    add(
        "--sphere_radius",
        type=within(float, 1e-3, FAR_AWAY / 2),
        help="its distance, world units (default: the data's own path's)",
    )
    add(
        "--plot_weights",
        action="store_true",
        help="after training, draw bins of proposals and weights of the field along a few rays into weights.png",
    )
    add(
        "--backend",
        default="auto",
        choices=["auto", *BACKENDS],
        help="what executes integers; w4a8 and ternary files know auto, torch, reference and onednn",
    )
    add("--benchmark", action="store_true", help="with --render_only: print where a frame's time goes, render nothing")
    add(
        "--render_memory",
        type=positive(int),
        default=1024,
        help="MiB that rendering a picture may take beyond what is loaded; fewer rays at once keep it below",
    )
    add("--chunk", type=positive(int), default=1024 * 32, help="rays rendered at once, at most")
    add(
        "--netchunk",
        type=positive(int),
        default=1024 * 64,
        help="points per network call of the hierarchical sampler and of grid updates; lower it to save memory",
    )


def add_logging_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--i_print", type=int, default=100, help="scalars to TensorBoard")
    add("--i_img", type=int, default=500, help="pictures of a held-out view to TensorBoard")
    add("--i_weights", type=int, default=10000, help="checkpoint")
    add("--i_testset", type=int, default=50000, help="all test views, rendered and measured")
    add("--i_video", type=int, default=50000, help="video of the render path")
    add("--wandb", default="off", choices=["off", "online", "offline"], help="log to Weights & Biases too (an extra)")


def add_machine_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--device", default="auto", help="auto (CUDA, else MPS, else CPU) or a torch device such as cuda:1")
    add("--threads", type=int, default=0, help="CPU threads, 0 for all cores")
    add("--dist_timeout", type=positive(float), default=300.0, help="seconds after which a torchrun process is lost")
