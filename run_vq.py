"""Trains a TensoRF, compresses it to pruned, shared and kept entries in one small file, renders that.

python run_vq.py --config configs/lego_vq.txt
python run_vq.py --config configs/lego_vq.txt --render_only [--render_test] [--model FILE]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
from pathlib import Path

from compressors.vq import VQCompressor
from deploy.backends.choose import select_backend
from deploy.exports import Exports
from deploy.grid_file import FREE_CELLS
from deploy.model_file import find_model
from experiment import measure, prepare_device, render_or_export, set_up, train_and_compress, trains_in_float
from options import config_parser
from utils import distributed
from utils.errors import BadInput, exit_cleanly
from utils.files import atomic_write


def main(argv: list[str] | None = None) -> None:
    args = config_parser("run_vq").parse_args(argv)
    device = prepare_device(args)
    backend = select_backend(args.backend, device)
    if args.render_only:
        own = Path(args.basedir) / args.expname / "model_vq.safetensors"
        return render_or_export(args, find_model(args.model or own), device) if distributed.is_main() else None
    check_flags(args)
    run = set_up(args, device, VQCompressor.phase)
    if run is None:  # --plot_cameras
        return

    compressor = VQCompressor.from_flags(args, run.renderer, run.scene.render_path)
    exports = Exports.from_flags(args)
    exports.check(run.renderer, compressor.name)
    with run.viewer:
        trainer = train_and_compress(run, compressor)
    if not distributed.is_main():
        return

    # What training left is now measured from the file that a user would keep.
    compressor.finish()
    file = run.folder / compressor.file
    atomic_write(file, compressor.to_bytes())
    exported = trainer.progress.unsaved.attempt(exports.write, file)
    measure(run, trainer, compressor.files(), backend, exported)


def check_flags(args: argparse.Namespace) -> None:
    """Raises BadInput for flags that do not go together, before hours are spent on training."""
    if args.field != "tensorf" or args.tensor != "vm":
        raise BadInput(f"--field {args.field} --tensor {args.tensor}: run_vq.py compresses planes; use tensorf and vm")
    if args.rate_weight < 0 or (args.target_bytes and not args.rate_weight):
        raise BadInput(f"--rate_weight {args.rate_weight:g}: give 0 or more, and more than 0 with --target_bytes")
    if args.grid_resolution**3 > FREE_CELLS:
        raise BadInput(
            f"--grid_resolution {args.grid_resolution}: run_vq.py codes {FREE_CELLS} cells at most; give less"
        )
    if not trains_in_float(args):
        raise BadInput("--N_iters 0: there is no trained field to compress; give --ft_path, or steps to train one")


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
