"""What is shown of a picture: two models side by side, layers, and depth along the axis."""

import numpy as np
import pytest
import torch

from rendering.renderer import Rendering
from scenes.scene import Cameras, pinhole
from viewer.layers import LAYERS, SEAM, beside, drawn, z_depth

H, W = 6, 10
CAMERA = Cameras(torch.eye(3, 4)[None], pinhole(8.0, H, W)[None], H, W)


def flat(color: float, distance: float = 2.0, opacity: float = 1.0) -> Rendering:
    """One colour everywhere, of a plane across the axis: distances grow to the sides."""
    x, y = (torch.arange(W) + 0.5 - W / 2) / 8, (torch.arange(H) + 0.5 - H / 2) / 8
    length = (x**2 + y[:, None] ** 2 + 1).sqrt()
    return Rendering(torch.full((H, W, 3), color), distance * length, torch.full((H, W), opacity))


@pytest.mark.parametrize("seam, column", [(0.0, 0), (0.3, 3), (0.54, 5), (1.0, W)])
def test_the_first_is_left_of_the_seam(seam, column):
    left, right = torch.zeros(H, W), torch.ones(H, W)
    assert torch.equal(beside([left, right], seam), (torch.arange(W) >= column).float().expand(H, W))
    assert torch.equal(beside([left], seam), left)
    image = drawn("colour", [flat(0.0), flat(1.0)], CAMERA, 0.5, seam)
    expected = np.where(np.arange(W) < column, 0, 255)
    if 0 < column < W:
        expected[column] = SEAM
    assert image.dtype == np.uint8 and (image == expected[None, :, None]).all()


def test_one_model_has_no_seam():
    assert (drawn("colour", [flat(1.0)], CAMERA, 0.5, 0.5) == 255).all()


def test_layers():
    assert set(LAYERS) == {"colour", "depth", "opacity", "normals"}
    assert (drawn("opacity", [flat(0.0, opacity=0.2)], CAMERA, 0.5, 0.5) == 51).all()
    normals = drawn("normals", [flat(0.0)], CAMERA, 0.5, 0.5)
    assert (np.abs(normals.astype(int) - [128, 128, 255]) <= 1).all()  # of a plane across z, towards the camera
    near, far = flat(0.0, 1.0), flat(0.0, 4.0)
    depths = drawn("depth", [near, far], CAMERA, 0.5, 0.5)
    assert (depths[:, 1] != depths[:, -2]).any()  # one scale for both: equal colours would be equal depths
    assert (drawn("depth", [near, near], CAMERA, 0.5, 0.0) != depths).any()


def test_normals_that_a_field_says_come_first():
    said = flat(0.0)
    said.extras["normals"] = torch.tensor([1.0, 0.0, 0.0]).expand(H, W, 3)
    assert (drawn("normals", [said], CAMERA, 0.5, 0.5) == [255, 128, 128]).all()


def test_depth_of_a_plane_across_the_axis_is_even():
    depth = z_depth([flat(0.0, 3.0), flat(0.0, opacity=0.1)], CAMERA, 0.5, 0.5)
    assert np.allclose(depth[:, :5], 3.0) and np.isinf(depth[:, 5:]).all()
