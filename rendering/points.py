"""What a field is asked, and what it answers."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch


@dataclass
class Points:
    """Places along rays, `P` of them.

    positions: `[P, 3]`, in the space that the field is queried in. directions: `[P, 3]`, unit vectors in world space.
    t_start, t_end: the interval that each stands for, multiples of its ray's direction, and radii: of its pixel's
    cone at t = 1, all `[P]`, where the renderer knows them.
    """

    positions: torch.Tensor
    directions: torch.Tensor
    t_start: torch.Tensor | None = None
    t_end: torch.Tensor | None = None
    radii: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice) -> "Points":
        return self._each(lambda part: part[rows])

    def padded(self, extra: int) -> "Points":
        """With so many points more, of zeros."""
        return self._each(lambda part: torch.cat([part, part.new_zeros(extra, *part.shape[1:])]))

    def _each(self, function) -> "Points":
        parts = (getattr(self, part.name) for part in fields(self))
        return Points(*(None if part is None else function(part) for part in parts))


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
