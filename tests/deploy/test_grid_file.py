"""Cells of a grid as bytes: there and back, what is not a grid, and what coding saves."""

import pytest
import torch

from deploy import grid_file
from utils.errors import BrokenFile


def random_cells(resolution: int) -> torch.Tensor:
    return torch.rand((resolution,) * 3, generator=torch.Generator().manual_seed(1)) < 0.3


def lumps(resolution: int) -> torch.Tensor:
    """A shape as uneven as real ones: smoothed noise, cut at a level."""
    noise = torch.randn((1, 1, resolution, resolution, resolution), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool3d(noise, 7, 1, 3)[0, 0] > 0.05


@pytest.mark.parametrize("resolution", [1, 5, 16])
def test_round_trips(resolution):
    cells = random_cells(resolution)
    assert torch.equal(grid_file.unpack(grid_file.pack(cells), resolution), cells)
    name, coded = grid_file.encode(cells)
    assert torch.equal(grid_file.decode(name, coded, resolution), cells)


def test_coding_saves_where_there_is_a_shape():
    cells = lumps(64)
    assert len(grid_file.encode(cells)[1]) < 0.8 * len(grid_file.pack(cells))


def test_what_is_not_a_grid_is_refused():
    packed = grid_file.pack(random_cells(16))
    for wrong in (packed[:-5], torch.zeros(9, dtype=torch.uint8), torch.zeros(3), packed[None]):
        with pytest.raises(BrokenFile, match="occupancy"):
            grid_file.unpack(wrong, 16)
    with pytest.raises(BrokenFile, match="17"):
        grid_file.unpack(packed, 17)
