"""Photographs with known cameras, of any lens and in any frame, made into a scene.

What nerfstudio's and COLMAP's readers share: lens distortion is taken out, masks are applied, and
the world is moved so that what the cameras look at is the origin, up is z, and cameras stand within
about 4 units: the frame and scale of NeRF's own scenes, for which learning rates and densities are set.
"""

from collections.abc import Sequence

import numpy as np
import torch

from scenes.capture_frame import (
    CAMERA_RADIUS,
    CUT_OUT,
    FARTHEST_BOX,
    LEAST_NEAR,
    Similarity,
    bounds_of_box,
    bounds_of_points,
    camera_path,
    normalisation,
    usable_box,
)
from scenes.images import without_idle_alpha
from scenes.lenses import Pictures, View, pixel_notes, read_views
from scenes.scene import Cameras, Scene
from scenes.surface_points import SeenPoints, matched_points
from utils.errors import BadInput

SUBJECT_HALF_BOX, SURROUNDINGS_HALF_BOX = 1.5, 8.0  # world units: subjects that are cut out, and all else


def capture_scene(
    name: str,
    where: str,
    views: Sequence[View],
    splits: dict[str, list[int]],
    factor: float = 1,
    white_background: bool = False,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
    points: SeenPoints | None = None,
    box: np.ndarray | None = None,
) -> Scene:
    """A scene of `views`, undistorted, shrunk by `factor`, and moved as the module's first lines say.

    where: the file to name in messages. near, far: in the new units; by default from `points`, or, where
    there are none, from `box [2, 3]`, in the capture's units, or else from where the cameras stand, and near from
    what photographs show alike.
    Raises BadInput as the image readers do.
    """
    if not factor >= 1:
        raise BadInput(f"--factor {factor:g}: images can only be made smaller; give 1 or more")
    pictures = read_views(views, factor, where)
    if pictures.images.shape[-1] == 3 and needs_alpha:
        raise BadInput(
            f"{views[0].image}: image is RGB, but --white_bkgd and --random_bkgd need RGBA; leave them out, "
            "or give the images an alpha channel"
        )
    c2w = np.stack([view.c2w for view in views]).astype(np.float64)
    if points is not None and bounds_of_points(c2w, points.positions, points.seen) is None:
        points = None  # too few, or of another frame
    move = normalisation(c2w, where, None if points is None else points.positions)
    if points is None and pictures.hidden_share() < CUT_OUT:
        points = matched_points(pictures, c2w)
    scene = framed_scene(name, where, pictures, c2w, move, splits, white_background, points, box)
    scene.near, scene.far = scene.near if near is None else near, scene.far if far is None else far
    return scene


def framed_scene(
    name: str,
    where: str,
    pictures: Pictures,
    c2w: np.ndarray,
    move: Similarity,
    splits: dict[str, list[int]],
    white_background: bool = False,
    points: SeenPoints | None = None,
    box: np.ndarray | None = None,
) -> Scene:
    """A scene of pictures that pinholes at `c2w [N, 3, 4]` took, moved by `move`, with bounds as `capture_scene` says.

    c2w, points, box: as they were before the move.
    """
    c2w = move.poses(c2w)
    notes = [
        f"moved {np.round(move.center, 3).tolist()} to the origin, up to z, and scaled by {move.scale:.4g}: cameras "
        "stand within about 4 units; --near, --far and --aabb are in these units, --plot_cameras shows them"
    ]
    hidden = pictures.hidden_share()
    images, alpha_notes = without_idle_alpha(pictures.images, hidden)
    notes += alpha_notes
    near, far, box, bound_notes = _bounds(c2w, move, points, box, hidden, where)
    notes += bound_notes + pixel_notes(pictures)
    cameras = Cameras.of_sizes(torch.tensor(c2w, dtype=torch.float32), pictures.K, pictures.sizes)
    return Scene(
        name=name,
        images=torch.from_numpy(images),
        cameras=cameras,
        splits=splits,
        near=near,
        far=far,
        aabb=torch.tensor(box, dtype=torch.float32),
        render_path=cameras.along(camera_path(c2w)),
        ball=None if hidden >= CUT_OUT else CAMERA_RADIUS,
        background=(1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0),
        valid=pictures.valid,
        notes=notes,
    )


def _bounds(
    c2w: np.ndarray, move: Similarity, points: SeenPoints | None, box: np.ndarray | None, hidden: float, where: str
) -> tuple[float, float, np.ndarray, list[str]]:
    """near, far, box and notes for moved cameras `[N, 3, 4]`, of what is known of the content, else of their own
    distance and of how much alpha hides. points, box: before the move."""
    of_points = None if points is None else bounds_of_points(c2w, move.points(points.positions), points.seen)
    if of_points is not None and not points.matched:
        return *of_points, []
    cut_out = hidden >= CUT_OUT
    reach = SUBJECT_HALF_BOX if cut_out else FARTHEST_BOX * CAMERA_RADIUS
    box, notes = usable_box(None if box is None else move.box(box), np.zeros(3), reach, where)
    stated = box is not None
    if not stated:
        half = SUBJECT_HALF_BOX if cut_out else SURROUNDINGS_HALF_BOX
        box = np.array([[-half] * 3, [half] * 3])
    least = LEAST_NEAR
    if of_points is not None:
        least = float(f"{of_points[0]:.2g}")  # the same on machines that decode pictures a little differently
        notes.append(f"near is {least:g} by {len(points.positions)} points that photographs show alike")
    near, far = bounds_of_box(c2w, box, least)
    if stated:
        said = f"box {np.round(box, 2).tolist()}, near {near:.3g}, far {far:.3g}"
        notes.append(f"{where} says where content ends: {said}")
        return near, far, box, notes
    notes.append(f"where content ends is not known: box of +-{half:g}, near {near:.3g}, far {far:.3g}")
    if np.median((c2w[:, :, 3] * c2w[:, :, 2]).sum(-1)) < 0.1 * CAMERA_RADIUS:
        notes.append("cameras look at no common point, so that box is a guess: give --near, --far and --aabb")
    return near, far, box, notes
