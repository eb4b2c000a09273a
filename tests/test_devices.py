"""Every command on a device that is not the CPU: it runs, gives what the CPU gives, and hardly waits."""

import importlib
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import imageio.v2 as imageio
import pytest
import torch
from conftest import ROOT
from helpers import run, same
from pretend_device import MixedDevices, PretendDevice

from fields.tensorf import TensorField
from rendering import crossing, occupancy_renderer
from training.batches import RayBatches
from training.checkpoints import load_checkpoint, load_newest, on_host
from training.trainer import Trainer

BASE = [
    "--procedural_size", "12", "--white_bkgd", "--use_viewdirs", "--netdepth", "2", "--netwidth", "16",
    "--multires", "3", "--multires_views", "1", "--density_activation", "softplus", "--density_bias", "-4",
    "--density_scale", "25", "--lrate", "5e-3", "--N_iters", "24", "--qat_iters", "12", "--calibration_batches", "2",
    "--path_frames", "1", "--i_img", "0", "--i_testset", "0", "--i_video", "0", "--i_weights", "12",
    "--i_print", "20", "--threads", "1",
]  # fmt: skip
OCCUPANCY = [
    *BASE, "--random_bkgd", "--sampler", "occupancy", "--grid_resolution", "12", "--samples_per_batch", "256",
    "--grid_interval", "8",
]  # fmt: skip
HIERARCHICAL = [
    *BASE, "--N_samples", "8", "--N_importance", "8", "--netdepth_fine", "2", "--netwidth_fine", "16", "--N_rand", "32",
]  # fmt: skip
PROPOSAL = [
    *BASE, "--field", "mip", "--sampler", "proposal", "--proposal_bins", "8", "--final_bins", "6",
    "--proposal_width", "8", "--N_rand", "32",
]  # fmt: skip
LIGHT_FIELD = [
    *BASE, "--field", "light_field", "--sampler", "light_field", "--netdepth", "6", "--ray_points", "4",
    "--grid_resolution", "12", "--samples_per_batch", "128",
]  # fmt: skip
GOLDEN = ROOT / "tests" / "golden"
TAUGHT = [
    "--datadir", GOLDEN / "scene", "--dataset_type", "blender", "--testskip", "1", "--pseudo_views", "4",
    "--teacher", GOLDEN / "int8" / "model_int8.safetensors",
]  # fmt: skip
TENSOR = [
    *OCCUPANCY, "--field", "tensorf", "--density_ranks", "2", "2", "2", "--color_ranks", "3", "3", "3",
    "--color_features", "4", "--decoder_width", "8", "--voxels", "512", "--voxels_final", "1000",
    "--upsample_steps", "8", "--shrink_step", "12",
]  # fmt: skip
VQ = ["--codebook_size", "8", "--importance_rays", "500"]
PICTURES = ["--i_img", "20", "--i_testset", "20", "--i_video", "20"]  # what is not training waits as well
RUNS = {
    "occupancy": ("run_nerf", [*OCCUPANCY, *PICTURES, "--empty_samples", "32", "--precrop_iters", "10"]),
    "hierarchical": ("run_nerf", [*HIERARCHICAL, *PICTURES, "--raw_noise_std", "1", "--no_batching"]),
    "bf16": ("run_nerf", [*OCCUPANCY, "--amp", "bf16"]),
    "vm": ("run_nerf", [*TENSOR, "--filter_rays", "--tv_weight", "1", "1"]),
    "cp": ("run_nerf", [*TENSOR, "--tensor", "cp"]),
    "qat": ("run_nerf_qat", [*OCCUPANCY, "--distill", "1", "--quant_budget", "6000"]),
    "ptq": ("run_nerf_qat", [*OCCUPANCY, "--quant", "ptq"]),
    "qat_hierarchical": ("run_nerf_qat", HIERARCHICAL),
    "w4a8": ("run_nerf_qat", [*OCCUPANCY, "--quant", "w4a8", "--optimizer", "muon", "--amp", "bf16"]),
    "ternary": ("run_nerf_qat", [*OCCUPANCY, "--quant", "ternary", "--residual", "--N_iters", "0"]),
    "mip": ("run_nerf_qat", [*OCCUPANCY, "--field", "mip"]),
    "proposal": ("run_nerf_qat", [*PROPOSAL, "--contract", "on"]),
    "hull": ("run_nerf", [*PROPOSAL, "--random_bkgd", "--filter_rays", *PICTURES]),
    "scales": ("run_nerf", [*OCCUPANCY, "--field", "mip", "--scales", "1", "2", "--cone_steps", "1"]),
    "ref": ("run_nerf", [*OCCUPANCY, "--field", "ref", "--ref_bottleneck", "8", "--ref_levels", "2"]),
    "vq": ("run_vq", [*TENSOR, *VQ]),
    "light_field": ("run_nerf", [*LIGHT_FIELD, *PICTURES, "--filter_rays"]),
    "r2l": ("run_r2l", [*LIGHT_FIELD, *TAUGHT, "--hard_rays", "0.2", "--rounded_stream"]),
    "near_far": ("run_nerf", [*LIGHT_FIELD, "--ray_span", "near_far", "--N_rand", "64"]),
}


