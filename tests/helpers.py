"""What many tests need: flags of tiny runs, trainers, commands and what they say, made-up inputs."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
import torch.nn.functional as F
from conftest import ROOT

import experiment
from compressors.compressor import Compressor
from deploy.backends.int8 import Int8Network
from deploy.model_file import load_renderer
from deploy.nerf_file import int8_tensors
from experiment import float_phase, make_renderer, trains_in_float
from fields.nerf import FieldConfig, RadianceField
from load_procedural import load_procedural_scene
from load_scene import load_scene
from options import config_parser
from rendering.points import Points
from rendering.renderer import Renderer, render_image
from run_nerf_helpers import NeRF_qat, to8b
from scenes.scene import Scene
from training.batches import BatchSettings, RayBatches
from training.checkpoints import load_checkpoint
from training.exposure import Exposure
from training.trainer import Trainer
from utils.errors import exit_cleanly

CPU = torch.device("cpu")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]

# ----------------------------------------------------------------------------------- flags of runs

TINY = [
    "--procedural_size", "24", "--white_bkgd", "--random_bkgd", "--use_viewdirs", "--netdepth", "2",
    "--netwidth", "32", "--multires", "4", "--multires_views", "2", "--density_activation", "softplus",
    "--density_bias", "-4", "--density_scale", "25", "--sampler", "occupancy", "--grid_resolution", "24",
    "--samples_per_batch", "1024", "--grid_interval", "8", "--optimizer", "muon", "--lrate", "5e-3",
    "--muon_lrate", "0.04", "--lrate_decay", "0.5", "--i_img", "0", "--i_testset", "0", "--i_video", "0",
    "--path_frames", "2", "--threads", "1",
]  # fmt: skip
HIERARCHICAL = [
    "--procedural_size", "24", "--white_bkgd", "--netdepth", "2", "--netwidth", "16", "--netdepth_fine", "2",
    "--netwidth_fine", "16", "--multires", "3", "--N_samples", "8", "--N_importance", "8", "--N_rand", "64",
    "--raw_noise_std", "1", "--i_img", "0", "--i_testset", "0", "--i_video", "0", "--path_frames", "2",
    "--no_batching", "--precrop_iters", "6", "--threads", "1",
]  # fmt: skip
SHORT = ["--N_iters", "30", "--qat_iters", "10", "--i_weights", "10"]
SMALL_TENSOR = [
    "--density_ranks", "1", "1", "1", "--color_ranks", "2", "2", "2", "--decoder_width", "4", "--voxels", "512",
    "--color_features", "3", "--codebook_size", "4", "--vq_keep", "0.4",
]  # fmt: skip
TENSOR_BOX = torch.tensor([[-1.0, -0.5, 0.0], [1.0, 1.5, 3.0]])

# ---------------------------------------------------------------------------------- parts of runs


def make_run(flags: list[str], *more: str) -> tuple[argparse.Namespace, Scene, torch.nn.Module]:
    """The flags, scene and untrained renderer of a run."""
    args = config_parser().parse_args([*flags, *more])
    scene = load_scene(args)
    return args, scene, make_renderer(args, scene, CPU, NeRF_qat)


def make_trainer(scene, folder: Path, flags: list[str], *more: str) -> Trainer:
    """A trainer of a scene's float phase on the CPU."""
    args = config_parser().parse_args([*flags, *more])
    renderer, exposure = make_renderer(args, scene, CPU), Exposure.from_flags(args, scene, CPU)
    run = experiment.Run(args, scene, folder, renderer, None, exposure)
    return experiment.make_trainer(run, float_phase(args))


def calibrated(kind: type[Compressor], args: argparse.Namespace, scene: Scene, renderer: Renderer) -> Compressor:
    """A compressor of the flags whose renderer rounds, as before the first step through the rounding."""
    compressor = kind.from_flags(args, renderer, scene.render_path, trains_in_float(args))
    compressor.prepare()
    compressor.calibrate(RayBatches(BatchSettings.from_flags(args), scene, renderer.device))
    return compressor


