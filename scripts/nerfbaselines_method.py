"""NeRF-QAT as a method of NerfBaselines (Kulhanek and Sattler 2024, arXiv 2406.17345): see docs/nerfbaselines.md.

A checkpoint of it is a folder: `NNNNNN.tar` to go on from, `model.safetensors` that renders, and `nerf_qat.json` with
the flags and what moved the data set's world into the scene's. What is rendered is the model file at all times, so
measures are those of int8 where training goes through rounding, and a loaded checkpoint gives the same pictures.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from nerfbaselines import Method, MethodInfo, ModelInfo, RenderOutput

from deploy.backends.choose import select_backend
from deploy.model_file import IN_FOLDER
from experiment import load_file, prepare_device
from load_scene import as_flags_say
from options import config_parser
from rendering.renderer import Renderer, RenderLimits, render_image
from scenes.capture_frame import Similarity
from scripts.nerfbaselines_scene import cameras_of, scene_of_dataset
from scripts.stepped_run import SteppedRun
from training.checkpoints import checkpoint_files
from training.identity import float_steps
from training.watch import fail_if_not_finite
from utils.files import atomic_write, write_json
from utils.parser import opposite

ROOT = Path(__file__).resolve().parent.parent
ABOUT = "nerf_qat.json"
ANY_CAPTURE = "configs/360_mip.txt"  # where no preset names another config


class NeRFQAT(Method):
    """checkpoint: a folder that `save` made. config_overrides: flags by name, as config files have them; `quant` names
    the rounding, and without it training stays in float."""

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        train_dataset: Mapping | None = None,
        config_overrides: Mapping | None = None,
    ):
        self.checkpoint = Path(checkpoint) if checkpoint else None
        about = json.loads((self.checkpoint / ABOUT).read_text()) if self.checkpoint else {}
        self.flags = {"config": ANY_CAPTURE, **about.get("flags", {}), **(config_overrides or {})}
        self.args = config_parser().parse_args(words(self.flags))
        self.device = prepare_device(self.args)
        self.backend = select_backend(self.args.backend, self.device)
        self.loaded_step: int | None = about.get("step")
        self.run: SteppedRun | None = None
        self.shown: Renderer | None = None  # what the model file renders, while nothing is trained
        if about:
            frame = about["frame"]
            self.move = Similarity(np.array(frame["rotation"]), np.array(frame["center"]), frame["scale"])
        if train_dataset is not None:
            self._begin(train_dataset)
        if self.checkpoint:
            self.shown = self._load(self.checkpoint / IN_FOLDER)

    def _begin(self, dataset: Mapping) -> None:
        scene, self.move = scene_of_dataset(dataset, (dataset.get("metadata") or {}).get("scene") or "scene")
        if not scene.ndc:
            scene.near, scene.far = self.args.near or scene.near, self.args.far or scene.far
        scene = as_flags_say(self.args, scene)
        self.args.random_bkgd &= scene.has_alpha
        self.run = SteppedRun(self.args, scene, self.device, quantised="quant" in self.flags)
        if self.checkpoint:
            self.run.resume(self.checkpoint)

    @classmethod
    def get_method_info(cls) -> MethodInfo:
        return MethodInfo(
            method_id="",  # the registry's
            required_features=frozenset(("color",)),
            supported_camera_models=frozenset(("pinhole",)),
            supported_outputs=("color", "depth", "accumulation"),
            can_resume_training=True,
        )

    def get_info(self) -> ModelInfo:
        steps = float_steps(vars(self.args)) + (self.args.qat_iters if "quant" in self.flags else 0)
        return ModelInfo(
            **self.get_method_info(),
            num_iterations=steps,
            loaded_step=self.loaded_step,
            loaded_checkpoint=str(self.checkpoint) if self.checkpoint else None,
            batch_size=self.args.N_rand,
            eval_batch_size=self.args.chunk,
            hparams=dict(self.flags),
        )

    def train_iteration(self, step: int) -> dict[str, float]:
        """The next step; the trainer counts for itself."""
        self.shown = None
        result = self.run.step()
        mse = float(result.mse)
        fail_if_not_finite(mse, self.run.done)
        losses = {name: float(loss) for name, loss in result.losses.items()}
        of_pixels = {"mse": mse, "psnr": -10 * float(np.log10(mse)), "num_rays": result.batch.total_rays}
        return {"loss": mse + sum(losses.values()), **of_pixels, **losses}

    @torch.no_grad()
    def render(self, camera, *, options: Mapping | None = None) -> RenderOutput:
        """color `[H, W, 3]` in [0, 1], over the scene's background; depth `[H, W]`, the expected distance along the ray
        in the data set's units; accumulation `[H, W]`."""
        camera = camera.item()
        one = cameras_of(camera[None], self.move).to(self.device)
        seen = render_image(self._shown(), one, RenderLimits.from_flags(self.args))
        return {
            "color": seen.rgb.clamp(0, 1).cpu().numpy(),
            "depth": (seen.depth / self.move.scale).cpu().numpy(),
            "accumulation": seen.opacity.cpu().numpy(),
        }

    def _shown(self) -> Renderer:
        if self.shown is None:
            with tempfile.TemporaryDirectory() as folder:
                atomic_write(Path(folder, IN_FOLDER), self.run.model())
                self.shown = self._load(Path(folder, IN_FOLDER))
        return self.shown

    def _load(self, file: Path) -> Renderer:
        return load_file(self.args, file, self.device, self.backend)[0]

    def save(self, path: str) -> None:
        folder = Path(path)
        if self.run is None:  # nothing has changed since it was loaded
            folder.mkdir(parents=True, exist_ok=True)
            for file in (self.checkpoint / ABOUT, self.checkpoint / IN_FOLDER, *checkpoint_files(self.checkpoint)):
                shutil.copyfile(file, folder / file.name)
            return
        self.run.save(folder)
        frame = {"rotation": self.move.rotation.tolist(), "center": self.move.center.tolist(), "scale": self.move.scale}
        write_json(folder / ABOUT, {"flags": dict(self.flags), "step": self.run.done, "frame": frame})


def words(flags: Mapping) -> list[str]:
    """Flags by name as a command line; values as config files write them, as text or not: True, [64, 64], 0.5.

    A config is looked for in this repository too, wherever it is called from.
    """
    given = []
    for name, value in flags.items():
        if name == "config" and not Path(value).is_absolute() and not Path(value).exists():
            value = ROOT / value
        text = str(value)
        if text in ("True", "False"):
            given.append(f"--{name}" if text == "True" else opposite(f"--{name}"))
        elif text.startswith("["):
            given += [f"--{name}", *text.translate(str.maketrans(",", " ", "[]'\"")).split()]
        else:
            given.append(f"--{name}={text}")
    return given
