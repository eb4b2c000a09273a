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
from quantized_runs import rounding_trainer

from compressors.kinds import SCHEMES
from deploy.model_file import save_float_model
from experiment import make_renderer
from load_scene import load_scene
from options import config_parser
from run_nerf_helpers import NeRF_qat
from training.trainer import Trainer, float_phase
from utils.devices import prepare_device

CONFIGS = ("base", "amp", "large", "int8", "w4a8", "bit")
STEPS = 10  # of one experiment before it is the next one's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help=f"times {STEPS} steps of each experiment")
    parser.add_argument("--warmup", type=int, default=300, help="float steps before anything is timed")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as work:
        trainers = {name: make_trainer(name, flags, options.warmup, Path(work, name)) for name in CONFIGS}
        seconds = {name: [] for name in trainers}
        for _ in range(options.rounds):
            for name, trainer in trainers.items():
                started = time.perf_counter()
                for _ in range(STEPS):
                    trainer.train_step()
                seconds[name].append((time.perf_counter() - started) / STEPS)
    results = {"facts": common.machine(), "experiments": common.summary(seconds, "base")}
    for name, times in results["experiments"].items():
        times["queries"] = trainers[name].args.samples_per_batch
        print(f"{name:<8}{times['median_ms']:>9.1f} ms {times['of_base']:>6.2f} x base")
    common.save_results("step_times", results)


def make_trainer(name: str, flags: list[str], warmup: int, folder: Path) -> Trainer:
    """A trainer in the phase that its config ends with."""
    folder.mkdir()
    args = config_parser().parse_args(["--config", str(common.ROOT / "configs/experiments" / f"{name}.txt"), *flags])
    device = prepare_device(args)
    scene = load_scene(args)
    renderer = make_renderer(args, scene, device, NeRF_qat)
    trainer = Trainer(args, scene, renderer, folder, float_phase(args))
    for _ in range(warmup):
        trainer.train_step()
    if name not in ("int8", "w4a8", "bit"):
        return trainer
    save_float_model(folder / "model_float32.safetensors", renderer, scene.render_path)
    scheme = SCHEMES[args.quant](args, scene, renderer)
    scheme.prepare()
    scheme.calibrate()
    rounding = rounding_trainer(args, scene, scheme, folder, warmup)
    rounding.step = warmup
    rounding.batches.load_state_dict(trainer.batches.state_dict())
    return rounding


if __name__ == "__main__":
    main()
