"""What every benchmark shares: facts about the machine, and results as JSON."""

import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evaluation.metrics_file import run_facts  # noqa: E402
from utils.files import write_json  # noqa: E402 (the path is set just above)

RESULTS = ROOT / "docs" / "results"
# The instruction sets that decide how fast matrix products are.
INTERESTING = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")


def machine(config: str | None = None, device: str = "cpu") -> dict:
    """What a run's metrics.json says of where it ran, and the CPU's flags."""
    facts = run_facts("benchmark", config, torch.device(device))
    flags = Path("/proc/cpuinfo").read_text().split() if os.path.exists("/proc/cpuinfo") else []
    facts |= {
        "cpu_flags": [flag for flag in INTERESTING if flag in flags],
        "python": platform.python_version(),
    }
    return facts


def summary(seconds: dict[str, list[float]], base: str) -> dict[str, dict]:
    """Of times taken in turn, one list for each variant: median and range in ms, and how many times `base`.

    A ratio is of neighbours in time, and the median of those is taken, so that drift cancels.
    """
    return {
        name: {
            "median_ms": 1e3 * statistics.median(values),
            "spread_ms": [1e3 * min(values), 1e3 * max(values)],
            f"of_{base}": statistics.median(v / b for v, b in zip(values, seconds[base], strict=True)),
        }
        for name, values in seconds.items()
    }


def save_results(name: str, results: dict) -> Path:
    """Writes `docs/results/{name}.json`."""
    path = RESULTS / f"{name}.json"
    write_json(path, results)
    print(f"wrote {path.relative_to(ROOT)}")
    return path


def run_python(code: str, folder: Path) -> None:
    """Runs a piece of Python in another folder, with that folder's modules and not ours."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env=environment)
