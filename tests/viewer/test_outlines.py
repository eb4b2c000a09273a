"""What is drawn around a model."""

import numpy as np
import torch

from rendering.occupancy import OccupancyGrid
from viewer.outlines import box_edges, great_circles, surface_cells

BOX = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 4.0, 10.0]])


def test_a_box_has_four_edges_along_each_axis():
    edges = box_edges(BOX.numpy())
    along = edges[:, 1] - edges[:, 0]
    assert edges.shape == (12, 2, 3) and len({tuple(edge.flatten()) for edge in edges}) == 12
    for axis, length in enumerate((2, 4, 8)):
        assert (along == length * np.eye(3)[axis]).all(1).sum() == 4
    assert np.array_equal(edges.reshape(-1, 3).min(0), BOX[0]) and np.array_equal(edges.reshape(-1, 3).max(0), BOX[1])


def test_circles_are_closed_and_on_the_ball():
    circles = great_circles(3.0, segments=8)
    assert circles.shape == (24, 2, 3) and np.allclose(np.linalg.norm(circles, axis=-1), 3)
    for one in circles.reshape(3, 8, 2, 3):
        assert np.allclose(one[:, 1], np.roll(one[:, 0], -1, axis=0))
    assert [len(np.flatnonzero(np.ptp(one, axis=(0, 1)))) for one in circles.reshape(3, 8, 2, 3)] == [2, 2, 2]


def test_only_the_surface_of_what_is_occupied():
    cells = torch.zeros(8, 8, 8, dtype=torch.bool)
    cells[2:6, 2:6, 2:6] = True
    grid = OccupancyGrid.of_cells(cells, BOX)
    centers = surface_cells(grid)
    assert len(centers) == 4**3 - 2**3
    assert grid.holds(torch.from_numpy(centers)).all()
    middle = BOX.mean(0) + 0.5 * grid.cell
    assert not np.isclose(centers, middle).all(1).any()
    assert len(surface_cells(grid, most=20)) <= 20


def test_the_border_is_surface_and_nothing_is_nothing():
    assert len(surface_cells(OccupancyGrid(BOX, 4))) == 4**3 - 2**3
    assert surface_cells(OccupancyGrid.of_cells(torch.zeros(4, 4, 4, dtype=torch.bool), BOX)).shape == (0, 3)
