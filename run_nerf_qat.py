"""Trains a NeRF, makes it int8 or ternary by training through the rounding, renders it from the file.

python run_nerf_qat.py --config configs/lego_qat.txt
python run_nerf_qat.py --config configs/lego_qat.txt --render_only [--render_test] [--model PATH]
"""

if __name__ == "__main__":  # before what takes seconds to import
    from utils import interrupts

    interrupts.exit_at_once()

import argparse
import sys
from pathlib import Path

import torch

from compressors.compressor import SCHEMES, trains_in_float
from deploy.backends.choose import select_backend
from deploy.backends.low_bit import PRODUCTS
from deploy.backends.onnx_graph import export_onnx
from deploy.model_file import load_renderer
from experiment import FIELD_KINDS, make_renderer, make_run_folder
from load_scene import load_scene
from options import config_parser
from quantized_runs import CPU, evaluate, render_file, train_and_round
from run_nerf_helpers import NeRF_qat
from scenes.camera_plot import plot_cameras
from training.checkpoints import find_checkpoint
from training.trainer import float_phase
from utils import distributed
from utils.devices import prepare_device
from utils.errors import BadInput, exit_cleanly


def main(argv: list[str] | None = None) -> None:
    args = config_parser().parse_args(argv)
    device = prepare_device(args)
    if args.render_only:
        return render_only(args, device) if distributed.is_main() else None
    check_flags(args, device)
    scene = load_scene(args)
    folder = make_run_folder(args)
    if args.plot_cameras:
        return plot_cameras(folder / "cameras.png", scene) if distributed.is_main() else None
    found = find_checkpoint(args, scene, folder, SCHEMES[args.quant].phase)
    renderer = make_renderer(args, scene, device, NeRF_qat)

    scheme = SCHEMES[args.quant](args, scene, renderer)
    trainer = train_and_round(args, scene, renderer, scheme, folder, float_phase(args), found)
    if not distributed.is_main():
        return

    # What training left is now measured from the file that a user would keep.
    scheme.finish()
    file = folder / f"model_{scheme.name}.safetensors"
    size = scheme.save(file)
    if args.quant_budget and size > args.quant_budget:
        print(f"note: the file has {size} bytes, more than --quant_budget {args.quant_budget}: the grid has grown")
    exported = trainer.unsaved.attempt(export, file) if args.export_onnx else None
    noted = {"onnx_bytes": sum(exported.values())} if exported else {}
    evaluate(args, scene, scheme, folder, trainer, select_backend(args.backend, device), noted)


def check_flags(args: argparse.Namespace, device: torch.device) -> None:
    """Raises BadInput for flags that do not go together, before hours are spent on training."""
    backend = select_backend(args.backend, device)
    if args.model != "nerf":
        raise BadInput(f"--model {args.model}: only a nerf is trained to --quant {args.quant}; see run_vq.py")
    if args.distill > 0 and args.sampler != "occupancy":
        raise BadInput("--distill compares fields at the same samples, which only --sampler occupancy has")
    if args.distill > 0 and not trains_in_float(args):
        raise BadInput("--distill learns from the float model, which --N_iters 0 does not train; give --ft_path")
    if args.quant == "ptq" and not trains_in_float(args):
        raise BadInput("--quant ptq calibrates a float model, which --N_iters 0 does not train; give --ft_path")
    if args.qat_schedule == "bitnet" and args.optimizer != "muon":
        raise BadInput("--qat_schedule bitnet decays the matrices that Muon holds; add --optimizer muon")
    if SCHEMES[args.quant].name == "int8":
        if args.residual:
            raise BadInput(f"--residual: int8 files have no sum of two layers; use --quant w4a8, not {args.quant}")
        return
    if backend not in PRODUCTS:
        raise BadInput(f"--backend {backend} does not execute --quant {args.quant}; use auto, reference or torch")
    for flag in ("weight_bits", "activation_bits"):
        if getattr(args, flag) != 8:
            raise BadInput(f"--{flag} is for int8 files; with --quant {args.quant} give --quant_bits or --bit_ends")
    if args.export_onnx:
        raise BadInput(f"--export_onnx is for int8 files; leave it out with --quant {args.quant}")


def export(file: Path) -> dict[str, int]:
    """Writes an int8 file's field, or both, as ONNX beside it; returns bytes by file name."""
    renderer, _, metadata = load_renderer(file, CPU)
    if metadata["precision"] != "int8":
        raise BadInput(f"{file}: --export_onnx takes an int8 file, this one is {metadata['precision']}")
    sizes = export_onnx(renderer, file.with_suffix(".onnx"))
    for name, size in sizes.items():
        print(f"wrote {file.with_name(name)} ({size} bytes)")
    return sizes


def render_only(args: argparse.Namespace, device: torch.device) -> None:
    """Renders the quantised file that `--model` names, or this run's, or exports it."""
    folder = Path(args.basedir) / args.expname
    own = folder / f"model_{SCHEMES[args.quant].name}.safetensors"
    file = own if args.model in FIELD_KINDS else Path(args.model)
    if args.export_onnx:
        export(file)
        return
    render_file(args, file, folder, device, select_backend(args.backend, device))


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
