"""The loop: exact resume, kill -9, signals, collapse and non-finite detection, a real small training."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import CPU, HIERARCHICAL, SMALL_TENSOR, TINY, make_trainer, same

from compressors.fake_quantize import fake_quantizers
from compressors.kinds import COMPRESSORS
from compressors.low_bit import bit_layers
from experiment import Run, compression_trainer, make_renderer, trains_in_float
from options import config_parser
from rendering.renderer import RenderLimits
from run_nerf_helpers import NeRF_qat
from training.batches import BatchSettings, RayBatches
from training.checkpoints import load_checkpoint, load_newest
from training.optimizers import bitnet_schedule, cosine_schedule, exponential_schedule
from training.phases import Progress
from training.trainer import LOOK_INTERVAL, Trainer
from training.watch import COLLAPSE_PATIENCE
from utils.errors import Interrupted, TrainingFailed


def comparable(state: dict) -> dict:
    """A checkpoint without its clock."""
    return {**state, "trainer": {k: v for k, v in state["trainer"].items() if k != "seconds"}}


@pytest.mark.parametrize(
    "flags",
    [TINY, HIERARCHICAL, [*TINY, "--exposure", "3"]],
    ids=["occupancy", "hierarchical", "exposure"],
)
def test_resume_is_bit_for_bit(scene, tmp_path, flags):
    whole = make_trainer(scene, tmp_path / "whole", flags)
    whole.train(24)
    first = make_trainer(scene, tmp_path / "parts", flags)
    first.train(11)
    second = make_trainer(scene, tmp_path / "parts", flags, "--seed", "5")  # nothing of the new start remains
    second.load_state_dict(load_newest(tmp_path / "parts")[1])
    second.train(24)
    a = load_checkpoint(tmp_path / "whole" / "000024.tar")
    b = load_checkpoint(tmp_path / "parts" / "000024.tar")
    assert same(comparable(a), comparable(b))
    assert not same(comparable(a), comparable(load_checkpoint(tmp_path / "parts" / "000011.tar")))


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("stops", [[20], [7, 33, 35, 51]], ids=str)
def test_the_curve_does_not_depend_on_interruptions(scene, tmp_path, stops, killed):
    flags = [*TINY, "--i_print", "20", "--i_weights", "11"]
    whole = make_trainer(scene, tmp_path / "whole", flags)
    whole.train(60)
    for at in [*stops, None]:
        trainer = make_trainer(scene, tmp_path / "parts", flags)
        newest = load_newest(tmp_path / "parts")
        if newest:
            trainer.load_state_dict(newest[1])
        trainer.phase.after_step = lambda step, at=at: os.kill(os.getpid(), signal.SIGINT) if step == at else None
        with pytest.raises(Interrupted) if at else contextlib.nullcontext():
            trainer.train(60)
        if at and killed:  # what the signal saved was not, then
            (tmp_path / "parts" / f"{at:06d}.tar").unlink()
    assert [step for step, _ in whole.progress.curve] == [20, 40, 60]
    assert trainer.progress.curve == whole.progress.curve and trainer.summary()["curve"] == whole.summary()["curve"]


# Each kill comes at a random moment of start, training or saving (i_weights 2: half its time).
KILLS = int(os.environ.get("NERF_QAT_KILLS", "3"))


def test_kill_9_at_random_moments_then_bit_for_bit(tmp_path):
    """2N steps equal N + kill -9 + N, whenever the kills come, through both phases."""

    def command(name: str) -> list[str]:
        return [
            sys.executable, str(ROOT / "run_nerf_qat.py"), *TINY, "--N_iters", "40", "--qat_iters", "40",
            "--i_weights", "2", "--basedir", str(tmp_path), "--expname", name,
        ]  # fmt: skip

    def run(name: str, seconds: float | None) -> bool:
        """True if it ended by itself."""
        with subprocess.Popen(command(name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                errors = process.communicate(timeout=seconds)[1].decode()
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                return False
            assert process.returncode == 0, errors[-2000:]
            return True

    started = time.monotonic()
    assert run("whole", None)
    duration = time.monotonic() - started
    dice = random.Random(0)
    for _ in range(KILLS):
        run("killed", dice.uniform(0.2, 1.0) * duration)
    assert run("killed", None)
    a, b = (load_checkpoint(tmp_path / name / "000080.tar") for name in ("whole", "killed"))
    assert a["phase"] == b["phase"] == "qat"
    assert same(comparable(a), comparable(b))
    files = [tmp_path / name / "model_int8.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_signal_saves_and_says_so(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY)
    trainer.phase.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    with pytest.raises(Interrupted, match="step 5"):
        trainer.train(50)
    assert load_newest(tmp_path)[1]["global_step"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers must be put back"


def test_non_finite_loss_stops_and_keeps_the_last_checkpoint(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY, "--i_weights", "10")

    def poison(step: int) -> None:
        if step == 12:
            with torch.no_grad():
                trainer.renderer.field.network.rgb_linear.bias.fill_(float("nan"))

    trainer.phase.after_step = poison
    with pytest.raises(TrainingFailed, match="not finite"):
        trainer.train(100)
    step, state = load_newest(tmp_path)[1]["global_step"], load_newest(tmp_path)[1]
    assert step == 10
    assert all(torch.isfinite(v).all() for v in state["network_fn_state_dict"].values())


def test_collapse_is_said_and_then_stops(scene, tmp_path, capsys):
    """A density that is nowhere: every picture is all white."""
    trainer = make_trainer(scene, tmp_path, HIERARCHICAL, "--lrate", "1e-9", "--raw_noise_std", "0")
    for field in trainer.renderer.fields.values():
        with torch.no_grad():
            field.network.output_linear.bias[3] = -1000.0
    assert COLLAPSE_PATIENCE % LOOK_INTERVAL == 0
    with pytest.raises(TrainingFailed, match="collapsed to a flat colour since step 20"):
        trainer.train(COLLAPSE_PATIENCE + 100)
    assert "warning: collapse at step 20" in capsys.readouterr().out


def test_an_emptied_grid_stops_with_a_way_out(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY)
    trainer.renderer.grid.set_occupied(torch.zeros_like(trainer.renderer.grid.occupied))
    with pytest.raises(TrainingFailed, match="--grid_threshold"):
        trainer.train(3)


# ---------------------------------------------------------------------------------- a step alone


def check_steps_are_what_train_does(trained: Trainer, stepped: Trainer, steps: int) -> None:
    """By `train()` and one by one they lead to the same, bit for bit: networks, grid, optimisers, random numbers."""
    trained.train(trained.global_step + steps)
    for _ in range(steps):
        stepped.step()
    a, b = (comparable(trainer.state_dict()) for trainer in (trained, stepped))
    for state in (a, b):
        state["trainer"] = {k: v for k, v in state["trainer"].items() if k != "recent"}  # of the loop's looks
    assert same(a, b)
    assert same(trained.renderer.state_dict(), stepped.renderer.state_dict())


@pytest.mark.parametrize("more", [[], ["--filter_rays", "--tv_weight", "1", "1"]], ids=["plain", "filtered"])
def test_a_step_alone_upsamples_and_shrinks_a_tensor_field(scene, tmp_path, more):
    flags = [*TINY, *SMALL_TENSOR, "--field", "tensorf", "--optimizer", "adam", "--voxels_final", "2000", *more]
    flags += ["--upsample_steps", "3", "9", "--shrink_step", "6", "--grid_interval", "4"]
    trained, stepped = (make_trainer(scene, tmp_path / name, flags) for name in ("trained", "stepped"))
    for grid in (trained.renderer.grid, stepped.renderer.grid):
        grid.set_occupied(grid.occupied & (torch.arange(24) > 8)[:, None, None])  # so that the box will be smaller
    resolution, box = stepped.renderer.field.network.resolution, stepped.renderer.field.network.aabb.clone()
    check_steps_are_what_train_does(trained, stepped, 12)
    network = stepped.renderer.field.network
    assert network.resolution > resolution and not torch.equal(network.aabb, box)
    parameters = [p for group in stepped.together.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters()}  # of new ones, too


def make_compression_trainer(scene, folder, *more: str) -> Trainer:
    """A trainer through rounding, from untrained networks."""
    args = config_parser().parse_args([*TINY, "--N_iters", "0", "--qat_iters", "8", *more])
    run = Run(args, scene, folder, make_renderer(args, scene, CPU, NeRF_qat), None)
    compressor = COMPRESSORS[args.quant].from_flags(args, run.renderer, scene.render_path, trains_in_float(args))
    compressor.prepare()
    compressor.calibrate(RayBatches(BatchSettings.from_flags(args), scene, CPU))
    return compression_trainer(run, compressor, Progress())


def test_a_step_alone_ramps_the_rounding(scene, tmp_path):
    flags = ["--quant", "ternary", "--bit_ramp", "0.75", "--qat_schedule", "bitnet"]
    trained, stepped = (make_compression_trainer(scene, tmp_path / name, *flags) for name in ("trained", "stepped"))
    for steps, rounding in ((4, 2 / 3), (3, 1.0)):
        check_steps_are_what_train_does(trained, stepped, steps)
        for trainer in (trained, stepped):
            layers = bit_layers(trainer.renderer)
            assert layers and all(layer.rounding == pytest.approx(rounding) for layer in layers)


def test_a_step_alone_freezes_the_ranges(scene, tmp_path):
    flags = ["--qat_freeze", "0.5"]
    trained, stepped = (make_compression_trainer(scene, tmp_path / name, *flags) for name in ("trained", "stepped"))
    for steps, observing in ((3, True), (3, False)):
        check_steps_are_what_train_does(trained, stepped, steps)
        for trainer in (trained, stepped):
            assert {quantizer.observing for quantizer in fake_quantizers(trainer.renderer)} == {observing}


# --------------------------------------------------------------------------------------- batches


def test_batches_hold_a_constant_number_of_samples(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY)
    counts = [len(trainer.batches.draw(trainer.renderer, step).samples) for step in range(1, 40)]
    assert max(counts) <= 1024
    assert np.mean(counts[20:]) > 0.9 * 1024


def test_batch_colours_are_the_pixels_their_rays_go_through(scene, tmp_path):
    """A ray's direction, projected back, lands in the pixel whose colour is its target."""
    args = config_parser().parse_args([*HIERARCHICAL, "--precrop_iters", "0"])
    renderer = make_renderer(args, scene, torch.device("cpu"))
    batches = RayBatches(BatchSettings.from_flags(args), scene, torch.device("cpu"))
    batch = batches.draw(renderer, 1)
    view = int((batches.cameras.c2w[:, :, 3] - batch.rays.origins[0]).norm(dim=-1).argmin())
    local = batch.rays.directions @ batches.cameras.c2w[view, :, :3]
    K = batches.cameras.K[view]
    column = -local[:, 0] / local[:, 2] * K[0, 0] + K[0, 2]
    row = local[:, 1] / local[:, 2] * K[1, 1] + K[1, 2]
    torch.testing.assert_close(column % 1, torch.full_like(column, 0.5), atol=1e-3, rtol=0)
    expected = scene.target(torch.tensor([scene.splits["train"][view]]))[0][row.long(), column.long()]
    torch.testing.assert_close(batch.target, expected)


