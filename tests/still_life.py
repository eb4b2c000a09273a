"""Photographs of the built-in still life, and some that are spoiled, to find cameras for."""

from pathlib import Path

import cv2
import imageio.v2 as imageio
import numpy as np
import torch

from load_procedural import FIELD_OF_VIEW, PLINTH_BOTTOM, render
from run_nerf_helpers import get_rays, to8b
from scenes.poses import look_at
from scenes.scene import Cameras, composite_over, pinhole

SIZE, VIEWS = 360, 16  # pixels a side, and pictures


def arc(views: int = VIEWS) -> np.ndarray:
    """Cameras on a part of a turn about the still life, `[N, 3, 4]`."""
    angles = np.linspace(0, 2.4, VIEWS)[:views]
    eyes = [np.array([3.3 * np.cos(a), 3.3 * np.sin(a), 1.5 + 0.3 * np.sin(3 * a)]) for a in angles]
    return np.stack([look_at(eye, np.array([0, 0, -0.1])) for eye in eyes])


def floor(cameras: Cameras, seed: int = 0) -> torch.Tensor:
    """What cameras see of a floor of speckles under the still life, which has little detail itself, `[N, H, W, 3]`."""
    random = np.random.default_rng(seed)
    speckles = sum(cv2.resize(random.random((n, n, 3)), (1024, 1024), interpolation=cv2.INTER_CUBIC) for n in (64, 256))
    pictures = []
    for K, c2w in zip(cameras.K, cameras.c2w, strict=True):
        origins, directions = get_rays(SIZE, SIZE, K, c2w, 0.5)
        t = (PLINTH_BOTTOM - origins[..., 2]) / directions[..., 2]
        at = ((origins + t[..., None] * directions)[..., :2] * 128 + 512).numpy().astype(np.float32)
        seen = cv2.remap(speckles, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        pictures.append(torch.tensor(seen / 2, dtype=torch.float32).clamp(0, 1))
    return torch.stack(pictures)


def cameras_at(c2w: np.ndarray) -> Cameras:
    lens = pinhole(0.5 * SIZE / np.tan(0.5 * FIELD_OF_VIEW), SIZE, SIZE).repeat(len(c2w), 1, 1)
    return Cameras(torch.tensor(c2w, dtype=torch.float32), lens, SIZE, SIZE)


def photograph(folder: Path) -> None:
    """The still life, a picture of it that is broken, and one of something else."""
    cameras = cameras_at(arc())
    images, _, _ = render(cameras, supersample=2)
    for i, picture in enumerate(composite_over(images.float() / 255, floor(cameras))):
        imageio.imwrite(folder / f"{i}.png", to8b(picture).numpy())
    (folder / "broken.jpg").write_bytes((folder / "0.png").read_bytes()[:500])
    other = np.random.default_rng(0).integers(0, 256, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    imageio.imwrite(folder / "other.png", other.repeat(8, 0).repeat(8, 1))


def spoil(folder: Path) -> None:
    """Of what `photograph` made: one again, one out of focus, one of a wall, and five of another place."""
    (folder / "5_copy.png").write_bytes((folder / "5.png").read_bytes())
    sharp = imageio.imread(folder / "8.png")
    imageio.imwrite(folder / "blurred.png", cv2.GaussianBlur(sharp, None, 9))
    grain = np.random.default_rng(2).normal(0, 2, (SIZE, SIZE, 3))  # of the sensor
    wall = (np.linspace(150, 190, SIZE)[:, None, None] + grain).round().astype(np.uint8)
    imageio.imwrite(folder / "wall.png", wall)
    elsewhere = cameras_at(arc(5))
    for i, picture in enumerate(floor(elsewhere, seed=1)):
        imageio.imwrite(folder / f"hall_{i}.png", to8b(picture).numpy())
