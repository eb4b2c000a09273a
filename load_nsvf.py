"""NSVF folders (Synthetic-NSVF, masked Tanks and Temples): rgb/, pose/, intrinsics.txt, bbox.txt."""

import math
from pathlib import Path

import numpy as np
import torch

from scenes.file_names import natural_key
from scenes.images import hidden_share, image_size, list_images, read_images, without_idle_alpha
from scenes.lenses import possible_focal
from scenes.poses import check_extent, check_poses, depth_range, level_orbit, near_origin
from scenes.scene import Cameras, Scene
from utils.errors import BadInput
from utils.text_files import read_text

SPLITS = {"0_": "train", "1_": "val", "2_": "test"}  # by what a file's name begins with
# Tanks and Temples' boxes are tight around what the masks leave. TensoRF and VQRF scale their corners by
# this, which moves a box that is not centred on the origin; here it grows about its own centre.
BOX_MARGIN = 1.2


def load_nsvf_scene(
    folder: str,
    factor: float = 1,
    testskip: int = 8,
    needs_alpha: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads an NSVF-format folder. Images are RGBA, or RGB on white; the background is white.

    Files of rgb/ and pose/ pair up by name without suffix and begin with 0_ (train), 1_ (val) or
    2_ (test). Without 2_ files, which is Tanks and Temples' layout, 1_ is the test set and the box
    is grown by a fifth. factor: images are averaged down by it on each side, >= 1. testskip: takes
    every testskip-th view of val and test (0 or 1: all). needs_alpha: fail where images have none.
    near, far: z-depth, world units; by default where the cameras see the box begin and end, which
    needs no guess at the data set (the original code has 0.5 or 0.01, and 6).
    Raises BadInput for whatever is missing, malformed or inconsistent.
    """
    root = Path(folder)
    if not factor >= 1:
        raise BadInput(f"--factor {factor:g}: images can only be made smaller; give 1 or more")
    for name in ("rgb", "pose"):
        if not (root / name).is_dir():
            raise BadInput(f"{root}: no folder {name}; an NSVF folder has rgb/, pose/, intrinsics.txt and bbox.txt")
    box = _read_box(root / "bbox.txt")
    pairs, splits, notes = _read_splits(root, max(testskip, 1))
    c2w, offset, move_notes = near_origin(np.stack([_read_pose(pose) for _, pose in pairs]))
    box -= offset
    check_extent("the box", box, str(root / "bbox.txt"))
    check_extent("a camera", c2w[:, :, 3], str(root / "pose"))

    full_height, full_width = image_size(pairs[0][0])
    full_K = _read_intrinsics(root / "intrinsics.txt", full_height, full_width)
    images = read_images([image for image, _ in pairs], factor)
    if images.shape[-1] == 3 and needs_alpha:
        raise BadInput(f"{pairs[0][0]}: image is RGB, but --random_bkgd needs RGBA; leave it out")
    images, alpha_notes = without_idle_alpha(images, hidden_share(images))
    height, width = images.shape[1:3]
    K = torch.tensor(full_K * [[width / full_width], [height / full_height], [1]], dtype=torch.float32)

    if not any(image.name.startswith("2_") for image, _ in pairs):
        middle = box.mean(0)
        box = middle + BOX_MARGIN * (box - middle)
        notes.append(f"{root}: no 2_ files: 1_ is the test set, and the box is {BOX_MARGIN} times that of bbox.txt")
    scene_near, scene_far = depth_range(c2w, box)
    path = level_orbit(c2w, box.mean(0))
    return Scene(
        name=root.resolve().name,
        images=torch.from_numpy(images),
        cameras=Cameras(torch.tensor(c2w, dtype=torch.float32), K.repeat(len(c2w), 1, 1), height, width),
        splits=splits,
        near=scene_near if near is None else near,
        far=scene_far if far is None else far,
        aabb=torch.tensor(box, dtype=torch.float32),
        render_path=Cameras(path, K.repeat(len(path), 1, 1), height, width),
        background=(1.0, 1.0, 1.0),
        notes=notes + alpha_notes + move_notes,
    )


def _read_splits(root: Path, testskip: int) -> tuple[list[tuple[Path, Path]], dict[str, list[int]], list[str]]:
    """Image and pose file of each view in order of name, view numbers by split, and notes."""
    images = _by_stem(list_images(root / "rgb"))
    poses = _by_stem(sorted(p for p in (root / "pose").glob("*.txt") if not p.name.startswith(".")))
    for stem in sorted(images.keys() ^ poses.keys()):
        file, other = (images[stem], "pose") if stem in images else (poses[stem], "rgb")
        raise BadInput(f"{file}: no file {stem}.* in {root / other}; restore it, or remove this one")
    by_split: dict[str, list[str]] = {name: [] for name in SPLITS.values()}
    for stem in sorted(images, key=natural_key):
        if stem[:2] not in SPLITS:
            raise BadInput(
                f"{images[stem]}: name begins with {stem[:2]!r}; expected 0_ (train), 1_ (val) or 2_ (test): rename it"
            )
        by_split[SPLITS[stem[:2]]].append(stem)
    if not by_split["train"]:
        raise BadInput(f"{root / 'rgb'}: no training views; expected images whose names begin with 0_")
    if not by_split["test"]:
        by_split["test"], by_split["val"] = by_split["val"], []
    chosen, splits = [], {}
    for split, stems in by_split.items():
        stems = stems if split == "train" else stems[::testskip]
        splits[split] = list(range(len(chosen), len(chosen) + len(stems)))
        chosen += stems
    notes = []
    if not splits["test"]:
        splits["test"] = splits["train"][::testskip]
        notes.append(f"no 1_ or 2_ files in {root}: test measures are taken on TRAINING views: nothing of new views")
    return [(images[stem], poses[stem]) for stem in chosen], splits, notes


def _by_stem(files: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise BadInput(f"{file}: {found[file.stem].name} has the same name; remove one of the two")
        found[file.stem] = file
    return found


# ------------------------------------------------------------------------------------ text files


def _read_rows(file: Path) -> list[list[float]]:
    """The numbers of a text file by line, empty lines left out."""
    if not file.is_file():
        raise BadInput(f"{file}: not found; an NSVF folder has rgb/, pose/, intrinsics.txt and bbox.txt")
    try:
        rows = [[float(word) for word in line.split()] for line in read_text(file).splitlines()]
    except (OSError, ValueError) as error:  # ValueError: no number, or no text
        raise BadInput(f"{file}: not readable as numbers ({error}); export or download it again") from error
    rows = [row for row in rows if row]
    if not all(math.isfinite(number) for row in rows for number in row):
        raise BadInput(f"{file}: holds NaN or infinity; every number must be finite: export or download it again")
    return rows


def _read_box(file: Path) -> np.ndarray:
    """`[2, 3]`: lowest and highest corner. A seventh number, NSVF's voxel size, means nothing here."""
    numbers = [number for row in _read_rows(file) for number in row]
    if len(numbers) not in (6, 7):
        raise BadInput(f"{file}: {len(numbers)} numbers; expected x0 y0 z0 x1 y1 z1 and perhaps a voxel size")
    box = np.array(numbers[:6]).reshape(2, 3)
    if not (box[0] < box[1]).all():
        raise BadInput(f"{file}: corners {box.tolist()}; expected every x0 y0 z0 below its x1 y1 z1: mend the file")
    return box


def _read_pose(file: Path) -> np.ndarray:
    """Camera-to-world `[3, 4]`, turned from OpenCV axes (x right, y down, z ahead) to OpenGL's."""
    rows = _read_rows(file)
    if [len(row) for row in rows] != [4] * 4:
        raise BadInput(f"{file}: rows of {[len(row) for row in rows]} numbers; expected a 4x4 camera-to-world matrix")
    matrix = np.array(rows)
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise BadInput(f"{file}: last row is {matrix[3].tolist()}; expected 0 0 0 1: is the matrix transposed?")
    check_poses(matrix[None, :3], str(file))
    return matrix[:3] * [1, -1, -1, 1]


def _read_intrinsics(file: Path, height: int, width: int) -> np.ndarray:
    """`[3, 3]` for images of `height` x `width`, from a matrix or from NSVF's `focal cx cy ...` line."""
    rows = _read_rows(file)
    lengths = [len(row) for row in rows]
    if lengths in ([3] * 3, [4] * 4):
        K = np.array(rows)[:3, :3]
    elif rows and 1 <= lengths[0] <= 4:  # three lines with nothing of use and the size may follow
        focal, cx, cy = rows[0][0], *(rows[0][1:3] if lengths[0] >= 3 else (width / 2, height / 2))
        K = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
    else:
        raise BadInput(
            f"{file}: rows of {lengths} numbers; expected a first line 'focal cx cy', or a 4x4 or 3x3 matrix"
        )
    off_diagonal = max(abs(K[0, 1]), abs(K[1, 0]), *np.abs(K[2] - [0, 0, 1]))
    inside = 0 < K[0, 2] < width and 0 < K[1, 2] < height
    focals = possible_focal(K[0, 0], width) and possible_focal(K[1, 1], height)
    if not (focals and inside and off_diagonal < 1e-6):
        raise BadInput(
            f"{file}: focal and principal point come out as {K.tolist()}; expected pixels of the full-size image, "
            f"{width}x{height}, without skew: mend the file"
        )
    return K
