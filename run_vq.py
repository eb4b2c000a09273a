"""Trains a TensoRF, compresses it to pruned, shared and kept entries in one small file, renders that.

python run_vq.py --config configs/lego_vq.txt
python run_vq.py --config configs/lego_vq.txt --render_only [--render_test] [--model PATH]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
from pathlib import Path

from compressors.compressor import trains_in_float
from compressors.vq import VQScheme
from deploy.backends.choose import FLOAT_BACKEND
from deploy.vq_file import FREE_CELLS
from experiment import FIELD_KINDS, make_renderer, make_run_folder
from fields.tensorf_training import tensorf_phase
from load_scene import load_scene
from options import config_parser
from quantized_runs import evaluate, render_file, train_and_round
from scenes.camera_plot import plot_cameras
from training.checkpoints import find_checkpoint
from utils import distributed
from utils.devices import prepare_device
from utils.errors import BadInput, exit_cleanly


def main(argv: list[str] | None = None) -> None:
    args = config_parser().parse_args(argv)
    device = prepare_device(args)
    folder = Path(args.basedir) / args.expname
    if args.render_only:
        if distributed.is_main():
            file = folder / "model_vq.safetensors" if args.model in FIELD_KINDS else Path(args.model)
            render_file(args, file, folder, device, FLOAT_BACKEND)
        return
    check_flags(args)
    scene = load_scene(args)
    folder = make_run_folder(args)
    if args.plot_cameras:
        return plot_cameras(folder / "cameras.png", scene) if distributed.is_main() else None
    found = find_checkpoint(args, scene, folder, VQScheme.phase)
    renderer = make_renderer(args, scene, device)

    scheme = VQScheme(args, scene, renderer)
    trainer = train_and_round(args, scene, renderer, scheme, folder, tensorf_phase(args, renderer), found)
    if not distributed.is_main():
        return

    # What training left is now measured from the file that a user would keep.
    scheme.finish()
    scheme.save(folder / "model_vq.safetensors")
    evaluate(args, scene, scheme, folder, trainer, FLOAT_BACKEND, {})


def check_flags(args: argparse.Namespace) -> None:
    """Raises BadInput for flags that do not go together, before hours are spent on training."""
    if args.model != "tensorf" or args.tensor != "vm":
        raise BadInput(f"--model {args.model} --tensor {args.tensor}: run_vq.py compresses planes; use tensorf and vm")
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
