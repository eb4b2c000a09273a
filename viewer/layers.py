"""What is shown of a picture: its colours or another layer, of one model or of two side by side."""

import numpy as np
import torch

from evaluation.normals import SEEN, colorize_normals, normals_of
from evaluation.videos import colorize_depth
from rendering.renderer import Rendering
from run_nerf_helpers import get_rays, to8b
from scenes.scene import Cameras

LAYERS = ("colour", "depth", "opacity", "normals")
SEAM = 128  # grey level of the line between two models


def drawn(layer: str, pictures: list[Rendering], camera: Cameras, pixel_offset: float, seam: float) -> np.ndarray:
    """uint8 `[H, W, 3]` of one or two models' pictures `[H, W, ...]` from the same camera.

    layer: of LAYERS. Two are side by side: left of `seam`, a share of the width, is the first. Depths of both have the
    same colours.
    """
    opacity = beside([picture.opacity for picture in pictures], seam)
    if layer == "colour":
        image = to8b(beside([picture.rgb for picture in pictures], seam))
    elif layer == "depth":
        image = colorize_depth(beside([picture.depth for picture in pictures], seam), opacity)
    elif layer == "normals":
        normals = [normals_of(picture, camera, pixel_offset) for picture in pictures]
        image = colorize_normals(beside(normals, seam), opacity)
    else:
        image = to8b(opacity[..., None].expand(-1, -1, 3))
    image = image.cpu().numpy()
    column = seam_column(image.shape[1], seam)
    if len(pictures) > 1 and 0 < column < image.shape[1]:
        image[:, column] = SEAM
    return image


def beside(layers: list[torch.Tensor], seam: float) -> torch.Tensor:
    """The first of one or two layers `[H, W, ...]` left of the seam, the last right of it."""
    column = seam_column(layers[0].shape[1], seam)
    return torch.cat([layers[0][:, :column], layers[-1][:, column:]], dim=1)


def seam_column(width: int, seam: float) -> int:
    """The first column that is the right model's."""
    return round(seam * width)


def z_depth(pictures: list[Rendering], camera: Cameras, pixel_offset: float, seam: float) -> np.ndarray:
    """Depth along the optical axis `[H, W]`, world units, infinite where nothing is seen: for what is drawn into the
    picture to be hidden behind it."""
    depth = beside([picture.depth for picture in pictures], seam)
    opacity = beside([picture.opacity for picture in pictures], seam)
    directions = get_rays(camera.height, camera.width, camera.K[0], camera.c2w[0], pixel_offset)[1]
    return torch.where(opacity > SEEN, depth / directions.norm(dim=-1), torch.inf).cpu().numpy()