def test_random_background_is_behind_prediction_and_target(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY)
    batch = trainer.batches.draw(trainer.renderer, 1)
    assert batch.background.shape == (len(batch.rays), 3) and batch.background.std() > 0.2
    clear = (batch.target - batch.background).abs().amax(-1) == 0
    assert clear.any() and not clear.all()


def test_precrop_sees_only_the_middle(scene, tmp_path):
    args = config_parser().parse_args([*HIERARCHICAL, "--precrop_frac", "0.5", "--N_rand", "500"])
    renderer = make_renderer(args, scene, torch.device("cpu"))
    batches = RayBatches(BatchSettings.from_flags(args), scene, torch.device("cpu"))

    def widest(step: int) -> float:
        rays = batches.draw(renderer, step).rays
        forward = torch.nn.functional.normalize(rays.viewdirs.mean(0), dim=-1)
        return float((rays.directions - (rays.directions @ forward)[:, None] * forward).norm(dim=-1).max())

    assert widest(1) < 0.6 * widest(100)


# ------------------------------------------------------------------------------------- schedules


def test_exponential_schedule_is_nerf_pytorchs():
    schedule = exponential_schedule(2)
    assert schedule(0) == 1.0 and schedule(2000) == pytest.approx(0.1) and schedule(4000) == pytest.approx(0.01)
    later = exponential_schedule(2, first=0.3, start=500)
    assert later(500) == 0.3 and later(2500) == pytest.approx(0.03)


