"""Makes the golden files that are not there yet; see golden/README.md.

python tests/make_golden.py
"""

import importlib
import json
import shutil
import tempfile
from pathlib import Path

import helpers
import imageio.v2 as imageio
from conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"


BASE = [
    "--datadir", "tests/golden/scene", "--dataset_type", "blender", "--testskip", "1", "--white_bkgd",
    "--use_viewdirs", "--netdepth", "3", "--netwidth", "16", "--multires", "3", "--multires_views", "1",
    "--density_activation", "softplus", "--density_bias", "-4", "--density_scale", "25", "--lrate", "1e-2",
    "--N_iters", "20", "--qat_iters", "30", "--calibration_batches", "2", "--path_frames", "1", "--i_img", "0",
    "--i_testset", "0", "--i_video", "0", "--i_weights", "20", "--i_print", "20", "--threads", "1", "--device", "cpu",
]  # fmt: skip
OCCUPANCY = [
    *BASE, "--random_bkgd", "--sampler", "occupancy", "--grid_resolution", "12", "--samples_per_batch", "512",
    "--grid_interval", "8",
]  # fmt: skip
HIERARCHICAL = [
    *BASE, "--N_samples", "8", "--N_importance", "8", "--netdepth_fine", "2", "--netwidth_fine", "16", "--N_rand", "64",
]  # fmt: skip
TENSOR = [
    *OCCUPANCY, "--model", "tensorf", "--density_ranks", "2", "2", "2", "--color_ranks", "3", "3", "3",
    "--color_features", "4", "--decoder_width", "8", "--voxels", "512", "--voxels_final", "1000",
    "--upsample_steps", "8", "--shrink_step", "12",
]  # fmt: skip
PROPOSAL = [
    *BASE, "--sampler", "proposal", "--proposal_bins", "12", "8", "--final_bins", "6", "--proposal_width", "8",
    "--N_rand", "64", "--ray_warp", "reciprocal",
]  # fmt: skip
LIGHT_FIELD = [
    *BASE, "--netdepth", "6", "--grid_resolution", "12", "--samples_per_batch", "128", "--ray_points", "3",
    "--pseudo_views", "4", "--teacher", "tests/golden/int8/model_int8.safetensors",
]  # fmt: skip
FLOAT = ["--N_iters", "30"]
MUON = ["--optimizer", "muon", "--muon_lrate", "0.04"]
RUNS = {
    "float": ("run_nerf", [*OCCUPANCY, *FLOAT, *MUON, "--empty_samples", "64", "--precrop_iters", "10"]),
    "hierarchical": ("run_nerf", [*HIERARCHICAL, *FLOAT, "--raw_noise_std", "1", "--no_batching"]),
    "tensorf_vm": ("run_nerf", [*TENSOR, *FLOAT, "--filter_rays", "--tv_weight", "1", "1"]),
    "tensorf_cp": ("run_nerf", [*TENSOR, *FLOAT, "--tensor", "cp"]),
    "int8": ("run_nerf_qat", [*OCCUPANCY, *MUON, "--distill", "1"]),
    "int8_mixed_bits": ("run_nerf_qat", [*OCCUPANCY, "--quant_bits", "pts_linears.1=4", "rgb_linear=6"]),
    "int8_hierarchical": ("run_nerf_qat", HIERARCHICAL),
    "int8_no_views": ("run_nerf_qat", [*HIERARCHICAL, "--no_use_viewdirs", "--quant_budget", "9000"]),
    "w4a8": ("run_nerf_qat", [*OCCUPANCY, *MUON, "--quant", "w4a8", "--bit_ends", "float", "--amp", "bf16"]),
    "ternary": ("run_nerf_qat", [*OCCUPANCY, *MUON, "--quant", "ternary", "--residual", "--bit_ramp", "0.5"]),
    "mip": ("run_nerf_qat", [*OCCUPANCY, *MUON, "--field", "mip"]),
    "proposal": ("run_nerf_qat", [*PROPOSAL, "--field", "mip", "--mip_directions", "21", "--contract", "on"]),
    "light_field": ("run_r2l", LIGHT_FIELD),
    "vq": ("run_vq", [*TENSOR, "--codebook_size", "8", "--importance_rays", "500", "--vq_keep", "0.5"]),
}
MORE = 10  # steps after the checkpoint


def main() -> None:
    if not (GOLDEN / "scene").exists():
        helpers.write_blender(GOLDEN / "scene", 16, train_views=4, val_views=1, test_views=2)
    for name, (command, flags) in RUNS.items():
        folder = GOLDEN / name
        if not folder.exists():
            make(folder, command, flags)


def make(folder: Path, command: str, flags: list[str]) -> None:
    with tempfile.TemporaryDirectory() as work:
        run = Path(work) / folder.name
        assert helpers.run(importlib.import_module(command), *flags, "--basedir", work, "--expname", folder.name) == 0
        last = sorted(run.glob("*.tar"))[-1]
        steps = int(last.stem) - MORE
        folder.mkdir()
        shutil.copy(run / f"{steps:06d}.tar", folder)
        expected = {"command": command, "flags": flags, "checkpoint": f"{steps:06d}.tar"}
        expected["losses"] = helpers.latest_losses(last)
        for file in sorted(run.glob("*.safetensors")):
            shutil.copy(file, folder)
            imageio.imwrite(folder / f"{file.stem}.png", helpers.picture_of(file))
        (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
