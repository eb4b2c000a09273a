"""Blender ("NeRF synthetic") folders: `transforms_{train,val,test}.json` beside RGBA images."""

from pathlib import Path

import numpy as np
import torch

from captures import read_views
from errors import BadInput
from images import without_idle_alpha
from scene import Cameras, Scene, focus_point

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
    """Reads a Blender-format folder. Lenses, masks and bounds are what its files state, see `transforms.py`.

    factor: images are averaged down by it on each side, >= 1. testskip: takes every testskip-th view
    of val and test (0 or 1: all); a folder without test views is tested on val, or else on train.
    white_background: what the images are composited over, else black. needs_alpha: fail where images
    have no alpha channel. near, far: world units; by default what the files state, or NeRF's 2 and 6, or,
    where the cameras stand at another distance, what fits them.
    Raises BadInput for whatever is malformed or inconsistent, or where no training image is there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root}: no such data folder; check --datadir, or run bash scripts/download_example_data.sh")
    if not factor >= 1:
        raise BadInput(f"--factor {factor:g}: images can only be made smaller; give 1 or more")
    files = _read_files(root, max(testskip, 1))
    views, splits, notes = _join(root, files, max(testskip, 1))
    images, valid, K = read_views(views, factor, str(root))
    if images.shape[-1] == 3 and needs_alpha:
        raise BadInput(
            f"{views[0].image}: image is RGB, but --white_bkgd, --random_bkgd and carving need RGBA; "
            "leave them out, or export the images with an alpha channel"
        )
    images, alpha_notes = without_idle_alpha(images)
    bounds = _bounds(files["train"], np.stack([view.c2w for view in views]))
    path_poses = _video(files, bounds)
    height, width = images.shape[1:3]
    return Scene(
        name=root.resolve().name,
        images=torch.from_numpy(images),
        cameras=Cameras(torch.tensor(bounds.moved([view.c2w for view in views])), K, height, width),
        splits=splits,
        near=bounds.near if near is None else near,
        far=bounds.far if far is None else far,
        aabb=torch.tensor(bounds.box, dtype=torch.float32),
        render_path=Cameras(path_poses, K[:1].repeat(len(path_poses), 1, 1), height, width),
        background=(1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0),
        valid=valid,
        notes=notes + alpha_notes + bounds.notes,
    )


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
