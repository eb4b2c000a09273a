"""Frames of a video: the sharpest of each of so many even parts of it."""

from pathlib import Path

import numpy as np

from photographs.gathering import Picture, check_enough, look_at_pixels, write_jpeg
from utils.errors import BadInput, first_line
from utils.progress import progress_bar

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".3gp")
MIDDLE = 0.7  # of each part, from which its frame is taken, so that no two lie side by side


def gather_frames(path: Path, count: int, images: Path) -> list[Picture]:
    """Writes `count` frames of a video, turned as it says, to `images`; fewer where it has fewer.

    Decoded twice: to measure how sharp each frame is, and to keep the best. Raises BadInput for what is no video, or
    cannot be decoded.
    """
    sharp = [frame_sharpness(frame) for frame, _ in frames_of(path, "looking at frames")]
    chosen = set(choose(np.array([picture.sharpness for picture in sharp]), count))
    pictures = []
    for number, (frame, rotation) in enumerate(frames_of(path, "writing frames", len(sharp))):
        if number not in chosen:
            continue
        image = frame.to_image()
        image = image.rotate(rotation, expand=True) if rotation else image
        picture = sharp[number]
        picture.source, picture.name = f"{path.name} frame {number}", f"frame_{number:06d}.jpg"
        picture.height, picture.width = image.height, image.width
        picture.camera = f"{image.width}x{image.height}"
        write_jpeg(images / picture.name, image)
        pictures.append(picture)
    check_enough(pictures, str(path))
    return pictures


def frame_sharpness(frame) -> Picture:
    picture = Picture("")
    look_at_pixels(picture, frame.to_ndarray(format="gray"))
    picture.thumbnail = None
    return picture


def choose(sharpness: np.ndarray, count: int) -> list[int]:
    """Numbers of `count` frames: of each even part of all `[N]` the sharpest in its middle."""
    edges = np.linspace(0, len(sharpness), min(count, len(sharpness)) + 1)
    chosen = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        margin = 0.5 * (1 - MIDDLE) * (end - start)
        first = int(np.ceil(start + margin)) if end - start > 2 else int(start)
        last = max(first + 1, int(end - margin)) if end - start > 2 else max(first + 1, int(end))
        chosen.append(first + int(sharpness[first:last].argmax()))
    return chosen


def frames_of(path: Path, what: str, total: int | None = None):
    """Each frame that can be decoded, and by how many degrees it is to be turned, counterclockwise."""
    try:
        import av
    except ImportError as error:
        raise BadInput(f"{path}: a video needs av: pip install -r requirements-photos.txt") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadInput(f"{path}: holds no video; give a video, or a folder of pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            total = total or stream.frames or None
            for frame in progress_bar(container.decode(stream), desc=what, unit="frame", total=total, leave=False):
                yield frame, int(getattr(frame, "rotation", 0))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadInput(
            f"{path}: cannot be decoded ({first_line(error)}); convert it to MP4 with H.264, or give pictures"
        ) from error
