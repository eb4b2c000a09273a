"""Commands run side by side: one at a time on each GPU of this machine, or over a Ray cluster."""

import contextlib
import dataclasses
import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from utils.errors import BadInput

POLL = 0.2  # seconds between looks at what is running
GRACE = 60.0  # seconds in which a stopped command may save its checkpoint before it is killed


@dataclasses.dataclass(frozen=True)
class Job:
    """A command and what it leaves. All paths are absolute: on a cluster it may run anywhere.

    log: gets what the command prints, after what is there. stale: files to remove as it starts.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    stale: tuple[Path, ...] = ()


# ------------------------------------------------------------------------------------ this machine


def local_slots(gpus: Sequence[str], workers: int) -> list[dict[str, str]]:
    """The environment of each place where a command can run: `workers` on each GPU, or on the CPU.

    gpus: as CUDA_VISIBLE_DEVICES names them; none for all that this process may use. Places share
    out the CPU's threads unless OMP_NUM_THREADS has settled that.
    Raises BadInput for a GPU that is not there: a run would go to the CPU without a word.
    """
    visible = visible_gpus()
    for gpu in gpus:
        if gpu not in visible:
            raise BadInput(f"--gpus {gpu}: not there, this process may use {' '.join(visible) or 'no GPU'}")
    devices = list(dict.fromkeys(gpus)) or visible
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(workers) for gpu in devices] or [{} for _ in range(workers)]
    if len(slots) > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, torch.get_num_threads() // len(slots))
        slots = [{**slot, "OMP_NUM_THREADS": str(threads)} for slot in slots]
    return slots


def visible_gpus() -> list[str]:
    """The CUDA devices of this process, by the names that CUDA_VISIBLE_DEVICES knows them by."""
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(count)] if names is None else [name.strip() for name in names.split(",")][:count]


def run_here(jobs: Sequence[Job], slots: Sequence[dict[str, str]]) -> Iterator[tuple[Job, int]]:
    """Runs every job in a free slot; yields each with its exit status as it ends.

    Closed or interrupted, it stops those that run: they get `GRACE` seconds to save what they have.
    """
    waiting, free = deque(jobs), list(slots)
    running: dict[subprocess.Popen, tuple[Job, dict[str, str]]] = {}
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.popleft(), free.pop(0)
                running[_start(job, slot)] = job, slot
            ended = [process for process in running if process.poll() is not None]
            for process in ended:
                job, slot = running.pop(process)
                free.append(slot)
                yield job, process.returncode
            if not ended:
                time.sleep(POLL)
    finally:
        _stop(list(running))


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen:
    for path in job.stale:
        path.unlink(missing_ok=True)
    with open(job.log, "ab") as log:
        # A session of its own: Ctrl-C in the terminal reaches us alone, and we stop what we started.
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen]) -> None:
    """Asks them to end, waits, and kills those that have not; at once where the wait is interrupted too."""
    processes = [process for process in processes if process.poll() is None]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


# --------------------------------------------------------------------------------------------- Ray


def run_on_ray(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, int]]:
    """As `run_here`, on the cluster that RAY_ADDRESS names or this machine runs, else on a local one.

    workers: commands at a time on each GPU, or on each machine where there is none. All machines
    must see the same folders and the same Python at the same paths.
    Raises BadInput where Ray is not installed or its cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise BadInput(
            "--ray: Ray is not installed; pip install -r requirements-ray.txt, or leave out --ray"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise BadInput(f"--ray: cannot join the cluster ({str(error).splitlines()[0][:100]})") from error

    def work(command: tuple[str, ...], log: str, stale: list[str], folder: str, poll: float, grace: float) -> int:
        """Travels to its worker by value, so it uses nothing of this module."""
        import contextlib
        import os
        import subprocess
        import time

        for path in stale:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with open(log, "ab") as file:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
            )
        try:
            while process.poll() is None:  # Ray's way to cancel does not end a wait
                time.sleep(poll)
            return process.returncode
        finally:
            if process.poll() is None:  # cancelled
                process.terminate()
                try:
                    process.wait(grace)
                except subprocess.TimeoutExpired:
                    process.kill()

    task = ray.remote(max_retries=0, **_ray_share(ray, workers))(work)
    pending = {}
    try:
        for job in jobs:
            stale = [str(path) for path in job.stale]
            pending[task.remote(job.command, str(job.log), stale, os.getcwd(), POLL, GRACE)] = job
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            try:
                status = ray.get(done)
            except ray.exceptions.RayError as error:  # its machine or its worker was lost
                with open(job.log, "a") as log:
                    log.write(f"\nRay: {type(error).__name__}: {error}\n")
                status = 1
            yield job, status
    finally:
        for future in pending:
            ray.cancel(future, force=False)
        if pending:
            with contextlib.suppress(KeyboardInterrupt):
                ray.wait(list(pending), num_returns=len(pending), timeout=GRACE + 5)
        if ours:
            ray.shutdown()


def _ray_share(ray, workers: int) -> dict[str, float]:
    """What a command may take of a machine: its part of a GPU, if any has one, and of the CPU's cores."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpus = any(machine.get("GPU", 0) for machine in machines)
    cores = []
    for machine in machines:
        places = workers * machine.get("GPU", 0) if on_gpus else workers
        if places and machine.get("CPU", 0):
            cores.append(max(1, int(machine["CPU"] // places)))
    return {"num_gpus": 1 / workers if on_gpus else 0, "num_cpus": min(cores, default=1)}
