"""Two processes on a CPU train what one would: same batch, same model, one that stops stops all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers import HIERARCHICAL, TINY, finish, launch, make_trainer

from load_scene import load_scene
from options import config_parser
from training.checkpoints import load_newest
from utils import distributed

# What each process of a group does; it writes its losses and the end state of its model.
TRAIN = """
import sys, json, torch
from pathlib import Path
from utils import distributed
from load_scene import load_scene
from experiment import Run, float_phase, make_renderer, make_trainer, prepare_device
from options import config_parser
folder, *flags = sys.argv[1:]
args = config_parser().parse_args(flags)
device = prepare_device(args)
scene = load_scene(args)
run = Run(args, scene, Path(folder), make_renderer(args, scene, device), None)
trainer = make_trainer(run, float_phase(args))
losses, rays = [], []
for _ in range(20):
    mse, _, batch, _ = trainer.step()
    losses.append(float(mse))
    rays.append([batch.total_rays, len(batch.rays), batch.rays.directions.sum().item()])
trainer.save()
checksum = int(distributed.checksum([*trainer.parameters, *trainer.renderer.buffers()]))
Path(folder, f"rank{distributed.rank()}.json").write_text(json.dumps([losses, rays, checksum]))
distributed.leave()
"""


PROPOSALS = [
    "--field", "mip", "--sampler", "proposal", "--proposal_bins", "16", "12", "--final_bins", "8", "--N_rand", "128",
    "--proposal_width", "16", "--perturb", "0",
]  # fmt: skip


# Without what is drawn a sample, which is each process's own.
@pytest.mark.parametrize(
    "flags",
    [
        TINY,
        [*HIERARCHICAL, "--raw_noise_std", "0", "--perturb", "0"],
        [*TINY, *PROPOSALS, "--scales", "1", "2"],
        # Which points are asked for their slopes is each process's own as well.
        [*TINY, "--field", "ref", "--use_viewdirs", "--ref_bottleneck", "8", "--normal_weight", "0"],
        [*TINY, "--no_random_bkgd", "--field", "light_field", "--sampler", "light_field", "--samples_per_batch", "200"],
    ],
    ids=["occupancy", "hierarchical", "proposals", "ref", "light field"],
)
def test_two_processes_train_what_one_would(tmp_path, flags):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    status, _, err = finish(launch(2, str(script), tmp_path, *flags))
    assert status == 0, err
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first[0] == second[0]  # the same losses
    assert first[2] == second[2]  # the same model, bit for bit
    for (total, mine, a), (total_too, others, b) in zip(first[1], second[1], strict=True):
        assert total == total_too == mine + others and a != b  # disjoint parts of one batch

    one = make_trainer(load_scene(config_parser().parse_args(flags)), tmp_path, flags)
    losses = [float(one.step().mse) for _ in range(20)]
    assert first[0] == pytest.approx(losses, rel=2e-3)
    assert load_newest(tmp_path)[1]["trainer"]["processes"] == 2


@pytest.fixture(scope="module")
def qat_run(tmp_path_factory):
    """A whole int8 run by two processes."""
    folder = tmp_path_factory.mktemp("qat")
    flags = [*TINY, "--basedir", folder, "--expname", "two", "--N_iters", "60", "--qat_iters", "20"]
    process = launch(2, "run_nerf_qat.py", *flags, "--i_weights", "40", "--i_img", "50")
    return folder / "two", *finish(process), flags


def test_run_nerf_qat_by_two_processes(qat_run):
    folder, status, out, err, _ = qat_run
    assert status == 0, err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["models"]["int8"]["psnr"] == pytest.approx(metrics["models"]["fake_quant"]["psnr"], abs=0.3)
    assert out.count("results are in") == 1  # one process speaks


def test_resume_with_another_number_of_processes_says_what_changes(qat_run):
    folder, _, _, _, flags = qat_run
    for late in folder.glob("*.tar"):
        if int(late.stem) > 40:
            late.unlink()
    done = subprocess.run(
        [sys.executable, "run_nerf_qat.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes trained up to here, 1 go on: the batch stays the same" in done.stdout


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    process = launch(2, "run_nerf.py", *TINY, "--samples_per_batch", "1025", "--basedir", tmp_path)
    status, _, err = finish(process)
    assert status != 0
    assert "--samples_per_batch 1025 does not divide among 2 processes" in err


def child_pids(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.fixture
def endless(tmp_path):
    """A run that would go on for long, once it has saved something: its launcher and folder."""
    if not Path("/proc").exists():
        pytest.skip("finds the processes in /proc")
    flags = [*TINY, "--basedir", tmp_path, "--expname", "run", "--N_iters", "100000", "--i_weights", "20"]
    process = launch(2, "run_nerf.py", *flags, "--dist_timeout", "8")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("*.tar")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    return process, tmp_path / "run"


def test_a_process_that_dies_stops_the_others_and_the_checkpoint_is_whole(endless):
    process, folder = endless
    os.kill(max(child_pids(process.pid)), signal.SIGKILL)
    status, _, err = finish(process, timeout=90)
    assert status != 0 and "Signal 9 (SIGKILL)" in err  # torchrun says which
    assert load_newest(folder)[1]["trainer"]["processes"] == 2


def test_a_process_that_hangs_stops_the_others_within_the_time_out(endless):
    process, folder = endless
    victim = max(child_pids(process.pid))
    os.kill(victim, signal.SIGSTOP)
    time.sleep(13)  # past the time-out
    os.kill(victim, signal.SIGCONT)
    status, _, err = finish(process, timeout=90)
    assert status != 0
    assert "another process of this run stopped or does not answer" in err and "the same command resumes" in err
    assert load_newest(folder)[1]["trainer"]["processes"] == 2


def test_alone_nothing_is_exchanged():
    rows = torch.arange(5)
    assert distributed.gather_shares(rows, 5) is rows
    assert distributed.world_size() == 1 and distributed.rank() == 0 and distributed.is_main()
    assert distributed.size_of_share(7) == 7


def test_checksum_sees_one_bit():
    a = [torch.randn(10, 3), torch.tensor([True, False])]
    b = [a[0].clone(), a[1]]
    assert distributed.checksum(a).equal(distributed.checksum(b))
    b[0].view(torch.int32)[4, 1] ^= 1
    assert not distributed.checksum(a).equal(distributed.checksum(b))
