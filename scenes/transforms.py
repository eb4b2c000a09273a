"""`transforms*.json`: its frames as views. What the readers of Blender's, nerfstudio's and Instant-NGP's files share.

Every key of these programs that would change what is seen is heeded, refused, or said not to be heeded.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scenes.exif import heeded_orientations
from scenes.file_names import FileFinder, is_file, moved_notes, natural_key, with_slashes
from scenes.lens_keys import number, read_lens, stated_size
from scenes.lenses import Lens, View
from scenes.point_cloud import read_ply_points
from scenes.poses import check_poses
from scenes.surface_points import SeenPoints
from utils.errors import BadInput
from utils.text_files import read_text

# Instant-NGP fits scenes into a cube: a position p of the file is NGP_SCALE * p + NGP_OFFSET there, where the cube
# has its middle at a half and aabb_scale as its side.
NGP_SCALE, NGP_OFFSET, NGP_MIDDLE = 0.33, 0.5, 0.5
EXPECTED = "expected camera_angle_x or fl_x, and a list of file_path and transform_matrix"
MOST_POINTS = 10_000  # of a point cloud: bounds need no more, and each is looked for in each view
NOT_HEEDED = {  # keys, of the head or of frames, and what is done instead
    "depth_file_path": "depth is not learnt from",
    "depth_path": "depth is not learnt from",
    "rolling_shutter": "rows are taken to be exposed at one time",
    "transform_matrix_end": "cameras are taken to stand still at transform_matrix_start",
    "time": "the scene is taken to stand still",
    "driver_parameters": "light is taken to be the same in all views",
    "light_dir": "light is taken to be the same in all views",
    "envmap": "the background is of one colour",
    "white_transparent": "white is a colour",
    "black_transparent": "black is a colour",
    "fix_premult": "alpha is taken to be straight",
    "sharpen": "images are used as they are",
    "sharpness_discard_threshold": "no frame is left out for its blur",
    "fisheye_crop_radius": "no pixel is left out for it: use a mask",
    "render_aabb": "the box is that of aabb_scale",
    "near": "--near says how near content begins",
    "far": "--far says how far content reaches",
    "shift_x": "the principal point is cx, or the middle",
    "shift_y": "the principal point is cy, or the middle",
}


@dataclass
class Frame:
    """number: in the file's list. pose: `[3, 4]`. image: None where there is no such file."""

    number: int
    values: dict
    pose: np.ndarray
    name: str
    image: Path | None = None
    moved: bool = False


@dataclass
class Transforms:
    """A file's frames, each image once, and of those that were asked for the views, and which have no image."""

    path: Path
    head: dict
    finder: FileFinder
    frames: list[Frame]
    views: list[View]
    missing: list[Frame]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, path: Path) -> "Transforms":
        """Of a file that is not there."""
        return cls(path, {}, FileFinder(path.parent), [], [], [])

    @property
    def no_image(self) -> str:
        """What is wrong with a file that has no view."""
        if not self.missing:
            return f"{self.path}: no frames; {EXPECTED}"
        name = self.path.parent / self.missing[0].name
        return (
            f"{name}: no such image, nor any other of the {len(self.missing)} that {self.path.name} names; restore them"
        )

    def find(self, name: str) -> Path | None:
        """The file that one of its names means."""
        return self.finder.find(name) or self.finder.find_moved(name)


def read_transforms(path: Path, hint: str, skip: int = 1, as_listed: bool = False) -> Transforms:
    """Reads a file. hint: what to say where there is none. skip: every skip-th frame is taken, in the order of names
    or `as_listed`.

    Frames without an image are left out with a note. Raises BadInput for whatever else is wrong.
    """
    head = read_json(path, hint)
    frames = _read_frames(path, head)
    frames, notes = (frames, []) if as_listed else _ordered(path, frames)
    frames = _first_frames(path, head, frames, notes)
    finder = FileFinder(path.parent)
    found = finder.find_all([frame.name for frame in frames])
    for frame, image, moved in zip(frames, *found, strict=True):
        frame.image, frame.moved = image, moved
    frames = _once_each(path, frames, notes)
    wanted = frames[::skip]
    there = [frame for frame in wanted if frame.image is not None]
    missing = [frame for frame in wanted if frame.image is None]
    if missing and there:
        share = f"{len(missing)} of {len(wanted)} frames"
        notes.append(f"{path}: {share} have no image and are left out, the first is {missing[0].name}")
    notes += moved_notes(path, [(frame.name, frame.image) for frame in there if frame.moved])
    views, view_notes = _views(path, head, finder, there)
    return Transforms(path, head, finder, frames, views, missing, notes + _key_notes(path, head, wanted) + view_notes)


