"""What the commands share: files are measured and rendered as a user would, whatever command is asked."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from helpers import HIERARCHICAL, TINY, run
from make_golden import GOLDEN

import experiment
import run_nerf
import run_nerf_qat
import run_vq
from deploy.backends.int8 import Int8Field
from fields.nerf import RadianceField
from options import config_parser

ALONE = ["--render_only", "--render_factor", "2", "--threads", "1"]


def test_run_nerf_measures_its_file(tmp_path, monkeypatch):
    loaded = []
    load = experiment.load_renderer
    monkeypatch.setattr(experiment, "load_renderer", lambda path, *more: loaded.append(path.name) or load(path, *more))
    assert run(run_nerf, *TINY, "--N_iters", "4", "--basedir", tmp_path, "--expname", "a") == 0
    assert loaded == ["model_float32.safetensors"]
    entry = json.loads((tmp_path / "a" / "metrics.json").read_text())["models"]["float32"]
    assert entry["file"] == loaded[0] and entry["backend"] == "torch float32"
    assert entry["bytes"] == (tmp_path / "a" / loaded[0]).stat().st_size


def test_a_file_that_could_not_be_written_is_measured_from_memory(tmp_path, capsys):
    (tmp_path / "a" / "model_float32.safetensors").mkdir(parents=True)
    assert run(run_nerf, *TINY, "--N_iters", "4", "--basedir", tmp_path, "--expname", "a") == 2
    said = capsys.readouterr()
    assert "measured from memory" in said.out and "could not be saved" in said.err
    entry = json.loads((tmp_path / "a" / "metrics.json").read_text())["models"]["float32"]
    assert np.isfinite(entry["psnr"]) and "bytes" not in entry


@pytest.mark.parametrize("command", [run_nerf, run_nerf_qat, run_vq], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    "kind", ["hierarchical/model_float32", "int8/model_int8", "ternary/model_ternary", "vq/model_vq"]
)
def test_every_command_renders_every_file(tmp_path, command, kind):
    file = tmp_path / "alone.safetensors"
    shutil.copy(GOLDEN / f"{kind}.safetensors", file)
    assert run(command, *ALONE, "--model", file, "--basedir", tmp_path) == 0
    assert (tmp_path / "nerf" / "renderonly_path_000000" / "video_rgb.mp4").stat().st_size > 0


@pytest.mark.parametrize("kind, field", [("hierarchical", RadianceField), ("int8_hierarchical", Int8Field)])
def test_netchunk_bounds_what_a_network_of_a_file_gets(tmp_path, monkeypatch, kind, field):
    model = max((GOLDEN / kind).glob("*.safetensors"), key=lambda path: "int8.s" in path.name)
    sizes: list[int] = []
    forward = field.forward
    monkeypatch.setattr(field, "forward", lambda self, points: sizes.append(len(points)) or forward(self, points))
    assert run(run_nerf_qat, *ALONE, "--model", model, "--netchunk", "100", "--basedir", tmp_path) == 0
    assert max(sizes) == 100 and len(sizes) > 10


def test_model_of_old_configs_names_the_field(tmp_path):
    (tmp_path / "old.txt").write_text("model = tensorf\n")
    parse = config_parser().parse_args
    for words in (["--config", str(tmp_path / "old.txt")], ["--model", "tensorf"], ["--field", "tensorf"]):
        args = parse(words)
        assert (args.field, args.model) == ("tensorf", None)
    args = parse(["--field", "tensorf", "--model", "file.safetensors"])
    assert (args.field, args.model) == ("tensorf", "file.safetensors")


@pytest.mark.parametrize(
    "command, shown, hidden",
    [
        ("run_nerf", ["--N_importance", "--tensor", "--grid_resolution"], ["--quant", "--target_bytes", "--qat_iters"]),
        ("run_nerf_qat", ["--quant", "--bit_ends", "--qat_iters"], ["--tensor", "--target_bytes"]),
        (
            "run_vq",
            ["--tensor", "--target_bytes", "--qat_iters"],
            ["--netdepth", "--N_importance", "--quant", "--bit_ends"],
        ),
    ],
)
def test_help_shows_what_a_command_reads(command, shown, hidden):
    words = config_parser(command).format_help().split()
    assert all(flag in words for flag in shown)
    assert not any(flag in words for flag in hidden)
    args = config_parser(command).parse_args([*HIERARCHICAL, "--quant", "ptq", "--tensor", "cp"])  # it takes them all
    assert args.quant == "ptq" and args.tensor == "cp"


def test_what_a_run_leaves_does_not_depend_on_where_it_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(run_nerf, *TINY, "--N_iters", "2", "--basedir", "logs", "--expname", "a") == 0
    assert (tmp_path / "logs" / "a" / "metrics.json").is_file() and not (ROOT / "logs" / "a").exists()
