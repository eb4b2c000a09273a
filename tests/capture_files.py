"""Made-up captures for the readers' tests: known points, seen by known lenses, written in each format.

Lenses are written down here once more, from their published equations, so that a slip in the
readers does not hide in a shared helper.
"""

import json
import struct
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from scenes.poses import look_at

HEIGHT, WIDTH, FX, FY, CX, CY = 90, 120, 105.0, 110.0, 62.5, 43.0
# Red, green and blue dots, world units; cameras stand around TARGET.
TARGET = np.array([5.0, -3.0, 2.0])
POINTS = TARGET + np.array([[0.9, 0.2, 0.3], [-0.6, 0.7, -0.3], [0.1, -0.8, 0.5]])
OPENCV = {"k1": -0.18, "k2": 0.04, "p1": 0.004, "p2": -0.003}
FISHEYE = {"k1": 0.06, "k2": -0.02, "k3": 0.005, "k4": -0.001}


def ring(views: int = 10, radius: float = 2.5) -> np.ndarray:
    """Camera-to-world `[views, 3, 4]`, OpenGL axes, round TARGET and about level, up is y."""
    poses = []
    for i, angle in enumerate(np.linspace(0, 2 * np.pi, views, endpoint=False)):
        eye = TARGET + radius * np.array([np.cos(angle), 0.3 + 0.05 * (i % 3), np.sin(angle)])
        poses.append(look_at(eye, TARGET + 0.05 * np.array([i % 2, 0, i % 3]), (0, 1, 0)))
    return np.stack(poses)


def distorted(x: np.ndarray, y: np.ndarray, k: dict[str, float], fisheye: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the lens puts a direction x, y (at focal length 1, y down)."""
    k1, k2, k3, k4, p1, p2 = (k.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    r = np.sqrt(x * x + y * y)
    if fisheye:
        angle = np.arctan(r)
        bent = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8)
        return x * bent / r, y * bent / r
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x * x),
        y * radial + p1 * (r**2 + 2 * y * y) + 2 * p2 * x * y,
    )


def project(points: np.ndarray, c2w: np.ndarray, k: dict[str, float] | None = None, fisheye: bool = False, fy=FY):
    """Columns and rows `[P]` of world points, from the image's top left corner, in pixels."""
    x, y, z = ((points - c2w[:, 3]) @ c2w[:, :3]).T  # the camera looks along -z
    x, y = x / -z, y / z
    if k is not None:
        x, y = distorted(x, y, k, fisheye)
    return CX + FX * x, CY + fy * y


def photograph(c2w: np.ndarray, k: dict[str, float] | None = None, fisheye: bool = False, fy=FY) -> np.ndarray:
    """uint8 `[HEIGHT, WIDTH, 3]`: POINTS as soft dots, the first red, then green, then blue."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    picture = [
        np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / (2 * 1.5**2))
        for column, row in zip(*project(POINTS, c2w, k, fisheye, fy), strict=True)
    ]
    return np.round(255 * np.stack(picture, -1)).astype(np.uint8)


def dot_places(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows `[3]` of the dots of a picture `[H, W, 3]`: their centres of mass."""
    height, width = image.shape[:2]
    weight = image[..., :3].astype(float)
    rows, columns = np.mgrid[:height, :width] + 0.5
    total = weight.sum((0, 1))
    return (weight * columns[..., None]).sum((0, 1)) / total, (weight * rows[..., None]).sum((0, 1)) / total


def write_photographs(folder: Path, c2w: np.ndarray, k: dict | None = None, fisheye=False, fy=FY) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03d}.png" for i in range(len(c2w))]
    for name, pose in zip(names, c2w, strict=True):
        imageio.imwrite(folder / name, photograph(pose, k, fisheye, fy))
    return names


# ------------------------------------------------------------------------------------ nerfstudio


