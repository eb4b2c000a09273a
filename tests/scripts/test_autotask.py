"""scripts/autotask.py on a small data set, trained for real, and its workers on commands that are not."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import pytest
from conftest import ROOT
from helpers import TINY, fails_cleanly, run, write_blender

sys.path.insert(0, str(ROOT / "scripts"))

import autotask
import measure_models

from scripts.jobs import Job

CONFIG_FLAGS = [*TINY, "--testskip", "1", "--N_iters", "6", "--i_weights", "3", "--quant", "ptq"]


def write_config(path: Path, flags: list[str]) -> Path:
    """Flags as a config file."""
    lines: list[str] = []
    for word in flags:
        if word.startswith("--"):
            lines.append(f"{word[2:]} = True")
        else:
            lines[-1] = lines[-1].replace("= True", f"= {word}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A config, and a data set of two scenes, one that is broken, and a folder that is no scene."""
    folder = tmp_path_factory.mktemp("data")
    root = folder / "set"
    write_blender(root / "chair", 24, train_views=8, val_views=0, test_views=2)
    write_blender(root / "ship", 24, train_views=9, val_views=0, test_views=2)
    (root / "broken").mkdir()
    (root / "broken" / "transforms_train.json").write_text("{}")
    (root / "pictures").mkdir()
    return write_config(folder / "tiny.txt", CONFIG_FLAGS), root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The whole data set trained, its flags, and the exit status."""
    config, root = data
    basedir = tmp_path_factory.mktemp("runs") / "set"
    flags = ["--config", config, "--dataset_root", root, "--basedir", basedir]
    return basedir, flags, run(autotask, *flags, "--workers", "2")


def metrics_of(basedir: Path, scene: str, name: str = "metrics.json") -> dict:
    return json.loads((basedir / scene / name).read_text())


def csv_rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def plans_of(monkeypatch, *flags: object) -> list[Job]:
    """The jobs that a command would run, none of which is run."""
    jobs: list[Job] = []

    def plan(given, slots):
        jobs.extend(given)
        yield from ()

    monkeypatch.setattr(autotask, "run_here", plan)
    assert run(autotask, *flags) == 0
    return jobs


# ---------------------------------------------------------------------------------- a whole data set


def test_good_scenes_are_trained_and_the_failing_one_is_reported(trained):
    basedir, _, status = trained
    assert status == 1
    assert {path.name for path in basedir.iterdir()} >= {"autotask.md", "autotask.csv", "chair.log", "broken.log"}
    assert "camera_angle_x" in (basedir / "broken.log").read_text()
    chair, ship, mean = csv_rows(basedir / "autotask.csv")
    assert (chair["scene"], ship["scene"], mean["scene"]) == ("chair", "ship", "mean of 2")
    for row in (chair, ship):
        measured = metrics_of(basedir, row["scene"])
        assert row["model"] == "int8"
        assert float(row["raw_psnr"]) == measured["models"]["float32"]["psnr"]
        assert float(row["psnr"]) == measured["models"]["int8"]["psnr"]
        assert int(row["bytes"]) == (basedir / row["scene"] / "model_int8.safetensors").stat().st_size
        assert float(row["minutes"]) == measured["train"]["seconds"] / 60
        log = (basedir / f"{row['scene']}.log").read_bytes()
        assert b"float: step 6 of 6, PSNR " in log and b"\r" not in log
    for key in ("raw_psnr", "psnr", "raw_bytes", "bytes", "minutes", "ssim"):
        assert float(mean[key]) == pytest.approx((float(chair[key]) + float(ship[key])) / 2)
    page = (basedir / "autotask.md").read_text()
    assert "| mean of 2 | int8 |" in page and "failed: broken" in page


def test_the_plot_is_drawn(trained):
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    assert imageio.imread(trained[0] / "autotask.png").std() > 5


def test_finished_scenes_are_left_alone_and_failed_ones_tried_again(trained, capsys):
    basedir, flags, _ = trained
    before = {scene: (basedir / scene / "metrics.json").stat().st_mtime_ns for scene in ("chair", "ship")}
    capsys.readouterr()
    assert run(autotask, *flags) == 1
    printed = capsys.readouterr()
    assert "finished before: chair ship" in printed.out and "broken failed: exit status 2" in printed.out
    assert "    error: " in printed.out and "camera_angle_x" in printed.out
    assert "error: 1 of 3 scenes failed: broken" in printed.err
    assert {scene: (basedir / scene / "metrics.json").stat().st_mtime_ns for scene in before} == before


def test_another_config_is_noticed(trained, data, tmp_path, capsys):
    basedir, flags, _ = trained
    other = write_config(tmp_path / "other.txt", [*CONFIG_FLAGS, "--seed", "3"])
    assert run(autotask, *flags[2:], "--config", other, "--scenes", "chair") == 0
    assert f"note: chair: trained with another config than {other}" in capsys.readouterr().out
    assert run(autotask, *flags, "--scenes", "chair") == 0
    assert "note: chair" not in capsys.readouterr().out


def test_force_trains_anew_from_nothing(trained, monkeypatch):
    """Old files go as the scene starts: a scene that is still waiting when it is stopped keeps them."""
    basedir, flags, _ = trained
    jobs = plans_of(monkeypatch, *flags, "--scenes", "ship", "chair", "ship", "--force")
    assert [job.name for job in jobs] == ["ship", "chair"]
    assert {path.name for path in jobs[0].stale} >= {
        "000003.tar", "000006.tar", "metrics.json", "model_float32.safetensors", "model_int8.safetensors",
    }  # fmt: skip
    assert all(path.parent == (basedir / "ship").resolve() for path in jobs[0].stale)
    monkeypatch.undo()
    before = metrics_of(basedir, "ship")
    assert run(autotask, *flags, "--scenes", "ship", "--force", "--N_iters", "4", "--i_weights", "0") == 0
    after = metrics_of(basedir, "ship")
    assert (before["train"]["steps"], after["train"]["steps"]) == (6, 4)
    assert {path.name for path in (basedir / "ship").glob("*.tar")} == {"000004.tar"}
    assert [row["scene"] for row in csv_rows(basedir / "autotask.csv")] == ["ship", "mean of 1"]


def test_eval_only_measures_the_files_alone(trained, capsys):
    basedir, flags, _ = trained
    measured = {scene: metrics_of(basedir, scene) for scene in ("chair", "ship")}
    for path in (basedir / "ship").iterdir():  # of this run only the files are left
        if path.is_file() and not path.name.startswith("model_"):
            path.unlink()
    assert run(autotask, *flags, "--eval_only") == 1
    printed = capsys.readouterr().out
    assert "broken failed" in printed and "no model file" in printed
    chair, ship, mean = csv_rows(basedir / "autotask_eval.csv")
    assert chair["model"] == ship["model"] == "int8" and mean["minutes"] == chair["minutes"] == ""
    for row in (chair, ship):
        models = measured[row["scene"]]["models"]
        assert float(row["psnr"]) == pytest.approx(models["int8"]["psnr"], abs=1e-6)
        assert float(row["raw_psnr"]) == pytest.approx(models["float32"]["psnr"], abs=1e-6)
        again = metrics_of(basedir, row["scene"], "renderonly_metrics.json")
        assert list(again["models"]) == ["float32", "int8_ptq", "int8"]
        assert str(basedir) not in json.dumps(again)
    assert not (basedir / "ship" / "metrics.json").exists()


def test_eval_only_of_a_damaged_file_fails_alone(trained, tmp_path, capsys):
    basedir, flags, _ = trained
    (tmp_path / "chair").mkdir()
    content = (basedir / "chair" / "model_int8.safetensors").read_bytes()
    (tmp_path / "chair" / "model_int8.safetensors").write_bytes(content[:-9])
    assert run(autotask, *flags[:4], "--basedir", tmp_path, "--eval_only", "--scenes", "chair") == 1
    printed = capsys.readouterr().out
    assert "model_int8.safetensors" in printed and "no scene is finished" in printed
    assert not (tmp_path / "autotask_eval.md").exists()


def test_a_malformed_metrics_file_is_one_failed_scene(trained, tmp_path, capsys):
    basedir, flags, _ = trained
    for scene, content in (("chair", (basedir / "chair" / "metrics.json").read_text()), ("ship", "{")):
        (tmp_path / scene).mkdir()
        (tmp_path / scene / "metrics.json").write_text(content)
    assert run(autotask, *flags[:4], "--basedir", tmp_path, "--scenes", "chair", "ship") == 1
    assert "ship failed: " in capsys.readouterr().out
    assert [row["scene"] for row in csv_rows(tmp_path / "autotask.csv")] == ["chair", "mean of 1"]


def test_interrupt_stops_the_runs_and_keeps_what_is_finished(trained, data, tmp_path):
    config, root = data
    (tmp_path / "chair").mkdir()
    (tmp_path / "chair" / "metrics.json").write_bytes((trained[0] / "chair" / "metrics.json").read_bytes())
    command = [
        sys.executable,
        str(ROOT / "scripts" / "autotask.py"),
        "--config",
        str(config),
        "--dataset_root",
        str(root),
    ]
    command += ["--basedir", str(tmp_path), "--scenes", "ship", "chair", "--N_iters", "1000000", "--i_weights", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "ship").glob("*.tar")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped" in error and "Traceback" not in error
    assert [row["scene"] for row in csv_rows(tmp_path / "autotask.csv")] == ["chair", "mean of 1"]
    log = (tmp_path / "ship.log").read_text()
    assert "saved, the same command resumes" in log  # the run had its time to save


# ------------------------------------------------------------------------------------------- the plan


def test_every_run_gets_its_flags(data, tmp_path, monkeypatch):
    config, root = data
    box = ["--aabb", "-1", "-1", "-0.5", "1", "1", "1e0"]
    flags = ["--config", config, "--dataset_root", root, "--basedir", tmp_path, "--script", "run_nerf.py"]
    chair, ship = plans_of(monkeypatch, *flags, "--scenes", "chair", "ship", *box, "--white_bkgd", "--lrate=1e-3")
    assert Path(chair.command[1]) == ROOT / "run_nerf.py"
    assert list(chair.command[2:]) == [
        "--config", str(config), *box, "--white_bkgd", "--lrate=1e-3",
        "--datadir", str(root / "chair"), "--basedir", str(tmp_path), "--expname", "chair",
    ]  # fmt: skip
    assert ship.log == tmp_path.resolve() / "ship.log" and ship.stale == ()


def test_scenes_are_what_a_loader_knows(data, tmp_path):
    _, root = data
    assert autotask.find_scenes(root, None) == ["broken", "chair", "ship"]
    (tmp_path / "fern").mkdir()
    (tmp_path / "fern" / "poses_bounds.npy").touch()
    (tmp_path / ".chair").symlink_to(root / "chair")
    assert autotask.find_scenes(tmp_path, None) == ["fern"]


def test_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "scene.log"
    assert autotask.tail(log) == []
    log.write_bytes(b"one\n\n  1%\r 50%\r100%\r\n" + b"".join(b"%d\n" % i for i in range(3)) + b"\xff last")
    assert autotask.tail(log) == ["100%", "0", "1", "2", "\ufffd last"]


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--dataset_root", "nowhere"], ("nowhere", "no such folder")),
        (["--scenes", "lego"], ("lego", "no such data folder")),
        (["--scenes", "pictures"], ("pictures", "transforms_train.json")),
        (["--scenes", "../set"], ("../set",)),
        (["--scenes", ".."], ("..",)),
        (["--script", "run_nothing.py"], ("run_nothing.py", "run_nerf_qat.py")),
        (["--script", "scripts/autotask.py"], ("scripts/autotask.py",)),
        (["--config", "nowhere.txt"], ("nowhere.txt",)),
        (["--netwdith", "3"], ("--netwdith", "--netwidth")),
        (["--N_rand", "x"], ("--N_rand", "x")),
        (["--datadir", "x"], ("--datadir",)),
        (["--expname=x"], ("--expname",)),
        (["--render_only"], ("--render_only", "--eval_only")),
        (["--workers", "0"], ("--workers", "0")),
        (["--gpus", "97"], ("--gpus 97",)),
        (["--gpus", "0", "--ray"], ("--gpus", "--ray")),
        (["--eval_only", "--force"], ("--eval_only", "--force")),
    ],
)
def test_wrong_flags(data, tmp_path, capsys, flags, says):
    config, root = data
    given = ["--config", config, "--dataset_root", root, "--basedir", tmp_path / "runs"]
    fails_cleanly(capsys, autotask, *given, *flags, says=says)
    assert not list(tmp_path.glob("runs/*"))


def test_a_root_without_scenes_or_a_basedir_that_is_a_file(data, tmp_path, capsys):
    config, root = data
    fails_cleanly(capsys, autotask, "--config", config, "--dataset_root", tmp_path, says=("poses_bounds.npy",))
    fails_cleanly(
        capsys, autotask, "--config", config, "--dataset_root", root, "--basedir", config, says=("--basedir",)
    )  # fmt: skip
    fails_cleanly(capsys, autotask, "--dataset_root", root, says=("--config",))
    fails_cleanly(capsys, measure_models, "--config", config, says=("--measure",))


# ------------------------------------------------------------------------------------------------ Ray


def test_ray_missing_is_one_clear_line(data, tmp_path, capsys, monkeypatch):
    config, root = data
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    given = ["--config", config, "--dataset_root", root, "--basedir", tmp_path, "--scenes", "chair"]
    fails_cleanly(capsys, autotask, *given, "--ray", says=("Ray", "requirements-ray.txt"))


def test_a_scene_on_ray(data, tmp_path, small_cluster):
    config, root = data
    given = ["--config", config, "--dataset_root", root, "--basedir", tmp_path / "runs", "--scenes", "chair"]
    assert run(autotask, *given, "--ray", "--workers", "2") == 0
    assert [row["scene"] for row in csv_rows(tmp_path / "runs" / "autotask.csv")] == ["chair", "mean of 1"]
