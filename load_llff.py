"""LLFF folders: photographs in `images*` and COLMAP's cameras in `poses_bounds.npy`."""

import re
from pathlib import Path

import numpy as np
import torch

from run_nerf_helpers import camera_rays, ndc_rays
from scenes.exif import heeded_orientations, upright
from scenes.images import check_one_size, list_images, read_images
from scenes.lenses import possible_focal
from scenes.poses import average_pose, check_extent, check_poses, focus_point, hold_out, look_at
from scenes.scene import Cameras, Scene, covered, shrunk
from utils.errors import BadInput

BOUND_FACTOR = 0.75  # the nearest content comes to lie at 1 / 0.75, just behind the NDC near plane
NDC_NEAR = 1.0  # NDC is built on the plane z = -1, world units after rescaling
MIN_FORWARD_COSINE = 0.05  # between a ray and -z; NDC degenerates on rays that run sideways


def load_llff_scene(
    folder: str,
    factor: int = 8,
    ndc: bool = True,
    spherify: bool = False,
    llffhold: int = 8,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """Reads an LLFF-format folder, in the world frame and scale that nerf-pytorch uses.

    factor: images are this many times smaller on each side: `images_{factor}` if there, else made
    in memory from `images` or the next larger `images_M`; 0 or 1 is full size. ndc: the scene is
    forward-facing and its field lives in normalised device coordinates built on the plane z = -1.
    spherify: a capture all round a subject; cameras are put on about the unit sphere around it.
    llffhold: every llffhold-th view is a test view; 0: the one nearest the average pose. near, far:
    z-depth in world units, by default from the file's bounds; with ndc unused: t is 0 and 1.
    Raises BadInput for whatever is missing, malformed or inconsistent.
    """
    if ndc and spherify:
        raise BadInput("--spherify: found NDC on, which is for forward-facing captures; add --no_ndc")
    if factor < 0:
        raise BadInput(f"--factor {factor}: images can only be made smaller; give 1 or more")
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; check --datadir, or run scripts/download_example_data.sh")
    file = root / "poses_bounds.npy"
    c2w, hwf, bounds = _read_poses_bounds(file)
    if ndc and np.ptp(hwf[:, 2]) > 1e-3 * hwf[0, 2]:
        raise BadInput(f"{file}: {np.ptp(hwf[:, 2]):g} px between focals; NDC needs one: add --no_ndc")
    paths, shrink, notes = _find_photographs(root, max(factor, 1), len(c2w))
    turns, full, turn_notes = heeded_orientations(paths, [(h, w) for h, w, _ in hwf], file)
    if ndc:
        check_one_size(paths, full, "NDC needs one size: add --no_ndc")
    images = _on_black(read_images(paths, shrink, lambda i, image: upright(image, turns[i]), full))
    sizes = torch.tensor([[shrunk(side, shrink) for side in size] for size in full])
    K = _intrinsics(hwf, sizes, file, paths)

    c2w, bounds, path = _placed(c2w, bounds, spherify, str(file))
    cameras = Cameras.of_sizes(torch.from_numpy(c2w).float(), K, sizes)
    near = 0.9 * float(bounds.min()) if near is None else near
    far = float(bounds.max()) if far is None else far
    return Scene(
        name=root.resolve().name,
        images=torch.from_numpy(images),
        cameras=cameras,
        splits=hold_out(c2w, llffhold),
        near=0.0 if ndc else near,
        far=1.0 if ndc else far,
        aabb=ndc_box(cameras, file) if ndc else _frustum_box(cameras, near, far),
        render_path=cameras.along(path),
        ball=float(cameras.c2w[:, :, 3].norm(dim=-1).max()) if spherify else None,
        ndc=ndc,
        valid=covered(sizes),
        notes=notes + turn_notes,
    )


def _placed(
    c2w: np.ndarray, bounds: np.ndarray, spherify: bool, file: str
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Poses `[N, 3, 4]` and bounds `[N, 2]` in the world frame and scale that fields are trained in, and the video
    path `[F, 3, 4]`. Overwrites what it is given."""
    scale = 1 / (BOUND_FACTOR * bounds.min())
    c2w[:, :, 3] *= scale
    check_extent("in units of the nearest bound, a far one", scale * bounds, file)
    c2w = recenter_poses(c2w)
    check_extent("in units of the nearest bound, a camera", c2w[:, :, 3], file)
    if spherify:
        c2w, sphere_scale = spherify_poses(c2w)
        scale *= sphere_scale
    bounds *= scale
    path = circular_path(c2w) if spherify else spiral_path(c2w, bounds)
    return c2w, bounds, torch.from_numpy(path).float()


# --------------------------------------------------------------------------------------- reading


def _read_poses_bounds(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float64 camera-to-world `[N, 3, 4]` (OpenGL axes), height, width, focal `[N, 3]`, bounds `[N, 2]`."""
    if not file.is_file():
        raise BadInput(f"{file}: not found; LLFF's imgs2poses.py writes it; check --datadir")
    try:
        table = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
    except Exception as error:  # NumPy raises whatever the malformed header leads it to
        raise BadInput(f"{file}: not a numeric .npy array; run imgs2poses.py again") from error
    if table.ndim != 2 or table.shape[1] != 17 or len(table) == 0:
        raise BadInput(f"{file}: shape {table.shape}; expected N x 17: 3x5 [R|t|hwf], near, far of N views")
    poses, bounds = table[:, :15].reshape(-1, 3, 5), table[:, 15:].copy()
    hwf = poses[:, :, 4]
    for found, good, expected in (
        ("NaN or infinity", np.isfinite(table).all(1), "finite numbers"),
        ("a height, width or focal <= 0", (hwf > 0).all(1), "pixels"),
        ("a focal length that no lens has", possible_focal(hwf[:, 2], hwf[:, 1]), "about the width, in pixels"),
        ("bounds out of order", (bounds[:, 0] > 0) & (bounds[:, 0] < bounds[:, 1]), "0 < near < far"),
        ("absurd numbers", (np.abs(table) < 1e30).all(1) & (bounds[:, 0] > 1e-30), "coordinates"),
    ):
        if not good.all():
            raise BadInput(f"{file}: row {good.argmin()} holds {found}; expected {expected}: run imgs2poses.py")
    down, right, back, position = (poses[:, :, i] for i in range(4))
    c2w = np.stack([right, -down, back, position], axis=-1)
    check_poses(c2w, str(file))
    return c2w, hwf, bounds


def _find_photographs(root: Path, factor: int, count: int) -> tuple[list[Path], int, list[str]]:
    """`count` photographs, by how much to shrink them to be `factor` times smaller than the originals, and notes."""
    folders = {int(p.name[7:]): p for p in root.iterdir() if re.fullmatch(r"images_[1-9]\d*", p.name)}
    if (root / "images").is_dir():
        folders[1] = root / "images"
    # The folder asked for; else the originals; else whatever is larger by a whole number, smallest first.
    candidates = [factor, 1, *sorted((f for f in folders if factor % f == 0), reverse=True)]
    for found in candidates:
        paths = list_images(folders[found]) if found in folders else []
        if paths:
            break
    else:
        have = ", ".join(sorted(p.name for p in folders.values())) or "no images* folder"
        wanted = "images" if factor == 1 else f"images_{factor} (or images, to make it)"
        raise BadInput(f"{root}: found {have}; expected {wanted} with png or jpg files; check --factor {factor}")
    folder = folders[found]
    if len(paths) != count:
        raise BadInput(
            f"{folder}: {len(paths)} images but poses_bounds.npy has {count} poses; they pair up in order of "
            "name: remove the images without a pose, or restore those that are missing"
        )
    made = [f"{root}: no images_{factor}, so it was averaged from {folder.name}"] if found != factor else []
    return paths, factor // found, made


def _on_black(images: np.ndarray) -> np.ndarray:
    """RGB uint8 `[N, H, W, 3]`; where there is alpha, over black: opaque photographs stay as they are."""
    if images.shape[-1] == 3:
        return images
    rgb, alpha = images[..., :3], images[..., 3:].astype(np.uint16)
    return ((rgb * alpha + 127) // 255).astype(np.uint8)


def _intrinsics(hwf: np.ndarray, sizes: torch.Tensor, file: Path, paths: list[Path]) -> torch.Tensor:
    """Centred pinholes `[N, 3, 3]` for images of `sizes [N, 2]`, from sizes and focals as they were in COLMAP."""
    heights, widths = sizes.numpy().T
    scale_x, scale_y = widths / hwf[:, 1], heights / hwf[:, 0]
    slack = 0.01 + 1 / np.minimum(heights, widths)  # each side was rounded to a whole pixel
    odd = np.abs(scale_x / scale_y - 1) > slack
    if odd.any():
        i = odd.argmax()
        raise BadInput(
            f"{file}: pose {i} is for {hwf[i, 1]:g}x{hwf[i, 0]:g} images, but {paths[i].name} is "
            f"{widths[i]}x{heights[i]}, another aspect; use the images that the poses were made from, neither cropped "
            "nor turned"
        )
    K = np.zeros((len(hwf), 3, 3), dtype=np.float32)
    K[:, 0, 0], K[:, 1, 1] = hwf[:, 2] * scale_x, hwf[:, 2] * scale_y
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = widths / 2, heights / 2, 1
    return torch.from_numpy(K)


# ----------------------------------------------------------------------------------------- poses


def recenter_poses(c2w: np.ndarray) -> np.ndarray:
    """Poses `[N, 3, 4]` in the frame of their average pose, which becomes the identity."""
    return _in_frame(c2w, average_pose(c2w))


def spherify_poses(c2w: np.ndarray) -> tuple[np.ndarray, float]:
    """Poses `[N, 3, 4]` around what they look at, z towards the cameras' mean, and the scale applied.

    The origin is the point nearest all optical axes; the RMS distance to it becomes 1.
    """
    center = focus_point(c2w)
    offsets = c2w[:, :, 3] - center
    radius = np.sqrt((offsets**2).sum(-1).mean())
    if not radius > 1e-6:
        raise BadInput("--spherify: all cameras stand where they look; it needs views from round a subject")
    up = offsets.mean(0)
    if np.linalg.norm(up) < 1e-6 * radius:
        up = c2w[:, :, 1].sum(0)  # a level ring has its subject at its centre
    # Which way x points is free; nerf-pytorch's choice makes its checkpoints and videos fit.
    c2w = _in_frame(c2w, look_at(center, center - up, np.array([0.1, 0.2, 0.3])))
    c2w[:, :, 3] /= radius
    return c2w, 1 / float(radius)


def spiral_path(c2w: np.ndarray, bounds: np.ndarray, frames: int = 120, rotations: int = 2) -> np.ndarray:
    """Camera-to-world `[frames, 3, 4]` on a spiral about the origin of recentred poses `[N, 3, 4]`.

    The radii hold 90 % of the cameras' offsets on each axis. All frames look at one point, whose
    depth lies between 0.9 of the nearest bound and 5 of the farthest, averaged in disparity.
    """
    depth = 1 / (0.25 / (0.9 * bounds.min()) + 0.75 / (5 * bounds.max()))
    radii = np.percentile(np.abs(c2w[:, :, 3]), 90, axis=0)
    target, up = np.array([0, 0, -depth]), c2w[:, :, 1].sum(0)
    path = []
    for angle in np.linspace(0, 2 * np.pi * rotations, frames, endpoint=False):
        eye = radii * [np.cos(angle), -np.sin(angle), -np.sin(angle / 2)]
        path.append(look_at(eye, target, up))
    return np.stack(path)


def circular_path(c2w: np.ndarray, frames: int = 120) -> np.ndarray:
    """Camera-to-world `[frames, 3, 4]` on the unit sphere at the mean height of spherified poses.

    As in nerf-pytorch the last frame repeats the first.
    """
    height = c2w[:, 2, 3].mean()
    radius = np.sqrt(max(1 - height**2, 1e-6))
    angles = np.linspace(0, 2 * np.pi, frames)
    eyes = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(frames, height)], axis=1)
    return np.stack([look_at(eye, np.zeros(3)) for eye in eyes])


def _in_frame(c2w: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Poses `[N, 3, 4]` seen from the frame `[3, 4]`."""
    moved = c2w.copy()
    moved[:, :, 3] -= frame[:, 3]
    return frame[:, :3].T @ moved


# ----------------------------------------------------------------------------------------- boxes


def _corner_rays(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and directions `[N, 4, 3]` through the images' corners, the directions at z-depth 1."""
    rows = torch.tensor([0.0, 0, 1, 1]) * cameras.sizes[:, :1]
    columns = torch.tensor([0.0, 1, 0, 1]) * cameras.sizes[:, 1:]
    return camera_rays(columns, rows, cameras.K[:, None], cameras.c2w[:, None])


def ndc_box(cameras: Cameras, file: Path | str) -> torch.Tensor:
    """Box `[2, 3]` around what the cameras see, in NDC. Projections keep hulls, so corners suffice."""
    origins, directions = _corner_rays(cameras)
    away = -directions[..., 2] / directions.norm(dim=-1) < MIN_FORWARD_COSINE
    if away.any():
        raise BadInput(
            f"{file}: view {int(away.any(-1).int().argmax())} looks sideways; NDC is for forward-facing "
            "captures: add --no_ndc, and --spherify if the views surround a subject"
        )
    focal = float(cameras.K[0, 0, 0])
    start, span = ndc_rays(cameras.height, cameras.width, focal, NDC_NEAR, origins, directions)
    box = _box(torch.stack([start, start + span]))
    box += 0.01 * (box[1] - box[0]) * torch.tensor([[-1.0], [1.0]])
    box[:, 2] = torch.tensor([-1.0, 1.0])  # the near plane and infinity, exactly
    return box


def _frustum_box(cameras: Cameras, near: float, far: float) -> torch.Tensor:
    """World-space box `[2, 3]` around all frustums between z-depths near and far."""
    origins, directions = _corner_rays(cameras)
    return _box(torch.stack([origins + near * directions, origins + far * directions]))


def _box(points: torch.Tensor) -> torch.Tensor:
    """Lowest and highest corner `[2, 3]` of points `[..., 3]`."""
    return torch.stack([points.flatten(0, -2).amin(0), points.flatten(0, -2).amax(0)])
