"""`transforms.json` captures, as nerfstudio and Instant-NGP write them: photographs, lenses, masks."""

from pathlib import Path

import numpy as np

from scenes.captures import capture_scene
from scenes.poses import hold_out
from scenes.scene import Scene
from scenes.transforms import Transforms, read_transforms, stated_box, stated_points
from utils.errors import BadInput

FILE_SPLITS = {"train": "train_filenames", "val": "val_filenames", "test": "test_filenames"}


def load_nerfstudio_scene(
    folder: str,
    factor: float = 1,
    llffhold: int = 8,
    white_background: bool = False,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads a folder with `transforms.json`, or a file of another name. Units and axes are new: see `scenes.captures`.

    Lenses are the file's or, where a frame has its own, that frame's (`scenes.lens_keys`); images are undistorted.
    mask_path: black is ignored; Instant-NGP's dynamic_mask_NAME.png: all but black is. ply_file_path, or else
    aabb_scale, says where content ends. train_filenames, val_filenames and test_filenames split the views; else
    every llffhold-th, in the order of their names, is a test view. factor: images are averaged down by it on each
    side, >= 1. needs_alpha: fail where images have none. near, far: z-depth, in the new units.
    Raises BadInput for whatever is malformed or inconsistent, or where no image is there.
    """
    given = Path(folder)
    path = given if given.suffix.lower() == ".json" else given / "transforms.json"
    transforms = read_transforms(path, "nerfstudio's ns-process-data writes it")
    if not transforms.views:
        raise BadInput(transforms.no_image)
    points, notes = stated_points(transforms)
    views, content = transforms.views, transforms.head
    if any(name in content for name in FILE_SPLITS.values()):
        chosen, splits, split_notes = _split_by_name(transforms)
        notes += split_notes
        views = [views[i] for i in chosen]
        if points is not None:
            points.seen = [points.seen[i] for i in chosen]
    else:
        splits = hold_out(np.stack([view.c2w for view in views]), llffhold)
    scene = capture_scene(
        path.resolve().parent.name,
        str(path),
        views,
        splits,
        factor=factor,
        white_background=white_background,
        needs_alpha=needs_alpha,
        near=near,
        far=far,
        points=points,
        box=stated_box(path, content),
    )
    scene.notes = transforms.notes + notes + scene.notes
    return scene


def _split_by_name(transforms: Transforms) -> tuple[list[int], dict[str, list[int]], list[str]]:
    """Which views the file's lists name, which of these are which split's, and notes."""
    path, content, views = transforms.path, transforms.head, transforms.views
    number = {view.image.resolve(): i for i, view in enumerate(views)}
    missing = {frame.name for frame in transforms.missing}
    chosen: dict[str, list[int]] = {}
    for split, key in FILE_SPLITS.items():
        names = content.get(key) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f"{path}: {key} is no list of names; expected file_path of some frames")
        chosen[split] = []
        for name in names:
            file = transforms.find(name)
            if file is not None and file.resolve() in number:
                chosen[split].append(number[file.resolve()])
            elif name not in missing:
                raise BadInput(f"{path}: {key} names {name}, which is no frame's file_path; mend the list")
        chosen[split] = list(dict.fromkeys(chosen[split]))  # a name twice is one view
    for split in ("val", "test"):
        both = set(chosen["train"]) & set(chosen[split])
        if both:
            raise BadInput(
                f"{path}: {views[min(both)].image.name} is in train_filenames and in {FILE_SPLITS[split]}; "
                "a view that is learnt from measures nothing: take it out of one"
            )
    if not chosen["train"]:
        raise BadInput(f"{path}: train_filenames is empty; name the frames to learn from")
    notes = []
    if not chosen["test"]:
        chosen["test"] = chosen["val"] or chosen["train"][::8]
        used = "val views" if chosen["val"] else "TRAINING views, which says nothing of new views"
        notes.append(f"{path}: no test_filenames: test measures are taken on {used}")
    used = sorted({i for numbers in chosen.values() for i in numbers})
    place = {old: new for new, old in enumerate(used)}
    return used, {split: [place[i] for i in numbers] for split, numbers in chosen.items()}, notes