def write_nerfstudio(folder: Path, k: dict | None = None, fisheye: bool = False, views: int = 10) -> Path:
    poses = ring(views)
    names = write_photographs(folder / "images", poses, k, fisheye)
    bottom = [[0.0, 0.0, 0.0, 1.0]]
    content = {"w": WIDTH, "h": HEIGHT, "fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, **(k or {})}
    if k is not None:
        content["camera_model"] = "OPENCV_FISHEYE" if fisheye else "OPENCV"
    content["frames"] = [
        {"file_path": f"images/{name}", "transform_matrix": pose.tolist() + bottom}
        for name, pose in zip(names, poses, strict=True)
    ]
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def write_blender(folder: Path, k: dict | None = None) -> Path:
    """The same lens and views in Blender's layout, all that is not standard in the files' heads: 6 train, 4 test."""
    poses = ring(10)
    head = {"w": WIDTH, "h": HEIGHT, "fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "camera_angle_x": 0.5, **(k or {})}
    for split, some in (("train", poses[:6]), ("test", poses[6:])):
        names = write_photographs(folder / split, some, k)
        frames = [
            {"file_path": f"./{split}/{name}", "transform_matrix": [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]}
            for name, pose in zip(names, some, strict=True)
        ]
        (folder / f"transforms_{split}.json").write_text(json.dumps(head | {"frames": frames}))
    return folder


def edit_json(folder: Path, change, name: str = "transforms.json") -> None:
    path = folder / name
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


# ---------------------------------------------------------------------------------------- COLMAP

COLMAP_MODELS = {  # number, parameters of the made-up camera, and the distortion they mean
    "SIMPLE_PINHOLE": (0, [FX, CX, CY], None),
    "PINHOLE": (1, [FX, FY, CX, CY], None),
    "SIMPLE_RADIAL": (2, [FX, CX, CY, -0.1], {"k1": -0.1}),
    "RADIAL": (3, [FX, CX, CY, -0.1, 0.02], {"k1": -0.1, "k2": 0.02}),
    "OPENCV": (4, [FX, FY, CX, CY, *OPENCV.values()], OPENCV),
    "OPENCV_FISHEYE": (5, [FX, FY, CX, CY, *FISHEYE.values()], FISHEYE),
}


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation: the eigenvector of Bar-Itzhack's matrix."""
    r = rotation
    matrix = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [0, r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [0, 0, r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [0, 0, 0, r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    return np.linalg.eigh(matrix + np.triu(matrix, 1).T)[1][:, -1]


def write_colmap(
    folder: Path, model: str = "PINHOLE", binary: bool = True, views: int = 10, place: str = "sparse/0", cloud: int = 40
) -> Path:
    """A model of `views` photographs; its points are POINTS and `cloud` more around TARGET."""
    _, values, k = COLMAP_MODELS[model]
    poses, fy = ring(views), FY if FY in values else FX  # some models have one focal length
    names = write_photographs(folder / "images", poses, k, model == "OPENCV_FISHEYE", fy)
    points = np.concatenate([POINTS, TARGET + np.random.default_rng(0).uniform(-1, 1, (cloud, 3))])
    write_model(folder / place, model, values, poses, names, points, binary)
    return folder


def write_model(place: Path, model: str, values: list, poses, names: list[str], points, binary: bool) -> None:
    """Image 5 sees nothing; the others see every point, and one keypoint that is no point's (-1)."""
    place.mkdir(parents=True, exist_ok=True)
    number = COLMAP_MODELS[model][0] if model in COLMAP_MODELS else 6
    ids = np.arange(len(points)) * 3 + 7
    cameras, images, cloud = [], [], []
    cameras_text, images_text, cloud_text = ["# Camera list"], ["# Image list"], ["# 3D point list"]
    cameras.append(struct.pack(f"<IiQQ{len(values)}d", 4, number, WIDTH, HEIGHT, *values))
    cameras_text.append(f"4 {model} {WIDTH} {HEIGHT} " + " ".join(map(repr, map(float, values))))
    for i, (name, pose) in enumerate(zip(names, poses, strict=True)):
        rotation = (pose[:, :3] * [1, -1, -1]).T
        numbers = [*quaternion(rotation).tolist(), *(-rotation @ pose[:, 3]).tolist()]
        seen = [] if i == 5 else [-1, *ids.tolist()]
        images.append(struct.pack("<I7dI", i + 1, *numbers, 4) + name.encode() + b"\0" + struct.pack("<Q", len(seen)))
        images += [struct.pack("<ddq", 1.5, 2.5, one) for one in seen]
        images_text.append(f"{i + 1} " + " ".join(map(repr, numbers)) + f" 4 {name}")
        images_text.append(" ".join(f"1.5 2.5 {one}" for one in seen))
    for one, point in zip(ids.tolist(), points.tolist(), strict=True):
        track = struct.pack("<QIIII", 2, 1, 0, 2, 0)
        cloud.append(struct.pack("<Q3d3Bd", one, *point, 1, 2, 3, 0.5) + track)
        cloud_text.append(f"{one} " + " ".join(map(repr, point)) + " 1 2 3 0.5 1 0 2 0")
    if binary:
        for stem, entries, count in (
            ("cameras", cameras, 1),
            ("images", images, len(names)),
            ("points3D", cloud, len(ids)),
        ):
            (place / f"{stem}.bin").write_bytes(struct.pack("<Q", count) + b"".join(entries))
    else:
        for stem, lines in (("cameras", cameras_text), ("images", images_text), ("points3D", cloud_text)):
            (place / f"{stem}.txt").write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------ NSVF


def write_nsvf(folder: Path, prefixes: str = "0000012222", channels: int = 4, matrix: bool = False) -> Path:
    """A view for each digit of `prefixes`; centred lens, since NSVF's own line says no more."""
    poses = ring(len(prefixes))
    for name in ("rgb", "pose"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (prefix, pose) in enumerate(zip(prefixes, poses, strict=True)):
        rgb = photograph(pose)
        on_white = 255 - rgb  # the dots are what is missing
        image = (
            np.concatenate([on_white, 255 * (rgb.max(-1, keepdims=True) > 0).astype(np.uint8)], -1)
            if channels == 4
            else on_white
        )
        imageio.imwrite(folder / "rgb" / f"{prefix}_{i:04d}.png", image)
        opencv = np.concatenate([pose * [1, -1, -1, 1], [[0, 0, 0, 1]]])
        np.savetxt(folder / "pose" / f"{prefix}_{i:04d}.txt", opencv, fmt="%.17g")
    if matrix:
        K = np.array([[FX, 0, CX, 0], [0, FY, CY, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        np.savetxt(folder / "intrinsics.txt", K, fmt="%.17g")
    else:
        (folder / "intrinsics.txt").write_text(f"{FX} {CX} {CY} 0.\n0. 0. 0.\n0.\n1.\n{HEIGHT} {WIDTH}\n")
    (folder / "bbox.txt").write_text(" ".join(map(str, [*(TARGET - [1, 2, 1]), *(TARGET + [1, 1, 3]), 0.4])))
    return folder


# -------------------------------------------------------------------------------------------- LLFF

FILE_HEIGHT, FILE_WIDTH, FILE_FOCAL = 96, 128, 150.0  # what COLMAP saw of the made-up scene
NEAREST, FARTHEST = 3.0, 40.0  # its bounds, in COLMAP's units


def made_up_poses(views: int = 6) -> np.ndarray:
    """Camera-to-world `[views, 3, 4]`, OpenGL axes: all look roughly at one point, anywhere in space."""
    rng = np.random.default_rng(3)
    target, up = np.array([4.0, -7.0, 2.0]), np.array([0.2, 0.1, 1.0])
    eyes = np.array([-5.0, -3.0, 6.0]) + rng.uniform(-1, 1, (views, 3))
    return np.stack([look_at(eye, target + rng.uniform(-1, 1, 3), up) for eye in eyes])


def as_llff(c2w: np.ndarray, bounds=(NEAREST, FARTHEST), focal: float = FILE_FOCAL) -> np.ndarray:
    """Rows of poses_bounds.npy: LLFF's columns are down, right and backwards, position, size and focal."""
    right, up, back, position = (c2w[:, :, i] for i in range(4))
    hwf = np.broadcast_to([FILE_HEIGHT, FILE_WIDTH, focal], position.shape)
    poses = np.stack([-up, right, back, position, hwf], axis=-1).reshape(len(c2w), 15)
    return np.concatenate([poses, np.broadcast_to(bounds, (len(c2w), 2))], axis=1)


def write_images(folder: Path, count: int, factor: int = 8, channels: int = 3, suffix: str = "png") -> None:
    """Noise as photographs of an LLFF scene, `factor` times smaller than COLMAP saw them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(factor)
    for i in range(count):
        shape = (FILE_HEIGHT // factor, FILE_WIDTH // factor, channels)
        imageio.imwrite(folder / f"image{i:03d}.{suffix}", rng.integers(0, 256, shape, dtype=np.uint8))


def write_llff(folder: Path, c2w: np.ndarray | None = None, factor: int = 8, **file) -> Path:
    """An LLFF folder of noise; `file`: of `as_llff`."""
    c2w = made_up_poses() if c2w is None else c2w
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "poses_bounds.npy", as_llff(c2w, **file))
    write_images(folder / ("images" if factor == 1 else f"images_{factor}"), len(c2w), factor)
    return folder