@dataclass
class Report:
    """A command on the pretend device. For each step, but for what lets a tensor field grow, and for each checkpoint,
    how often the device was waited for; training: in all of it; from_host: by steps that brought numbers over, and
    where."""

    status: int = 0
    steps: list[int] = field(default_factory=list)
    saving: list[int] = field(default_factory=list)
    training: list[int] = field(default_factory=list)
    rounds: list[tuple[int, int]] = field(default_factory=list)
    from_host: list[str] = field(default_factory=list)
    table: str = ""


def watch(command: str, flags: list[str], slack: float | None) -> Report:
    """Runs a command on the pretend device. To be called in a process that has not run anything on the CPU:
    torch asks which devices there are at the first backward pass. slack: of rays' stretches, if another."""
    report, queries = Report(), 0
    growing: set[int] = set()  # numbers of waits

    def counted(name: str, into: list[int]) -> None:
        method = getattr(Trainer, name)

        def wrapped(trainer: Trainer, *args):
            before = len(device.waits)
            result = method(trainer, *args)
            waits = [device.waits[i] for i in range(before, len(device.waits)) if name != "step" or i not in growing]
            into.append(len(waits))
            if name == "step":
                report.from_host.extend(wait.place for wait in waits if wait.from_host)
            return result

        patch.setattr(Trainer, name, wrapped)

    def apart(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def wrapped(*args):
            before = len(device.waits)
            result = method(*args)
            growing.update(range(before, len(device.waits)))
            return result

        patch.setattr(owner, name, wrapped)

    def query(*args):
        nonlocal queries
        queries += 1
        return query_of(*args)

    def render(renderer, *args):
        nonlocal queries
        before, queries = len(device.waits), 0
        result = render_of(renderer, *args)
        report.rounds.append((queries, len(device.waits) - before))
        return result

    query_of, render_of = occupancy_renderer.query, occupancy_renderer.OccupancyRenderer._render_front_to_back
    with PretendDevice() as device, pytest.MonkeyPatch.context() as patch:
        patch.setattr(occupancy_renderer, "query", query)
        patch.setattr(occupancy_renderer.OccupancyRenderer, "_render_front_to_back", render)
        if slack is not None:
            patch.setattr(crossing, "STRETCH_SLACK", slack)
            patch.setattr(crossing, "STRETCHES_AT_ONCE", 1)
        apart(TensorField, "after_step")
        apart(RayBatches, "filter")
        counted("step", report.steps)
        counted("save", report.saving)
        counted("train", report.training)
        report.status = run(importlib.import_module(command), *flags, "--device", "pretend")
    report.table = device.table()
    return report


@pytest.fixture(scope="module")
def there_only():
    """A process in which torch has seen no other device first."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def there(there_only):
    """`watch` in that process."""

    def run_there(command: str, *flags: object, slack: float | None = None) -> Report:
        return there_only.submit(watch, command, [str(flag) for flag in flags], slack).result()

    return run_there


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("devices")


def measured(folder: Path) -> dict[str, float]:
    """PSNR of each model of a run."""
    return {name: entry["psnr"] for name, entry in json.loads((folder / "metrics.json").read_text())["models"].items()}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_what_it_gives_on_the_cpu(base, there, name):
    command, flags = RUNS[name]
    module = importlib.import_module(command)
    assert run(module, *flags, "--basedir", base / "cpu", "--expname", name, "--device", "cpu") == 0
    report = there(command, *flags, "--basedir", base / "there", "--expname", name)
    assert report.status == 0
    expected = measured(base / "cpu" / name)
    assert measured(base / "there" / name) == pytest.approx(expected, abs=0.05)  # sums go in another order
    assert not report.from_host, report.table
    assert sum(report.steps) <= 2 * len(report.steps) and max(report.saving) == 1, report.table
    assert sum(number > 2 for number in report.steps) <= 2, report.steps  # the first of float training, and of rounding
    # Two rounds more: one that lists the samples, and one that finds no ray to go on with.
    assert all(waits <= 2 * (rounds + 2) for rounds, waits in report.rounds), report.rounds
    if PICTURES[1] not in flags:
        assert sum(report.training) - sum(report.saving) <= 2 * len(report.steps), report.table


def test_fp16_asks_once_whether_gradients_overflowed(base, there):
    flags = [*OCCUPANCY, "--amp", "fp16", "--optimizer", "muon", "--basedir", base, "--expname", "fp16"]
    report = there("run_nerf", *flags)
    assert report.status == 0 and math.isfinite(measured(base / "fp16")["float32"])
    updates = sum(number > 2 for number in report.steps)  # the first step, and those that look at the grid
    assert len(report.steps) == 24 and updates <= 1 + 24 // 8, report.steps


def test_a_guess_of_the_samples_that_was_too_low_changes_nothing(base, there):
    flags = [*OCCUPANCY, "--N_iters", "12", "--samples_per_batch", "4096", "--basedir", base]
    assert there("run_nerf", *flags, "--expname", "guessed").status == 0
    low = there("run_nerf", *flags, "--expname", "guessed_low", slack=0.01)
    assert low.status == 0 and min(low.steps[1:]) > 2  # each was looked into twice
    (_, a), (_, b) = load_newest(base / "guessed"), load_newest(base / "guessed_low")
    for name, weight in a["network_fn_state_dict"].items():
        assert torch.equal(weight, b["network_fn_state_dict"][name])


def test_resuming_and_starting_from_a_checkpoint(base, there):
    """Of what the runs above left behind."""
    flags = [*OCCUPANCY, "--i_weights", "12", "--basedir", base, "--expname"]
    assert there("run_nerf", *flags, "whole").status == 0
    assert there("run_nerf", *flags, "parts", "--N_iters", "12").status == 0
    resumed = there("run_nerf", *flags, "parts")
    assert resumed.status == 0 and len(resumed.steps) == 12
    a, b = (load_checkpoint(base / name / "000024.tar") for name in ("whole", "parts"))
    for name, weight in a["network_fn_state_dict"].items():
        assert torch.equal(weight, b["network_fn_state_dict"][name])
    tuned = there("run_nerf_qat", *flags, "tuned", "--ft_path", base / "whole" / "000024.tar", "--i_weights", "0")
    assert tuned.status == 0 and len(tuned.steps) == 12
    assert measured(base / "tuned")["float32"] == pytest.approx(measured(base / "whole")["float32"])


FLOAT_FILES = ["hierarchical", "vm", "cp"]  # of what float training leaves


@pytest.mark.parametrize("name", ["occupancy", "qat", "qat_hierarchical", "w4a8", "ternary", "vq", *FLOAT_FILES])
def test_files_render_as_on_the_cpu(base, there, name):
    """Those that the runs above left behind, and of one the checkpoint."""
    command, flags = RUNS[name]
    if name in FLOAT_FILES:
        command, flags = "run_nerf_qat", [*BASE, "--model", base / "cpu" / name / "model_float32.safetensors"]
    if not (base / "cpu" / name / "metrics.json").exists():
        pytest.skip("the run that writes the file was not among the tests chosen")
    more = ["--basedir", base / "cpu", "--expname", name, "--render_only"]
    for test in ([], ["--render_test"]):
        report = there(command, *flags, *more, *test)
        assert report.status == 0 and (report.rounds or "hierarchical" in name)
    folder = next((base / "cpu" / name).glob("renderonly_test_*"))
    ours = imageio.imread(folder / "000.png")
    theirs = imageio.imread(max((base / "cpu" / name).glob("testset_*")) / "000.png")  # of the last step
    assert abs(ours.astype(int) - theirs).max() <= 1


def test_checkpoints_come_over_whole(there_only):
    assert there_only.submit(_bring).result() == 1


def _bring() -> int:
    """Brings nested tensors of several types to the host; how often the device was waited for."""
    kinds = (torch.float32, torch.float16, torch.uint8, torch.bool, torch.int64)
    here = {
        "a": [torch.arange(n).to(kind) for n, kind in enumerate(kinds, start=1)],
        "b": {"c": (torch.tensor(2.5), torch.zeros(0, 3))},
        "d": "text",
        "e": torch.ones(2),
    }
    with PretendDevice() as device:
        there = {
            "a": [value.to("pretend") for value in here["a"]],
            "b": {"c": tuple(value.to("pretend") for value in here["b"]["c"])},
            "d": "text",
            "e": here["e"],
        }
        before = len(device.waits)
        brought = on_host(there)
        waited = len(device.waits) - before
    assert same(brought, here) and brought["e"] is here["e"]
    return waited


def test_the_pretend_device_refuses_and_counts(there_only):
    there_only.submit(_refuse_and_count).result()


def _refuse_and_count() -> None:
    with PretendDevice() as device:
        a, b = torch.arange(4.0, device="pretend"), torch.arange(4.0)
        for mixed in (
            lambda: a + b,
            lambda: torch.cat([a, b]),
            lambda: a.numpy(),
            lambda: a.index_add_(0, b.long(), a),
        ):
            with pytest.raises(MixedDevices):
                mixed()
        assert (a + 1).device.type == "pretend" and (a + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
        assert len(device.waits) == 1 and not device.waits[0].from_host
        asked = [
            lambda: float(a[0]), lambda: bool(a.any()), lambda: a.nonzero(), lambda: a[a > 1], lambda: a.cpu(),
            lambda: torch.bincount(a.long()), lambda: torch.equal(a, a), lambda: a.masked_fill_(a > 9, 0).sum().item(),
        ]  # fmt: skip
        for ask in asked:
            before = len(device.waits)
            ask()
            assert len(device.waits) == before + 1
        for bring in (lambda: b.to("pretend"), lambda: torch.tensor([1.0, 2.0], device="pretend"), lambda: a[b.long()],
                      lambda: a[[0, 2]], lambda: a.copy_(b)):  # fmt: skip
            before = len(device.waits)
            bring()
            assert any(wait.from_host for wait in device.waits[before:])
    assert PretendDevice.current is None and torch.tensor([1.0]).tolist() == [1.0]
