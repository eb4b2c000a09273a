"""Paths of videos through photographs: a walk past where they were taken, and paths that a file holds."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from scenes.poses import average_pose, look_at
from scenes.scene import Cameras
from utils.errors import BadInput
from utils.text_files import read_text

SMOOTHED = 1.5  # steps between photographs, the deviation of the bell that a walk is smoothed by
DENSE = 16  # places of a walk for each frame, while it is smoothed
AS_GOOD_AS_A_TOUR = 2.0  # times the length of the shortest tour, up to which the photographs' own order is kept
CLOSED = 2.0  # times the usual step between photographs, up to which the last joins the first
MOST_TURNED = 400  # photographs, of more a tour is not mended


def walk(c2w: np.ndarray, frames: int) -> np.ndarray:
    """Camera-to-world `[frames, 3, 4]` along cameras `[N, 3, 4]` that look about at the origin, or past it.

    In their order, or where that jumps to and fro along a short tour of them; at even speed, smooth, closed where they
    are. Each frame looks at what the photographs beside it look at, and from no nearer than they did.
    """
    order = visiting_order(c2w[:, :, 3])
    eyes, ahead, up = (c2w[order, :, 3], -c2w[order, :, 2], c2w[order, :, 1])
    targets = attention(eyes, ahead)
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=-1)
    closed = len(eyes) > 3 and np.linalg.norm(eyes[-1] - eyes[0]) <= CLOSED * np.median(steps)
    distance = np.linalg.norm(targets - eyes, axis=-1)
    along = np.concatenate([eyes, targets, up, distance[:, None]], axis=-1)
    if closed:
        along = np.concatenate([along, along[:1]])
    dense = resampled(along, arc(along[:, :3]), frames * DENSE)
    deviation = SMOOTHED * len(dense) / len(along)
    smooth = smoothed(dense, deviation, closed)
    even = resampled(smooth, arc(smooth[:, :3]), frames + closed)[:frames]
    path = []
    for row in even:
        eye, target, upward, least = row[:3], row[3:6], row[6:9], row[9]
        back = eye - target
        eye = target + back * max(1.0, least / max(np.linalg.norm(back), 1e-9))
        if np.linalg.norm(np.cross(upward, eye - target)) < 1e-6:
            upward = np.array([0.0, 0.0, 1.0]) if abs(back[2]) < np.linalg.norm(back) else np.array([0.0, 1.0, 0.0])
        path.append(look_at(eye, target, upward))
    return np.stack(path)


def spiral(c2w: np.ndarray, frames: int) -> np.ndarray:
    """Camera-to-world `[frames, 3, 4]` on two turns about the mean of cameras `[N, 3, 4]`, as wide as half of them
    stand, that look at what these look at on average."""
    mean = average_pose(c2w)
    offsets = (c2w[:, :, 3] - mean[:, 3]) @ mean[:, :3]
    radii = np.median(np.abs(offsets), axis=0)
    target = attention(c2w[:, :, 3], -c2w[:, :, 2]).mean(0)
    path = []
    for angle in np.linspace(0, 4 * np.pi, frames, endpoint=False):
        eye = mean[:, 3] + mean[:, :3] @ (radii * [np.cos(angle), -np.sin(angle), -np.sin(angle / 2)])
        path.append(look_at(eye, target, mean[:, 1]))
    return np.stack(path)


def attention(eyes: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """What each camera looks at `[N, 3]`: the place on its axis nearest to the origin, or at the usual distance where
    that is behind it or close."""
    depth = -(eyes * ahead).sum(-1)
    usual = float(np.median(np.linalg.norm(eyes, axis=-1)))
    return eyes + ahead * np.where(depth > 0.3 * usual, depth, usual)[:, None]


def visiting_order(eyes: np.ndarray) -> np.ndarray:
    """Numbers of places `[N, 3]` in the order in which to pass them: their own, unless a tour is much shorter."""
    own = np.arange(len(eyes))
    distance = np.linalg.norm(eyes[:, None] - eyes, axis=-1)
    tour = short_tour(distance)
    return own if length(distance, own) <= AS_GOOD_AS_A_TOUR * length(distance, tour) else tour


def length(distance: np.ndarray, order: np.ndarray) -> float:
    return float(distance[order[:-1], order[1:]].sum())


def short_tour(distance: np.ndarray) -> np.ndarray:
    """A short way past all places with distances `[N, N]`, from one to another: always the nearest, and then parts of
    it turned about as long as that makes it shorter (2-opt)."""
    count = len(distance)
    start = int(distance.sum(1).argmax())  # an outermost place
    order, left = [start], set(range(count)) - {start}
    while left:
        order.append(min(left, key=lambda place: (distance[order[-1], place], place)))
        left.remove(order[-1])
    order, better = np.array(order), count <= MOST_TURNED
    while better:
        better = False
        for i in range(count - 1):
            a, b = order[i], order[i + 1 :]
            following = np.append(b[1:], -1)
            gain = distance[a, b[0]] - distance[a, b]
            ends = np.where(following >= 0, distance[b, following] - distance[b[0], following], 0.0)
            j = int((gain + ends).argmax())
            if gain[j] + ends[j] > 1e-9:
                order[i + 1 : i + 2 + j] = order[i + 1 : i + 2 + j][::-1]
                better = True
    return order


def arc(places: np.ndarray) -> np.ndarray:
    """How far along the way each of `[N, 3]` is, ever larger."""
    steps = np.linalg.norm(np.diff(places, axis=0), axis=-1)
    return np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-9))])


def resampled(rows: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """`[count, C]` at even distances between rows `[N, C]` that lie at `place [N]`."""
    wanted = np.linspace(place[0], place[-1], count)
    return np.stack([np.interp(wanted, place, column) for column in rows.T], axis=-1)


def smoothed(rows: np.ndarray, deviation: float, closed: bool) -> np.ndarray:
    """Rows `[N, C]` averaged along the way by a bell of that deviation; both ends stay where they are, or join."""
    reach = min(math.ceil(3 * deviation), len(rows) - 1)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(deviation, 1e-9)) ** 2)
    if closed:  # the last row is the first again
        padded = np.concatenate([rows[-1 - reach : -1], rows, rows[1 : 1 + reach]])
    else:  # mirrored in the point where it ends
        padded = np.concatenate([2 * rows[:1] - rows[reach:0:-1], rows, 2 * rows[-1:] - rows[-2 : -2 - reach : -1]])
    return np.stack([np.convolve(column, bell / bell.sum(), mode="valid") for column in padded.T], axis=-1)


def read_path(path: Path, usual: Cameras) -> Cameras:
    """The cameras of a file as nerfstudio's viewer writes it, in this scene's units and axes. usual: whose size and
    lens they have where the file states none. Raises BadInput for whatever is wrong with it."""
    try:
        content = json.loads(read_text(path))
        frames = content["camera_path"]
        poses = np.array([frame["camera_to_world"] for frame in frames], dtype=np.float64).reshape(len(frames), -1)
        height, width = int(content.get("render_height", usual.height)), int(content.get("render_width", usual.width))
        view = float(frames[0].get("fov") or 0)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; --path takes a kind of path, or one of nerfstudio's viewer") from error
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path}: not a camera path ({error}); expected camera_path with camera_to_world") from error
    check_path(path, poses, height, width, view)
    c2w = torch.tensor(poses[:, :12].reshape(-1, 3, 4), dtype=torch.float32)
    focal = 0.5 * height / math.tan(math.radians(view) / 2) if view else float(usual.K[0, 0, 0]) * width / usual.width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    return Cameras(c2w, K.repeat(len(c2w), 1, 1), height, width)


def check_path(path: Path, poses: np.ndarray, height: int, width: int, view: float) -> None:
    """Raises BadInput for what is no camera."""
    if poses.shape[1] not in (12, 16) or not np.isfinite(poses).all():
        raise BadInput(f"{path}: camera_to_world of {poses.shape[1]} numbers, or not finite; expected 4 rows of 4")
    turn = poses[:, :12].reshape(-1, 3, 4)[:, :, :3]
    if np.abs(turn.transpose(0, 2, 1) @ turn - np.eye(3)).max() > 1e-2:
        raise BadInput(f"{path}: a camera_to_world is no rotation; remove its scale")
    if not (1 <= height <= 8192 and 1 <= width <= 8192 and (view == 0 or 1 <= view <= 170)):
        found = f"{width}x{height} pixels and a view of {view:g} degrees"
        raise BadInput(f"{path}: {found}; expected 8192 pixels at most, and 1 to 170 degrees")
