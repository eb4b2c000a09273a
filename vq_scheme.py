"""How a trained TensoRF comes to train through pruning, codebooks and rounding, and its file."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from batches import Batch
from errors import BadInput
from model_file import save_vq_model
from rendering import OccupancyRenderer, Rays, Rendering, make_rays
from run_nerf_helpers import camera_rays
from scene import Scene
from tensorf import TensorVM
from vector_quantization import PRUNED, VQTensorVM, balance, plane_importance, vector_quantize
from vq_file import VQField, encode

RAYS_AT_ONCE = 16384
RATE_SHARE = 8  # every so many rows tell the rate of all
STEP = 0.15  # first step of rounding, in root mean squares of what is rounded


class VQScheme:
    """Plane entries pruned, from a codebook, or kept, all rounded and range-coded (`vector_quantization.py`)."""

    name = phase = "vq"
    calibrated_file = "model_vq_untrained.safetensors"

    def __init__(self, args: argparse.Namespace, scene: Scene, renderer: OccupancyRenderer):
        self.args, self.scene, self.renderer = args, scene, renderer
        self.steps = args.qat_iters

    def files(self) -> dict[str, str | None]:
        """The models to measure and their files; None: the trained network, rounding in float."""
        own = {"float32": "model_float32.safetensors", "vq_untrained": self.calibrated_file}
        return own | ({"fake_quant": None} if self.steps else {}) | {"vq": "model_vq.safetensors"}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing is to be known but what is in the network."""

    def prepare(self) -> None:
        """A network of the right kind, which takes on its sizes when it is loaded or calibrated."""
        self._float = self.renderer.field
        network = self._float.network
        if not isinstance(network, TensorVM):
            raise BadInput("run_vq.py compresses planes: --tensor cp has none; use --tensor vm")
        states = [torch.full(plane.shape[:2], PRUNED, dtype=torch.uint8) for plane in network.planes]
        codes = [plane.detach()[0, :0] for plane in network.planes]
        numbers = [torch.zeros((2, *state.shape), dtype=torch.long) for state in states]
        self._take(VQTensorVM(network, states, codes, numbers, STEP))

    def _take(self, network: VQTensorVM) -> None:
        self.renderer.field = VQField(self._float.config, network.to(self.renderer.grid.aabb.device))

    def calibrate(self) -> None:
        """Finds out what matters to the training rays, and splits and codes the planes by it."""
        self.renderer.field = self._float
        balance(self._float.network)
        importance = plane_importance(self.renderer, self._rays())
        self._take(
            vector_quantize(
                self._float,
                importance,
                self.args.vq_keep,
                self.args.vq_prune,
                self.args.codebook_size,
                STEP,
                self.args.seed,
            )
        )

    def _rays(self) -> Iterator[Rays]:
        """Training rays, all or `--importance_rays` drawn at random, in parts."""
        views = self.scene.splits["train"]
        device = self.renderer.grid.aabb.device
        cameras = self.scene.cameras[views].to(device)
        height, width = cameras.height, cameras.width
        count = len(views) * height * width
        generator = torch.Generator().manual_seed(self.args.seed)
        pixels = torch.arange(count)
        if count > self.args.importance_rays:
            pixels = torch.randint(count, (self.args.importance_rays,), generator=generator)
        offset = self.renderer.setup.pixel_offset
        for part in pixels.split(RAYS_AT_ONCE):
            part = part.to(device)
            view, row, column = part // (height * width), part // width % height, part % width
            rays = camera_rays(column + offset, row + offset, cameras.K[view], cameras.c2w[view])
            yield make_rays(*rays, self.renderer.setup, cameras)

    def after_step(self, done: float) -> None:
        """Nothing changes by itself."""

    def extra_loss(self, batch: Batch, rendering: Rendering, step: int) -> torch.Tensor:
        """The price of the file's bytes."""
        kilobytes = self.renderer.field.network.bits(RATE_SHARE, step) / 8000
        return self.args.rate_weight * kilobytes

    def finish(self) -> None:
        """Makes the network what its file will be."""
        with torch.no_grad():
            for name, parameter in self.renderer.field.network.named_parameters():
                if name.endswith("bias"):
                    parameter.copy_(parameter.half())

    def save(self, path: Path) -> int:
        return save_vq_model(path, self.renderer, *encode(self.renderer.field.network), self.scene.render_path)
