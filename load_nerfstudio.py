"""`transforms.json` captures, as nerfstudio and Instant-NGP write them: photographs, lenses, masks."""

import json
import math
from pathlib import Path

import numpy as np

from captures import Lens, View, capture_scene, checked_lens
from errors import BadInput
from images import IMAGE_SUFFIXES, image_size
from load_llff import hold_out
from scene import Scene, check_poses

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
DISTORTION, FISHEYE_DISTORTION = ("k1", "k2", "p1", "p2", "k3"), ("k1", "k2", "k3", "k4")  # OpenCV's order
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
    """Reads a folder with `transforms.json`. Units and axes are new ones: see `captures.py`.

    Intrinsics (fl_x, fl_y, cx, cy, w, h or camera_angle_x), camera_model and distortion are the
    file's or, where a frame has its own, that frame's; images are undistorted. mask_path: black is
    ignored. train_filenames, val_filenames and test_filenames split the views; else every
    llffhold-th is a test view. factor: images are averaged down by it on each side, >= 1.
    needs_alpha: fail where images have none. near, far: z-depth, in the new units.
    Raises BadInput for whatever is missing, malformed or inconsistent.
    """
    path = Path(folder) / "transforms.json"
    content = _read_json(path)
    frames = content["frames"]
    views = [_read_view(path, i, content, frame) for i, frame in enumerate(frames)]
    if any(name in content for name in FILE_SPLITS.values()):
        views, splits, notes = _split_by_name(path, content, views)
    else:
        splits, notes = hold_out(np.stack([view.c2w for view in views]), llffhold), []
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
    )
    scene.notes = notes + scene.notes
    return scene


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise BadInput(f"{path}: not found; nerfstudio's ns-process-data writes it; check --datadir")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: neither UTF-8 nor JSON
        raise BadInput(f"{path}: not readable as JSON ({error}); export it again") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise BadInput(f"{path}: no frames; expected a list of file_path and transform_matrix")
    return content


def _read_view(path: Path, i: int, content: dict, frame: dict) -> View:
    where = f"{path}: frame {i}"
    try:
        pose = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{where} has no valid transform_matrix ({error!r}); mend or drop it") from error
    if pose.shape not in ((4, 4), (3, 4)):
        raise BadInput(f"{where} has a transform_matrix of shape {pose.shape}; expected 4x4")
    check_poses(pose[None, :3], where)
    image = _file(path, where, frame, "file_path")
    if image is None:
        raise BadInput(f"{where} has no file_path; mend or drop it")
    if image.suffix.lower() not in IMAGE_SUFFIXES:  # Instant-NGP, like Blender's exporters, may leave it out
        image = image.parent / f"{image.name}.png"
    lens = _read_lens(where, content | frame, image)
    return View(image, lens, pose[:3], _file(path, where, frame, "mask_path"))


def _file(path: Path, where: str, frame: dict, key: str) -> Path | None:
    name = frame.get(key)
    if name is None:
        return None
    if not isinstance(name, str) or not name or "\0" in name:
        raise BadInput(f"{where}: {key} is {name!r}; expected a file's name, relative to {path.name}")
    return path.parent / name


def _read_lens(where: str, values: dict, image: Path) -> Lens:
    """values: the file's own and, over them, the frame's."""
    model = values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") is True else "OPENCV")
    if model not in CAMERA_MODELS:
        raise BadInput(
            f"{where}: camera_model {model!r}; expected one of {', '.join(CAMERA_MODELS)}: "
            "undistort the images first (ns-process-data, or colmap image_undistorter)"
        )
    width, height = _number(where, values, "w"), _number(where, values, "h")
    if width is None or height is None:
        height, width = image_size(image)
    fl_x, fl_y = _number(where, values, "fl_x"), _number(where, values, "fl_y")
    fl_x = _focal(where, values, "camera_angle_x", width) if fl_x is None else fl_x
    if fl_x is None:
        raise BadInput(f"{where}: neither fl_x nor camera_angle_x, in the file or the frame; add one")
    fl_y = _focal(where, values, "camera_angle_y", height) if fl_y is None else fl_y
    cx, cy = _number(where, values, "cx"), _number(where, values, "cy")
    fisheye = model == "OPENCV_FISHEYE"
    distortion = tuple(_number(where, values, k) or 0.0 for k in (FISHEYE_DISTORTION if fisheye else DISTORTION))
    if not fisheye and _number(where, values, "k4"):
        raise BadInput(f"{where}: k4 is for camera_model OPENCV_FISHEYE, found {model}; undistort the images first")
    lens = Lens(
        width=int(width),
        height=int(height),
        fx=fl_x,
        fy=fl_x if fl_y is None else fl_y,
        cx=width / 2 if cx is None else cx,
        cy=height / 2 if cy is None else cy,
        distortion=distortion if any(distortion) else (),
        fisheye=fisheye,
    )
    return checked_lens(lens, where)


def _focal(where: str, values: dict, key: str, side: float) -> float | None:
    """Pixels, from an angle of view in radians over an image's side in pixels."""
    angle = _number(where, values, key)
    if angle is not None and not 0 < angle < math.pi:
        raise BadInput(f"{where}: {key} is {angle:g}; expected an angle of view, in (0, pi) radians")
    return None if angle is None else 0.5 * side / math.tan(0.5 * angle)


def _number(where: str, values: dict, key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e9:  # nor NaN
        raise BadInput(f"{where}: {key} is {value!r}; expected a finite number")
    return float(value)


def _split_by_name(path: Path, content: dict, views: list[View]) -> tuple[list[View], dict[str, list[int]], list[str]]:
    """The views that the file's lists name, which numbers are which split's, and notes."""
    number = {view.image: i for i, view in enumerate(views)}
    chosen: dict[str, list[int]] = {}
    for split, key in FILE_SPLITS.items():
        names = content.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f"{path}: {key} is no list of names; expected file_path of some frames")
        files = [path.parent / name for name in names]
        files = [f if f.suffix.lower() in IMAGE_SUFFIXES else f.parent / f"{f.name}.png" for f in files]
        for name, file in zip(names, files, strict=True):
            if file not in number:
                raise BadInput(f"{path}: {key} names {name}, which is no frame's file_path; mend the list")
        chosen[split] = [number[file] for file in files]
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
    return [views[i] for i in used], {s: [place[i] for i in numbers] for s, numbers in chosen.items()}, notes
