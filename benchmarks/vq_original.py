"""The recipe of VQ-TensoRF's released code on our field, for benchmarks/vq_rate_distortion.py.

0.7 of all importance kept, 0.001 pruned, codebooks of 4096; finetuned without rounding; then kept
vectors as int8 by channel (steps of a fifteenth of their standard deviation), codebooks, lines and
decoder as float16, row numbers in 12 bits, masks in one, all DEFLATEd. Where its code departs from
its own idea ours does not: codes are shared exactly, pruned entries are zero.
"""

import argparse
import io
import zipfile

import numpy as np
import torch

from compressors.vq import VQCompressor
from fields.tensorf import TensorField
from fields.vq_tensorf import CODED, KEPT, VQTensorVM

KEPT_SHARE, PRUNED_SHARE, CODES = 0.7, 0.001, 4096
STEPS_IN_DEVIATION = 15


def set_flags(args: argparse.Namespace) -> None:
    """Makes flags those of the recipe."""
    args.vq_keep, args.vq_prune, args.codebook_size, args.target_bytes = KEPT_SHARE, PRUNED_SHARE, CODES, None


class OriginalRecipe(VQCompressor):
    """A VQCompressor whose network does not round while it is trained, and its file: zipped arrays."""

    calibrated_file = None
    file = "model_original.zip"

    def _take(self, network: VQTensorVM) -> None:
        super()._take(network)
        for tensor in network.rounded().values():
            tensor.forward = lambda tensor=tensor: tensor.value

    def losses(self, *_) -> dict[str, torch.Tensor]:
        """Its bytes cost nothing."""
        return {}

    def finish(self) -> None:
        """Puts what the arrays hold into the renderer."""
        network = self.renderer.field.network
        self.arrays, dense = pack(network)
        self.arrays["alpha_mask"] = np.packbits(self.renderer.grid.occupied.cpu().numpy())
        self.renderer.field = TensorField(network.config, dense)

    def to_bytes(self) -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in self.arrays.items():
                archive.writestr(name, array.tobytes())
        return content.getvalue()


@torch.no_grad()
def pack(network: VQTensorVM) -> tuple[dict[str, np.ndarray], torch.nn.Module]:
    """The arrays of the original's file, and the network that they make."""
    arrays: dict[str, np.ndarray] = {}

    def half(name: str, value: torch.Tensor) -> torch.Tensor:
        arrays[name] = value.half().cpu().numpy()
        return value.half().float()

    dense = network.dense()
    for i, (table, rows, states) in enumerate(zip(network.tables, network.rows, network.states(), strict=True)):
        count = int(network.codes[i])
        codes = half(f"codebook.{i}", table.value[:count])
        kept = table.value[count:]
        scale, zero = kept.std(0).clamp_min(1e-12) / STEPS_IN_DEVIATION, kept.mean(0)
        integers = ((kept - zero) / scale).round().clamp(-128, 127)
        arrays[f"kept.{i}"] = integers.to(torch.int8).cpu().numpy()
        arrays[f"scales.{i}"] = torch.stack([scale, zero]).cpu().numpy()
        for state in (CODED, KEPT):
            arrays[f"mask.{i}.{state}"] = np.packbits((states == state).cpu().numpy())
        numbers = (rows[:, states == CODED] - 1).cpu().numpy()
        bits = max(1, int(count - 1).bit_length())
        arrays[f"numbers.{i}"] = np.packbits((numbers[..., None] >> np.arange(bits)) & 1)
        plane = torch.zeros_like(dense.planes[i])
        parts = codes.split(table.groups, -1)
        coded = torch.cat([part[n] for part, n in zip(parts, rows[:, states == CODED].long() - 1, strict=True)], -1)
        plane[states == CODED] = coded
        plane[states == KEPT] = integers * scale + zero
        dense.planes[i].copy_(plane)
        dense.lines[i].copy_(half(f"lines.{i}", dense.lines[i]))
    for name, parameter in [*dense.basis.named_parameters("basis"), *dense.decoder.named_parameters("decoder")]:
        parameter.copy_(half(name, parameter))
    return arrays, dense
