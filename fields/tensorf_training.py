"""How a TensoRF is trained: coarse to fine, in a box that shrinks once, with its regularisers."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fields.tensorf import (
    FactorNetwork,
    TensorfConfig,
    TensorField,
    TensorVM,
    density_l1,
    resolution_for,
    total_variation,
)
from utils.parser import positive, within

TV_SCALE = 2e-2  # TensoRF's: 2 for its sum over both directions, 0.01 of a plane


@dataclass(frozen=True)
class TensorfTraining:
    """TensoRF's schedule (sec. 4.3 and its released configs).

    After each of `upsample_steps` planes and lines get finer, their numbers of voxels spaced evenly in the logarithm
    from `voxels` to `voxels_final`. After `shrink_step` the box shrinks to what there is, and the weight of the L1
    loss changes to its second value. tv_weight: of density and colour, fading to a tenth over `steps`.
    """

    upsample_steps: tuple[int, ...]
    voxels: int
    voxels_final: int
    shrink_step: int
    l1_weight: tuple[float, float]
    tv_weight: tuple[float, float]
    steps: int

    def voxels_by_level(self) -> list[int]:
        """Numbers of voxels after each of `upsample_steps`."""
        levels, ratio = len(self.upsample_steps), self.voxels_final / self.voxels
        return [round(self.voxels * ratio ** ((level + 1) / levels)) for level in range(levels)]

    def losses(self, network: FactorNetwork, step: int) -> dict[str, torch.Tensor]:
        shrunk = 0 < self.shrink_step <= step
        losses = {"l1": self.l1_weight[shrunk] * density_l1(network)}
        if isinstance(network, TensorVM) and any(self.tv_weight):
            losses["smoothness"] = self.smoothness(network.planes, network.config.density_ranks, step / self.steps)
        return losses

    def smoothness(self, planes: Sequence[torch.Tensor], density_ranks: Sequence[int], done: float) -> torch.Tensor:
        """Total variation of planes `[H, W, R]` by `tv_weight`, which fades to a tenth until all is `done`."""
        of_density, of_color = total_variation(planes, density_ranks)
        return TV_SCALE * 0.1**done * (self.tv_weight[0] * of_density + self.tv_weight[1] * of_color)

    def after_step(self, network: FactorNetwork, step: int, content_box: Callable[[], torch.Tensor]) -> bool:
        finer = dict(zip(self.upsample_steps, self.voxels_by_level(), strict=True))
        if step == self.shrink_step:
            box = content_box()
            network.crop(torch.stack([torch.maximum(box[0], network.aabb[0]), torch.minimum(box[1], network.aabb[1])]))
        if step in finer:
            network.upsample(resolution_for(finer[step], network.aabb))
        return step == self.shrink_step or step in finer

    def schedule(self, lrate_decay: float) -> Callable[[int], float]:
        """From step to what learning rates are multiplied by: 1/10 in `lrate_decay` thousand steps, anew whenever
        planes get finer."""

        def factor(step: int) -> float:
            since = max((at for at in self.upsample_steps if at <= step), default=0)
            return 0.1 ** ((step - since) / (1000 * lrate_decay))

        return factor

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "TensorfTraining":
        return cls(
            upsample_steps=tuple(args.upsample_steps),
            voxels=args.voxels,
            voxels_final=args.voxels_final,
            shrink_step=args.shrink_step,
            l1_weight=tuple(args.l1_weight),
            tv_weight=tuple(args.tv_weight),
            steps=args.N_iters,
        )


# ---------------------------------------------------------------------------------------- by flags


def add_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--tensor", default="vm", choices=["vm", "cp"], help="planes times lines, or products of three lines")
    add("--density_ranks", type=positive(int), nargs=3, default=[16, 16, 16], help="density components by axis")
    add("--color_ranks", type=positive(int), nargs=3, default=[48, 48, 48], help="colour components by axis")
    add("--color_features", type=positive(int), default=27, help="colour features that the decoder gets")
    add(
        "--feature_octaves",
        type=within(int, 0, 16),
        default=2,
        help="octaves of the decoder's encoding of these, 0 for none",
    )
    add(
        "--view_octaves",
        type=within(int, 0, 16),
        default=2,
        help="octaves of the decoder's encoding of directions, 0 for none",
    )
    add("--decoder_width", type=positive(int), default=128, help="channels of the decoder's two hidden layers")
    add("--voxels", type=positive(int), default=128**3, help="voxels of the box that training starts with")
    add("--voxels_final", type=positive(int), default=300**3, help="voxels after the last of --upsample_steps")
    add(
        "--upsample_steps",
        type=positive(int),
        nargs="*",
        default=[2000, 3000, 4000, 5500, 7000],
        help="steps after which planes and lines get finer; give none to keep their resolution",
    )
    add("--shrink_step", type=int, default=2000, help="step after which the box shrinks to what is occupied, 0: never")
    add(
        "--l1_weight",
        type=float,
        nargs=2,
        default=[8e-5, 4e-5],
        help="weight of the mean magnitude of density components, before and after the box has shrunk; 0 0: none",
    )
    add(
        "--tv_weight",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        help="weights of the total variation of the planes' density and colour components; 0 0: none",
    )


def from_flags(args: argparse.Namespace, box: torch.Tensor, **unused) -> TensorField:
    """Untrained, over a box `[2, 3]`."""
    config = TensorfConfig(
        decomposition=args.tensor,
        density_ranks=tuple(args.density_ranks),
        color_ranks=tuple(args.color_ranks),
        features=args.color_features,
        feature_octaves=args.feature_octaves,
        view_octaves=args.view_octaves,
        hidden=args.decoder_width,
        density_activation=args.density_activation,
        density_bias=args.density_bias,
        density_scale=args.density_scale,
    )
    network = config.make_network(resolution_for(args.voxels, box), box.cpu())
    return TensorField(config, network, TensorfTraining.from_flags(args))


def schedule(args: argparse.Namespace) -> Callable[[int], float]:
    return TensorfTraining.from_flags(args).schedule(args.lrate_decay)
