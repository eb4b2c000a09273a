"""COLMAP sparse models, text or binary: cameras, images, points3D, beside a folder `images`."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenes import colmap_lenses
from scenes.captures import capture_scene
from scenes.exif import heeded_orientations
from scenes.file_names import FileFinder, moved_notes, natural_key
from scenes.lenses import Lens, View, checked_lens
from scenes.poses import FARTHEST, hold_out, rotation
from scenes.scene import Scene
from scenes.surface_points import SeenPoints
from utils.errors import BadInput
from utils.text_files import RENAME, read_text

# COLMAP's camera models by number, and of those that are read here what their parameters are.
MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE",
)  # fmt: skip
PARAMETERS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    **{model: f"fx fy cx cy {rest}" for model, rest in colmap_lenses.PARAMETERS.items()},
}
ORDER, FISHEYE_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), ("k1", "k2", "k3", "k4")  # OpenCV's
AGAIN = "export the model again (colmap model_converter)"


@dataclass
class Picture:
    """One registered image. w2c: world-to-camera `[3, 4]`, OpenCV axes. seen: numbers of its 3D points `[S]`."""

    name: str
    camera: int
    w2c: np.ndarray
    seen: np.ndarray


@dataclass
class SparseModel:
    """lenses: by camera number. pictures: in order of name, each once. points: positions `[3]` by point number."""

    lenses: dict[int, Lens]
    pictures: list[Picture]
    points: dict[int, np.ndarray]


def load_colmap_scene(
    folder: str,
    factor: float = 1,
    llffhold: int = 8,
    white_background: bool = False,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads a folder with `images` and a sparse model in `sparse/0`, another of `sparse`, `sparse` or itself;
    or such a model, with `images` one or two folders above.

    Units and axes are new ones, see `scenes.captures`; near, far (z-depth) and the box are by default
    those of the 3D points that the views see. Images are undistorted, and averaged down by factor
    >= 1 on each side; every llffhold-th is a test view. needs_alpha: fail where images have none.
    Raises BadInput for whatever is malformed or inconsistent, or where no image is there.
    """
    place = find_model(Path(folder))
    root = next((p for p in (Path(folder), *place.resolve().parents[:2]) if (p / "images").is_dir()), Path(folder))
    model = read_model(place)
    pictures, views, notes = _views(root / "images", place, model)
    splits = hold_out(np.stack([view.c2w for view in views]), llffhold)
    number = {point: i for i, point in enumerate(model.points)}
    seen = [np.array([number[p] for p in one.seen.tolist() if p in number], dtype=np.int64) for one in pictures]
    points = SeenPoints(np.array(list(model.points.values())), seen) if model.points else None
    scene = capture_scene(
        root.resolve().name,
        str(place),
        views,
        splits,
        factor=factor,
        white_background=white_background,
        needs_alpha=needs_alpha,
        near=near,
        far=far,
        points=points,
    )
    others = sorted(p.name for p in place.parent.iterdir() if p.is_dir() and p != place)
    if place.parent.name == "sparse" and place != Path(folder) and others:
        largest = f"{place} is read, which has the most images registered, {len(model.pictures)}"
        notes.append(f"{largest}; of {', '.join(others)} beside it nothing is")
    scene.notes = notes + scene.notes
    return scene


def _views(folder: Path, place: Path, model: SparseModel) -> tuple[list[Picture], list[View], list[str]]:
    """The pictures whose images are there, a view for each, and notes."""
    files, moved = FileFinder(folder).find_all([picture.name for picture in model.pictures])
    found = list(zip(model.pictures, files, moved, strict=True))
    there = [(picture, file) for picture, file, _ in found if file is not None]
    missing = [picture.name for picture, file, _ in found if file is None]
    if not there:
        first = folder / missing[0]
        raise BadInput(f"{first}: no such image, nor any other of {len(missing)} in {place}; restore them")
    for picture, _ in there:
        if picture.camera not in model.lenses:
            raise BadInput(f"{place}: image {picture.name} has camera {picture.camera}, which cameras.* lacks; {AGAIN}")
    lenses = [model.lenses[picture.camera] for picture, _ in there]
    paths, sizes = [file for _, file in there], [(lens.height, lens.width) for lens in lenses]
    orientations, _, notes = heeded_orientations(paths, sizes, place)
    notes += moved_notes(place, [(picture.name, file) for picture, file, elsewhere in found if elsewhere])
    pictures = [picture for picture, _ in there]
    views = [
        View(path, lens, camera_to_world(picture.w2c), orientation=orientation)
        for path, lens, picture, orientation in zip(paths, lenses, pictures, orientations, strict=True)
    ]
    if missing:
        share = f"{len(missing)} of {len(model.pictures)} pictures"
        notes.append(f"{place}: {share} have no image in {folder} and are left out, the first is {missing[0]}")
    masks = folder.with_name("masks")
    if masks.is_dir():
        notes.append(f"{masks}: COLMAP's masks are not read; every pixel is learnt from")
    return pictures, views, notes


