"""A picture of where the cameras stand, how far they look, and what the box encloses."""

from pathlib import Path

import cv2
import numpy as np

from scenes.images import write_png
from scenes.scene import Scene

PANEL, MARGIN = 520, 40  # pixels
BOX, TRAIN, TEST, RANGE, INK = (200, 90, 40), (50, 110, 190), (60, 160, 80), (205, 205, 205), (60, 60, 60)


def plot_cameras(path: Path, scene: Scene) -> None:
    """Writes three orthographic views (from the top, the front and the side) as a PNG.

    Cameras are dots with their optical axis drawn from near (grey starts) to far (grey ends); the
    box is orange. A box that the axes miss, or that sticks out of the grey, is what to mend.
    """
    c2w = scene.cameras.c2w.numpy()
    centers, forward = c2w[:, :, 3], -c2w[:, :, 2]
    near, far = (1.0, 8.0) if scene.ndc else (scene.near, scene.far)  # NDC: a hint of the direction
    box = scene.aabb.numpy()
    corners = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    points = [centers, centers + near * forward, centers + far * forward] + ([] if scene.ndc else [corners])
    everything = np.concatenate(points)
    low, high = everything.min(0), everything.max(0)
    middle, extent = (low + high) / 2, float((high - low).max())
    scale = (PANEL - 2 * MARGIN) / max(extent, 1e-6)
    test = set(scene.splits["test"])

    panels = []
    for title, right, up in (
        ("top: x right, y up", 0, 1),
        ("front: x right, z up", 0, 2),
        ("side: y right, z up", 1, 2),
    ):
        canvas = np.full((PANEL, PANEL, 3), 255, np.uint8)

        def pixel(point: np.ndarray, right: int = right, up: int = up) -> tuple[int, int]:
            x = PANEL / 2 + (point[right] - middle[right]) * scale
            y = PANEL / 2 - (point[up] - middle[up]) * scale
            return round(float(x)), round(float(y))

        for center, axis in zip(centers, forward, strict=True):
            start, end = pixel(center + near * axis), pixel(center + far * axis)
            cv2.line(canvas, start, end, RANGE, 1, cv2.LINE_AA)
        if not scene.ndc:
            a, b = pixel(box[0]), pixel(box[1])
            cv2.rectangle(canvas, a, b, BOX, 2, cv2.LINE_AA)
        for i, center in enumerate(centers):
            cv2.circle(canvas, pixel(center), 3, TEST if i in test else TRAIN, -1, cv2.LINE_AA)
        label = f"{title}; {extent:.3g} units across"
        cv2.putText(canvas, label, (10, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
        panels.append(canvas)
    legend = np.full((34, 3 * PANEL, 3), 255, np.uint8)
    where = "normalised device coordinates, box not drawn" if scene.ndc else f"near {near:.3g}, far {far:.3g}"
    words = f"{scene.name}: {len(centers)} cameras (blue train, green test); grey: {where}; orange: box"
    cv2.putText(legend, words, (10, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    write_png(path, np.concatenate([np.concatenate(panels, axis=1), legend]))
    print(f"wrote {path}")
