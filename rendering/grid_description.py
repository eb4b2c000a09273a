"""What a model file says of an occupancy grid beside its cells."""

import torch

from rendering.occupancy import LARGEST_GRID, OccupancyGrid
from utils.bounds import FAR_AWAY, box_problem
from utils.checks import check_numbers, check_whole
from utils.errors import BrokenFile

KEYS = frozenset({"grid_resolution", "aabb"})


def describe_grid(grid: OccupancyGrid) -> dict:
    return {"grid_resolution": grid.resolution, "aabb": grid.aabb.cpu().tolist()}


def check_grid(described: dict) -> None:
    """Raises BrokenFile where this is not as `describe_grid` gives it, or asks for more than can be."""
    check_whole("sampler", described, "grid_resolution", 1, LARGEST_GRID)
    box = described["aabb"]
    if not isinstance(box, list) or len(box) != 2:
        raise BrokenFile("sampler: aabb is not two corners")
    for corner in box:
        check_numbers("sampler aabb", corner, 3, -FAR_AWAY, FAR_AWAY)
    problem = box_problem(torch.tensor(box))
    if problem:
        raise BrokenFile(f"sampler: {problem}")


def read_grid(described: dict, cells: torch.Tensor) -> OccupancyGrid:
    """From a checked description and boolean cells."""
    return OccupancyGrid.of_cells(cells, torch.tensor(described["aabb"], dtype=torch.float32))
