"""run_r2l.py: a teacher's file to a light field at every precision, resumed, by two processes, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import CPU, TINY, fails_cleanly, finish, launch, run, same
from safetensors import safe_open

import run_nerf
import run_nerf_qat
import run_r2l
from deploy.model_file import load_renderer
from rendering.renderer import render_image
from training.checkpoints import load_checkpoint

STUDENT = [
    *TINY, "--no_random_bkgd", "--sampler", "light_field", "--netdepth", "6", "--ray_points", "4",
    "--samples_per_batch", "512",
    "--pseudo_views", "30", "--N_iters", "150", "--qat_iters", "40", "--lrate", "3e-3", "--muon_lrate", "0.02",
    "--i_weights", "50", "--calibration_batches", "4",
]  # fmt: skip
PRECISIONS = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "fake8": "float32", "int8": "int8"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of ours that shows the scene."""
    folder = tmp_path_factory.mktemp("teacher")
    flags = [*TINY, "--N_iters", "250", "--qat_iters", "40", "--basedir", folder, "--expname", "t"]
    assert run(run_nerf_qat, *flags) == 0
    return folder / "t" / "model_int8.safetensors"


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    assert run(run_r2l, *STUDENT, "--teacher", teacher, "--basedir", folder, "--expname", "s") == 0
    return folder / "s"


def models_of(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())["models"]


def test_every_precision_is_a_file_that_renders_alone(student):
    models = models_of(student)
    pictures = {}
    for name, precision in PRECISIONS.items():
        file = student / f"model_{name}.safetensors"
        renderer, path, metadata = load_renderer(file, CPU)
        assert metadata["precision"] == precision and models[name]["bytes"] == file.stat().st_size
        pictures[name] = render_image(renderer, path[0]).rgb
    for name in ("bfloat16", "float16", "int8"):
        assert float((pictures[name] - pictures["float32"]).square().mean().sqrt()) < 0.03
    assert models["bfloat16"]["bytes"] < 0.6 * models["float32"]["bytes"]
    assert models["int8"]["bytes"] < 0.4 * models["float32"]["bytes"]  # of a network so small
    assert models["fake8"]["bytes"] == models["float32"]["bytes"]  # R2L-quant's, which saves nothing


def test_types_in_the_files_are_what_they_say(student):
    for name, kind in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("int8", torch.int8)):
        with safe_open(student / f"model_{name}.safetensors", "pt") as file:
            weights = {file.get_tensor(key).dtype for key in file.keys() if key.endswith(".weight")}  # noqa: SIM118
        assert weights == {kind}


def test_it_is_measured_against_its_teacher_too(student, teacher):
    models = models_of(student)
    assert models["teacher"]["bytes"] == teacher.stat().st_size and "file" not in models["teacher"]
    assert models["float32"]["psnr"] > 18
    assert models["int8"]["teacher_psnr"] > models["int8"]["psnr"] - 1
    assert models["int8"]["psnr"] == pytest.approx(models["fake_quant"]["psnr"], abs=0.1)


def test_one_file_holds_what_the_teacher_shows(student):
    assert np.load(student / "taught.npy", mmap_mode="r").shape == (30, 24, 24, 4)
    assert len(list(student.glob("taught*"))) == 2


def test_resume_is_bit_for_bit(student, teacher, tmp_path):
    """From a checkpoint of each phase, with the pictures at hand and without."""
    for step, keeps in ((100, True), (150, False)):
        folder = tmp_path / str(step) / "s"
        folder.mkdir(parents=True)
        for file in (f"{step:06d}.tar", *(("taught.npy", "taught.json") if keeps else ())):
            shutil.copy(student / file, folder)
        assert run(run_r2l, *STUDENT, "--teacher", teacher, "--basedir", folder.parent, "--expname", "s") == 0
        whole, resumed = (load_checkpoint(place / "000190.tar") for place in (student, folder))
        assert same(whole["network_fn_state_dict"], resumed["network_fn_state_dict"])
        assert (folder / "model_int8.safetensors").read_bytes() == (student / "model_int8.safetensors").read_bytes()


