"""The experiments of configs/experiments: one variable at a time, the same steps, several seeds.

python benchmarks/experiments.py [--seeds 3] [--only NAME...] [--lanes 1] [--longer 1] [--name NAME] [FLAGS...]

Runs every experiment below that has not finished yet, in logs/NAME, and collects in
docs/results/NAME.json what their metrics.json say, with frames timed anew, one after another, when
all else is done. FLAGS go to every run: `--netdepth 8 --netwidth 256` is another size. Interrupted,
the same command goes on.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common

from deploy.backends.choose import select_backend
from deploy.model_file import load_renderer
from options import config_parser
from rendering.renderer import render_image
from utils.devices import select_device

FRAMES = 9  # timed for each file


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config of configs, how many processes train it, what is changed on top, how many times as wide its network
    is, and what share its file may have of the bytes of int8's."""

    config: str
    processes: int = 1
    flags: tuple[str, ...] = ()
    wider: float = 1.0
    share_of_int8: float | None = None

    @property
    def alone(self) -> bool:
        """Whether it runs after all others and by itself: it uses all cores, or wants int8's results."""
        return self.processes > 1 or self.share_of_int8 is not None


# Half of the steps in float first, then rounding at once.
WARMUP = ("--N_iters", "1500", "--qat_iters", "1500", "--qat_lrate_scale", "0.5", "--bit_ramp", "0")

# A trained field, by which layers are compared, before each gets bits of its own under a budget.
QUARTER_IN_FLOAT = ("--N_iters", "750", "--qat_iters", "2250")

EXPERIMENTS = {
    "base": Experiment("experiments/base"),
    "amp": Experiment("experiments/amp"),
    "large": Experiment("experiments/large"),
    "large_sqrt": Experiment("experiments/large_sqrt"),
    "int8": Experiment("experiments/int8"),
    "w4a8": Experiment("experiments/w4a8"),
    "bit": Experiment("experiments/bit"),
    "w4a8_half": Experiment("experiments/w4a8", flags=QUARTER_IN_FLOAT, share_of_int8=0.5),
    "ddp": Experiment("experiments/amp", processes=2),
    "int8_ddp": Experiment("experiments/int8", processes=2),
    "bit_ddp": Experiment("experiments/bit", processes=2),
    # What float gains from the layers' sums, and 4 bits lose without norms or without the cosine of their rates.
    "base_residual": Experiment("experiments/base", flags=("--residual",)),
    "w4a8_no_norm": Experiment("experiments/w4a8", flags=("--no_bit_norm",)),
    "w4a8_exponential": Experiment("experiments/w4a8", flags=("--qat_schedule", "exponential")),
    # What each remedy against the loss of ternary weights gives: bit without it, or with more of it.
    "bit_no_residual": Experiment("experiments/bit_no_residual"),
    "bit_no_ramp": Experiment("experiments/bit", flags=("--bit_ramp", "0")),
    "bit_warmup": Experiment("experiments/bit", flags=WARMUP),
    "bit_warmup_distill": Experiment("experiments/bit", flags=(*WARMUP, "--distill", "1")),
    "bit_bitnet": Experiment("experiments/bit", flags=("--qat_schedule", "bitnet")),
    "bit_wider_by_an_eighth": Experiment("experiments/bit", wider=1.125),
    "bit_twice_as_wide": Experiment("experiments/bit", wider=2),
}


