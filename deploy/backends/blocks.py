"""Rows that go through a whole network before the next ones start: as many as stay in cache."""

import torch
import torch.nn as nn

from rendering.points import FieldOutput, Points, joined
from run_nerf_helpers import iterate_chunks


def rows_at_once(positions: torch.Tensor, in_cache: int) -> int:
    """How many rows go through a network before the next ones: what a CPU's cache holds, on a GPU all."""
    return in_cache if positions.device.type == "cpu" else max(1, len(positions))


class InBlocks(nn.Module):
    """A field, so many rows at a time as stay in cache."""

    def __init__(self, field: nn.Module, rows: int):
        super().__init__()
        self.field, self.rows = field, rows
        self.kind, self.config, self.wants_cones = field.kind, field.config, field.wants_cones

    @property
    def network(self) -> nn.Module:
        return self.field.network

    @property
    def embed(self) -> nn.Module:
        return self.field.embed

    @property
    def embed_views(self) -> nn.Module:
        return self.field.embed_views

    def queries(self, points: Points) -> dict[str, torch.Tensor]:
        return self.field.queries(points)

    def forward(self, points: Points) -> FieldOutput:
        chunks = list(iterate_chunks(len(points), rows_at_once(points.positions, self.rows))) or [slice(0, 0)]
        return joined([self.field(points[rows]) for rows in chunks])

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        return self.field.density(positions)