def test_warm_up_and_cosine():
    warm = exponential_schedule(1e9, warmup=10)
    assert [warm(0), warm(4), warm(9), warm(50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    cosine = cosine_schedule(0.2, start=100, length=50)
    assert [cosine(100), cosine(125), cosine(150)] == pytest.approx([0.2, 0.1, 0.0])


def test_bitnets_schedule():
    factor, weight_decay = bitnet_schedule(0.3, start=100, length=50, warmup=2)
    assert factor(100) == pytest.approx(0.15)  # half of the warm-up
    assert factor(120) == pytest.approx(0.3 * 0.6)
    assert factor(125) == pytest.approx(0.3 * 0.5 * 2 / 3) and factor(150) == 0
    assert weight_decay(124) == 0.1 and weight_decay(125) == 0


def test_a_phase_decays_the_matrices_of_muon(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, TINY, "--optimizer", "muon")
    trainer.phase.schedule = lambda step: 1e-12  # so that only a huge decay moves anything
    trainer.phase.weight_decay = lambda step: 1e11 / trainer.settings.optimizers.muon_lrate
    before = {name: p.clone() for name, p in trainer.renderer.named_parameters()}
    trainer.step()
    after = dict(trainer.renderer.named_parameters())
    hidden, bias = "field.network.pts_linears.1.weight", "field.network.pts_linears.1.bias"
    torch.testing.assert_close(after[hidden], 0.9 * before[hidden], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after[bias], before[bias])


def test_muon_takes_the_hidden_matrices_of_a_tensor_fields_decoder(scene, tmp_path):
    trainer = make_trainer(scene, tmp_path, [*TINY, *SMALL_TENSOR], "--field", "tensorf", "--optimizer", "muon")
    network = trainer.renderer.field.network
    (muons,) = trainer.optimizers["muon"].param_groups
    matrices = [network.decoder[0].weight, network.decoder[2].weight]
    assert [id(p) for p in muons["params"]] == [id(p) for p in matrices] and muons["lr"] == 0.04
    decoder, tables = trainer.optimizers["optimizer"].param_groups
    assert [id(p) for p in tables["params"]] == [id(p) for p in network.factors()]
    rest = [p for part in (network.basis, network.decoder) for p in part.parameters()]
    assert [id(p) for p in decoder["params"]] == [id(p) for p in rest if not any(p is m for m in matrices)]
    assert (tables["lr"], decoder["lr"]) == (5e-3, pytest.approx(0.05 * 5e-3))
    assert tables["eps"] == decoder["eps"] == 1e-15
    before = [p.clone() for p in network.parameters()]
    trainer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))  # all learn


