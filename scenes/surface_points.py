"""Points on surfaces that photographs with known cameras see: as a file states them, or as features match."""

from dataclasses import dataclass

import cv2
import numpy as np

from scenes.lenses import Pictures
from utils import distributed
from utils.progress import brief_bar

MOST_VIEWS, MOST_FEATURES = 100, 1000  # looked at, of a capture and of a view
MOST_PIXELS = 600  # of the longer side, at which features are looked for
NEIGHBOURS = (0, 1, 3, 6)  # a view is compared with the nearest, second, fourth, seventh that look its way
SAME_WAY = np.cos(np.radians(60))
RATIO = 0.8  # of the best match's distance to the second best's (Lowe 2004)
LEAST_ANGLE = np.radians(1.5)  # between rays that meet, for a depth to be worth something
MOST_ERROR = 1.5  # pixels between a ray and where another meets it
SPREAD = 0.05  # of depths that two other views or more say of a feature, over their median
FEWEST = 100  # points, below which matches say nothing


@dataclass
class SeenPoints:
    """Surface points `[P, 3]` in the capture's units, and which of them each view sees, `[S_i]` each. matched: found
    here by features. Plain walls and skies have none, so these say how near content is, not where it ends; and a last
    bit of a picture changes some, so poses do not hang on them."""

    positions: np.ndarray
    seen: list[np.ndarray]
    matched: bool = False


@dataclass
class Features:
    """Of one view: descriptors `[F, 128]`, the view's place `[3]`, unit rays `[F, 3]` through them, world axes, and
    the size of a pixel there, radians."""

    descriptors: np.ndarray
    eye: np.ndarray
    rays: np.ndarray
    pixel: float


def matched_points(pictures: Pictures, c2w: np.ndarray) -> SeenPoints | None:
    """Where features of views with poses `[N, 3, 4]` lie, for which two other views or more say the same depth; None:
    too few do. Each point is seen by the view whose feature it is."""
    count, quiet = len(c2w), not distributed.is_main()
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_VIEWS)).round().astype(int))
    K = pictures.K.double().numpy()
    features = []
    for i in brief_bar(chosen, desc="features", unit="view", disable=quiet):
        height, width = pictures.sizes[i].tolist()
        valid = None if pictures.valid is None else pictures.valid[i, :height, :width].numpy()
        features.append(find_features(pictures.images[i, :height, :width], valid, K[i], c2w[i]))
    depths: list[list[list[float]]] = [[[] for _ in view.rays] for view in features]  # of each feature, by other views
    for i, j in brief_bar(compared(c2w[chosen]), desc="matches", unit="pair", disable=quiet):
        matches = same_features(features[i].descriptors, features[j].descriptors)
        for one, other, of_one, of_other in zip(*meetings(features[i], features[j], *matches), strict=True):
            depths[i][one].append(of_one)
            depths[j][other].append(of_other)
    seen = [np.zeros(0, int)] * count
    positions = []
    for i, view, of_view in zip(chosen, features, depths, strict=True):
        agreed = [(number, np.median(said)) for number, said in enumerate(of_view) if agree(said)]
        seen[i] = np.arange(len(positions), len(positions) + len(agreed))
        positions += [view.eye + depth * view.rays[number] for number, depth in agreed]
    return SeenPoints(np.array(positions), seen, matched=True) if len(positions) >= FEWEST else None


def find_features(image: np.ndarray, valid: np.ndarray | None, K: np.ndarray, c2w: np.ndarray) -> Features:
    """SIFT's (Lowe 2004) of an image `[H, W, C]`."""
    grey = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    mask = None if valid is None else valid.astype(np.uint8)
    scale = min(1.0, MOST_PIXELS / max(grey.shape))
    if scale < 1:
        size = [max(1, round(scale * side)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        mask = None if mask is None else cv2.resize(mask, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
    points, descriptors = cv2.SIFT_create(MOST_FEATURES).detectAndCompute(grey, mask)
    at = np.array([point.pt for point in points]).reshape(-1, 2) + 0.5  # its pixels have their middle at whole numbers
    column, row = (at / scale).T
    in_camera = np.stack([(column - K[0, 2]) / K[0, 0], -(row - K[1, 2]) / K[1, 1], -np.ones(len(at))], axis=-1)
    rays = in_camera @ c2w[:, :3].T
    descriptors = np.zeros((0, 128), np.float32) if descriptors is None else descriptors
    return Features(descriptors, c2w[:, 3], rays / np.linalg.norm(rays, axis=-1, keepdims=True), 1 / (scale * K[0, 0]))


def compared(c2w: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of views to compare: neighbours that look the same way, and some that stand a little farther off."""
    eyes, ahead = c2w[:, :, 3], c2w[:, :, 2]
    apart = np.linalg.norm(eyes[:, None] - eyes, axis=-1)
    apart[(ahead @ ahead.T < SAME_WAY) | (apart == 0)] = np.inf
    pairs = set()
    for i, distances in enumerate(apart):
        order = np.argsort(distances, kind="stable")[: np.isfinite(distances).sum()]
        pairs |= {(min(i, int(order[rank])), max(i, int(order[rank]))) for rank in NEIGHBOURS if rank < len(order)}
    return sorted(pairs)


def same_features(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of descriptors, `[M]` each, that are each other's nearest, and clearly nearer than the next."""
    if min(len(one), len(other)) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    squared = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    nearest = squared.argmin(1)
    best, second = np.partition(squared, 1, axis=1)[:, :2].T
    numbers = np.arange(len(one))
    kept = (squared.argmin(0)[nearest] == numbers) & (best < RATIO**2 * second)
    return numbers[kept], nearest[kept]


def meetings(
    one: Features, other: Features, of_one: np.ndarray, of_other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of matches `[M]`, those whose rays meet in front of both views: numbers in each, and distances along each ray.

    Where two rays are closest: d1 of the first and d2 of the second, unit vectors, c = d1 d2, b from the first eye to
    the second: (b d1 - c b d2) / (1 - c^2) and (c b d1 - b d2) / (1 - c^2).
    """
    first, second = one.rays[of_one], other.rays[of_other]
    between = other.eye - one.eye
    cosine = (first * second).sum(-1)
    along_first, along_second = first @ between, second @ between
    sine = np.maximum(1 - cosine**2, 1e-12)
    distance = (along_first - cosine * along_second) / sine
    reached = (cosine * along_first - along_second) / sine
    gap = np.linalg.norm(one.eye + distance[:, None] * first - other.eye - reached[:, None] * second, axis=-1)
    allowed = MOST_ERROR * np.minimum(one.pixel * distance, other.pixel * reached)
    kept = (sine > np.sin(LEAST_ANGLE) ** 2) & (distance > 0) & (reached > 0) & (gap < allowed)
    return of_one[kept], of_other[kept], distance[kept], reached[kept]


def agree(depths: list[float]) -> bool:
    return len(depths) > 1 and max(depths) - min(depths) < SPREAD * float(np.median(depths))
