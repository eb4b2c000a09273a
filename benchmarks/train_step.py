"""Time of a training step: float, with fake quantisation, and with its ranges frozen.

python benchmarks/train_step.py [--config configs/lego_cpu_qat.txt] [--rounds 15] [FLAGS...]

One trained-in network (a few hundred steps), its quantising copy, and steps of each in turn, so
that all see the same machine. FLAGS are those of run_nerf_qat.py.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import common
import torch

from experiment import load_scene, make_renderer, prepare_device
from options import config_parser
from quantization import fuse, prepare, set_state
from run_nerf_helpers import NeRF_qat
from run_nerf_qat import calibrate
from training import Trainer, exponential_schedule

STEPS = 20  # of one variant before it is the next one's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/lego_cpu_qat.txt")
    parser.add_argument("--rounds", type=int, default=15, help=f"times {STEPS} steps of each variant")
    parser.add_argument("--warmup", type=int, default=300, help="steps before anything is timed")
    options, flags = parser.parse_known_args()
    args = config_parser().parse_args(["--config", options.config, *flags])
    device = prepare_device(args)
    scene = load_scene(args)
    renderer = make_renderer(args, scene, device, NeRF_qat)
    with tempfile.TemporaryDirectory() as work:
        trainer = Trainer(args, scene, renderer, Path(work), exponential_schedule(args))
        steps(trainer, options.warmup, device)
        quantizing = copy.deepcopy(renderer)
        for field in quantizing.fields.values():
            field.network = prepare(fuse(field.network), args.weight_bits, args.activation_bits)
        calibrate(args, scene, quantizing)
        frozen = copy.deepcopy(quantizing)
        set_state(frozen, observing=False, quantizing=True)
        trainers = {"float": trainer}
        for name, model in (("qat", quantizing), ("qat_frozen", frozen)):
            trainers[name] = Trainer(args, scene, model, Path(work), exponential_schedule(args))
            trainers[name].batches.load_state_dict(trainer.batches.state_dict())
        seconds = {name: [] for name in trainers}
        for one in trainers.values():
            steps(one, 5, device)
        for _ in range(options.rounds):
            for name, one in trainers.items():
                seconds[name].append(steps(one, STEPS, device) / STEPS)

    results = {"facts": common.machine(options.config, str(device)), "samples_per_batch": args.samples_per_batch}
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["float"], strict=True)]
        results[name] = {
            "median_ms": 1e3 * statistics.median(values),
            "spread_ms": [1e3 * min(values), 1e3 * max(values)],
            "of_float": statistics.median(ratios),  # of neighbours in time, so drift cancels
        }
        print(f"{name:<12}{results[name]['median_ms']:>9.2f} ms{results[name]['of_float']:>7.2f} x float")
    common.save_results(f"train_step_{Path(options.config).stem}", results)


def steps(trainer: Trainer, count: int, device: torch.device) -> float:
    """Seconds for so many steps."""
    started = time.perf_counter()
    for _ in range(count):
        trainer.train_step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
