"""Image measures, `metrics.json`, and the closing table."""

import contextlib
import datetime
import hashlib
import math
import platform
import subprocess
import sys
from pathlib import Path

import torch

from utils.files import write_json

# --------------------------------------------------------------------------------- metrics.json


def git_commit() -> str | None:
    """The commit of the code that runs, with `+` where files differ from it; None outside git."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def run_facts(expname: str, config: str | None, device: torch.device) -> dict:
    """The part of `metrics.json` that says what ran where."""
    try:
        content = Path(config).read_bytes() if config else b""
    except OSError:  # gone since the run began
        content = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "expname": expname,
        "command": " ".join([Path(sys.argv[0]).name, *map(_without_home, sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "config": _without_home(config) if config else None,
        "config_sha256": None if content is None else hashlib.sha256(content).hexdigest(),
        "git_commit": git_commit(),
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _without_home(word: str) -> str:
    """An absolute path as its last part only: where someone's files lie is nobody's business."""
    return f".../{Path(word).name}" if Path(word).is_absolute() else word


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU {line.split(':', 1)[1].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"CPU {platform.processor() or platform.machine()}"


def write_metrics(path: Path, facts: dict, train: dict, models: dict[str, dict]) -> None:
    """Writes `metrics.json` whole or not at all. NaN and infinity become null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [clean(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_json(path, clean({**facts, "train": train, "models": models}))


def format_table(models: dict[str, dict]) -> str:
    """The models of a run, a line each: quality, bytes, time, and bytes relative to float32."""
    header = f"{'model':<16}{'PSNR dB':>9}{'SSIM':>8}{'LPIPS':>8}{'bytes':>12}{'of float':>10}{'s/frame':>10}"
    lines = [header, "-" * len(header)]
    reference = models.get("float32", {}).get("bytes")
    for name, entry in models.items():
        size = entry.get("bytes")
        ratio = f"{size / reference:.3f}" if size and reference else "-"
        lines.append(
            f"{name:<16}{_number(entry['psnr'], 2):>9}{_number(entry['ssim'], 4):>8}{_number(entry['lpips'], 4):>8}"
            f"{size if size else '-':>12}{ratio:>10}{_number(entry['seconds_per_frame'], 3):>10}"
        )
    for name, entry in models.items():
        if "scales" in entry:
            each = ", ".join(
                f"{_number(seen['psnr'], 2)} {'on average' if scale == 'mean' else f'at 1/{scale}'}"
                for scale, seen in entry["scales"].items()
            )
            lines.append(f"{name} by scale, PSNR dB: {each}")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
