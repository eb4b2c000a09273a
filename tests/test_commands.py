"""The run scripts as a user meets them: whole runs, what they leave, and one-line errors."""

import errno
import json
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from helpers import HIERARCHICAL, SHORT, TINY, fails_cleanly, run

import run_nerf
import run_nerf_qat
from fields.nerf import FieldConfig
from options import config_parser
from run_nerf_helpers import NeRF
from training.checkpoints import load_checkpoint, save_checkpoint
from utils import files


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole short run of run_nerf_qat.py."""
    base = tmp_path_factory.mktemp("runs")
    assert run(run_nerf_qat, *TINY, *SHORT, "--basedir", base, "--expname", "done") == 0
    return base / "done"


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "args.txt", "000010.tar", "000020.tar", "000030.tar", "000040.tar", "metrics.json", "strip.png",
        "model_float32.safetensors", "model_int8.safetensors", "model_int8_ptq.safetensors",
        "done_spiral_000040_rgb.mp4", "done_spiral_000040_disp.mp4", "testset_000040", "tensorboard",
    } <= names  # fmt: skip
    metrics = json.loads((finished / "metrics.json").read_text())
    assert list(metrics["models"]) == ["float32", "int8_ptq", "fake_quant", "int8"]
    assert metrics["train"]["steps"] == 40 and metrics["train"]["rays"] > 0
    for entry in metrics["models"].values():
        assert np.isfinite(entry["psnr"]) and entry["views"] == 10
        if entry.get("file"):
            assert entry["bytes"] == (finished / entry["file"]).stat().st_size
    video = imageio.get_reader(finished / "done_spiral_000040_rgb.mp4")
    assert sum(1 for _ in video) == 2
    assert imageio.imread(finished / "testset_000040" / "009.png").shape == (24, 24, 3)
    strip = imageio.imread(finished / "strip.png")
    assert strip.shape[1] == 5 * 300  # truth, float, int8, depth, normals


def test_the_measured_psnr_is_that_of_the_written_pictures(finished):
    from evaluation.measures import psnr
    from load_scene import load_scene
    from run_nerf_helpers import to8b

    scene = load_scene(config_parser().parse_args(TINY))
    values = []
    for i, view in enumerate(scene.splits["test"]):
        image = torch.tensor(imageio.imread(finished / "testset_000040" / f"{i:03d}.png"))
        target = to8b(scene.target(torch.tensor([view]))[0])
        values.append(psnr(image / 255, target / 255))
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["models"]["int8"]["psnr"] == pytest.approx(np.mean(values), abs=1e-3)


def test_render_only_needs_the_file_alone(finished, tmp_path, capsys):
    alone = tmp_path / "lone.safetensors"
    shutil.copy(finished / "model_int8.safetensors", alone)
    status = run(
        run_nerf_qat, "--render_only", "--model", alone, "--basedir", tmp_path, "--expname", "elsewhere",
        "--datadir", tmp_path / "no_such_data", "--dataset_type", "blender",
    )  # fmt: skip
    assert status == 0
    assert (tmp_path / "elsewhere" / "renderonly_path_000000" / "video_rgb.mp4").stat().st_size > 0
    assert "backend" in capsys.readouterr().out


def test_render_test_measures_what_the_run_measured(finished, capsys):
    assert (
        run(
            run_nerf_qat,
            *TINY,
            "--basedir",
            finished.parent,
            "--expname",
            "done",
            "--render_only",
            "--render_test",
        )
        == 0
    )
    metrics = json.loads((finished / "metrics.json").read_text())
    assert f"{metrics['models']['int8']['psnr']:.2f}" in capsys.readouterr().out
    assert len(list((finished / "renderonly_test_000040").glob("*.png"))) == 10


def test_ptq_skips_the_training(tmp_path, capsys):
    flags = [*TINY, "--basedir", tmp_path, "--N_iters", "20", "--quant", "ptq"]
    assert run(run_nerf_qat, *flags) == 0
    metrics = json.loads((tmp_path / "nerf" / "metrics.json").read_text())
    assert list(metrics["models"]) == ["float32", "int8_ptq", "int8"] and metrics["train"]["steps"] == 20
    assert metrics["models"]["int8"]["psnr"] == metrics["models"]["int8_ptq"]["psnr"]


def test_qat_from_a_float_checkpoint_and_both_networks(tmp_path):
    flags = [*HIERARCHICAL, "--use_viewdirs", "--basedir", tmp_path, "--chunk", "2048"]
    assert run(run_nerf, *flags, "--expname", "float", "--N_iters", "20") == 0
    checkpoint = tmp_path / "float" / "000020.tar"
    assert run(run_nerf_qat, *flags, "--expname", "qat", "--ft_path", checkpoint, "--qat_iters", "6") == 0
    metrics = json.loads((tmp_path / "qat" / "metrics.json").read_text())
    assert metrics["train"]["steps"] == 6
    float_metrics = json.loads((tmp_path / "float" / "metrics.json").read_text())
    assert metrics["models"]["float32"]["psnr"] == pytest.approx(float_metrics["models"]["float32"]["psnr"])
    import safetensors

    with safetensors.safe_open(tmp_path / "qat" / "model_int8.safetensors", framework="pt") as file:
        assert str(file.get_tensor("network_fine.pts_linears.1.weight").dtype) == "torch.int8"


def test_plot_cameras(tmp_path):
    assert run(run_nerf, *TINY, "--basedir", tmp_path, "--plot_cameras") == 0
    picture = imageio.imread(tmp_path / "nerf" / "cameras.png")
    assert picture.std() > 5


# ------------------------------------------------------------------------------ nerf-pytorch's files


def nerf_pytorch_checkpoint(path, width: int = 16) -> dict:
    """What nerf-pytorch's run_nerf.py writes: no digest, no extra keys."""
    torch.manual_seed(3)
    config = FieldConfig(depth=2, width=width, multires=3, use_viewdirs=False, output_ch=5)
    networks = {name: config.make_network(NeRF) for name in ("network_fn", "network_fine")}
    parameters = [p for network in networks.values() for p in network.parameters()]
    state = {"global_step": 7, "optimizer_state_dict": torch.optim.Adam(parameters).state_dict()}
    state |= {f"{name}_state_dict": network.state_dict() for name, network in networks.items()}
    torch.save(state, path)
    return state


