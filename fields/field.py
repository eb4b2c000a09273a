"""What is trained, saved and compressed alike, and what every field is: density and colour of places."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F

from rendering.points import FieldOutput, Points


@dataclass(frozen=True)
class Group:
    """Parameters that learn alike. rate: what `--lrate` is multiplied by for them. muon: whether Muon may take them,
    which is for the matrices between hidden layers; its rate is its own."""

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0
    muon: bool = False


class Trainable(nn.Module):
    """A network with its encodings and activations, whatever it is asked.

    kind: in model files and flags. adam: options of the optimiser that suit it. config: a dataclass of all that says
    what it computes, but for its weights; `bytes_per_row` of it is what one query takes. network: what is trained,
    saved under nerf-pytorch's names, and compressed.
    """

    kind: ClassVar[str]
    wants_cones: ClassVar[bool] = False  # whether `Points.cones` are looked at
    compiles: ClassVar[bool] = True  # whether torch.compile takes it
    extras: ClassVar[dict[str, int]] = {}  # channels of what else it says of points while rendering, by name
    adam: ClassVar[dict] = {"betas": (0.9, 0.999)}

    def __init__(self, config, network: nn.Module):
        super().__init__()
        self.config, self.network = config, network

    # ---------------------------------------------------------------------------------- in training

    def parameter_groups(self) -> list[Group]:
        """All parameters of the network, in its order."""
        return [Group(tuple(self.network.parameters()))]

    def losses(self, step: int, seen: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """What is added to the error of the pictures, by name. step: how many are done. seen: what rays saw of the
        extras of its outputs, `Rendering.extras`."""
        return {}

    def after_step(self, step: int, content_box: Callable[[], torch.Tensor | None]) -> bool:
        """To be called with the number of each finished step; true where the network has new parameters.

        content_box: gives the box that holds what there is, where the renderer knows.
        """
        return False

    # ------------------------------------------------------------------------------- in model files

    def describe(self) -> dict:
        """What a model file says of it beside tensors."""
        return {"kind": self.kind, **dataclasses.asdict(self.config)}

    def problem(self) -> str:
        """Why what was loaded cannot be used, though its tensors have the right names; empty if it can."""
        return ""


class Field(Trainable, ABC):
    """Density and colour of places."""

    @abstractmethod
    def forward(self, points: Points, raw_noise: torch.Tensor | None = None) -> FieldOutput:
        """raw_noise: `[P]`, added to densities before their activation."""

    @abstractmethod
    def density(self, positions: torch.Tensor) -> torch.Tensor:
        """Density `[P]` alone, 1/world unit, at `[P, 3]`."""

    def activate_density(self, raw: torch.Tensor) -> torch.Tensor:
        """`scale * activation(raw + bias)`, as the config has them."""
        activation = F.softplus if self.config.density_activation == "softplus" else F.relu
        return self.config.density_scale * activation(raw + self.config.density_bias)
