"""The experiments of docs/experiments.md: one variable at a time, the same steps, several seeds.

python benchmarks/experiments.py [--seeds 3] [--only NAME...] [--basedir logs/experiments] [FLAGS...]

Runs every config of configs/experiments that has not finished yet, by one process or two as the
table below says, and collects what their metrics.json say in docs/results/experiments.json. FLAGS
go to every run. Interrupted, the same command goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import common

CONFIGS = common.ROOT / "configs" / "experiments"
# Name of an experiment: its config, and how many processes train it.
EXPERIMENTS = {
    "base": ("base", 1),
    "amp": ("amp", 1),
    "large": ("large", 1),
    "large_sqrt": ("large_sqrt", 1),
    "int8": ("int8", 1),
    "w4a8": ("w4a8", 1),
    "bit": ("bit", 1),
    "ddp": ("amp", 2),
    "int8_ddp": ("int8", 2),
    "bit_ddp": ("bit", 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--basedir", type=Path, default=common.ROOT / "logs" / "experiments")
    parser.add_argument("--name", default="experiments", help="of the file in docs/results")
    options, flags = parser.parse_known_args()
    for seed in range(options.seeds):
        for name in options.only:
            folder = options.basedir / f"{name}_{seed}"
            if not (folder / "metrics.json").exists():
                print(f"{name}, seed {seed}", flush=True)
                train(*EXPERIMENTS[name], seed, folder, flags)
    collect(options.basedir, options.name)


def train(config: str, processes: int, seed: int, folder: Path, flags: list[str]) -> None:
    """One run, by one process or several that share the machine's cores."""
    path = CONFIGS / f"{config}.txt"
    script = "run_nerf_qat.py" if "quant =" in path.read_text() else "run_nerf.py"
    command = [sys.executable]
    environment = dict(os.environ)
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    command += [script, "--config", str(path.relative_to(common.ROOT)), "--seed", str(seed)]
    command += ["--basedir", str(folder.parent), "--expname", folder.name, *flags]
    subprocess.run(command, cwd=common.ROOT, env=environment, check=True)


def collect(basedir: Path, name: str) -> None:
    """All finished runs as one file: what was measured, without single views."""
    runs = []
    for experiment in EXPERIMENTS:
        for path in sorted(basedir.glob(f"{experiment}_[0-9]*/metrics.json")):
            metrics = json.loads(path.read_text())
            for model in metrics["models"].values():
                model.pop("per_view", None)
            runs.append({"experiment": experiment, **metrics})
    common.save_results(name, {"facts": common.machine(), "runs": runs})


if __name__ == "__main__":
    main()