def find_model(root: Path) -> Path:
    """The folder of the sparse model, of several that with the most images."""
    if not root.is_dir():
        raise BadInput(f"{root}: no such data folder; check --datadir")
    models = sorted(filter(is_model, (root / "sparse").glob("*")), key=lambda place: natural_key(place.name))
    models = models or list(filter(is_model, (root / "sparse", root)))[:1]
    if models:
        return models[0] if len(models) == 1 else max(models, key=_registered)  # of equals the first
    raise BadInput(f"{root}: no cameras.bin or cameras.txt in sparse/0, sparse or the folder; run colmap mapper first")


def is_model(place: Path) -> bool:
    """Whether a folder holds a sparse model."""
    return any((place / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt"))


def _registered(place: Path) -> int:
    """How many images a model has; none if it is damaged."""
    try:
        return len(read_model(place).pictures)
    except BadInput:
        return 0


def read_model(place: Path) -> SparseModel:
    """The model in a folder, from .bin files, or else .txt. Raises BadInput for whatever is wrong with them."""
    suffix = "bin" if (place / "cameras.bin").is_file() else "txt"
    readers = (
        (_binary_cameras, _binary_images, _binary_points)
        if suffix == "bin"
        else (_text_cameras, _text_images, _text_points)
    )
    content = []
    for stem, read in zip(("cameras", "images", "points3D"), readers, strict=True):
        path = place / f"{stem}.{suffix}"
        if not path.is_file() and stem == "points3D":  # only bounds need them
            content.append({})
            continue
        try:
            content.append(read(path))
        except FileNotFoundError as error:
            raise BadInput(f"{path}: not found beside cameras.{suffix}; {AGAIN}") from error
        except (OSError, ValueError, IndexError, OverflowError, struct.error) as error:
            raise BadInput(f"{path}: not a whole COLMAP file ({error}); {AGAIN}") from error
    lenses, pictures, points = content
    if not pictures:
        raise BadInput(f"{place}: no image is registered in images.{suffix}; run colmap mapper on more photographs")
    by_name = {picture.name: picture for picture in reversed(pictures)}  # of one name the first
    return SparseModel(lenses, [by_name[name] for name in sorted(by_name, key=natural_key)], points)


# --------------------------------------------------------------------------------- what they mean


def _lens(path: Path, number: int, model: str, width: int, height: int, values: list[float]) -> Lens:
    where = f"{path}: camera {number}"
    if model not in PARAMETERS:
        raise BadInput(
            f"{where} is of model {model}; expected one of {', '.join(PARAMETERS)}: run colmap image_undistorter, "
            "and give its output folder"
        )
    names = PARAMETERS[model].split()
    if len(values) != len(names):
        raise BadInput(f"{where}: {model} with {len(values)} parameters; expected {PARAMETERS[model]}: {AGAIN}")
    given = dict(zip(names, values, strict=True))
    odd = model in colmap_lenses.PARAMETERS
    fisheye = model.endswith("FISHEYE") and not odd
    order = names[4:] if odd else FISHEYE_ORDER if fisheye else ORDER
    distortion = tuple(given.get(name, 0.0) for name in order)
    lens = Lens(
        width=width,
        height=height,
        fx=given["f"] if "f" in given else given["fx"],
        fy=given["f"] if "f" in given else given["fy"],
        cx=given["cx"],
        cy=given["cy"],
        distortion=distortion if odd or any(distortion) else (),
        fisheye=fisheye,
        model=model if odd else "",
    )
    return checked_lens(lens, where)


def _picture(path: Path, pose: list[float], camera: int, name: str, seen: np.ndarray) -> Picture:
    """pose: the rotation as a quaternion w, x, y, z, then the translation."""
    quaternion, translation = np.array(pose[:4]), np.array(pose[4:])
    length = np.linalg.norm(quaternion) if np.abs(pose).max() < FARTHEST else math.nan  # nor may squares overflow
    if not length > 1e-6 or not name or "\0" in name:
        raise BadInput(f"{path}: image {name!r} has pose {pose}; expected a name, and finite numbers: {AGAIN}")
    return Picture(name, camera, np.concatenate([rotation(quaternion), translation[:, None]], axis=1), seen)


def camera_to_world(w2c: np.ndarray) -> np.ndarray:
    """`[3, 4]` with OpenGL axes, of a world-to-camera matrix with OpenCV's."""
    rotation = w2c[:, :3].T
    return np.concatenate([rotation * [1, -1, -1], -rotation @ w2c[:, 3:]], axis=1)


def _point(path: Path, number: int, position: list[float]) -> np.ndarray:
    point = np.array(position)
    if not np.abs(point).max() < FARTHEST:
        raise BadInput(f"{path}: point {number} is at {position}; expected finite numbers: {AGAIN}")
    return point


# --------------------------------------------------------------------------------------- binary


class _Bytes:
    """Little-endian values from a file's front to its end. A count in it is believed only as far as there
    are bytes, so nothing is reserved for what is not there. Raises ValueError past the end."""

    def __init__(self, path: Path):
        self.path, self.content = path, path.read_bytes()
        self.place = 0

    def skip(self, size: int) -> int:
        """Goes past `size` bytes; returns where they start."""
        start = self.place
        if size > len(self.content) - start:
            raise ValueError(f"{size} bytes wanted at {start}, it has {len(self.content)}")
        self.place = start + size
        return start

    def take(self, kinds: str) -> tuple:
        return struct.unpack_from("<" + kinds, self.content, self.skip(struct.calcsize("<" + kinds)))

    def rows(self, kind: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self.content, kind, count, self.skip(kind.itemsize * count))

    def text(self) -> str:
        end = self.content.find(b"\0", self.place)
        if end < 0:
            raise ValueError(f"a name at {self.place} does not end")
        start, self.place = self.place, end + 1
        try:
            return self.content[start:end].decode()
        except UnicodeDecodeError as error:
            what = f"an image's name is {self.content[start:end]!r}, which is not UTF-8"
            raise BadInput(f"{self.path}: {what}; {RENAME}, and run COLMAP again") from error

    def end(self) -> None:
        if self.place != len(self.content):
            raise ValueError(f"{len(self.content) - self.place} bytes follow the last entry")


KEYPOINT = np.dtype([("place", "<f8", 2), ("point", "<i8")])
TRACK_ENTRY = 8  # bytes: the numbers of an image and of a keypoint in it


def _binary_cameras(path: Path) -> dict[int, Lens]:
    file, lenses = _Bytes(path), {}
    for _ in range(file.take("Q")[0]):
        number, model, width, height = file.take("IiQQ")
        name = MODELS[model] if 0 <= model < len(MODELS) else f"number {model}"
        values = file.take(f"{len(PARAMETERS[name].split())}d") if name in PARAMETERS else ()
        lenses[number] = _lens(path, number, name, width, height, list(values))
    file.end()
    return lenses


def _binary_images(path: Path) -> list[Picture]:
    file, pictures = _Bytes(path), []
    for _ in range(file.take("Q")[0]):
        _, *pose, camera = file.take("I7dI")
        name = file.text()
        points = file.rows(KEYPOINT, file.take("Q")[0])["point"]
        pictures.append(_picture(path, pose, camera, name, points[points >= 0]))
    file.end()
    return pictures


def _binary_points(path: Path) -> dict[int, np.ndarray]:
    file, points = _Bytes(path), {}
    for _ in range(file.take("Q")[0]):
        number, x, y, z = file.take("Q3d")
        file.skip(3 + 8)  # colour, error
        file.skip(TRACK_ENTRY * file.take("Q")[0])
        points[number] = _point(path, number, [x, y, z])
    file.end()
    return points


# ----------------------------------------------------------------------------------------- text


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).split("\n") if not line.startswith("#")]


def _text_cameras(path: Path) -> dict[int, Lens]:
    lenses = {}
    for line in filter(None, _lines(path)):
        number, model, width, height, *values = line.split()
        lenses[int(number)] = _lens(path, int(number), model, int(width), int(height), [float(v) for v in values])
    return lenses


def _text_images(path: Path) -> list[Picture]:
    """Two lines an image; the second, its keypoints, may be empty."""
    lines, pictures = iter(_lines(path)), []
    for line in lines:
        if not line:
            continue
        _, *words, name = line.split(maxsplit=9)  # a name may hold blanks
        keypoints = next(lines, "").split()
        seen = np.array([int(word) for word in keypoints[2::3]], dtype=np.int64)
        pose, camera = [float(word) for word in words[:7]], int(words[7])
        pictures.append(_picture(path, pose, camera, name, seen[seen >= 0]))
    return pictures


def _text_points(path: Path) -> dict[int, np.ndarray]:
    points = {}
    for line in filter(None, _lines(path)):
        number, *position = line.split()[:4]
        if len(position) != 3:
            raise ValueError(f"a point of {len(position)} numbers")
        points[int(number)] = _point(path, int(number), [float(word) for word in position])
    return points