def main(experiments: dict[str, Experiment], name: str, description: str, frames: bool = True) -> None:
    """Runs what has not finished of some experiments, and collects them. name: of the folder and the file, if
    `--name` gives no other. frames: whether they are timed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=experiments, default=list(experiments))
    parser.add_argument("--lanes", type=int, default=1, help="runs at a time, which share the machine's cores")
    parser.add_argument("--longer", type=int, default=1, help="times the configs' steps")
    parser.add_argument("--name", default=name, help="of the folder in logs and the file in docs/results")
    options, flags = parser.parse_known_args()
    basedir = common.ROOT / "logs" / options.name
    basedir.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for seed in range(options.seeds) for name in options.only]
    left = [(name, seed) for name, seed in wanted if not (basedir / f"{name}_{seed}" / "metrics.json").exists()]
    for name, seed in left:
        known = ("int8", seed) in wanted or (basedir / f"int8_{seed}" / "metrics.json").exists()
        if experiments[name].share_of_int8 and not known:
            parser.error(f"{name} needs the bytes of int8, seed {seed}, which has not run: add int8 to --only")
    alone = [run for run in left if experiments[run[0]].alone]
    how = basedir, options, flags
    with ThreadPoolExecutor(options.lanes) as lanes:
        together = [run for run in left if run not in alone]
        for future in [lanes.submit(train, name, experiments[name], seed, *how) for name, seed in together]:
            future.result()
    for name, seed in alone:
        train(name, experiments[name], seed, *how)
    collect(experiments, basedir, options.name, frames)


def train(
    name: str, experiment: Experiment, seed: int, basedir: Path, options: argparse.Namespace, flags: list[str]
) -> None:
    """One run, by one process or several that share the machine's cores; what it prints goes to a log."""
    config = Path("configs", f"{experiment.config}.txt")
    script = "run_nerf_qat.py" if "quant =" in (common.ROOT / config).read_text() else "run_nerf.py"
    lanes = 1 if experiment.alone else options.lanes
    threads = max(1, (os.cpu_count() or 1) // (experiment.processes * lanes))
    changed = [*flags, *experiment.flags]
    args = config_parser().parse_args(["--config", str(common.ROOT / config), *changed])
    steps = {"N_iters": args.N_iters, "qat_iters": args.qat_iters, "lrate_decay": args.lrate_decay}
    for flag, value in steps.items():
        changed += [f"--{flag}", str(options.longer * value)]
    changed += ["--netwidth", str(round(experiment.wider * args.netwidth))]
    if experiment.share_of_int8:
        int8 = json.loads((basedir / f"int8_{seed}" / "metrics.json").read_text())["models"]["int8"]
        changed += ["--quant_budget", str(int(experiment.share_of_int8 * int8["bytes"]))]
    command = [sys.executable]
    if experiment.processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(experiment.processes)]
    command += [script, "--config", str(config), "--basedir", str(basedir), "--expname", f"{name}_{seed}"]
    command += ["--seed", str(seed), "--threads", str(threads), *changed]
    print(f"{name}, seed {seed}", flush=True)
    with open(basedir / f"{name}_{seed}.log", "a") as log:
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        subprocess.run(command, cwd=common.ROOT, env=environment, check=True, stdout=log, stderr=log)


def collect(experiments: dict[str, Experiment], basedir: Path, name: str, frames: bool) -> None:
    """All finished runs as one file: what was measured, without single views, and without frames' times that were
    taken beside other runs."""
    runs = []
    for experiment in experiments:
        for path in sorted(basedir.glob(f"{experiment}_[0-9]*/metrics.json")):
            if not path.parent.name.removeprefix(f"{experiment}_").isdigit():
                continue  # another experiment, whose name goes on with a number
            metrics = json.loads(path.read_text())
            for model in metrics["models"].values():
                model.pop("per_view", None)
                model.pop("seconds_per_frame", None)
                if frames and "file" in model:
                    model["seconds_per_frame"] = frame_seconds(path.parent / model["file"])
            runs.append({"experiment": experiment, **metrics})
    common.save_results(name, {"facts": common.machine(device=str(select_device("auto"))), "runs": runs})


def frame_seconds(file: Path) -> float:
    """The median time of a frame on the video path, with nothing else running."""
    device = select_device("auto")
    renderer, path, _ = load_renderer(file, device, select_backend("auto", device))
    path = path.to(device)
    seconds = []
    for i in range(FRAMES):
        start = time.perf_counter()
        render_image(renderer, path[i % len(path)]).rgb.cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(EXPERIMENTS, "experiments", __doc__)
