"""Blender ("NeRF synthetic") folders: `transforms_{train,val,test}.json` beside RGBA images."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from errors import BadInput
from images import IMAGE_SUFFIXES, read_images
from scene import Cameras, Scene, check_poses, focus_point, orbit_path, pinhole

# The authors' scenes: cameras 4.03 units from the origin, everything within +-1.5.
STANDARD_RADIUS, STANDARD_NEAR, STANDARD_FAR, STANDARD_HALF_BOX = 4.03, 2.0, 6.0, 1.5


def load_blender_scene(
    folder: str,
    factor: float = 1,
    testskip: int = 8,
    white_background: bool = False,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads a Blender-format folder.

    factor: images are averaged down by it on each side, >= 1. testskip: takes every testskip-th view
    of val and test (0 or 1: all); a folder without test views is tested on val, or else on train.
    white_background: what the images are composited over, else black. needs_alpha: fail where images
    have no alpha channel. near, far: world units; by default NeRF's 2 and 6, or, where the cameras
    stand at another distance, what fits them.
    Raises BadInput for whatever is missing, malformed or inconsistent.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root}: no such data folder; check --datadir, or run bash scripts/download_example_data.sh")
    if not factor >= 1:
        raise BadInput(f"--factor {factor:g}: images can only be made smaller; give 1 or more")
    frames: list[tuple[Path, np.ndarray]] = []
    splits: dict[str, list[int]] = {}
    angle = None
    for split in ("train", "val", "test"):
        path = root / f"transforms_{split}.json"
        if split != "train" and not path.exists():  # folders of one's own often have no val
            splits[split] = []
            continue
        split_angle, split_frames = _read_transforms(path)
        if angle is not None and not math.isclose(angle, split_angle, rel_tol=1e-3):
            raise BadInput(
                f"{path}: camera_angle_x {split_angle} differs from the other splits' {angle}; "
                "one camera is expected: render all splits with it"
            )
        angle = split_angle
        split_frames = split_frames[:: 1 if split == "train" else max(testskip, 1)]
        splits[split] = list(range(len(frames), len(frames) + len(split_frames)))
        frames += split_frames
    fallback_notes = []
    if not splits["test"]:
        splits["test"] = splits["val"] or splits["train"][:: max(testskip, 1)]
        used = "val views" if splits["val"] else "TRAINING views, which says nothing of new views"
        fallback_notes = [f"no transforms_test.json in {root}: test measures are taken on {used}"]

    images = read_images([path for path, _ in frames], factor)
    if images.shape[-1] == 3 and needs_alpha:
        raise BadInput(
            f"{frames[0][0]}: image is RGB, but --white_bkgd, --random_bkgd and carving need RGBA; "
            "leave them out, or export the images with an alpha channel"
        )
    height, width = images.shape[1:3]
    K = pinhole(0.5 * width / math.tan(0.5 * angle), height, width)
    c2w = np.stack([pose for _, pose in frames])
    cameras = Cameras(torch.tensor(c2w), K.expand(len(c2w), 3, 3).clone(), height, width)
    scene_near, scene_far, aabb, center, notes = bounds_of_cameras(c2w)
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1)))
    path = orbit_path(radius, frames=40, target=center)
    return Scene(
        name=root.resolve().name,
        images=torch.from_numpy(images),
        cameras=cameras,
        splits=splits,
        near=scene_near if near is None else near,
        far=scene_far if far is None else far,
        aabb=aabb,
        render_path=Cameras(path, K.expand(len(path), 3, 3).clone(), height, width),
        background=(1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0),
        notes=fallback_notes + notes,
    )


def _read_transforms(path: Path) -> tuple[float, list[tuple[Path, np.ndarray]]]:
    """Horizontal field of view in radians, and each frame's image file and pose `[3, 4]`."""
    if not path.is_file():
        raise BadInput(f"{path}: not found; a Blender-format folder needs transforms_train.json; check --datadir")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise BadInput(f"{path}: not readable as JSON ({error}); export or download it again") from error
    angle = content.get("camera_angle_x") if isinstance(content, dict) else None
    if not isinstance(angle, int | float) or not 0 < angle < math.pi:  # JSON as Python reads it allows NaN
        raise BadInput(
            f"{path}: camera_angle_x is {angle!r}; expected the horizontal field of view, in (0, pi) radians"
        )
    if not isinstance(content.get("frames"), list) or not content["frames"]:
        raise BadInput(f"{path}: no frames; expected a list of file_path and transform_matrix")
    frames = []
    for i, frame in enumerate(content["frames"]):
        try:
            pose = np.array(frame["transform_matrix"], dtype=np.float32)
            image = path.parent / frame["file_path"]
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path}: frame {i} has no valid file_path and transform_matrix ({error!r}); mend or drop it"
            ) from error
        if pose.shape not in ((4, 4), (3, 4)):
            raise BadInput(f"{path}: frame {i} has a transform_matrix of shape {pose.shape}; expected 4x4")
        if image.suffix.lower() not in IMAGE_SUFFIXES:  # not `with_suffix`: the name may be "r_0.5"
            image = image.parent / f"{image.name}.png"
        frames.append((image, pose[:3]))
    check_poses(np.stack([pose for _, pose in frames]), str(path))
    return float(angle), frames


def bounds_of_cameras(c2w: np.ndarray) -> tuple[float, float, torch.Tensor, np.ndarray, list[str]]:
    """near, far, box, the point looked at, and notes for the user, from where the cameras stand."""
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3], axis=-1)))
    if abs(radius / STANDARD_RADIUS - 1) < 0.1:
        half = STANDARD_HALF_BOX
        box = torch.tensor([[-half] * 3, [half] * 3])
        return STANDARD_NEAR, STANDARD_FAR, box, np.zeros(3), []
    center = focus_point(c2w)
    radius = float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1)))
    half = STANDARD_HALF_BOX / STANDARD_RADIUS * radius
    near, far = 0.5 * radius, 1.5 * radius
    corners = torch.tensor(np.stack([center - half, center + half]), dtype=torch.float32)
    note = (
        f"cameras stand {radius:.3g} units from {np.round(center, 2).tolist()}: using near {near:.3g}, "
        f"far {far:.3g} and a box of +-{half:.3g}; --near, --far, --aabb change it, --plot_cameras shows it"
    )
    return near, far, corners, center, [note]
