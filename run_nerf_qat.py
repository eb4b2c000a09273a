"""Trains a NeRF, makes it int8 or ternary by training through the rounding, renders it from the file.

python run_nerf_qat.py --config configs/lego_qat.txt
python run_nerf_qat.py --config configs/lego_qat.txt --render_only [--render_test] [--model FILE]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
from pathlib import Path

import torch

from compressors.kinds import COMPRESSORS
from deploy.backends.choose import check_executes, select_backend
from deploy.exports import Exports
from deploy.model_file import KINDS, find_model
from experiment import measure, prepare_device, render_or_export, set_up, train_and_compress, trains_in_float
from options import config_parser
from run_nerf_helpers import NeRF_qat
from utils import distributed
from utils.errors import BadInput, exit_cleanly
from utils.files import atomic_write


def main(argv: list[str] | None = None) -> None:
    args = config_parser("run_nerf_qat").parse_args(argv)
    device = prepare_device(args)
    kind = COMPRESSORS[args.quant]
    if args.render_only:
        own = Path(args.basedir) / args.expname / f"model_{kind.name}.safetensors"
        return render_or_export(args, find_model(args.model or own), device) if distributed.is_main() else None
    backend = check_flags(args, device)
    run = set_up(args, device, kind.phase, NeRF_qat)
    if run is None:  # --plot_cameras
        return

    compressor = kind.from_flags(args, run.renderer, run.scene.render_path, trains_in_float(args))
    exports = Exports.from_flags(args)
    exports.check(run.renderer, compressor.name)
    with run.viewer:
        trainer = train_and_compress(run, compressor)
    if not distributed.is_main():
        return

    # What training left is now measured from the file that a user would keep.
    compressor.finish()
    file, content = run.folder / compressor.file, compressor.to_bytes()
    atomic_write(file, content)
    if args.quant_budget and len(content) > args.quant_budget:
        print(f"note: the file has {len(content)} bytes, more than --quant_budget {args.quant_budget}: the grid grew")
    exported = trainer.progress.unsaved.attempt(exports.write, file)
    measure(run, trainer, compressor.files(), backend, exported)


def check_flags(args: argparse.Namespace, device: torch.device) -> str:
    """The backend. Raises BadInput for flags that do not go together, before hours are spent on training."""
    backend = select_backend(args.backend, device)
    precision = COMPRESSORS[args.quant].name
    if not KINDS.get(args.field, KINDS["nerf"]).has_density:
        raise BadInput(f"--field {args.field}: is trained, to int8 too, by run_r2l.py")
    if args.field not in KINDS or precision not in KINDS[args.field].precisions:
        raise BadInput(f"--field {args.field}: is not trained to --quant {args.quant}; a tensor field is by run_vq.py")
    if args.distill > 0 and args.sampler != "occupancy":
        raise BadInput("--distill compares fields at the same samples, which only --sampler occupancy has")
    if args.distill > 0 and not trains_in_float(args):
        raise BadInput("--distill learns from the float model, which --N_iters 0 does not train; give --ft_path")
    if args.quant == "ptq" and not trains_in_float(args):
        raise BadInput("--quant ptq calibrates a float model, which --N_iters 0 does not train; give --ft_path")
    if args.qat_schedule == "bitnet" and args.optimizer != "muon":
        raise BadInput("--qat_schedule bitnet decays the matrices that Muon holds; add --optimizer muon")
    check_executes(backend, precision)
    if precision == "int8" and args.residual:
        raise BadInput(f"--residual: int8 files have no sum of two layers; use --quant w4a8, not {args.quant}")
    if precision != "int8":
        for flag in ("weight_bits", "activation_bits"):
            if getattr(args, flag) != 8:
                raise BadInput(f"--{flag} is for int8 files; with --quant {args.quant} give --quant_bits or --bit_ends")
    return backend


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
