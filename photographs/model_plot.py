"""A sparse model as a picture: cameras and points from above and from the side."""

from pathlib import Path

import cv2
import numpy as np

from scenes.capture_frame import normalisation
from scenes.images import write_png

PANEL, MARGIN = 600, 30
WHITE, POINT, CAMERA, AXIS, INK = 255, (170, 170, 170), (40, 90, 200), (150, 180, 235), (40, 40, 40)


def draw_model(c2w: np.ndarray, points: np.ndarray, path: Path, title: str) -> None:
    """c2w: `[N, 3, 4]`, OpenGL axes. points: `[P, 3]`. Turned upright, as wide as nine tenths of the points reach."""
    move = normalisation(c2w, str(path), points)
    c2w, points = move.poses(c2w), move.points(points)
    eyes, ahead = c2w[:, :, 3], -c2w[:, :, 2]
    reach = 1.1 * np.abs(eyes).max()
    if len(points):
        reach = max(reach, float(np.percentile(np.abs(points).max(1), 90)))
    scale = (PANEL / 2 - MARGIN) / reach
    panels = []
    for name, right, up in (("from above", 0, 1), ("from the side", 0, 2)):
        canvas = np.full((PANEL, PANEL, 3), WHITE, np.uint8)

        def pixels(places: np.ndarray, right: int = right, up: int = up) -> np.ndarray:
            return np.stack([PANEL / 2 + scale * places[:, right], PANEL / 2 - scale * places[:, up]], 1).round()

        for x, y in pixels(points).astype(int).clip(-1, PANEL):
            if 0 <= x < PANEL and 0 <= y < PANEL:
                canvas[y, x] = POINT
        ends = pixels(eyes + 0.12 * reach * ahead)
        for start, end in zip(pixels(eyes).astype(int).tolist(), ends.astype(int).tolist(), strict=True):
            cv2.line(canvas, start, end, AXIS, 2, cv2.LINE_AA)
            cv2.circle(canvas, start, 3, CAMERA, -1, cv2.LINE_AA)
        cv2.putText(canvas, f"{name}: {title}", (10, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
        panels.append(canvas)
    write_png(path, np.concatenate(panels, axis=1))
