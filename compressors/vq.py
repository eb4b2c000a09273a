"""How a trained TensoRF comes to train through pruning, codebooks and rounding, and its file."""

import argparse
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from compressors.codebooks import ITERATIONS, balance, plane_importance, relative_error, vector_quantize
from compressors.compressor import Compressor
from deploy.model_file import model_bytes
from deploy.vq_file import encode
from fields.tensorf_training import TensorfTraining
from fields.vq_tensorf import PRUNED, VQField, VQTensorVM
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.rays import Rays
from rendering.renderer import Rendering
from scenes.scene import Cameras
from training.batches import Batch, RayBatches
from utils import distributed
from utils.checks import check_keys, check_number
from utils.errors import BadInput
from utils.parser import positive
from utils.progress import brief_bar

RATE_SHARE = 8  # every so many rows tell the rate of all

# For --target_bytes.
HEADROOM = 1.25  # first size over target: what training with a rate wins back
KEPT_SHARES = (0.0, 0.3, 0.6, 0.8, 0.9, 1.0)  # of all importance, tried with
CODEBOOK_PARTS = (1, 4, 16)  # codebooks of one of these parts of --codebook_size,
LEAST_CODES = 16  # but so many codes at least,
FEW_ITERATIONS = 8  # fitted in so few for the trial
CORRECTIONS = 2  # of an estimated size by a coded one
TRIALS = 8  # of the bisections
LOOK_INTERVAL = 20  # steps after which the rate's weight is set anew
# Of that: how strongly its logarithm answers to sizes that were off, and to one that is.
INTEGRAL_GAIN, PROPORTIONAL_GAIN = 4.0, 10.0
SETTLED = 0.6  # share of the steps after which the size is to be right
CODED_SHARE = 0.1  # of the steps after which the size is measured by coding
MOST_WEIGHT = 1e-2  # loss per kilobyte
FINEST, COARSEST = 0.25, 16.0  # times the steps there are
CONTROL = ("weight", "pressure", "first", "overhead", "looked")  # what of it a checkpoint holds
LARGEST_CONTROL = 1e12  # of each: bytes, steps, a logarithm, a weight


@dataclass(frozen=True)
class VQSettings:
    """keep, prune: shares of all importance whose entries are kept as they are, and left out. codes: of each codebook,
    the most of them under a target. rays: that importance is measured on. target: bytes that the file may have; None:
    as it comes out. rate_weight: loss (mean squared error) per kilobyte. seed: of codebooks and rays."""

    keep: float = 0.7
    prune: float = 0.001
    codes: int = 1024
    rays: int = 2**21
    target: int | None = None
    rate_weight: float = 1e-6
    seed: int = 0

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "VQSettings":
        return cls(
            keep=args.vq_keep,
            prune=args.vq_prune,
            codes=args.codebook_size,
            rays=args.importance_rays,
            target=args.target_bytes,
            rate_weight=args.rate_weight,
            seed=args.seed,
        )


@dataclass(frozen=True, order=True)
class Trial:
    """What a way to split the entries comes to at the target's size: the least is the best.

    loss: `relative_error`, or, where the file is too large in any case, its least bytes. coarser: by what
    steps are larger for that size.
    """

    too_large: bool
    loss: float
    coarser: float