def test_a_nerf_pytorch_checkpoint_loads_and_renders(tmp_path):
    (tmp_path / "theirs").mkdir()
    nerf_pytorch_checkpoint(tmp_path / "theirs" / "000007.tar")
    flags = [*HIERARCHICAL, "--basedir", tmp_path, "--expname", "theirs", "--corner_rays"]
    assert run(run_nerf, *flags, "--render_only") == 0
    assert (tmp_path / "theirs" / "renderonly_path_000007" / "video_rgb.mp4").exists()
    assert run(run_nerf, *flags, "--N_iters", "9") == 0  # and training goes on from it
    ours = load_checkpoint(tmp_path / "theirs" / "000009.tar")
    theirs = load_checkpoint(tmp_path / "theirs" / "000007.tar")
    assert set(theirs) <= set(ours)
    assert {k: v.shape for k, v in ours["network_fine_state_dict"].items()} == {
        k: v.shape for k, v in theirs["network_fine_state_dict"].items()
    }
    groups = [state["optimizer_state_dict"]["param_groups"][0]["params"] for state in (ours, theirs)]
    assert groups[0] == groups[1]


# --------------------------------------------------------------------------------------- bad input


def test_checkpoint_of_another_architecture(tmp_path, capsys):
    nerf_pytorch_checkpoint(tmp_path / "000007.tar", width=32)
    fails_cleanly(
        capsys, run_nerf, *HIERARCHICAL, "--basedir", tmp_path, "--ft_path", tmp_path / "000007.tar",
        says=("000007.tar", "(32, 21)", "(16, 21)"),
    )  # fmt: skip


def test_float_command_in_a_quantised_run(finished, capsys):
    fails_cleanly(capsys, run_nerf, *TINY, "--basedir", finished.parent, "--expname", "done", says=("run_nerf_qat.py",))


