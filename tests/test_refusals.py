"""What the system refuses, and signals: one line, a status, and all that was computed is kept."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers import TINY, fails_cleanly, run

import experiment
import run_nerf
import run_nerf_qat
from evaluation import videos, views
from training import checkpoints, run_log
from training.checkpoints import load_checkpoint
from utils import files
from utils.errors import Interrupted, exit_cleanly

FEW = ["--N_iters", "4", "--i_weights", "2", "--testskip", "8"]
FULL = OSError(errno.ENOSPC, "No space left on device")


# ------------------------------------------------------------------------------- folders and files


@pytest.mark.parametrize(
    "base, name, says",
    [
        ("a_file", "x", ("a_file", "Not a directory", "in its place")),
        ("a_file/below", "x", ("a_file", "Not a directory")),
        ("/proc/logs", "x", ("/proc/logs", "could not be saved", "choose a folder")),
        ("runs", "n" * 300, ("too long", "shorter")),
        ("runs", "taken", ("taken", "File exists", "in its place")),
    ],
    ids=["a file", "in a file", "cannot be made", "name too long", "run folder is a file"],
)
@pytest.mark.parametrize("module", [run_nerf, run_nerf_qat], ids=["run_nerf", "run_nerf_qat"])
def test_a_folder_that_cannot_be_made(tmp_path, capsys, module, base, name, says):
    (tmp_path / "a_file").write_text("mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "taken").write_text("mine")
    fails_cleanly(capsys, module, *TINY, *FEW, "--basedir", tmp_path / base, "--expname", name, says=says)
    assert (tmp_path / "a_file").read_text() == "mine"


@pytest.mark.parametrize("name", ["args.txt", "config.txt", "tensorboard"])
def test_what_is_in_the_way_at_the_start_ends_a_run_there(tmp_path, capsys, name):
    config = tmp_path / "c.txt"
    config.write_text("use_viewdirs = True\n")
    folder = tmp_path / "nerf"
    folder.mkdir()
    if name == "tensorboard":
        (folder / name).write_text("mine")
    else:
        (folder / name).mkdir()
    fails_cleanly(capsys, run_nerf, *TINY, *FEW, "--config", config, "--basedir", tmp_path, says=(name, "in its place"))
    assert not list(folder.glob("*.tar")) and not list(folder.glob(".*.part"))


@pytest.mark.parametrize(
    "name", ["strip.png", "metrics.json", "testset_000004", "nerf_spiral_000004_rgb.mp4", "000004.tar"]
)
def test_what_is_in_the_way_at_the_end_costs_no_more_than_itself(tmp_path, capsys, name):
    folder = tmp_path / "nerf"
    folder.mkdir()
    if name.startswith("testset"):
        (folder / name).write_text("mine")
    else:
        (folder / name).mkdir()
    fails_cleanly(capsys, run_nerf, *TINY, *FEW, "--basedir", tmp_path, says=(name, "not all was saved"))
    whole = {
        "strip.png", "metrics.json", "nerf_spiral_000004_rgb.mp4", "nerf_spiral_000004_disp.mp4", "000002.tar",
        "000004.tar", "model_float32.safetensors",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir() if path.is_file()} >= whole - {name}
    if name != "testset_000004":
        assert len(list((folder / "testset_000004").glob("*.png"))) == 10
    assert not list(folder.glob(".*part*"))


def test_pictures_in_the_way_of_a_quantised_run_cost_no_more_than_themselves(tmp_path, capsys):
    folder = tmp_path / "nerf"
    for name in ("strip.png", "nerf_spiral_000006_disp.mp4", "model_int8.onnx"):
        (folder / name).mkdir(parents=True)
    fails_cleanly(
        capsys, run_nerf_qat, *TINY, *FEW, "--qat_iters", "2", "--export_onnx", "--basedir", tmp_path,
        says=("model_int8.onnx", "and 2 more"),
    )  # fmt: skip
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert models["int8"]["bytes"] == (folder / "model_int8.safetensors").stat().st_size
    assert (folder / "nerf_spiral_000006_rgb.mp4").is_file() and load_checkpoint(folder / "000006.tar")


def test_a_stage_whose_file_cannot_be_written_does_not_cost_the_next(tmp_path, capsys):
    folder = tmp_path / "nerf"
    for name in ("model_float32.safetensors", "model_int8_ptq.safetensors"):
        (folder / name).mkdir(parents=True)
    flags = [*TINY, *FEW, "--qat_iters", "2", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("model_float32.safetensors", "and 1 more"))
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert list(models) == ["fake_quant", "int8"] and (folder / "strip.png").is_file()
    (folder / "model_float32.safetensors").rmdir()  # run again, the float model is not there any more
    assert run(run_nerf_qat, *flags) == 0
    assert "note: float32 is not measured" in capsys.readouterr().out


def test_a_teacher_whose_file_cannot_be_written_ends_the_run(tmp_path, capsys):
    (tmp_path / "nerf" / "model_float32.safetensors").mkdir(parents=True)
    flags = [*TINY, *FEW, "--qat_iters", "2", "--distill", "1", "--basedir", tmp_path]
    fails_cleanly(capsys, run_nerf_qat, *flags, says=("model_float32.safetensors", "in its place"))
    assert (tmp_path / "nerf" / "000004.tar").is_file()


def test_a_config_that_is_gone_at_the_end(tmp_path, monkeypatch):
    config = tmp_path / "c.txt"
    config.write_text("use_viewdirs = True\n")
    evaluate = experiment.evaluate_views

    def views(*args, **options):
        config.unlink()
        return evaluate(*args, **options)

    monkeypatch.setattr(experiment, "evaluate_views", views)
    assert run(run_nerf, *TINY, *FEW, "--config", config, "--basedir", tmp_path) == 0
    assert json.loads((tmp_path / "nerf" / "metrics.json").read_text())["config_sha256"] is None


# ------------------------------------------------------------------------------------- a full disk


def test_a_disk_that_is_full_while_training_does_not_end_it(tmp_path, capsys, monkeypatch):
    """Neither for pictures and TensorBoard nor for a checkpoint; the last of them finds room again."""
    full = [True]
    write = files.os.fsync

    def fsync(handle: int) -> None:
        if full[0]:
            raise FULL
        write(handle)

    class FullLog(run_log.SummaryWriter):
        def add_scalar(self, *_) -> None:
            raise FULL

    def evaluate(*args, **options):
        monkeypatch.setattr(files.os, "fsync", fsync)
        return views.evaluate_views(*args, **options)

    class LastSave:
        def __init__(self, save):
            self.save = save

        def __call__(self, path, state) -> None:
            full[0] = full[0] and state["global_step"] < 40
            self.save(path, state)

    monkeypatch.setattr(run_log, "SummaryWriter", FullLog)
    monkeypatch.setattr("training.reports.evaluate_views", evaluate)
    monkeypatch.setattr("training.trainer.save_checkpoint", LastSave(checkpoints.save_checkpoint))
    flags = ["--N_iters", "40", "--i_weights", "20", "--i_testset", "10", "--i_img", "10", "--i_print", "20"]
    fails_cleanly(
        capsys, run_nerf, *TINY, *flags, "--basedir", tmp_path, says=("testset_000010", "No space left", "more")
    )
    folder = tmp_path / "nerf"
    assert [path.name for path in checkpoints.checkpoint_files(folder)] == ["000040.tar"]
    assert (folder / "metrics.json").is_file() and (folder / "model_float32.safetensors").is_file()


def test_tensorboard_that_fails_is_said_once_and_without_a_traceback(tmp_path, capsys, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def write(self, data) -> None:
        if b"train/" in data:
            raise FULL

    monkeypatch.setattr(RecordWriter, "write", write)
    flags = ["--N_iters", "100", "--i_print", "20", "--i_weights", "0"]
    assert run(run_nerf, *TINY, *flags, "--basedir", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("warning: ") == 1 and "tensorboard" in error and "Traceback" not in error
    assert (tmp_path / "nerf" / "000100.tar").is_file() and (tmp_path / "nerf" / "metrics.json").is_file()


def test_a_video_that_ffmpeg_cannot_finish_leaves_the_old_one(tmp_path, monkeypatch):
    import numpy as np

    from utils.errors import SaveError

    frames = np.zeros((3, 16, 16, 3), np.uint8)
    videos.write_video(tmp_path / "v.mp4", frames, 30)
    before = (tmp_path / "v.mp4").read_bytes()
    half = videos.imageio.mimwrite
    monkeypatch.setattr(videos.imageio, "mimwrite", lambda path, frames, **o: half(path, frames[:2], **o))
    with pytest.raises(SaveError, match="v.mp4"):
        videos.write_video(tmp_path / "v.mp4", frames, 30)
    assert (tmp_path / "v.mp4").read_bytes() == before and os.listdir(tmp_path) == ["v.mp4"]


def test_a_log_on_a_full_disk_does_not_end_what_it_is_of(tmp_path):
    command = [sys.executable, str(ROOT / "run_nerf.py"), *TINY, *FEW, "--i_testset", "2", "--basedir", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, stdout=full, stderr=full, env=environment)
    assert process.returncode == 2  # the closing table could not be printed
    assert (tmp_path / "nerf" / "metrics.json").is_file() and (tmp_path / "nerf" / "000004.tar").is_file()
    assert (tmp_path / "nerf" / "nerf_spiral_000004_disp.mp4").is_file()


# ------------------------------------------------------------------------------------ the last net


@pytest.mark.parametrize(
    "error, says",
    [
        (PermissionError(errno.EACCES, "Permission denied", "some.file"), "error: some.file: Permission denied\n"),
        (OSError("of one part\nand a second line"), "error: of one part\n"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (Interrupted("stopped at step 3; saved"), "stopped at step 3; saved\n"),
        (KeyboardInterrupt(), "interrupted\n"),
    ],
    ids=["permission", "no file", "encoding", "stopped", "interrupted"],
)
def test_whatever_reaches_the_end_is_one_line(capsys, error, says):
    def main() -> None:
        raise error

    status = exit_cleanly(main)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and says in message
    assert status == (130 if isinstance(error, Interrupted | KeyboardInterrupt) else 2)


def test_a_programming_error_keeps_its_traceback():
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_cleanly(main)


def test_names_that_the_locale_cannot_print(tmp_path):
    """A letter that Latin-1 lacks, and bytes that are no letters at all."""
    names = ["風景", "\udcff\udcfe"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "OMP_NUM_THREADS": "1"}
    code = (
        "import sys\nfrom utils.errors import exit_cleanly, BadInput\n"
        "def main():\n    print('note:', *sys.argv[1:])\n    raise BadInput(sys.argv[1])\n"
        "sys.exit(exit_cleanly(main))"
    )
    process = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, env=environment)
    assert process.returncode == 2 and b"Traceback" not in process.stderr
    assert process.stdout == b"note: \\u98a8\\u666f \\udcff\\udcfe\n" and process.stderr == b"error: \\u98a8\\u666f\n"


def test_a_data_folder_whose_name_is_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    flags = ["--datadir", tmp_path / name, "--dataset_type", "procedural"]  # which does not look there
    assert run(run_nerf, *TINY, *FEW, *flags, "--basedir", tmp_path) == 0
    assert b"caf\xe9\n" in (tmp_path / "nerf" / "args.txt").read_bytes()
    checkpoints.save_checkpoint(tmp_path / "a.tar", {"network_fn_state_dict": {}, "identity": {"scene": name}})
    assert load_checkpoint(tmp_path / "a.tar")["identity"]["scene"] == name


def test_a_run_whose_name_is_no_text_is_one_line(tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")  # TensorBoard's files cannot have it
    fails_cleanly(
        capsys, run_nerf, *TINY, *FEW, "--basedir", tmp_path, "--expname", name, says=("\\udce9", "tensorboard")
    )


# ----------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("script", ["run_nerf.py", "run_nerf_qat.py", "scripts/autotask.py"])
def test_a_signal_while_modules_are_loaded(script, number):
    def as_in_a_terminal() -> None:
        signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", str(ROOT / script), "--help"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=as_in_a_terminal,
    )  # fmt: skip
    with process:
        for line in process.stderr:  # one for each module that is loaded, as it is
            if " torch." in line:
                process.send_signal(number)
                break
        said = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 130 and said == ["interrupted\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize(
    "where", ["load_scene", "make_renderer", "evaluate_views", "render_video"], ids=lambda name: name
)
def test_a_signal_before_and_after_training(tmp_path, capsys, monkeypatch, where, number):
    def interrupted(*_, **__) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(experiment, where, interrupted)
    before = signal.getsignal(number)
    assert run(run_nerf, *TINY, *FEW, "--basedir", tmp_path) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "interrupted"
    assert signal.getsignal(number) is before
    parts = [path for path in tmp_path.rglob("*") if ".part" in path.name]
    assert not parts
    if where == "render_video":  # what was measured until then is there
        assert (tmp_path / "nerf" / "metrics.json").is_file() and (tmp_path / "nerf" / "strip.png").is_file()


def test_a_signal_while_a_file_is_written_leaves_no_part_of_it(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr(files.os, "fsync", lambda handle: signal.raise_signal(signal.SIGTERM))
    assert exit_cleanly(lambda: files.write_json(tmp_path / "a.json", {"new": 1})) == 130
    assert os.listdir(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_a_closed_terminal_ends_training_with_a_checkpoint_but_not_under_nohup(tmp_path, capsys, monkeypatch):
    from training import trainer

    whole_step = trainer.Trainer.step

    def step(self):
        if self.global_step == 2:
            signal.raise_signal(signal.SIGHUP)
        return whole_step(self)

    monkeypatch.setattr(trainer.Trainer, "step", step)
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert run(run_nerf, *TINY, *FEW, "--basedir", tmp_path, "--expname", "closed") == 130
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message == "stopped at step 3; saved, the same command resumes"
        assert (tmp_path / "closed" / "000003.tar").is_file()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert run(run_nerf, *TINY, *FEW, "--basedir", tmp_path, "--expname", "nohup") == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


# ------------------------------------------------------------------------------ numbers out of range

PROPOSAL = ["--field", "mip", "--sampler", "proposal"]
REF = ["--field", "ref", "--use_viewdirs"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--cone_steps", "nan"], ["--cone_steps", "-1"], ["--cone_steps", "inf"], ["--march_step", "inf"],
        ["--march_step", "1e308"], ["--multires", "-1"], ["--multires", "4096"], ["--multires_views", "33"],
        ["--netwidth", "1"], ["--netwidth", "9" * 30], ["--netdepth", "257"], ["--i_embed", "5"],
        ["--path_frames", "-1"], ["--path_frames", "-100"], ["--precrop_frac", "nan"], ["--precrop_frac", "-1"],
        ["--sphere_elevation", "inf"], ["--sphere_elevation", "nan"], ["--sphere_radius", "1e39"],
        ["--sphere_radius", "1e-320"], ["--perturb", "nan"], ["--raw_noise_std", "nan"], ["--render_factor", "-1"],
        ["--density_bias", "1e7"], ["--density_scale", "1e-7"], ["--lrate_decay", "inf"], ["--near", "1e-46"],
        ["--scales", "1", "2", "--scale_weights", "1e-320", "1"], ["--scales", "1", "2", "--scale_weights", "1", "inf"],
        ["--N_importance", "-1"], [*PROPOSAL, "--anneal_share", "nan"], [*PROPOSAL, "--anneal_share", "2"],
        [*PROPOSAL, "--distortion_weight", "-1"], [*PROPOSAL, "--proposal_width", "1"],
        [*PROPOSAL, "--grid_resolution", "600"], [*REF, "--ref_bottleneck", "8193"], [*REF, "--ref_depth", "257"],
        [*REF, "--normal_weight", "nan"], [*REF, "--multires", "0"], ["--sampler", "hierarchical", "--N_samples", "2",
        "--N_importance", "8"], ["--sampler", "hierarchical", "--N_samples", "5000"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_out_of_range_ends_a_run_before_it_begins(tmp_path, capsys, flags):
    name = next(flag for flag in reversed(flags) if flag.startswith("--")).strip("-")
    name = name.replace("N_importance", "N_samples") if "hierarchical" in flags else name
    fails_cleanly(capsys, run_nerf, *TINY, *FEW, *flags, "--basedir", tmp_path, says=(name,))
    assert not list(tmp_path.rglob("*.tar"))


def test_what_no_file_may_hold_is_found_before_training(tmp_path, capsys, monkeypatch):
    """Whatever no flag of its own refuses: the file is described, and the description checked, first."""
    from fields.nerf import FieldConfig

    monkeypatch.setattr(FieldConfig, "from_flags", classmethod(lambda cls, *_: cls(depth=2, width=16, output_ch=7)))
    fails_cleanly(capsys, run_nerf, *TINY, *FEW, "--basedir", tmp_path, says=("no model file may hold", "output_ch"))
    assert not list(tmp_path.rglob("*.tar"))


def test_a_video_smaller_than_pixels(tmp_path, capsys):
    flags = [*TINY, *FEW, "--basedir", tmp_path, "--render_factor", "24"]
    fails_cleanly(capsys, run_nerf, *flags, says=("--render_factor 24", "2 pixels"))
