"""Every command-line flag, once. nerf-pytorch's flags keep their names, defaults and meaning."""

import argparse
import os

from utils.parser import Parser, positive

DATASETS = ("procedural", "blender", "llff", "tiny_nerf", "nsvf", "nerfstudio", "colmap", "deepvoxels", "LINEMOD")


def config_parser() -> Parser:
    """The parser of all run scripts; a config file holds the same names as `key = value` lines."""
    parser = Parser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    path = os.path.expanduser  # what a shell does, for paths in config files and behind a `=`
    add("--config", is_config_file=True, type=path, help="config file path")

    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--expname", default="nerf", help="experiment name; results go to basedir/expname")
    add("--basedir", type=path, default="./logs/", help="where to store checkpoints and logs")
    add("--seed", type=int, default=0, help="seed of every random draw")
    add("--device", default="auto", help="auto (CUDA, else MPS, else CPU) or a torch device such as cuda:1")
    add("--threads", type=int, default=0, help="CPU threads, 0 for all cores")
    add("--no_reload", action="store_true", help="start anew instead of resuming from the newest checkpoint")
    add("--ft_path", type=path, help="checkpoint (.tar) whose networks to start from, ours or nerf-pytorch's")

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--datadir", help="input data folder, or a file in it; without it the built-in procedural scene is used")
    add(
        "--dataset_type",
        default="auto",
        choices=["auto", *DATASETS],
        help="auto looks at what is in --datadir (deepvoxels and LINEMOD are named only to say so: not supported)",
    )
    add("--factor", type=positive(float), help="downsample images by this on each side (LLFF: 8 unless given)")
    add("--near", type=positive(float), help="nearest content, z-depth in world units (default: by dataset)")
    add("--far", type=positive(float), help="farthest content, z-depth in world units (default: by dataset)")
    add("--aabb", type=float, nargs=6, metavar="X", help="box of the content: x0 y0 z0 x1 y1 z1, world units")
    add("--corner_rays", action="store_true", help="rays through pixel corners, as nerf-pytorch has them")
    add("--white_bkgd", action="store_true", help="composite RGBA images on white, else on black (NSVF: always white)")
    add(
        "--random_bkgd",
        action="store_true",
        help="train RGBA images on a random colour per ray: no white fog",
    )
    add("--plot_cameras", action="store_true", help="write cameras.png (cameras, near and far, box) and exit")
    add("--procedural_size", type=positive(int), default=100, help="side of the procedural images, pixels")
    add("--testskip", type=int, default=8, help="load 1/N of the val and test images of Blender and NSVF data")
    add("--half_res", action="store_true", help="load Blender data at half resolution (400x400 of 800x800)")
    add("--no_ndc", action="store_true", help="LLFF: world space instead of normalised device coordinates")
    add("--spherify", action="store_true", help="LLFF: a capture all round the subject; needs --no_ndc")
    add("--llffhold", type=int, default=8, help="LLFF, nerfstudio, COLMAP: every Nth view is a test view")
    add("--shape", default="greek", help=argparse.SUPPRESS)  # deepvoxels only; nerf-pytorch's configs may name it

    group = parser.add_argument_group("network")
    add = group.add_argument
    add(
        "--model",
        default="nerf",
        metavar="{nerf,tensorf,PATH}",
        help="the kind of field; with --render_only, the compressed file to render (default: the run folder's)",
    )
    add("--netdepth", type=positive(int), default=8, help="layers in the (coarse) network")
    add("--netwidth", type=positive(int), default=256, help="channels per layer")
    add("--netdepth_fine", type=positive(int), default=8, help="layers in the fine network")
    add("--netwidth_fine", type=positive(int), default=256, help="channels per layer in the fine network")
    add("--use_viewdirs", action="store_true", help="colour depends on the viewing direction (5D input)")
    add(
        "--residual",
        action="store_true",
        help="layers add to what they are given: for few bits (float, w4a8 and ternary files; not int8)",
    )
    add("--i_embed", type=int, default=0, help="0 for positional encoding, -1 for none")
    add("--multires", type=int, default=10, help="octaves of the positional encoding of positions")
    add("--multires_views", type=int, default=4, help="octaves of the positional encoding of directions")
    add("--density_activation", default="relu", choices=["relu", "softplus"], help="raw output to density")
    add("--density_bias", type=float, default=0.0, help="added to the raw density before its activation")
    add(
        "--density_scale",
        type=positive(float),
        default=1.0,
        help="density per unit of activated output, 1/world unit",
    )

    group = parser.add_argument_group("tensor field (--model tensorf)")
    add = group.add_argument
    add("--tensor", default="vm", choices=["vm", "cp"], help="planes times lines, or products of three lines")
    add("--density_ranks", type=positive(int), nargs=3, default=[16, 16, 16], help="density components by axis")
    add("--color_ranks", type=positive(int), nargs=3, default=[48, 48, 48], help="colour components by axis")
    add("--color_features", type=positive(int), default=27, help="colour features that the decoder gets")
    add("--feature_octaves", type=int, default=2, help="octaves of the decoder's encoding of these")
    add("--view_octaves", type=int, default=2, help="octaves of the decoder's encoding of directions")
    add("--decoder_width", type=positive(int), default=128, help="channels of the decoder's two hidden layers")
    add("--voxels", type=positive(int), default=128**3, help="voxels of the box that training starts with")
    add("--voxels_final", type=positive(int), default=300**3, help="voxels after the last of --upsample_steps")
    add(
        "--upsample_steps",
        type=positive(int),
        nargs="*",
        default=[2000, 3000, 4000, 5500, 7000],
        help="steps after which planes and lines get finer",
    )
    add("--shrink_step", type=int, default=2000, help="step after which the box shrinks to what is occupied, 0: never")
    add(
        "--filter_rays",
        action="store_true",
        help="draw only rays that meet an occupied cell, found anew when the box or the resolution changes",
    )
    add(
        "--l1_weight",
        type=float,
        nargs=2,
        default=[8e-5, 4e-5],
        help="weight of the mean magnitude of density components, before and after the box has shrunk",
    )
    add(
        "--tv_weight",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        help="weights of the total variation of the planes' density and colour components",
    )

    group = parser.add_argument_group("compression of a tensor field (run_vq.py)")
    add = group.add_argument
    add("--vq_keep", type=float, default=0.7, help="share of all importance whose plane entries are kept as they are")
    add("--vq_prune", type=float, default=0.001, help="share of all importance whose plane entries are left out")
    add(
        "--codebook_size",
        type=positive(int),
        default=1024,
        help="codes of each plane's codebooks; the most, under --target_bytes",
    )
    add("--importance_rays", type=positive(int), default=2**21, help="training rays that importance is measured on")
    add("--target_bytes", type=positive(int), help="bytes the file may have: what is kept, codes and prices follow")
    add("--rate_weight", type=float, default=1e-6, help="loss (mean squared error) per kilobyte of the file")

    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add(
        "--sampler",
        default="hierarchical",
        choices=["hierarchical", "occupancy"],
        help="NeRF's coarse and fine pass, or one network and a grid that skips empty space",
    )
    add("--N_samples", type=positive(int), default=64, help="hierarchical: coarse samples per ray")
    add(
        "--N_importance",
        type=int,
        default=0,
        help="hierarchical: extra fine samples per ray, 0 for no fine network",
    )
    add("--perturb", type=float, default=1.0, help="0 for no jitter of the training samples, 1 for jitter")
    add("--lindisp", action="store_true", help="hierarchical: coarse samples linear in disparity, not depth")
    add("--raw_noise_std", type=float, default=0.0, help="std of the noise added to raw density in training")
    add(
        "--grid_resolution",
        type=positive(int),
        default=96,
        help="occupancy: cells on each side, at most 512",
    )
    add(
        "--march_step",
        type=positive(float),
        default=0.5,
        help="occupancy: distance between samples, in cells",
    )
    add(
        "--grid_interval",
        type=positive(int),
        default=64,
        help="occupancy: training steps between grid updates",
    )
    add(
        "--grid_start",
        type=int,
        default=0,
        help="occupancy: training steps before the first of them, for fields that start out empty",
    )
    add(
        "--grid_threshold",
        type=positive(float),
        default=0.01,
        help="occupancy: a cell is empty below this opacity of one sample",
    )
    add(
        "--min_transmittance",
        type=positive(float),
        default=1e-3,
        help="rendering ends a ray that has less left",
    )

    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--N_iters", type=int, default=200000, help="optimiser steps of the float network")
    add("--N_rand", type=positive(int), default=32 * 32 * 4, help="hierarchical: rays per step")
    add("--samples_per_batch", type=positive(int), default=32768, help="occupancy: network queries per step")
    add(
        "--empty_samples",
        type=int,
        default=0,
        help="occupancy: more queries per step, at points that the grid skips, whose density is driven to zero; "
        "for networks that a renderer without the grid (nerf-pytorch's) is to show",
    )
    add("--no_batching", action="store_true", help="take the rays of a step from one image only")
    add("--precrop_iters", type=int, default=0, help="steps that see only the middle of the images")
    add("--precrop_frac", type=float, default=0.5, help="share of each side that the middle is")
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
    add("--lrate_warmup", type=int, default=0, help="steps of linear warm-up")
    add("--grad_clip", type=float, default=0.0, help="largest gradient norm, 0 for no clipping")
    add(
        "--compile",
        action="store_true",
        help="torch.compile the networks for training; the first steps are slow",
    )
    add(
        "--amp",
        default="off",
        choices=["off", "bf16", "fp16"],
        help="matrix products in 16 bits while training; fp16 (CUDA only) scales the loss",
    )
    add(
        "--lrate_rule",
        default="fixed",
        choices=["fixed", "sqrt", "linear"],
        help="multiply learning rates by (batch / --lrate_batch), by its square root, or not at all",
    )
    add("--lrate_batch", type=positive(int), default=8192, help="network queries per step that --lrate is meant for")
    add("--dist_timeout", type=positive(float), default=300.0, help="seconds after which a torchrun process is lost")

    group = parser.add_argument_group("quantisation (run_nerf_qat.py)")
    add = group.add_argument
    add(
        "--quant",
        default="qat",
        choices=["qat", "ptq", "w4a8", "ternary"],
        help="int8 trained with fake quantisation, or only calibrated; BitNeRF with 4-bit or with ternary weights",
    )
    add(
        "--bit_ends",
        default="int8",
        choices=["int8", "int4", "float", "ternary"],
        help="w4a8, ternary: precision of the first layer and of the two heads",
    )
    add(
        "--bit_ramp",
        type=float,
        default=0.0,
        help="w4a8, ternary: share of the steps over which the weights' rounding grows from none to full",
    )
    add("--no_bit_norm", action="store_true", help="w4a8, ternary: no RMSNorm before hidden layers")
    add("--weight_bits", type=int, default=8, choices=range(2, 9), metavar="{2..8}", help="bits of a weight")
    add(
        "--quant_bits",
        nargs="+",
        default=[],
        metavar="LAYER=BITS",
        help="other bits for the weights of single layers, such as pts_linears.0=8 rgb_linear=8",
    )
    add(
        "--quant_budget",
        type=positive(int),
        help="bytes that the quantised file may have: bits are chosen by layer, by what each one's rounding costs",
    )
    add(
        "--activation_bits",
        type=int,
        default=8,
        choices=range(2, 9),
        metavar="{2..8}",
        help="bits of an activation",
    )
    add(
        "--calibration_batches",
        type=positive(int),
        default=16,
        help="batches that set the first activation ranges",
    )
    add("--qat_iters", type=int, default=20000, help="optimiser steps through the rounding, after --N_iters")
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
        type=float,
        default=0.0,
        help="weight of a loss towards the float model at every sample, fading out; 0 for none (occupancy sampler)",
    )
    add("--qat_freeze", type=float, default=0.75, help="share of these steps after which ranges are frozen")
    add(
        "--export_onnx",
        action="store_true",
        help="write the int8 field as model_int8.onnx too; with --render_only do only that, from the int8 file alone",
    )
    add(
        "--backend",
        default="auto",
        choices=["auto", "torch", "reference", "onednn", "onnxruntime", "triton"],
        help="what executes integers; w4a8 and ternary files know auto, torch, reference and onednn",
    )

    group = parser.add_argument_group("rendering and evaluation")
    add = group.add_argument
    add(
        "--chunk",
        type=positive(int),
        default=1024 * 32,
        help="rays rendered at once, at most",
    )
    add(
        "--render_memory",
        type=positive(int),
        default=1024,
        help="MiB that rendering a picture may take beyond what is loaded; fewer rays at once keep it below",
    )
    add("--netchunk", type=positive(int), default=1024 * 64, help="points per network call; lower it likewise")
    add("--render_only", action="store_true", help="do not train: load what there is and render the path")
    add("--render_test", action="store_true", help="with --render_only: the test views instead of the path")
    add("--benchmark", action="store_true", help="with --render_only: print where a frame's time goes, render nothing")
    add("--render_factor", type=float, default=0, help="render this much smaller, 4 or 8 for a fast preview")
    add("--path_frames", type=int, default=0, help="frames of the video path, 0 for the dataset's own number")

    group = parser.add_argument_group("logging, in steps (0: never)")
    add = group.add_argument
    add("--i_print", type=int, default=100, help="scalars to TensorBoard")
    add("--wandb", default="off", choices=["off", "online", "offline"], help="log to Weights & Biases too (an extra)")
    add("--i_img", type=int, default=500, help="pictures of a held-out view to TensorBoard")
    add("--i_weights", type=int, default=10000, help="checkpoint")
    add("--i_testset", type=int, default=50000, help="all test views, rendered and measured")
    add("--i_video", type=int, default=50000, help="video of the render path")
    return parser