def lowest_place(value: Callable[[tuple[int, int]], Trial], shape: tuple[int, int]) -> tuple[tuple[int, int], Trial]:
    """Where in a table of this shape `value` is lowest, and how low, downhill from its middle: few places are asked."""
    value = functools.cache(value)
    at, better = None, (shape[0] // 2, shape[1] // 2)
    while at != better:
        at = better
        around = [(at[0] + row, at[1] + column) for row, column in ((0, 0), (-1, 0), (1, 0), (0, 1), (0, -1))]
        better = min(
            (place for place in around if all(0 <= i < n for i, n in zip(place, shape, strict=True))), key=value
        )
    return at, value(at)


class VQCompressor(Compressor):
    """Plane entries pruned, from a codebook, or kept, all rounded and range-coded (`fields.vq_tensorf`).

    settings: the shares that are kept and pruned, codebooks, and the price of bytes. smoothness: of planes, from these
    and their density ranks to a loss, as in the end of float training; None where there was none.
    """

    name = phase = "vq"
    calibrated_file = "model_vq_untrained.safetensors"

    def __init__(
        self,
        renderer: OccupancyRenderer,
        render_path: Cameras,
        steps: int,
        settings: VQSettings = VQSettings(),  # noqa: B008 (frozen)
        smoothness: Callable | None = None,
    ):
        super().__init__(renderer, render_path, steps)
        self.settings, self.smoothness = settings, smoothness
        # Of the rate in the loss; under a target it is that times the exponential of a pressure.
        self._weight, self._pressure = settings.rate_weight, 0.0
        self._first: float | None = None  # bytes of the file at the start
        self._overhead = 0.0  # bytes of the file beyond what `bits` estimates
        self._looked = 0  # the step after which the weight was last set

    @staticmethod
    def add_flags(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--target_bytes", type=positive(int), help="bytes the file may have: what is kept, codes and prices follow")
        add("--vq_keep", type=float, default=0.7, help="share of all importance whose plane entries are kept, 0 to 1")
        add("--vq_prune", type=float, default=0.001, help="share of all importance whose entries are left out, 0 to 1")
        add(
            "--codebook_size",
            type=positive(int),
            default=1024,
            help="codes of each plane's codebooks; the most, under --target_bytes",
        )
        add("--importance_rays", type=positive(int), default=2**21, help="training rays that importance is measured on")
        add(
            "--rate_weight",
            type=float,
            default=1e-6,
            help="loss (mean squared error) per kilobyte of the file; 0: bytes cost nothing",
        )

    @classmethod
    def from_flags(
        cls, args: argparse.Namespace, renderer: OccupancyRenderer, render_path: Cameras, has_float: bool = True
    ) -> "VQCompressor":
        training = TensorfTraining.from_flags(args)
        smoothness = partial(training.smoothness, done=1.0) if any(args.tv_weight) else None
        return cls(renderer, render_path, args.qat_iters, VQSettings.from_flags(args), smoothness)

    def calibrated_files(self) -> dict[str, str]:
        return {"vq_untrained": self.calibrated_file}

    def state_dict(self) -> dict:
        """Where the rate's control stands."""
        return {name: getattr(self, f"_{name}") for name in CONTROL}

    def load_state_dict(self, state: dict) -> None:
        check_keys("scheme", state, set(CONTROL))
        for name in CONTROL:
            least = 0 if name in ("weight", "looked") else -LARGEST_CONTROL
            if name != "first" or state[name] is not None:
                check_number("scheme", state, name, least, LARGEST_CONTROL)
            setattr(self, f"_{name}", state[name])

    def prepare(self) -> None:
        """A network of the right kind, which takes on its sizes when it is loaded or calibrated."""
        self._float = self.renderer.field
        network = self._float.network
        states = [torch.full(plane.shape[:2], PRUNED, dtype=torch.uint8) for plane in network.planes]
        codes = [plane.detach()[0, :0] for plane in network.planes]
        numbers = [torch.zeros((2, *state.shape), dtype=torch.long) for state in states]
        self._take(VQTensorVM(network, states, codes, numbers))

    def _take(self, network: VQTensorVM) -> None:
        self.renderer.field = VQField(self._float.config, network.to(self.renderer.device))

    def calibrate(self, batches: RayBatches) -> None:
        """Finds out what matters to the training rays, and splits and codes the planes by it."""
        # Once, for all: sums on a GPU are not the same twice, and what follows must have the same shapes.
        state = distributed.from_main(lambda: self._calibrated(batches))
        self.renderer.field.network.load_state_dict(state)

    def _calibrated(self, batches: RayBatches) -> dict[str, torch.Tensor]:
        self.renderer.field = self._float
        balance(self._float.network)
        self._importance = plane_importance(
            self.renderer, brief_bar(self._rays(batches), desc="importance", unit="part")
        )
        if self.settings.target:
            kept, codes, coarser = self._fit_target()
            self._split(kept, codes)
            self.renderer.field.network.coarsen(coarser)
        else:
            self._split(self.settings.keep, self.settings.codes)
        return {name: value.cpu() for name, value in self.renderer.field.network.state_dict().items()}

    def _split(self, kept: float, codes: int, iterations: int = ITERATIONS) -> None:
        """Makes the network anew with so large a share kept."""
        prune, seed = self.settings.prune, self.settings.seed
        self._take(vector_quantize(self._float, self._importance, kept, prune, codes, seed, iterations))

    def _size(self) -> int:
        """Of the file, were it written now."""
        return len(self.to_bytes())

    def _fit_target(self) -> tuple[float, int, float]:
        """The share kept, the codes of a codebook, and by what to make steps coarser, that together lose least of
        what matters in a file of HEADROOM times `--target_bytes`.

        Raises BadInput, with the smallest size there is, where the target is below it.
        """
        most = self.settings.codes
        counts = sorted({min(most, max(LEAST_CODES, most // part)) for part in CODEBOOK_PARTS}, reverse=True)
        with brief_bar(desc="ways to split", unit="way") as bar:

            def trial(at: tuple[int, int]) -> Trial:
                bar.update()
                return self._try_split(KEPT_SHARES[at[0]], counts[at[1]])

            at, best = lowest_place(trial, (len(KEPT_SHARES), len(counts)))
        if best.too_large and best.loss > self.settings.target:
            raise BadInput(
                f"--target_bytes {self.settings.target}: the smallest file of this field has about {best.loss} "
                "bytes; give that many, or train one of fewer --voxels_final, ranks or --decoder_width"
            )
        kept, codes = KEPT_SHARES[at[0]], counts[at[1]]
        print(
            f"--target_bytes: {kept:.0%} of all importance kept, codebooks of {codes}, steps times {best.coarser:.2f}"
        )
        return kept, codes, best.coarser

    def _try_split(self, kept: float, codes: int) -> Trial:
        self._split(kept, codes, iterations=FEW_ITERATIONS)
        network = self.renderer.field.network
        coarser = self._coarser_for(HEADROOM * self.settings.target)
        if coarser is None:
            return Trial(True, self._coarsened(COARSEST), COARSEST)
        network.coarsen(coarser)
        planes = [plane.detach() for plane in self._float.network.planes]
        return Trial(False, relative_error(network, planes, self._importance), coarser)

    def _coarser_for(self, limit: float) -> float | None:
        """By what to make steps coarser for a file of about so many bytes; None if nothing does."""
        network = self.renderer.field.network

        def estimate(factor: float) -> float:
            network.coarsen(factor)
            numbers = self._estimate()
            network.coarsen(1 / factor)
            return numbers

        found = 1.0
        for _ in range(CORRECTIONS):  # by what the estimate leaves out, which changes with the steps
            ratio = self._coarsened(found) / estimate(found)
            if ratio * estimate(COARSEST) > limit:
                return None
            low, high = FINEST, COARSEST
            for _ in range(TRIALS):
                middle = math.sqrt(low * high)
                low, high = (low, middle) if ratio * estimate(middle) <= limit else (middle, high)
            found = high
        return found

    def _estimate(self) -> float:
        """Bytes of all rounded numbers."""
        with torch.no_grad():
            return float(self.renderer.field.network.bits()) / 8

    def _rays(self, batches: RayBatches) -> Iterator[Rays]:
        """Training rays, all or so many drawn at random, in parts."""
        numbers = batches.some_numbers(self.settings.rays, torch.Generator().manual_seed(self.settings.seed))
        return batches.rays_of(numbers, self.renderer)

    def after_step(self, done: float) -> None:
        """Under `--target_bytes`, moves the price of a byte so that the file shrinks to the right size.

        A proportional-integral control towards a size that falls evenly until SETTLED of the steps are done.
        """
        step = round(done * self.steps)
        if not self.settings.target or step % LOOK_INTERVAL or step <= self._looked:
            return
        self._looked = step
        estimate = self._estimate()
        if self._first is None or step % max(1, round(CODED_SHARE * self.steps)) < LOOK_INTERVAL:
            self._overhead = self._size() - estimate
        size, target = max(1.0, estimate + self._overhead), self.settings.target
        self._first = size if self._first is None else self._first
        planned = target + max(0.0, self._first - target) * max(0.0, 1 - done / SETTLED)
        over = math.log(size / planned)
        most = math.log(MOST_WEIGHT / self.settings.rate_weight)
        self._pressure = min(self._pressure + INTEGRAL_GAIN * over, most)
        self._weight = self.settings.rate_weight * math.exp(min(self._pressure + PROPORTIONAL_GAIN * over, most))

    def losses(self, batch: Batch, rendering: Rendering, step: int) -> dict[str, torch.Tensor]:
        """The price of the file's bytes, and what kept the float field's planes smooth in the end."""
        network = self.renderer.field.network
        losses = {"rate": self._weight * network.bits(RATE_SHARE, step) / 8000}
        if self.smoothness:  # L1 has no such part here: the price is a weight on magnitudes too
            losses["smoothness"] = self.smoothness(network.planes(), network.config.density_ranks)
        return losses

    def finish(self) -> None:
        """Makes the network what its file will be, and that no larger than `--target_bytes`."""
        network = self.renderer.field.network
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("bias"):
                    parameter.copy_(parameter.half())
        if self.settings.target and self._size() > self.settings.target:
            low, high = 1.0, COARSEST
            for _ in range(TRIALS):
                middle = math.sqrt(low * high)
                low, high = (low, middle) if self._coarsened(middle) <= self.settings.target else (middle, high)
            network.coarsen(high)
            print(f"--target_bytes: steps of rounding were made {high - 1:.1%} coarser in the end")

    def _coarsened(self, factor: float) -> int:
        """Bytes of the file with all steps larger by a factor."""
        network = self.renderer.field.network
        network.coarsen(factor)
        size = self._size()
        network.coarsen(1 / factor)
        return size

    def to_bytes(self) -> bytes:
        of_field, tensors = encode(self.renderer.field.network)
        tensors = {f"network_fn.{key}": value for key, value in tensors.items()}
        return model_bytes(self.renderer, self.render_path, tensors, {"precision": "vq"}, of_field)
