"""Short trainings on the real lego and fern, through the command a user types."""

import json
from pathlib import Path

from conftest import ROOT

import run_nerf_qat
from load_nerfstudio import load_nerfstudio_scene

SHORT = ["--i_weights", "0", "--i_img", "0", "--path_frames", "2"]


def train(config: str, datadir: Path, basedir: Path, *flags: str) -> dict:
    """A run of one of our configs, shortened; returns its metrics.json."""
    words = ["--config", str(ROOT / "configs" / config), "--datadir", str(datadir), "--basedir", str(basedir)]
    run_nerf_qat.main([*words, *SHORT, *flags])
    (path,) = basedir.glob("*/metrics.json")
    return json.loads(path.read_text())


def check(metrics: dict, floor: float) -> None:
    models = metrics["models"]
    assert models["float32"]["psnr"] > floor
    assert models["int8_ptq"]["psnr"] > models["float32"]["psnr"] - 0.15
    assert models["int8"]["psnr"] > models["float32"]["psnr"] - 0.05
    assert abs(models["int8"]["psnr"] - models["fake_quant"]["psnr"]) < 0.02
    assert models["int8"]["bytes"] < 0.45 * models["float32"]["bytes"]


def test_lego_learns_in_seconds(lego_dir, tmp_path):
    flags = ["--N_iters", "300", "--lrate_decay", "0.3", "--qat_iters", "80", "--testskip", "64"]
    check(train("lego_cpu_qat.txt", lego_dir, tmp_path, *flags), floor=20.5)


def test_fern_learns_in_seconds(fern_dir, tmp_path):
    """NDC, no alpha, and a grid that is learnt."""
    flags = ["--N_iters", "300", "--lrate_decay", "0.3", "--qat_iters", "60", "--factor", "32", "--llffhold", "10"]
    check(train("fern_cpu_qat.txt", fern_dir, tmp_path, "--samples_per_batch", "8192", *flags), floor=18)


def test_the_fox_begins_where_its_photographs_say(fox_dir):
    """Near is 1.02 by the points that COLMAP finds for the same photographs, and 0.4 by where they were taken."""
    scene = load_nerfstudio_scene(str(fox_dir), factor=8)
    assert 0.9 < scene.near < 1.1
    assert any("points that photographs show alike" in note for note in scene.notes)
