"""Time of a training step: float, with fake quantisation, and with its ranges frozen; each compiled too.

python benchmarks/train_step.py [--config configs/lego_cpu_qat.txt] [--rounds 15] [FLAGS...]

One trained-in network (a few hundred steps), its quantising copies, and steps of each in turn, so
that all see the same machine. The split of a step comes from a profile after the timing.
FLAGS are those of run_nerf_qat.py.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

import common
import torch

from compressors.fake_quantize import set_state
from compressors.int8 import Int8Compressor
from experiment import Run, float_phase, make_renderer, make_trainer, prepare_device, trains_in_float
from load_scene import load_scene
from options import config_parser
from run_nerf_helpers import NeRF_qat
from training.batches import BatchSettings, RayBatches
from training.compiled import compile_fields
from training.trainer import Trainer

PARTS = ("batch", "forward", "backward", "update")  # as `Trainer.step` marks them
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
        trainer = make_trainer(Run(args, scene, Path(work), renderer, None), float_phase(args))
        steps(trainer, options.warmup, device)
        quantizing = copy.deepcopy(renderer)
        compressor = Int8Compressor.from_flags(args, quantizing, scene.render_path, trains_in_float(args))
        compressor.prepare()
        compressor.calibrate(RayBatches(BatchSettings.from_flags(args), scene, device))
        frozen = copy.deepcopy(quantizing)
        set_state(frozen, observing=False, quantizing=True)
        trainers = {"float": trainer}
        models = {"qat": quantizing, "qat_frozen": frozen}
        models |= {f"{name}_compiled": copy.deepcopy(m) for name, m in {"float": renderer, **models}.items()}
        for name, model in models.items():
            trainers[name] = make_trainer(Run(args, scene, Path(work), model, None), float_phase(args))
            trainers[name].batches.load_state_dict(trainer.batches.state_dict())
        for name in models:
            if name.endswith("_compiled"):
                compile_fields(trainers[name].renderer, start_anew=False)
        seconds = {name: [] for name in trainers}
        for one in trainers.values():
            # Compiled graphs: one for the first shape, one for any shape, of the step and of looks for the grid.
            steps(one, max(60, 2 * args.grid_interval), device)
        for _ in range(options.rounds):
            for name, one in trainers.items():
                seconds[name].append(steps(one, STEPS, device) / STEPS)
        split = {name: shares(one, device) for name, one in trainers.items()}

    results = {"facts": common.machine(options.config, str(device)), "samples_per_batch": args.samples_per_batch}
    for name, times in common.summary(seconds, "float").items():
        results[name] = {**times, "share": split[name]}
        parts = ", ".join(f"{part} {share:.0%}" for part, share in split[name].items())
        print(f"{name:<20}{results[name]['median_ms']:>9.2f} ms{results[name]['of_float']:>7.2f} x float  ({parts})")
    common.save_results(f"train_step_{Path(options.config).stem}", results)


def steps(trainer: Trainer, count: int, device: torch.device) -> float:
    """Seconds for so many steps."""
    started = time.perf_counter()
    for _ in range(count):
        trainer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def shares(trainer: Trainer, device: torch.device) -> dict[str, float]:
    """The part of a step's time that drawing, forward, backward and update take each."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        steps(trainer, STEPS, device)
    events = {event.key: event for event in profiler.key_averages()}
    times = {part: max(events[part].cpu_time_total, events[part].device_time_total) for part in PARTS}
    return {part: time / sum(times.values()) for part, time in times.items()}


if __name__ == "__main__":
    main()
