"""Trains a float radiance field, measures the file it leaves, and renders its video.

python run_nerf.py --config configs/lego.txt [--render_only [--render_test] [--model FILE]]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import sys

from deploy.backends.choose import select_backend
from deploy.model_file import find_model, save_float_model
from experiment import (
    FLOAT_FILE,
    float_phase,
    make_trainer,
    measure,
    prepare_device,
    render_checkpoint,
    render_file,
    set_up,
    start,
)
from options import config_parser
from training.run_log import record_flags
from utils import distributed
from utils.errors import exit_cleanly


def main(argv: list[str] | None = None) -> None:
    args = config_parser("run_nerf").parse_args(argv)
    device = prepare_device(args)
    backend = select_backend(args.backend, device)
    if args.render_only and args.model:
        return render_file(args, find_model(args.model), device, backend) if distributed.is_main() else None
    run = set_up(args, device)
    if run is None:  # --plot_cameras
        return

    trainer = make_trainer(run, float_phase(args))
    start(trainer, args, run.found)
    if not args.render_only:
        record_flags(vars(args), run.folder)
        with run.viewer:
            trainer.train(args.N_iters)
    distributed.leave()
    if not distributed.is_main():
        return
    if args.render_only:
        return render_checkpoint(run, trainer)

    # What training left is now measured from the file that a user would keep.
    unsaved = trainer.progress.unsaved
    unsaved.attempt(save_float_model, run.folder / FLOAT_FILE, run.renderer, run.scene.render_path)
    measure(run, trainer, {"float32": FLOAT_FILE}, backend)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
