"""`tiny_nerf_data.npz`: images, poses and focal length in one small file (106 views of 100x100)."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from errors import BadInput
from load_blender import bounds_of_cameras
from scene import Cameras, Scene, check_poses, orbit_path, pinhole

TRAIN_SHARE = 0.9  # of the views, the first ones; the others are test views


def load_tiny_nerf_scene(file: str, near: float | None = None, far: float | None = None) -> Scene:
    """Reads an .npz with `images [N, H, W, 3]`, `poses [N, 4, 4]` and `focal`, pixels.

    Images are floats in [0, 1] or uint8, on black and without alpha. near, far: world units; by
    default as for Blender scenes. Raises BadInput for whatever is missing, malformed or inconsistent.
    """
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; --datadir of --dataset_type tiny_nerf is the .npz itself")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not readable as .npz ({error}); download it again") from error
    for name in ("images", "poses", "focal"):
        if name not in arrays:
            raise BadInput(f"{path}: no array {name}; expected images, poses and focal, found {sorted(arrays)}")
    images, poses, focal = arrays["images"], arrays["poses"], arrays["focal"]
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) < 2 or 0 in images.shape:
        raise BadInput(f"{path}: images have shape {images.shape}, expected [N, H, W, 3] with two or more views")
    if poses.shape not in ((len(images), 4, 4), (len(images), 3, 4)):
        raise BadInput(f"{path}: poses have shape {poses.shape}, expected [{len(images)}, 4, 4], one for each image")
    if focal.size != 1 or not math.isfinite(float(focal.item())) or float(focal.item()) <= 0:
        raise BadInput(f"{path}: focal is {focal.tolist()}, expected one positive number of pixels")
    c2w = poses[:, :3].astype(np.float32)
    check_poses(c2w, str(path))

    height, width = images.shape[1:3]
    K = pinhole(float(focal.item()), height, width)
    scene_near, scene_far, aabb, center, notes = bounds_of_cameras(c2w)
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1)))
    orbit = orbit_path(radius, frames=40, target=center)
    train = min(len(images) - 1, math.floor(TRAIN_SHARE * len(images)))
    return Scene(
        name=path.stem,
        images=torch.from_numpy(_to_bytes(images, path)),
        cameras=Cameras(torch.tensor(c2w), K.expand(len(c2w), 3, 3).clone(), height, width),
        splits={"train": list(range(train)), "val": [], "test": list(range(train, len(images)))},
        near=scene_near if near is None else near,
        far=scene_far if far is None else far,
        aabb=aabb,
        render_path=Cameras(orbit, K.expand(len(orbit), 3, 3).clone(), height, width),
        notes=notes,
    )


def _to_bytes(images: np.ndarray, path: Path) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating) or not np.isfinite(images).all():
        raise BadInput(f"{path}: images are {images.dtype} or hold NaN; expected floats in [0, 1] or uint8")
    if images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise BadInput(f"{path}: images reach from {images.min():.3g} to {images.max():.3g}, expected [0, 1] or uint8")
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
