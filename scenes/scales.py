"""A scene at several scales: photographs as cameras farther away, or coarser ones, would have taken them."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from scenes.images import area_downsample
from scenes.scene import Cameras, Scene, covered, shrunk
from utils.errors import BadInput

SMALLEST_SIDE = 4  # pixels, of a picture that is to teach anything


def check_scales(scales: Sequence[float], scene: Scene) -> None:
    """Raises BadInput for scales that images cannot be shrunk by."""
    if min(scales) < 1 or any(later <= earlier for earlier, later in itertools.pairwise(scales)):
        raise BadInput(f"--scales {shown(scales)}: give numbers from 1 up, ascending; images are shrunk by them")
    smallest = int(scene.cameras.sizes.min())
    if shrunk(smallest, max(scales)) < SMALLEST_SIDE:
        raise BadInput(
            f"--scales {shown(scales)}: {max(scales):g} leaves less than {SMALLEST_SIDE} of {smallest} pixels"
        )


def shown(scales: Sequence[float]) -> str:
    return " ".join(f"{scale:g}" for scale in scales)


def scaled(scene: Scene, factor: float) -> Scene:
    """The scene with each image `factor` times smaller on each side, by averaging over areas; RGBA is averaged
    premultiplied. A pixel is valid where all that went into it is. Depth and the video path stay out of it."""
    if factor == 1:
        return scene
    sizes = scene.cameras.sizes
    small = torch.tensor([[shrunk(side, factor) for side in size] for size in sizes.tolist()])
    images = np.zeros((len(sizes), *small.amax(0).tolist(), scene.images.shape[-1]), np.uint8)
    valid = None if scene.valid is None else torch.zeros(images.shape[:3], dtype=torch.bool)
    for view, ((height, width), (h, w)) in enumerate(zip(sizes.tolist(), small.tolist(), strict=True)):
        images[view, :h, :w] = area_downsample(scene.images[view, :height, :width].numpy(), factor)
        if valid is not None:
            hidden = (~scene.valid[view, :height, :width]).float()[None, None]
            valid[view, :h, :w] = F.adaptive_max_pool2d(hidden, (h, w))[0, 0] == 0
    K = scene.cameras.K.clone()
    K[:, :2] *= (small / sizes).flip(1)[..., None].float()  # the first row is of widths
    cameras = Cameras.of_sizes(scene.cameras.c2w, K, small)
    return dataclasses.replace(
        scene, images=torch.from_numpy(images), cameras=cameras, valid=valid, depth=None, normals=None
    )


def pyramid(scene: Scene, scales: Sequence[float]) -> Scene:
    """The training views at each of the scales, all at the first before any at the next, in frames of one size."""
    train = scene.splits["train"]
    parts = [scaled(views_of(scene, train), scale) for scale in scales]
    cameras = [part.cameras for part in parts]
    sizes = torch.cat([part.sizes for part in cameras])
    frame = sizes.amax(0).tolist()
    every = Cameras(torch.cat([part.c2w for part in cameras]), torch.cat([part.K for part in cameras]), *frame, sizes)
    valid = covered(sizes)
    if scene.valid is not None:
        known = torch.cat([_in_frame(part.valid, frame) for part in parts])
        valid = known if valid is None else valid & known
    images = torch.cat([_in_frame(part.images, frame) for part in parts])
    splits = {"train": list(range(len(every))), "val": [], "test": []}
    return dataclasses.replace(
        scene, images=images, cameras=every, splits=splits, valid=valid, depth=None, normals=None
    )


def views_of(scene: Scene, views: Sequence[int]) -> Scene:
    """Some views alone, in this order, without what is known of their depth."""
    views = list(views)
    valid = None if scene.valid is None else scene.valid[views]
    some = scene.images[views], scene.cameras[views]
    return dataclasses.replace(scene, images=some[0], cameras=some[1], valid=valid, depth=None, normals=None)


def _in_frame(pixels: torch.Tensor, frame: Sequence[int]) -> torch.Tensor:
    """`[N, h, w, ...]` in the top left corners of larger frames of zeros."""
    framed = pixels.new_zeros(len(pixels), *frame, *pixels.shape[3:])
    framed[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return framed