def same(a, b) -> bool:
    """Whether nested tables, lists and tensors are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def latest_losses(checkpoint: Path) -> list[float]:
    """The loss of each step since the last multiple of 20, as a checkpoint remembers them."""
    return load_checkpoint(checkpoint)["trainer"]["recent"].tolist()


def picture_of(model: Path) -> np.ndarray:
    """What a model file renders from the first camera of its path, uint8 `[H, W, 3]`."""
    renderer, path, _ = load_renderer(model, CPU)
    return to8b(render_image(renderer, path[0]).rgb).numpy()


# ---------------------------------------------------------------------------------------- commands


def run(module, *flags: object) -> int:
    """Exit status of a run script."""
    words = [str(flag) for flag in flags]
    try:
        return exit_cleanly(lambda: module.main(words))
    except SystemExit as stop:  # argparse ends the process itself
        return stop.code


def fails_cleanly(capsys, module, *flags: object, says: tuple[str, ...], status: int = 2) -> None:
    """Asserts that a run script ends with a status and one line that says all of `says`."""
    capsys.readouterr()
    assert run(module, *flags) == status
    error = capsys.readouterr().err.split("\r")[-1].strip().split("\n")[-1]
    assert "error: " in error and all(word in error for word in says), error
    assert "Traceback" not in error


def launch(processes: int, script: str, *flags: object, **options) -> subprocess.Popen:
    """A script under torchrun, in so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*LAUNCH, str(processes), "--master_port", str(port), script, *map(str, flags)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen, timeout: float = 180) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


# ----------------------------------------------------------------------------------------- inputs


def write_blender(folder: Path, size: int, train_views: int, val_views: int, test_views: int) -> None:
    """The built-in still life as a Blender folder, of `size` pixels on each side."""
    scene = load_procedural_scene(size, train_views=train_views, val_views=val_views, test_views=test_views)
    for split, views in scene.splits.items():
        frames = []
        for view in views:
            path = folder / split / f"r_{view}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            imageio.imwrite(path, scene.images[view].numpy())
            pose = [*scene.cameras.c2w[view].tolist(), [0, 0, 0, 1]]
            frames.append({"file_path": f"./{split}/r_{view}", "transform_matrix": pose})
        content = {"camera_angle_x": 0.7, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))


def seen_by(cameras, i: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of world points in a scene's camera."""
    c2w, K = cameras.c2w[i].double().numpy(), cameras.K[i].double().numpy()
    x, y, z = ((points - c2w[:, 3]) @ c2w[:, :3]).T
    return K[0, 2] - K[0, 0] * x / z, K[1, 2] + K[1, 1] * y / z


def points_in_box(count: int = 200, box: torch.Tensor = TENSOR_BOX) -> Points:
    """Random positions inside a box, and unit directions."""
    generator = torch.Generator().manual_seed(3)
    positions = box[0] + torch.rand(count, 3, generator=generator) * (box[1] - box[0])
    return Points(positions, F.normalize(torch.randn(count, 3, generator=generator), dim=-1))


def random_int8_field(config: FieldConfig, bits: int = 8, seed: int = 0) -> RadianceField:
    """A field of random integers, with scales that keep every layer inside its range."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (dtype, shape) in int8_tensors(config).items():
        if dtype == torch.int8:
            state[name] = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
        elif name.endswith("output_zero_point"):
            relu = name.startswith(("pts_", "views_"))
            state[name] = torch.tensor(0 if relu else 2 ** (bits - 1), dtype=torch.uint8)
        elif name.endswith("output_scale"):
            state[name] = torch.tensor(2.0 / (2**bits - 1))
        elif name.endswith(".scale"):
            fan_in = int8_tensors(config)[name.replace(".scale", ".weight")][1][1]
            state[name] = (0.5 + torch.rand(shape, generator=generator)) * 1.5 / (74 * fan_in**0.5 * 2 ** (bits - 1))
        else:
            state[name] = 0.1 * torch.randn(shape, generator=generator)
    return config.make_field(Int8Network(config.graph, config.input_widths, state, bits))


def whole_and_resumed(scene, folder: Path, flags) -> tuple[dict, dict]:
    """The checkpoints of 14 steps in one go, and of 9 and then 5 after a resume."""
    whole = make_trainer(scene, folder / "whole", flags)
    whole.train(14)
    first = make_trainer(scene, folder / "parts", flags)
    first.train(9)
    second = make_trainer(scene, folder / "parts", flags)
    second.load_state_dict(load_checkpoint(folder / "parts" / "000009.tar"))
    second.train(14)
    whole, parts = (load_checkpoint(folder / name / "000014.tar") for name in ("whole", "parts"))
    return whole, parts