def test_render_only(student, capsys):
    flags = [*STUDENT, "--basedir", student.parent, "--expname", "s", "--render_only"]
    assert run(run_r2l, *flags, "--render_test") == 0
    assert "PSNR" in capsys.readouterr().out and (student / "renderonly_test_000190" / "000.png").is_file()
    assert run(run_nerf_qat, *flags, "--model", student / "model_bfloat16.safetensors") == 0  # any command's


def test_another_teacher_does_not_go_on(student, teacher, tmp_path, capsys):
    shutil.copytree(student, tmp_path / "s")
    other = tmp_path / "other.safetensors"
    shutil.copy(teacher.with_name("model_float32.safetensors"), other)
    flags = [*STUDENT, "--basedir", tmp_path, "--expname", "s"]
    fails_cleanly(capsys, run_r2l, *flags, "--teacher", other, says=("--teacher", "--expname"))
    fails_cleanly(capsys, run_r2l, *flags, "--teacher", teacher, "--ray_points", "5", says=("--ray_points",))


def test_by_two_processes(teacher, tmp_path):
    flags = [*STUDENT, "--teacher", teacher, "--basedir", tmp_path, "--expname", "two", "--N_iters", "60"]
    status, out, err = finish(launch(2, "run_r2l.py", *flags, "--qat_iters", "20"))
    assert status == 0, err
    assert out.count("results are in") == 1
    assert models_of(tmp_path / "two")["int8"]["psnr"] > 14


def test_other_students(teacher, tmp_path):
    """Places from near to far, hard rays, calibration only, a stream of codes, fewer bits, a budget."""
    for name, flags in {
        "even": ["--ray_span", "near_far", "--N_rand", "256", "--no_use_viewdirs"],
        "hard": ["--hard_rays", "0.2", "--quant", "ptq"],
        "codes": ["--rounded_stream", "--real", "0", "--export_onnx"],
        "bits": ["--weight_bits", "6", "--quant_bits", "tail=8"],
        "budget": ["--quant_budget", "12500"],
    }.items():
        short = [*STUDENT, *flags, "--N_iters", "40", "--qat_iters", "10", "--basedir", tmp_path, "--expname", name]
        assert run(run_r2l, *short, "--teacher", teacher) == 0
        models = models_of(tmp_path / name)
        assert models["int8"]["psnr"] == pytest.approx(models["float32"]["psnr"], abs=1.0)
    assert models["int8"]["bytes"] < 12_500
    assert (tmp_path / "codes" / "model_int8.onnx").is_file()


def test_what_it_refuses(teacher, tmp_path, capsys):
    flags = [*STUDENT, "--basedir", tmp_path, "--N_iters", "2"]
    fails_cleanly(capsys, run_r2l, *flags, says=("--teacher FILE",))
    taught = [*flags, "--teacher", teacher]
    fails_cleanly(capsys, run_r2l, *flags, "--teacher", tmp_path / "none.safetensors", says=("none.safetensors",))
    fails_cleanly(capsys, run_r2l, *taught, "--field", "nerf", says=("--field nerf", "light_field"))
    fails_cleanly(capsys, run_r2l, *taught, "--real", "1.5", says=("--real", "1.5"))
    fails_cleanly(capsys, run_r2l, *taught, "--hard_rays", "-1", says=("--hard_rays", "-1"))
    fails_cleanly(capsys, run_r2l, *taught, "--random_bkgd", says=("--random_bkgd",))
    fails_cleanly(capsys, run_r2l, *taught, "--scales", "1", "2", says=("--scales",))
    fails_cleanly(capsys, run_r2l, *taught, "--quant", "w4a8", says=("--quant w4a8",))
    fails_cleanly(capsys, run_r2l, *taught, "--ray_points", "300", says=("--ray_points 300", "256"))
    fails_cleanly(capsys, run_r2l, *taught, "--netdepth", "5", says=("--netdepth 5",))
    fails_cleanly(capsys, run_r2l, *taught, "--multires", "0", says=("--multires 0",))
    fails_cleanly(capsys, run_nerf_qat, *flags, "--sampler", "light_field", says=("--field light_field",))
    fails_cleanly(capsys, run_nerf_qat, *flags, "--field", "light_field", says=("--field light_field", "run_r2l.py"))
    fails_cleanly(capsys, run_nerf, *TINY, "--field", "light_field", says=("--sampler light_field",))