def test_broken_newest_checkpoint_falls_back(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    newest = folder / "000040.tar"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(run_nerf_qat, *TINY, *SHORT, "--basedir", tmp_path, "--expname", "copy") == 0
    assert "000040.tar" in capsys.readouterr().out
    assert load_checkpoint(newest)["global_step"] == 40
    for name in ("model_int8.safetensors",):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing"])
def test_broken_int8_file(finished, tmp_path, capsys, damage):
    path = tmp_path / "m.safetensors"
    content = bytearray((finished / "model_int8.safetensors").read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage != "missing":
        path.write_bytes(content[:-100] if damage == "truncate" else content)
    fails_cleanly(capsys, run_nerf_qat, "--render_only", "--model", path, says=("m.safetensors",))


def test_disk_that_fills_up_while_saving(finished, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "full"
    shutil.copytree(finished, folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    fails_cleanly(
        capsys, run_nerf_qat, *TINY, "--N_iters", "30", "--qat_iters", "40", "--i_weights", "10", "--basedir",
        tmp_path, "--expname", "full", says=("No space left",),
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == before


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--datadir", "nowhere"], ("nowhere", "no such data folder")),
        (["--dataset_type", "blender"], ("--datadir",)),
        (["--dataset_type", "deepvoxels"], ("deepvoxels", "not supported")),
        (["--near", "5", "--far", "4"], ("--near 5", "--far 4")),
        (["--aabb", "0", "0", "0", "1", "0", "1"], ("--aabb",)),
        (["--aabb", "5", "5", "5", "6", "6", "6"], ("silhouettes", "--plot_cameras")),
        (["--device", "cuda:99"], ("--device cuda:99",)),
        (["--netwdith", "3"], ("--netwdith", "--netwidth")),
        (["--N_rand", "x"], ("--N_rand", "x")),
    ],
)
def test_wrong_flags(tmp_path, capsys, flags, says):
    fails_cleanly(capsys, run_nerf_qat, *TINY, "--basedir", tmp_path, *flags, says=says)


def test_empty_data_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    fails_cleanly(
        capsys, run_nerf, "--datadir", tmp_path / "empty", "--basedir", tmp_path,
        says=("empty", "transforms_train.json", "poses_bounds.npy"),
    )  # fmt: skip


def test_render_only_without_a_checkpoint(tmp_path, capsys):
    fails_cleanly(capsys, run_nerf, *TINY, "--basedir", tmp_path, "--render_only", says=("no checkpoint",))


def test_resume_with_other_encoding_is_another_architecture(finished, capsys):
    fails_cleanly(
        capsys, run_nerf_qat, *TINY, *SHORT, "--multires", "5", "--basedir", finished.parent, "--expname", "done",
        says=("another architecture", "flags"),
    )  # fmt: skip


def test_a_checkpoint_remembers_its_ray_convention(finished, capsys):
    fails_cleanly(
        capsys, run_nerf_qat, *TINY, *SHORT, "--corner_rays", "--basedir", finished.parent, "--expname", "done",
        says=("corner_rays",),
    )  # fmt: skip


def test_unwritable_state_is_not_half_a_checkpoint(tmp_path):
    with pytest.raises(AttributeError):
        save_checkpoint(tmp_path / "000001.tar", {"network_fn_state_dict": (lambda: 0).missing})
    assert not list(tmp_path.iterdir())


def test_export_onnx_needs_the_int8_file_only(finished, tmp_path, capsys):
    model = tmp_path / "alone.safetensors"
    shutil.copyfile(finished / "model_int8.safetensors", model)
    assert run(run_nerf_qat, "--render_only", "--export_onnx", "--model", model, "--basedir", tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"alone.safetensors", "alone.onnx"}
    assert f"{(tmp_path / 'alone.onnx').stat().st_size} bytes" in capsys.readouterr().out
    shutil.copyfile(finished / "model_float32.safetensors", model)
    fails_cleanly(
        capsys, run_nerf_qat, "--render_only", "--export_onnx", "--model", model, "--basedir", tmp_path,
        says=("alone.safetensors", "int8"),
    )  # fmt: skip


@pytest.mark.parametrize("quant, name", [("ptq", "int8"), ("ternary", "ternary"), ("w4a8", "w4a8")])
def test_a_run_exports_and_notes_the_onnx_bytes(tmp_path, quant, name):
    flags = ["--quant", quant, "--N_iters", "4", "--qat_iters", "2", "--i_weights", "0", "--testskip", "8"]
    flags += ["--export_onnx", "--backend", "onnxruntime"]
    assert run(run_nerf_qat, *TINY, *flags, "--basedir", tmp_path, "--expname", "run") == 0
    entry = json.loads((tmp_path / "run" / "metrics.json").read_text())["models"][name]
    assert entry["onnx_bytes"] == (tmp_path / "run" / f"model_{name}.onnx").stat().st_size
    assert entry["backend"] == "onnxruntime"


def test_backends_render_the_same_test_views(finished):
    """The whole way through the command, on every backend that runs here."""
    pictures = {}
    for backend in ("reference", "torch", "onnxruntime", "auto"):
        flags = ["--render_only", "--render_test", "--backend", backend]
        assert run(run_nerf_qat, *TINY, *flags, "--basedir", finished.parent, "--expname", finished.name) == 0
        pictures[backend] = imageio.imread(finished / "renderonly_test_000040" / "003.png").astype(int)
    for backend, picture in pictures.items():
        assert np.abs(picture - pictures["reference"]).max() <= 2, backend


def test_onnxruntime_missing_is_one_clear_line(finished, capsys, monkeypatch):
    monkeypatch.setattr("deploy.backends.choose.find_spec", lambda name: None)
    fails_cleanly(
        capsys, run_nerf_qat, *TINY, "--render_only", "--backend", "onnxruntime", "--basedir", finished.parent,
        "--expname", finished.name, says=("onnxruntime", "requirements-onnx.txt"),
    )  # fmt: skip


def test_benchmark_prints_where_the_time_goes(finished, capsys):
    flags = ["--render_only", "--benchmark", "--basedir", finished.parent, "--expname", finished.name]
    assert run(run_nerf_qat, *TINY, *flags) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.endswith("%")}
    shares = {stage: int(line.split()[-1].rstrip("%")) for stage, line in lines.items()}
    assert set(shares) == {"traversal", "encoding", "network", "compositing", "the"}
    assert 97 <= sum(shares.values()) <= 103 and shares["network"] > 0 and shares["traversal"] > 0
