"""Both phases of a training one step at a time, where someone else holds the loop: NerfBaselines, a notebook."""

import argparse
import tempfile
from pathlib import Path

import torch

from compressors.kinds import COMPRESSORS
from deploy.model_file import IN_FOLDER, float_model
from experiment import Run, compression_trainer, float_phase, make_renderer, make_trainer, start, trains_in_float
from run_nerf_helpers import NeRF_qat
from scenes.scene import Scene
from training.checkpoints import load_newest, save_checkpoint
from training.exposure import Exposure
from training.identity import check_phase, float_steps
from training.trainer import StepResult
from utils.errors import BadInput, BrokenFile, blaming
from utils.files import atomic_write


class SteppedRun:
    """What the flags describe, on a scene that is there already.

    quantised: whether after `--N_iters` steps in float come those of `--quant` through its rounding; else float is all.
    steps: of both phases. Raises BadInput where the flags ask for what cannot be stepped so.
    """

    def __init__(self, args: argparse.Namespace, scene: Scene, device: torch.device, quantised: bool):
        if quantised and args.distill > 0:
            raise BadInput("--distill: its teacher is a file in a run's folder, and here is none; leave it out")
        self._folder = tempfile.TemporaryDirectory()  # reports would go there; checkpoints go where `save` is told
        renderer, exposure = make_renderer(args, scene, device, NeRF_qat), Exposure.from_flags(args, scene, device)
        self.run = Run(args, scene, Path(self._folder.name), renderer, None, exposure)
        self.compressor = None
        if quantised:
            kind = COMPRESSORS[args.quant]
            self.compressor = kind.from_flags(args, renderer, scene.render_path, trains_in_float(args))
            if not self.compressor.steps:
                raise BadInput(f"--quant {args.quant}: trains no steps through rounding; give qat, w4a8 or ternary")
        self.trainer = make_trainer(self.run, float_phase(args))
        self.float_steps = float_steps(vars(args))
        self.steps = self.float_steps + (self.compressor.steps if self.compressor else 0)
        self.rounds = False
        self._round_if_due()

    @property
    def done(self) -> int:
        """Steps of both phases."""
        return self.trainer.global_step

    def step(self) -> StepResult:
        """The next step, of whichever phase it is in."""
        result = self.trainer.step()
        self._round_if_due()
        return result

    def _round_if_due(self) -> None:
        if self.compressor and not self.rounds and self.done == self.float_steps:
            self.compressor.prepare()
            self.compressor.calibrate(self.run.batches())
            self._go_on_rounding()

    def _go_on_rounding(self) -> None:
        self.trainer = compression_trainer(self.run, self.compressor, self.trainer.progress)
        self.rounds = True

    def model(self) -> bytes:
        """The model file as things stand; of few bits once training goes through rounding."""
        if self.rounds:
            return self.compressor.to_bytes()
        return float_model(self.run.renderer, self.run.scene.render_path)

    def save(self, folder: Path) -> None:
        """A checkpoint to go on from, and the model's file."""
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / f"{self.done:06d}.tar", self.trainer.state_dict())
        atomic_write(folder / IN_FOLDER, self.model())

    def resume(self, folder: Path) -> None:
        """Goes on from the newest checkpoint in a folder. Raises BrokenFile where there is none of such a run."""
        found = load_newest(folder)
        if found is None:
            raise BrokenFile(f"{folder}: no whole checkpoint in it to go on from")
        path, state = found
        check_phase(self.compressor.phase if self.compressor else "float", path, state)
        if state.get("phase", "float") != "float" and not self.rounds:
            with blaming(path):
                self.compressor.load_state_dict(state.get("scheme", {}))
            self.compressor.prepare()
            self.trainer.progress.step = self.float_steps
            self._go_on_rounding()
        start(self.trainer, self.run.args, found)
        if self.rounds:
            self.trainer.phase.after_step(self.done)