def read_json(path: Path, hint: str) -> dict:
    """The content of a file with `frames`, an object whose `frames` is a list of objects."""
    if not is_file(path):
        raise BadInput(f"{path}: not found; {hint}; check --datadir")
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error}); export it again") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise BadInput(f"{path}: no frames; {EXPECTED}")
    return content


# ---------------------------------------------------------------------------------------- frames


def _read_frames(path: Path, head: dict) -> list[Frame]:
    for key in ("from_mitsuba", "normal_mts_args"):
        if head.get(key):
            raise BadInput(f"{path}: {key} means other camera axes than are read here; turn the poses to OpenGL's axes")
    frames = []
    for i, values in enumerate(head["frames"]):
        where = f"{path}: frame {i}"
        matrix = values.get("transform_matrix", values.get("transform_matrix_start"))
        try:
            pose = np.array(matrix, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"{where} has no valid transform_matrix ({error}); mend or drop it") from error
        if pose.shape not in ((4, 4), (3, 4)):
            raise BadInput(f"{where} has a transform_matrix of shape {pose.shape}; expected 4x4")
        check_poses(pose[None, :3], where, first=i)
        frames.append(Frame(i, values, pose[:3], file_name(path, where, values, "file_path")))
    return frames


def file_name(path: Path, where: str, values: dict, key: str) -> str:
    name = values.get(key)
    if not isinstance(name, str) or not name or "\0" in name:
        raise BadInput(f"{where}: {key} is {name!r}; expected a file's name, relative to {path.name}")
    return name


def name_order(name: str) -> tuple:
    """Sorts names of frames."""
    return natural_key(with_slashes(name))


def _ordered(path: Path, frames: list[Frame]) -> tuple[list[Frame], list[str]]:
    ordered = sorted(frames, key=lambda frame: name_order(frame.name))
    if all(a is b for a, b in zip(ordered, frames, strict=True)):
        return frames, []
    return ordered, [f"{path}: frames are taken in the order of their names, not as they are listed"]


def _first_frames(path: Path, head: dict, frames: list[Frame], notes: list[str]) -> list[Frame]:
    """As many as n_frames says, Instant-NGP's limit."""
    count = number(str(path), head, "n_frames")
    if count is None or not 1 <= count < len(frames):
        return frames
    notes.append(f"{path}: n_frames is {count:g}: the other {len(frames) - int(count)} frames are left out")
    return frames[: int(count)]


def _once_each(path: Path, frames: list[Frame], notes: list[str]) -> list[Frame]:
    """Frames without those whose image an earlier one has."""
    first: dict[Path | str, Frame] = {}
    for frame in frames:
        first.setdefault(frame.image.resolve() if frame.image else frame.name, frame)
    if len(first) < len(frames):
        notes.append(
            f"{path}: {len(frames) - len(first)} frames name an image that another frame has; each counts once"
        )
    return list(first.values())


# ----------------------------------------------------------------------------------------- views


def _views(path: Path, head: dict, finder: FileFinder, frames: list[Frame]) -> tuple[list[View], list[str]]:
    """A view for each frame, and notes."""
    where = [f"{path}: frame {frame.number}" for frame in frames]
    stated = [stated_size(at, head, frame.values) for at, frame in zip(where, frames, strict=True)]
    orientations, sizes, notes = heeded_orientations([frame.image for frame in frames], stated, path)
    views = []
    for i, frame in enumerate(frames):
        lens = read_lens(where[i], head, frame.values, stated[i] or sizes[i])
        mask = None
        if frame.values.get("mask_path") is not None:
            name = file_name(path, where[i], frame.values, "mask_path")
            mask = finder.find(name) or finder.find_moved(name, "masks") or path.parent / with_slashes(name)
        hidden = frame.image.with_name(f"dynamic_mask_{frame.image.stem}.png")  # Instant-NGP's
        views.append(View(frame.image, lens, frame.pose, mask, hidden if is_file(hidden) else None, orientations[i]))
    return views, notes


