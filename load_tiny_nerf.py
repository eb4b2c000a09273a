"""`tiny_nerf_data.npz`: images, poses and focal length in one small file (106 views of 100x100)."""

import math
import zipfile
from pathlib import Path

import numpy as np
import torch

from scenes.lenses import possible_focal
from scenes.poses import bounds_of_cameras, check_extent, check_poses, near_origin, orbit_path
from scenes.scene import Cameras, Scene, pinhole
from utils.errors import BadInput

TRAIN_SHARE = 0.9  # of the views, the first ones; the others are test views
# So many times the file's own size an array may have, which no pictures reach, or so many bytes, which do no harm.
MOST_TIMES_LARGER, MOST_BYTES_UNASKED = 200, 2**26


def load_tiny_nerf_scene(file: str, near: float | None = None, far: float | None = None) -> Scene:
    """Reads an .npz with `images [N, H, W, 3]`, `poses [N, 4, 4]` and `focal`, pixels.

    Images are floats in [0, 1] or uint8, on black and without alpha. near, far: world units; by
    default as for Blender scenes. Raises BadInput for whatever is missing, malformed or inconsistent.
    """
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; --datadir of --dataset_type tiny_nerf is the .npz itself")
    images, poses, focal = _read_arrays(path, ("images", "poses", "focal"))
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) < 2 or 0 in images.shape:
        raise BadInput(f"{path}: images have shape {images.shape}, expected [N, H, W, 3] with two or more views")
    if poses.shape not in ((len(images), 4, 4), (len(images), 3, 4)):
        raise BadInput(f"{path}: poses have shape {poses.shape}, expected [{len(images)}, 4, 4], one for each image")
    height, width = images.shape[1:3]
    if focal.size != 1 or not possible_focal(float(focal.item()), width):
        raise BadInput(f"{path}: focal is {focal.tolist()}, expected one positive number of pixels, about {width}")
    check_poses(poses[:, :3], str(path))
    c2w, _, move_notes = near_origin(poses[:, :3].astype(np.float64))
    check_extent("a camera", c2w[:, :, 3], str(path))
    c2w = c2w.astype(np.float32)
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
        notes=move_notes + notes,
    )


def _read_arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Arrays of real numbers of an .npz. What it declares is held against its size before it is believed."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in names if name not in found]
            most = max(MOST_TIMES_LARGER * path.stat().st_size, MOST_BYTES_UNASKED)
            arrays = [] if missing else [_read_array(archive, found[name], most) for name in names]
    except Exception as error:  # zipfile and NumPy raise whatever the malformed file leads them to
        raise BadInput(f"{path}: not readable as .npz ({error or type(error).__name__}); download it again") from error
    if missing:
        raise BadInput(f"{path}: no array {missing[0]}; expected {', '.join(names)}, found {sorted(found)}")
    return arrays


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> np.ndarray:
    """One array, of no more than `most` bytes. Raises ValueError where its header declares what is not there, and
    whatever else NumPy and zipfile do."""
    if info.file_size > most:
        raise ValueError(f"{info.filename} declares {info.file_size} bytes, {most} can be there at most")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        declared, held = math.prod(shape) * dtype.itemsize, info.file_size - stream.tell()
    if dtype.kind not in "uif":
        raise ValueError(f"{info.filename} is of type {dtype}, expected real numbers")
    if declared != held:
        raise ValueError(f"{info.filename} declares {declared} bytes and holds {held}")
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _to_bytes(images: np.ndarray, path: Path) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating) or not np.isfinite(images).all():
        raise BadInput(f"{path}: images are {images.dtype} or hold NaN; expected floats in [0, 1] or uint8")
    if images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise BadInput(f"{path}: images reach from {images.min():.3g} to {images.max():.3g}, expected [0, 1] or uint8")
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
