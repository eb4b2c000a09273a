"""The grid that a scene starts with."""

import torch

from rendering.occupancy import OccupancyGrid
from utils.errors import BadInput

# Carving first looks at the whole box this coarsely, to find the tight box that the grid is laid in.
SCOUT_RESOLUTION = 64


def make_grid(scene, resolution: int, device: torch.device) -> OccupancyGrid:
    """A grid over the scene's box; with alpha, over the visual hull's box and carved to the hull."""
    if not scene.has_alpha:
        return OccupancyGrid(scene.aabb, resolution).to(device)
    train = scene.splits["train"]
    cameras, alpha = scene.cameras[train].to(device), scene.images[train][..., 3]
    if scene.valid is not None:  # what a mask or a lens hides may be there
        alpha = alpha.masked_fill(~scene.valid[train], 255)
    scout = OccupancyGrid(scene.aabb, SCOUT_RESOLUTION).to(device)
    scout.carve(cameras, alpha)
    if not scout.occupied.any():
        raise BadInput(
            "no point of the box is inside the silhouettes of all training views: wrong --aabb or poses, "
            "look at them with --plot_cameras"
        )
    box = scout.bounding_box()
    box = torch.stack([torch.maximum(box[0], scout.aabb[0]), torch.minimum(box[1], scout.aabb[1])])
    grid = OccupancyGrid(box, resolution).to(device)
    grid.carve(cameras, alpha)
    return grid