def _key_notes(path: Path, head: dict, frames: list[Frame]) -> list[str]:
    notes = []
    for key, instead in NOT_HEEDED.items():
        holders = [values for values in (head, *(frame.values for frame in frames)) if _says_something(values.get(key))]
        if holders:
            notes.append(f"{path}: {key} is not heeded: {instead}")
    masks = path.parent / "masks"
    if masks.is_dir() and not any(frame.values.get("mask_path") for frame in frames):
        notes.append(f"{masks}: not read, since no frame has a mask_path")
    images = [frame.image for frame in frames if frame.image is not None]
    if any(is_file(image.with_name(f"{image.name}.alpha{image.suffix}")) for image in images):
        notes.append(f"{path}: Instant-NGP's NAME.alpha files are not read: put the alpha into the images")
    return notes


def _says_something(value: object) -> bool:
    """False for what switches a key off: null, false, 0, empty, or a list of such."""
    return any(map(_says_something, value)) if isinstance(value, list) else bool(value)


# ---------------------------------------------------------------------------------------- bounds


def stated_box(path: Path, head: dict) -> np.ndarray | None:
    """The box `[2, 3]`, in the file's units, that Instant-NGP takes for all content: aabb_scale times its unit cube,
    which `aabb`, or scale and offset, put somewhere. None where the file states no bounds."""
    side, scale = number(str(path), head, "aabb_scale"), number(str(path), head, "scale")
    aabb = _numbers(path, head, "aabb", (2, 3))
    if side is None and aabb is None:
        return None
    offset = np.full(3, NGP_OFFSET)
    if head.get("offset") is not None:
        offset = offset * 0 + _numbers(path, head, "offset", (3,) if isinstance(head["offset"], list) else ())
    scale = NGP_SCALE if scale is None else scale
    if not scale > 0 or not (side is None or side > 0) or not (aabb is None or (aabb[0] < aabb[1]).all()):
        raise BadInput(
            f"{path}: aabb_scale {side}, scale {scale:g}, aabb {head.get('aabb')}: no box; mend or drop them"
        )
    middle = (NGP_MIDDLE - offset) / scale if aabb is None else aabb.mean(0)
    half = np.full(3, 0.5 / scale) if aabb is None else 0.5 * (aabb[1] - aabb[0])
    half = half * (1 if side is None else side)
    return np.stack([middle - half, middle + half])


def _numbers(path: Path, head: dict, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if head.get(key) is None:
        return None
    try:
        value = np.array(head[key], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{path}: {key} is no numbers ({error}); mend or drop it") from error
    if value.shape != shape or not (np.abs(value) < 1e9).all():
        raise BadInput(f"{path}: {key} is {head[key]}; expected finite numbers of shape {shape}: mend or drop it")
    return value


def stated_points(transforms: Transforms) -> tuple[SeenPoints | None, list[str]]:
    """The points of ply_file_path, with those that each view has in its frame; and notes."""
    path, head = transforms.path, transforms.head
    if head.get("ply_file_path") is None:
        return None, []
    file = transforms.find(file_name(path, str(path), head, "ply_file_path"))
    if file is None:
        return None, [f"{path}: its ply_file_path {head['ply_file_path']} is not there: bounds are not taken from it"]
    points = read_ply_points(file)
    points = points[:: len(points) // MOST_POINTS + 1]
    return SeenPoints(points, [_in_frame(points, view.lens, view.c2w) for view in transforms.views]), []


def _in_frame(points: np.ndarray, lens: Lens, c2w: np.ndarray) -> np.ndarray:
    """Which of `points [P, 3]` a pinhole of that lens has in its picture."""
    x, y, z = ((points - c2w[:, 3]) @ c2w[:, :3]).T  # cameras look along -z
    depth = np.maximum(-z, 1e-9)
    column, row = lens.cx + lens.fx * x / depth, lens.cy - lens.fy * y / depth
    inside = (column >= 0) & (column <= lens.width) & (row >= 0) & (row <= lens.height)
    return np.flatnonzero((z < 0) & inside)
