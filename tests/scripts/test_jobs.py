"""Commands in slots of this machine and on Ray: shared out, stopped, their logs kept."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from scripts.jobs import Job, local_slots, run_here, run_on_ray
from utils.errors import BadInput


def python(folder: Path, name: str, code: str, **options) -> Job:
    return Job(name, (sys.executable, "-c", code), folder / f"{name}.log", **options)


def test_commands_share_the_slots(tmp_path):
    code = "import os, time; print(os.environ['PLACE']); time.sleep(0.3); print(time.time()); raise SystemExit({})"
    jobs = [python(tmp_path, f"job{i}", code.format(i)) for i in range(5)]
    ended = {job.name: status for job, status in run_here(jobs, [{"PLACE": "a"}, {"PLACE": "b"}])}
    assert ended == {f"job{i}": i for i in range(5)}
    places = [job.log.read_text().split()[0] for job in jobs]
    assert set(places) == {"a", "b"} and 2 <= places.count("a") <= 3
    assert list(run_here([], [{}])) == []


def test_old_files_go_when_the_command_starts_and_logs_are_kept(tmp_path):
    old = tmp_path / "old"
    old.touch()
    job = python(tmp_path, "job", "import os; print(os.path.exists('OLD'))".replace("OLD", str(old)), stale=(old,))
    job.log.write_text("before\n")
    runs = run_here([job], [{}])
    assert old.exists()
    assert [status for _, status in runs] == [0]
    assert job.log.read_text() == "before\nFalse\n"


def test_closing_stops_commands_and_kills_those_that_do_not_listen(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.jobs.GRACE", 2.0)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
    polite = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')))\n"
    polite += "print('up')\ntime.sleep(60)"
    jobs = [python(tmp_path, "deaf", deaf), python(tmp_path, "polite", polite), python(tmp_path, "soon", "pass")]
    jobs.append(python(tmp_path, "never", "print('started')"))
    runs = run_here(jobs, [{}] * 3)
    job, _ = next(runs)
    assert job.name == "soon"
    deadline = time.monotonic() + 20
    while "up" not in jobs[0].log.read_text() or "up" not in jobs[1].log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = time.monotonic()
    runs.close()
    assert time.monotonic() - started < 15
    assert jobs[1].log.read_text() == "up\nbye\n" and not jobs[3].log.exists()


def test_slots_on_gpus_and_on_the_cpu(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert local_slots([], 1) == [{}] and local_slots([], 2) == [{}, {}]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert local_slots([], 1) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "012"]
    assert local_slots(["2", "0", "2"], 1) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "20"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-abc")
    assert local_slots([], 2) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("5", "GPU-abc", "5", "GPU-abc")]
    with pytest.raises(BadInput, match="--gpus 0: .*5 GPU-abc"):
        local_slots(["0"], 1)


def test_slots_share_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert local_slots([], 1) == [{}]
    assert local_slots([], 2) == [{"OMP_NUM_THREADS": "3"}] * 2
    assert local_slots([], 20) == [{"OMP_NUM_THREADS": "1"}] * 20


def test_commands_on_ray(tmp_path, small_cluster):
    old = tmp_path / "old"
    old.touch()
    jobs = [python(tmp_path, f"job{i}", f"import os; print(os.getcwd()); raise SystemExit({i})") for i in range(3)]
    jobs.append(python(tmp_path, "cleared", "pass", stale=(old, tmp_path / "not there")))
    ended = {job.name: status for job, status in run_on_ray(jobs, 2)}
    assert ended == {"job0": 0, "job1": 1, "job2": 2, "cleared": 0}
    assert jobs[1].log.read_text() == f"{os.getcwd()}\n" and not old.exists()
    assert small_cluster.is_initialized()  # a cluster that was there before is left alone


def test_closing_stops_commands_on_ray(tmp_path, small_cluster):
    code = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')))\n"
    slow = python(tmp_path, "slow", code + "print('up')\ntime.sleep(60)")
    quick = python(tmp_path, "quick", f"import os, time\nwhile not os.path.exists({str(slow.log)!r}) or not "
                   f"open({str(slow.log)!r}).read(): time.sleep(0.05)")  # fmt: skip
    runs = run_on_ray([quick, slow], 2)
    assert next(runs)[0].name == "quick"
    started = time.monotonic()
    runs.close()
    assert time.monotonic() - started < 15
    assert slow.log.read_text() == "up\nbye\n"
