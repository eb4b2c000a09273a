"""Data parallelism over processes: one batch shared out, one model that is the same everywhere.

    torchrun --nproc_per_node N run_nerf_qat.py --config ...

Every process draws the whole batch from the same generator and takes each N-th ray of it, so N
processes train on the rays that one would. Gradients are summed in one message after the backward
pass, by hand: no wrapper stands around the model that a method call could go past. NCCL on GPUs,
gloo on CPUs. Without torchrun there is one process, and nothing here does anything.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from utils.errors import BadInput, TrainingFailed

# Rank 0 evaluates and writes alone meanwhile; the others wait for it on a group of its own.
LONGEST_EVALUATION = datetime.timedelta(hours=24)

Value = TypeVar("Value")
_patient: dist.ProcessGroup | None = None


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: torch.device, timeout: float) -> None:
    """Meets the other processes of the run; all but the first go quiet on standard output.

    timeout: seconds after which a process that does not answer counts as lost.
    """
    global _patient
    if not launched() or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _naming_the_loss():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(seconds=timeout)
        )
        _patient = dist.new_group(backend="gloo", timeout=LONGEST_EVALUATION)
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays for the life of the process)


def leave() -> None:
    """Parts from the other processes: from here on this one is alone, and so is the first."""
    global _patient
    if dist.is_initialized():
        wait_for_main()
        dist.destroy_process_group()
        _patient = None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes, evaluates and shows progress."""
    return int(os.environ.get("RANK", "0")) == 0


def local_device() -> torch.device:
    """The CUDA device that torchrun gives this process."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def share() -> slice:
    """This process's part of anything that is counted out: each N-th, so parts differ by one at most."""
    return slice(rank(), None, world_size())


def size_of_share(count: int) -> int:
    """How many of the first `count` are this process's."""
    return len(range(count)[share()])


def check_divides(flag: str, count: int) -> None:
    """Raises BadInput where a batch cannot be shared out evenly."""
    if count % world_size():
        raise BadInput(f"{flag} {count} does not divide among {world_size()} processes; give a multiple of it")


# -------------------------------------------------------------------------------- what is exchanged


def gather_shares(mine: torch.Tensor, count: int) -> torch.Tensor:
    """Every process's share `[n]` or `[n, ...]` of `count` rows, put back in order, on every process."""
    if world_size() == 1:
        return mine
    longest = -(-count // world_size())
    padded = torch.cat([mine, mine.new_zeros(longest - len(mine), *mine.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    with _naming_the_loss():
        dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:count]


def sum_gradients(parameters: list[torch.Tensor], *scalars: torch.Tensor) -> torch.Tensor:
    """Sums gradients over the processes, in place, and returns the sums of `scalars`, `[n]`."""
    extra = torch.stack([scalar.detach().float() for scalar in scalars])
    if world_size() == 1:
        return extra
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    message = torch.cat([gradient.reshape(-1).float() for gradient in gradients] + [extra])
    with _naming_the_loss():
        dist.all_reduce(message)
    *sums, extra = message.split([gradient.numel() for gradient in gradients] + [len(extra)])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))
    return extra


def widest(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest `low [n]` and the largest `high [n]` of any process."""
    if world_size() == 1:
        return low, high
    both = torch.cat([-low, high])
    with _naming_the_loss():
        dist.all_reduce(both, dist.ReduceOp.MAX)
    low, high = both.chunk(2)
    return -low, high


def copy_from_main(tensors: list[torch.Tensor]) -> None:
    """Overwrites `tensors` with the first process's."""
    if world_size() > 1:
        with _naming_the_loss():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def from_main(make: Callable[[], Value]) -> Value:
    """What `make` returns in the first process, in all: files need to be on its machine only."""
    if world_size() == 1:
        return make()
    values = [make() if is_main() else None]
    with _naming_the_loss():
        dist.broadcast_object_list(values, 0, group=_patient)
    return values[0]


def checksum(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A number, int64 `[1]`, that a single differing bit changes."""
    total = torch.zeros(1, dtype=torch.int64, device=tensors[0].device)
    for tensor in tensors:
        bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8).to(torch.int64)
        place = torch.arange(1, len(bits) + 1, device=bits.device)
        total = total * 31 + (bits * place).sum()  # wraps, as it should
    return total


def check_same(tensors: list[torch.Tensor], what: str) -> None:
    """Raises TrainingFailed where `tensors` are not bit for bit those of the other processes."""
    if world_size() > 1:
        sums = gather_shares(checksum(tensors), world_size()).tolist()
        different = [number for number, value in enumerate(sums) if value != sums[0]]
        if different:
            raise TrainingFailed(f"{what}: process {different[0]} has another model than process 0; please report this")


def wait_for_main() -> None:
    """Returns when every process has come here; longer than `--dist_timeout` is fine."""
    if world_size() > 1:
        with _naming_the_loss():
            dist.barrier(group=_patient)


@contextlib.contextmanager
def _naming_the_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise for a peer that is gone or late
        reason = str(error).strip().splitlines()[-1][:160]
        raise TrainingFailed(
            f"process {os.environ.get('RANK', '0')}: another process of this run stopped or does not answer "
            f"({reason}); the last checkpoint is whole, the same command resumes"
        ) from error
