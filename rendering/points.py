"""What a field is asked, and what it answers."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from rendering.cones import Projected, cylinder_moments, frustum_moments, project


@dataclass
class Cones:
    """Parts of pixels' cones, `P` of them, as a field that knows of size sees its points.

    origins, directions: of rays `[P, 3]`, directions of any length. t_start, t_end: between which multiples of these a
    part lies, and radii: of its cone at t = 1, all `[P]`. parallel: these are radii of cylinders.
    """

    origins: torch.Tensor
    directions: torch.Tensor
    t_start: torch.Tensor
    t_end: torch.Tensor
    radii: torch.Tensor
    parallel: bool = False

    def __getitem__(self, rows: slice) -> "Cones":
        return Cones(*(part[rows] for part in self._tensors()), self.parallel)

    def scaled(self, by: float) -> "Cones":
        """In a world so many times larger."""
        return Cones(self.origins * by, self.directions * by, self.t_start, self.t_end, self.radii * by, self.parallel)

    def shifted(self, by: torch.Tensor) -> "Cones":
        """Moved by `[P, 3]`."""
        return Cones(self.origins + by, *self._tensors()[1:], self.parallel)

    def padded(self, extra: int) -> "Cones":
        """With so many more: of no size, and a direction of length 1."""
        parts = [with_zeros(part, extra) for part in self._tensors()]
        parts[1][len(self.radii) :, 0] = 1
        return Cones(*parts, self.parallel)

    def along(self, basis: torch.Tensor, contracted: bool = False) -> Projected:
        """Their Gaussians seen along directions `[N, 3]`; see `rendering.cones.project`."""
        moments = (cylinder_moments if self.parallel else frustum_moments)(self.t_start, self.t_end, self.radii)
        return project(self.origins, self.directions, moments, basis, contracted)

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.origins, self.directions, self.t_start, self.t_end, self.radii


def with_zeros(part: torch.Tensor, extra: int) -> torch.Tensor:
    """With so many rows more, of zeros."""
    return torch.cat([part, part.new_zeros(extra, *part.shape[1:])])


@dataclass
class Points:
    """Places along rays, `P` of them.

    positions: `[P, 3]`, in the space that the field is queried in. directions: `[P, 3]`, unit vectors in world space.
    cones: what of its pixel's cone each stands for, where the field wants that.
    """

    positions: torch.Tensor
    directions: torch.Tensor
    cones: Cones | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice) -> "Points":
        return Points(self.positions[rows], self.directions[rows], self.cones and self.cones[rows])

    def shifted(self, by: torch.Tensor) -> "Points":
        """Moved by `[P, 3]`."""
        return Points(self.positions + by, self.directions, self.cones and self.cones.shifted(by))

    def padded(self, extra: int) -> "Points":
        """With so many points more, of zeros."""
        parts = with_zeros(self.positions, extra), with_zeros(self.directions, extra)
        return Points(*parts, self.cones and self.cones.padded(extra))


class FieldOutput(NamedTuple):
    """density: `[P]`, not negative, 1/world unit. rgb: `[P, 3]` in [0, 1]. extras: what else a field says of each
    point, `[P, ...]`, by name."""

    density: torch.Tensor
    rgb: torch.Tensor
    extras: dict[str, torch.Tensor] | None = None

    def first(self, count: int) -> "FieldOutput":
        """Of so many points from the first."""
        extras = self.extras and {name: part[:count] for name, part in self.extras.items()}
        return FieldOutput(self.density[:count], self.rgb[:count], extras)


def joined(parts: list[FieldOutput]) -> FieldOutput:
    """Answers to parts of some points as the answer to all."""
    extras = None
    if parts[0].extras is not None:
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras}
    return FieldOutput(torch.cat([part.density for part in parts]), torch.cat([part.rgb for part in parts]), extras)
