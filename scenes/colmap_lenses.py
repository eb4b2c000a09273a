"""Lenses that COLMAP has and OpenCV has not: pycolmap bends their rays."""

import numpy as np

from utils.errors import BadInput

# Their parameters after `fx fy cx cy`, in COLMAP's order.
PARAMETERS = {
    "FOV": "omega",
    "THIN_PRISM_FISHEYE": "k1 k2 p1 p2 k3 k4 sx1 sy1",
    "RAD_TAN_THIN_PRISM_FISHEYE": "k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3",
}
SAME_RAY = 1e-3  # how far a ray that was bent and straightened may be off, at focal length 1


def pycolmap_or_say(what: str = "cameras are found by"):
    """The library, quiet. Raises BadInput, beginning with `what` it is for, where it is not installed."""
    try:
        import pycolmap
    except ImportError as error:
        raise BadInput(f"{what} pycolmap: pip install -r requirements-photos.txt") from error
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)
    return pycolmap


def bend(model: str, size: tuple[int, int], parameters: list[float], x: np.ndarray, y: np.ndarray):
    """Where a lens puts the rays `(x, y, 1)`, of arrays of one shape: column and row in the photograph, pixels from its
    top left corner, and whether there is anything to see of them. size: width and height, pixels.

    A lens that turns back on itself shows things twice; only rays that come back as they were are seen.
    """
    colmap = pycolmap_or_say(f"a camera of model {model} needs")
    camera = colmap.Camera(model=model, width=size[0], height=size[1], params=parameters)
    rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], -1)
    pixels = np.asarray(camera.img_from_cam(rays), dtype=np.float64).reshape(-1, 2)
    shown = np.isfinite(pixels).all(-1)
    back = np.full_like(rays, np.nan)
    back[shown] = np.asarray(camera.cam_ray_from_img(pixels[shown])).reshape(-1, 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        shown &= (back[:, 2] > 0) & (np.abs(back[:, :2] / back[:, 2:] - rays[:, :2]).max(-1) < SAME_RAY)
    columns, rows = np.where(shown[:, None], pixels, -1.0).T
    return columns.reshape(x.shape), rows.reshape(x.shape), shown.reshape(x.shape)
