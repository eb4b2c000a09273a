"""What is logged while training, to TensorBoard and to Weights & Biases; GPU power where there is a GPU."""

import sys
from importlib.util import find_spec

import pytest
import torch
from helpers import TINY, fails_cleanly, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_nerf
from training import run_log

LOGGED = [*TINY, "--N_iters", "40", "--i_print", "20", "--i_img", "40", "--grad_clip", "0.5", "--empty_samples", "64"]
LOGGED[LOGGED.index("--i_img") + 1] = "40"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    assert run(run_nerf, *LOGGED, "--basedir", folder, "--expname", "run") == 0
    events = EventAccumulator(str(folder / "run" / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def test_scalars_are_logged_at_every_interval(logged):
    names = "train/mse", "train/psnr", "train/gradient_norm", "train/rays_per_second", "train/empty_space"
    for name in (*names, "grid/occupied"):
        assert [event.step for event in logged.Scalars(name)] == [20, 40], name
    mse, psnr = (logged.Scalars(name)[-1].value for name in ("train/mse", "train/psnr"))
    assert psnr == pytest.approx(-10 * torch.log10(torch.tensor(mse)).item(), abs=1e-3)
    assert all(0 < event.value < 100 for event in logged.Scalars("train/gradient_norm"))


def test_pictures_are_logged(logged):
    assert set(logged.Tags()["images"]) == {"view/rgb", "view/depth", "view/normals", "view/opacity", "view/error"}


def test_gpu_power(monkeypatch):
    assert run_log.gpu_watts(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 61_500)
    assert run_log.gpu_watts(torch.device("cuda", 0)) == 61.5

    def missing(device):
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "power_draw", missing)
    assert run_log.gpu_watts(torch.device("cuda", 0)) is None


def test_wandb_that_is_not_installed_is_one_clear_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_log, "find_spec", lambda name: None)
    fails_cleanly(
        capsys, run_nerf, *LOGGED, "--wandb", "offline", "--basedir", tmp_path,
        says=("--wandb offline", "requirements-logging.txt"),
    )  # fmt: skip


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb_offline_leaves_a_run(tmp_path):
    try:
        assert run(run_nerf, *LOGGED, "--wandb", "offline", "--basedir", tmp_path, "--expname", "a run") == 0
    finally:
        sys.modules["wandb"].teardown()
    (record,) = (tmp_path / "a run" / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    assert b"train/gradient_norm" in content and b"view/depth" in content
