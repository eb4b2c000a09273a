"""Time of a training step of each experiment, taken in turn in one process.

python benchmarks/step_times.py [--rounds 10] [FLAGS...]

A few hundred float steps for each config of configs/experiments, then rounding and distillation as
the config has them, then steps of each in turn, so that all see the same machine. FLAGS go to every
run.
"""

import argparse
import tempfile
import time
from pathlib import Path

import common

from compressors.kinds import COMPRESSORS
from deploy.model_file import save_float_model
from experiment import (
    FLOAT_FILE,
    Run,
    compression_trainer,
    float_phase,
    make_renderer,
    make_trainer,
    prepare_device,
)
from load_scene import load_scene
from options import config_parser
from run_nerf_helpers import NeRF_qat
from training.batches import BatchSettings, RayBatches
from training.trainer import Trainer

CONFIGS = ("base", "amp", "large", "int8", "w4a8", "bit")
STEPS = 10  # of one experiment before it is the next one's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help=f"times {STEPS} steps of each experiment")
    parser.add_argument("--warmup", type=int, default=300, help="float steps before anything is timed")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as work:
        trainers = {name: trainer_of(name, flags, options.warmup, Path(work, name)) for name in CONFIGS}
        seconds = {name: [] for name in trainers}
        for _ in range(options.rounds):
            for name, trainer in trainers.items():
                started = time.perf_counter()
                for _ in range(STEPS):
                    trainer.step()
                seconds[name].append((time.perf_counter() - started) / STEPS)
    results = {"facts": common.machine(), "experiments": common.summary(seconds, "base")}
    for name, times in results["experiments"].items():
        times["queries"] = trainers[name].batches.settings.queries
        print(f"{name:<8}{times['median_ms']:>9.1f} ms {times['of_base']:>6.2f} x base")
    common.save_results("step_times", results)


def trainer_of(name: str, flags: list[str], warmup: int, folder: Path) -> Trainer:
    """A trainer in the phase that its config ends with."""
    folder.mkdir()
    args = config_parser().parse_args(["--config", str(common.ROOT / "configs/experiments" / f"{name}.txt"), *flags])
    args.N_iters = warmup  # after which rounding begins
    device = prepare_device(args)
    scene = load_scene(args)
    renderer = make_renderer(args, scene, device, NeRF_qat)
    trainer = make_trainer(Run(args, scene, folder, renderer, None), float_phase(args))
    for _ in range(warmup):
        trainer.step()
    if name not in ("int8", "w4a8", "bit"):
        return trainer
    save_float_model(folder / FLOAT_FILE, renderer, scene.render_path)
    compressor = COMPRESSORS[args.quant].from_flags(args, renderer, scene.render_path, has_float=True)
    compressor.prepare()
    compressor.calibrate(RayBatches(BatchSettings.from_flags(args), scene, device))
    rounding = compression_trainer(Run(args, scene, folder, renderer, None), compressor, trainer.progress)
    rounding.batches.load_state_dict(trainer.batches.state_dict())
    return rounding


if __name__ == "__main__":
    main()
