"""What is drawn around a model: its box, the cells that may hold something, the ball within which cameras stand."""

import numpy as np
import torch.nn.functional as F

from rendering.occupancy import OccupancyGrid

MOST_CELLS = 30_000  # that are drawn: browsers slow down


def box_edges(box: np.ndarray) -> np.ndarray:
    """The 12 edges `[12, 2, 3]` of a box `[2, 3]`."""
    corners = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    # Corners are numbered by one bit an axis, and an edge joins two that differ in one.
    return np.array([[corners[i], corners[i | bit]] for bit in (1, 2, 4) for i in range(8) if not i & bit])


def great_circles(radius: float, segments: int = 64) -> np.ndarray:
    """Three circles around the origin, one in each plane of two axes: segments `[3 * segments, 2, 3]`."""
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    circle = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    one = np.stack([circle[:-1], circle[1:]], axis=1)
    return np.concatenate([np.roll(one, axis, axis=-1) for axis in range(3)])


def surface_cells(grid: OccupancyGrid, most: int = MOST_CELLS) -> np.ndarray:
    """Centres `[M, 3]` of the occupied cells that a free one, or the border, lies beside: every few of them, where they
    are more than `most`."""
    occupied = grid.occupied
    beside = F.pad(occupied, (1,) * 6)
    middle = slice(1, -1)
    inner = occupied.clone()
    for axis in range(3):
        for shifted in (slice(None, -2), slice(2, None)):
            index = [middle] * 3
            index[axis] = shifted
            inner &= beside[tuple(index)]
    numbers = (occupied & ~inner).view(-1).nonzero()[:, 0]
    stride = -(-len(numbers) // most) if len(numbers) else 1
    return grid.cell_centers(numbers[::stride]).cpu().numpy()