# --------------------------------------------------------------------------------- real training


@pytest.mark.parametrize("flags, floor", [(TINY, 20.0), (HIERARCHICAL, 13.0)], ids=["occupancy", "hierarchical"])
def test_a_short_training_reaches_a_floor(scene, tmp_path, flags, floor):
    from evaluation.views import evaluate_views

    trainer = make_trainer(scene, tmp_path, flags, "--lrate", "5e-3", "--raw_noise_std", "0")
    trainer.train(300)
    views = evaluate_views(trainer.renderer, scene, scene.splits["test"][:4], RenderLimits(rays=4096))
    assert views.mean_psnr > floor


def test_empty_samples_clear_what_the_grid_skips(scene, tmp_path):
    """Nothing else asks the field there, so only this keeps it from inventing matter."""
    generator = torch.Generator().manual_seed(3)
    skipped_density = []
    for count in ("0", "512"):
        trainer = make_trainer(scene, tmp_path / count, TINY, "--empty_samples", count)
        trainer.train(300)
        grid = trainer.renderer.grid
        points = grid.aabb[0] + (grid.aabb[1] - grid.aabb[0]) * torch.rand(4000, 3, generator=generator)
        with torch.no_grad():
            skipped_density.append(float(trainer.renderer.field.density(points[~grid.holds(points)]).mean()))
    assert skipped_density[1] < 0.5 * skipped_density[0]  # 0.20 to 0.33, by seed and processor
