"""Blender ("NeRF synthetic") folders: `transforms_{train,val,test}.json` beside RGBA images."""

from pathlib import Path

import numpy as np
import torch

from scenes.capture_frame import CUT_OUT, FARTHEST_BOX, bounds_of_box, bounds_of_points, usable_box
from scenes.images import without_idle_alpha
from scenes.lenses import View, pixel_notes, read_views
from scenes.poses import bounds_of_cameras, near_origin, orbit_path
from scenes.scene import Cameras, Scene
from scenes.transforms import Transforms, name_order, read_transforms, stated_box, stated_points
from utils.errors import BadInput

LEAST_NEAR = 0.1  # of the cameras' distance, where a stated box reaches up to them


def load_blender_scene(
    folder: str,
    factor: float = 1,
    testskip: int = 8,
    white_background: bool = False,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads a Blender-format folder. Lenses, masks and bounds are what its files state, see `scenes.transforms`.

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
    views, splits, files, notes = _read_splits(root, max(testskip, 1))
    pictures = read_views(views, factor, str(root))
    if pictures.images.shape[-1] == 3 and needs_alpha:
        raise BadInput(
            f"{views[0].image}: image is RGB, but --white_bkgd, --random_bkgd and carving need RGBA; "
            "leave them out, or export the images with an alpha channel"
        )
    hidden = pictures.hidden_share()
    images, alpha_notes = without_idle_alpha(pictures.images, hidden)
    c2w, offset, move_notes = near_origin(np.stack([view.c2w for view in views]))
    scene_near, scene_far, box, center, bound_notes = _bounds(files["train"], c2w, offset, hidden >= CUT_OUT)
    cameras = Cameras.of_sizes(torch.tensor(c2w, dtype=torch.float32), pictures.K, pictures.sizes)
    path = orbit_path(float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1))), frames=40, target=center)
    if not files["test"].views and files["test"].frames:  # as BlenderNeRF means them
        path = np.stack([frame.pose for frame in files["test"].frames])
        path = torch.tensor(path - np.concatenate([np.zeros((3, 3)), offset[:, None]], axis=1), dtype=torch.float32)
    return Scene(
        name=root.resolve().name,
        images=torch.from_numpy(images),
        cameras=cameras,
        splits=splits,
        near=scene_near if near is None else near,
        far=scene_far if far is None else far,
        aabb=box,
        render_path=cameras.along(path),
        background=(1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0),
        valid=pictures.valid,
        notes=[*notes, *alpha_notes, *move_notes, *bound_notes, *pixel_notes(pictures)],
    )


def _read_splits(
    root: Path, testskip: int
) -> tuple[list[View], dict[str, list[int]], dict[str, Transforms], list[str]]:
    """All views, those of each split by number, what each file holds, and notes."""
    files, notes = {}, []
    for split in ("train", "val", "test"):
        path = root / f"transforms_{split}.json"
        if split != "train" and not path.exists():  # folders of one's own often have no val
            files[split] = Transforms.empty(path)
            continue
        hint = "a Blender-format folder needs transforms_train.json"
        learnt = split == "train"  # in whichever order
        files[split] = read_transforms(path, hint, skip=1 if learnt else testskip, as_listed=learnt)
        notes += files[split].notes
        if not files[split].views:  # of train, refused in a moment
            why = "none of the images asked for is there" if files[split].frames else "it lists no frames"
            as_path = ": its poses are the video's path" if split == "test" and files[split].frames else ""
            notes.append(f"{path}: {why}, so there are no {split} views{as_path}")
    if not files["train"].views:
        raise BadInput(files["train"].no_image)
    views: list[View] = []
    number: dict[Path, int] = {}
    splits: dict[str, list[int]] = {}
    for split, file in files.items():
        splits[split] = []
        for view in file.views:
            if number.setdefault(view.image.resolve(), len(views)) == len(views):
                views.append(view)
            splits[split].append(number[view.image.resolve()])
        both = set(splits["train"]).intersection(splits[split]) if split != "train" else ()
        if both:
            splits[split] = [i for i in splits[split] if i not in both]
            notes.append(f"{file.path}: {len(both)} images are training views too, and are not measured on")
    if not splits["test"]:
        by_name = sorted(splits["train"], key=lambda i: name_order(str(views[i].image)))
        splits["test"] = splits["val"] or by_name[::testskip]
        used = "val views" if splits["val"] else "TRAINING views, which says nothing of new views"
        notes.append(f"no test views in {root}: test measures are taken on {used}")
    return views, splits, files, notes


def _bounds(train: Transforms, c2w: np.ndarray, offset: np.ndarray, cut_out: bool) -> tuple:
    """What `bounds_of_cameras` gives for poses that `offset` was taken from, by what the file says of its bounds.

    cut_out: alpha leaves a subject alone, which is no larger than without these; writers state the same for all.
    """
    near, far, guess, center, notes = bounds_of_cameras(c2w)
    points, more = stated_points(train)
    of_points = None
    if points is not None:
        of_points = bounds_of_points(c2w[: len(train.views)], points.positions - offset, points.seen)
    if of_points is not None:
        near, far, box = of_points
    else:
        radius = float(np.median(np.linalg.norm(c2w[:, :, 3] - center, axis=-1)))
        reach = float(guess[1, 0] - guess[0, 0]) / 2 if cut_out else FARTHEST_BOX * radius
        box = stated_box(train.path, train.head)
        box, box_notes = usable_box(None if box is None else box - offset, center, reach, str(train.path))
        more += box_notes
        if box is None or np.allclose(box, guess):
            return near, far, guess, center, more + notes
        near, far = bounds_of_box(c2w, box, LEAST_NEAR * radius)
    note = f"{train.path} says where content ends: box {np.round(box, 2).tolist()}, near {near:.3g}, far {far:.3g}"
    return near, far, torch.tensor(box, dtype=torch.float32), center, [*more, note]
