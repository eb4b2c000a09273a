"""NerfBaselines' datasets as scenes: a dictionary of images and cameras, framed as our readers frame folders.

Nothing here imports NerfBaselines: a dataset is a plain dictionary, its cameras anything with its attributes.
"""

from collections.abc import Mapping

import numpy as np
import torch

from load_llff import BOUND_FACTOR, ndc_box, spiral_path
from scenes.capture_frame import CUT_OUT, Similarity, normalisation
from scenes.captures import framed_scene
from scenes.lenses import Pictures
from scenes.poses import average_pose, bounds_of_cameras, check_poses, near_origin, orbit_path
from scenes.scene import Cameras, Scene, covered
from scenes.surface_points import matched_points
from utils.errors import BadInput

PINHOLE = 0  # NerfBaselines' number of that camera model
FROM_OPENCV = np.array([1.0, -1.0, -1.0])  # of a camera's axes: theirs are x right, y down, z forward
WHERE = "NerfBaselines' dataset"  # in messages


def scene_of_dataset(dataset: Mapping, name: str) -> tuple[Scene, Similarity]:
    """A dataset, all of whose views are to be trained on, as a scene; and what moved its world into the scene's.

    Forward-facing ones (metadata `type`) are put in NDC as `load_llff` does, subjects that alpha cuts out stay where
    they are as `load_blender` leaves them, all else is moved and bounded as `scenes.captures` does.
    Raises BadInput for cameras that are no pinholes, images that are not of 8 bits, and poses that cannot be.
    """
    metadata = dataset.get("metadata") or {}
    check_pinholes(dataset["cameras"])
    pictures, c2w = pictures_of(dataset), opengl_poses(dataset["cameras"].poses)
    check_poses(c2w, WHERE)
    splits = {"train": list(range(len(c2w))), "val": [], "test": []}
    background = metadata.get("background_color")
    white = background is not None and bool((np.asarray(background) == 255).all())
    if metadata.get("type") == "forward-facing":
        return _forward_facing(name, pictures, c2w, splits, dataset["cameras"].nears_fars)
    if pictures.hidden_share() >= CUT_OUT:
        return _cut_out(name, pictures, c2w, splits, white)
    move = normalisation(c2w, WHERE)
    return framed_scene(name, WHERE, pictures, c2w, move, splits, white, matched_points(pictures, c2w)), move


def cameras_of(cameras, move: Similarity) -> Cameras:
    """NerfBaselines' cameras, `[N, ...]`, in a scene that `move` made. Raises BadInput where one is no pinhole."""
    check_pinholes(cameras)
    c2w = torch.tensor(move.poses(opengl_poses(cameras.poses)), dtype=torch.float32)
    sizes = torch.tensor(np.asarray(cameras.image_sizes)[:, ::-1].copy(), dtype=torch.int64)
    return Cameras.of_sizes(c2w, _intrinsics(cameras.intrinsics), sizes)


def check_pinholes(cameras) -> None:
    if (np.asarray(cameras.camera_models) != PINHOLE).any():
        raise BadInput(f"{WHERE}: expected pinholes; NerfBaselines undistorts the images of methods that ask for them")


def opengl_poses(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world `[N, 3, 4]` of OpenCV's axes, in float64 of OpenGL's."""
    poses = np.array(poses, dtype=np.float64)[:, :3, :4]
    poses[:, :, :3] *= FROM_OPENCV
    return poses


def pictures_of(dataset: Mapping) -> Pictures:
    """Images, masks (true: to be learnt from) and intrinsics. Raises BadInput where images are not of 8 bits."""
    cameras, masks = dataset["cameras"], dataset.get("masks")
    sizes = torch.tensor(np.asarray(cameras.image_sizes)[:, ::-1].copy(), dtype=torch.int64)  # theirs: width, height
    height, width = sizes.amax(0).tolist()
    channels = min(image.shape[-1] for image in dataset["images"])
    images = np.zeros((len(sizes), height, width, channels), np.uint8)
    valid = covered(sizes)
    if masks is not None and valid is None:
        valid = torch.ones(images.shape[:3], dtype=torch.bool)
    for i, (image, (h, w)) in enumerate(zip(dataset["images"], sizes.tolist(), strict=True)):
        if image.dtype != np.uint8:
            raise BadInput(f"{WHERE}: image {i} is {image.dtype}; expected 8-bit sRGB, linear images are not supported")
        images[i, :h, :w] = image[:h, :w, :channels]
        if masks is not None:
            valid[i, :h, :w] = torch.from_numpy(np.asarray(masks[i])[:h, :w].astype(bool))
    return Pictures(images, valid, _intrinsics(cameras.intrinsics), sizes)


def _intrinsics(numbers: np.ndarray) -> torch.Tensor:
    """K `[N, 3, 3]` of fx, fy, cx, cy `[N, 4]`; both count from the image's top left corner."""
    fx, fy, cx, cy = torch.tensor(np.asarray(numbers), dtype=torch.float32).unbind(-1)
    K = torch.eye(3).repeat(len(fx), 1, 1)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = fx, fy, cx, cy
    return K


def _forward_facing(
    name: str, pictures: Pictures, c2w: np.ndarray, splits: dict, bounds: np.ndarray | None
) -> tuple[Scene, Similarity]:
    """In NDC. bounds: near and far `[N, 2]` of each view, in the dataset's units."""
    if bounds is None:
        raise BadInput(f"{WHERE}: forward-facing, but without nears and fars, on which NDC is built")
    frame = average_pose(c2w)
    move = Similarity(frame[:, :3].T, frame[:, 3], 1 / (BOUND_FACTOR * float(np.min(bounds))))
    moved = move.poses(c2w)
    cameras = Cameras.of_sizes(torch.tensor(moved, dtype=torch.float32), pictures.K, pictures.sizes)
    path = torch.tensor(spiral_path(moved, move.scale * np.asarray(bounds, np.float64)), dtype=torch.float32)
    scene = Scene(
        name=name,
        images=torch.from_numpy(np.ascontiguousarray(pictures.images[..., :3])),
        cameras=cameras,
        splits=splits,
        near=0.0,
        far=1.0,
        aabb=ndc_box(cameras, WHERE),
        render_path=cameras.along(path),
        ndc=True,
        valid=pictures.valid,
    )
    return scene, move


def _cut_out(name: str, pictures: Pictures, c2w: np.ndarray, splits: dict, white: bool) -> tuple[Scene, Similarity]:
    """Where it stands. white: the background behind it, else black."""
    c2w, offset, notes = near_origin(c2w)
    near, far, box, center, bound_notes = bounds_of_cameras(c2w)
    cameras = Cameras.of_sizes(torch.tensor(c2w, dtype=torch.float32), pictures.K, pictures.sizes)
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1)))
    scene = Scene(
        name=name,
        images=torch.from_numpy(pictures.images),
        cameras=cameras,
        splits=splits,
        near=near,
        far=far,
        aabb=box,
        render_path=cameras.along(orbit_path(radius, frames=40, target=center)),
        background=(1.0, 1.0, 1.0) if white else (0.0, 0.0, 0.0),
        valid=pictures.valid,
        notes=[*notes, *bound_notes],
    )
    return scene, Similarity(np.eye(3), offset, 1.0)
