"""The lens that a transforms.json states, in any of the ways in which its writers do."""

import math
from typing import Any

from scenes.lenses import Lens, checked_lens
from utils.errors import BadInput

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
DISTORTION, FISHEYE_DISTORTION = ("k1", "k2", "p1", "p2", "k3"), ("k1", "k2", "k3", "k4")  # OpenCV's order
NERFSTUDIO_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")  # the order of its distortion_params
COEFFICIENTS = (*NERFSTUDIO_DISTORTION, "k5", "k6")
# Flags and parameters of Instant-NGP's other lenses: what they mean cannot be made straight here.
OTHER_LENSES = ("ftheta_p0", "latlong", "equirectangular", "orthographic", "ortho")
PERSPECTIVE = ("perspective", "pinhole", "persp")  # as camera_type, in small letters
# The ways of stating a focal length of one axis, the most exact first.
FOCAL_KEYS = {axis: (f"fl_{axis}", f"{axis}_fov", f"camera_angle_{axis}") for axis in "xy"}
LARGEST = 1e9  # of any number


def stated_size(where: str, head: dict, frame: dict) -> tuple[float, float] | None:
    """Height and width, pixels, of the picture that the lens is for; None where the file does not say."""
    values = head | frame
    width, height = number(where, values, "w"), number(where, values, "h")
    return None if width is None or height is None else (height, width)


def read_lens(where: str, head: dict, frame: dict, size: tuple[float, float]) -> Lens:
    """The lens of a frame, for a picture of `size`, height and width.

    What the frame states goes before what the file's head does; of one of the two, pixels go before angles.
    """
    values = head | frame
    for key in OTHER_LENSES:
        if values.get(key) is not None and values[key] is not False:  # a parameter may be 0
            raise BadInput(f"{where}: {key} is another kind of lens than is read here; undistort the images first")
    if number(where, values, "skew"):
        raise BadInput(
            f"{where}: skew is {values['skew']:g}; pixels are taken to be rectangles: undistort the images first"
        )
    if str(values.get("camera_type") or "perspective").lower() not in PERSPECTIVE:
        raise BadInput(
            f"{where}: camera_type {values['camera_type']!r}; expected perspective: undistort the images first"
        )
    height, width = size
    fisheye = is_fisheye(where, head, frame)
    fx, fy = focal_lengths(where, head, frame, size)
    cx, cy = number(where, values, "cx"), number(where, values, "cy")
    k = distortion(where, head, frame)
    names = FISHEYE_DISTORTION if fisheye else DISTORTION
    for key in sorted(k.keys() - set(names)):
        if k[key]:
            model = "OPENCV_FISHEYE" if fisheye else "OPENCV"
            raise BadInput(
                f"{where}: {key} is {k[key]:g}, but a lens {model} has {', '.join(names)} (OPENCV_FISHEYE: k1 to k4); "
                "undistort the images first"
            )
    values = tuple(k.get(key, 0.0) for key in names)
    lens = Lens(
        width=int(width),
        height=int(height),
        fx=fx,
        fy=fy,
        cx=width / 2 if cx is None else cx,
        cy=height / 2 if cy is None else cy,
        distortion=values if any(values) else (),
        fisheye=fisheye,
    )
    return checked_lens(lens, where)


def is_fisheye(where: str, head: dict, frame: dict) -> bool:
    """From camera_model or, where there is none, is_fisheye; the frame's own before the head's."""
    for level in (frame, head):
        model, flag = level.get("camera_model"), level.get("is_fisheye")
        if model is not None:
            if model not in CAMERA_MODELS:
                raise BadInput(
                    f"{where}: camera_model {model!r}; expected one of {', '.join(CAMERA_MODELS)}: "
                    "undistort the images first (ns-process-data, or colmap image_undistorter)"
                )
            return model == "OPENCV_FISHEYE"
        if flag is not None:
            if flag not in (True, False):  # nor 0 and 1, which are equal to them
                raise BadInput(f"{where}: is_fisheye is {flag!r}; expected true or false")
            return bool(flag)
    return False


def focal_lengths(where: str, head: dict, frame: dict, size: tuple[float, float]) -> tuple[float, float]:
    """Pixels along x and y. One that is not stated is the other's: pixels are square, unless the head says else."""
    of_frame = {axis: _focal(where, frame, axis, size) for axis in "xy"}
    nulls = {key for key, value in frame.items() if value is None}  # take back what the head says
    rest = {key: value for key, value in head.items() if key not in nulls}
    of_head = {axis: _focal(where, rest, axis, size) for axis in "xy"}
    stretched = None not in of_head.values() and not math.isclose(of_head["x"], of_head["y"], rel_tol=1e-3)
    if of_frame["x"] is None and of_frame["y"] is None:
        of_frame = of_head
    elif stretched:
        of_frame = {axis: of_head[axis] if value is None else value for axis, value in of_frame.items()}
    fx, fy = of_frame["x"], of_frame["y"]
    if fx is None and (fy is None or (head | frame).get("fl_y") is not None):  # half of a lens in pixels is a slip
        raise BadInput(f"{where}: neither fl_x nor camera_angle_x, in the file or the frame; add one")
    return (fy if fx is None else fx), (fx if fy is None else fy)


def distortion(where: str, head: dict, frame: dict) -> dict[str, float]:
    """Coefficients by name, of the frame or the head, one by one or as a list."""
    found: dict[str, float] = {}
    for level in (head, frame):
        listed = level.get("distortion_params")
        if listed is not None:
            if not isinstance(listed, list) or len(listed) > len(NERFSTUDIO_DISTORTION):
                raise BadInput(f"{where}: distortion_params is {listed!r}; expected {', '.join(NERFSTUDIO_DISTORTION)}")
            named = dict(zip(NERFSTUDIO_DISTORTION, listed, strict=False))
            found |= {key: number(where, named, key) or 0.0 for key in named}
        found |= {key: number(where, level, key) or 0.0 for key in COEFFICIENTS if key in level}
    return found


def number(where: str, values: dict[str, Any], key: str) -> float | None:
    """A value of JSON as a finite number; None where there is none."""
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < LARGEST:  # nor NaN
        raise BadInput(f"{where}: {key} is {value!r}; expected a finite number")
    return float(value)


def _focal(where: str, values: dict, axis: str, size: tuple[float, float]) -> float | None:
    """Pixels, from the first of FOCAL_KEYS that is stated."""
    side = size[1] if axis == "x" else size[0]
    key = next((key for key in FOCAL_KEYS[axis] if values.get(key) is not None), None)
    if key is None:
        return None
    value = number(where, values, key)
    if key.startswith("fl"):
        return value
    angle = math.radians(value) if key.endswith("fov") else value
    if not 0 < angle < math.pi:
        unit = "(0, 180) degrees" if key.endswith("fov") else "(0, pi) radians"
        raise BadInput(f"{where}: {key} is {value:g}; expected an angle of view, in {unit}")
    return 0.5 * side / math.tan(0.5 * angle)
