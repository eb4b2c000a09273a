"""What the metadata of a model file may say: types, ranges, and no key too many or too few.

A file's digest guards against accidents only; whoever writes a file can write a digest. So every
number is held against what a renderer can work with before anything is built from it.
"""

import math

import torch

from utils.bounds import FAR_AWAY, box_problem
from utils.checks import check_keys, check_number, check_numbers, check_one_of, check_whole, is_whole, short
from utils.errors import BrokenFile

LARGEST_GRID = 512  # cells on a side: a bit each in the file, three bytes in memory
LARGEST_PICTURE = 65_536  # pixels on a side
MOST_PIXELS = 2**27  # of a picture
MOST_FRAMES = 100_000  # of the video path
MOST_STEPS = 10_000  # of a ray through the box, beyond which a picture would take forever
MOST_SAMPLES = 4096  # of a ray, of the coarse and of the fine field each
MOST_ENTRIES = 4096  # of a plane or line along an axis
CODERS = ("range", "lzma")  # of `entropy_coding`
MOST_CODES = 65_536  # of a codebook
# What a file of each kind of field may hold.
PRECISIONS = {"nerf": ("float32", "int8", "ternary", "w4a8"), "tensorf": ("float32",), "vq_tensorf": ("vq",)}
TENSORF_KEYS = {
    "kind", "decomposition", "density_ranks", "color_ranks", "features", "feature_octaves", "view_octaves",
    "hidden", "density_activation", "density_bias", "density_scale",
}  # fmt: skip


def check_metadata(metadata: dict) -> None:
    """Raises BrokenFile at the first thing that is not as `model_file` writes it."""
    precision = metadata.get("precision")
    bits = {"weight_bits"}
    own = {"int8": bits | {"activation_bits"}, "ternary": bits, "w4a8": bits}.get(str(precision), set())
    check_keys("metadata", metadata, {"format", "version", "precision", "rays", "camera", "sampler", "fields"} | own)
    check_one_of("metadata", metadata, "precision", ("float32", "int8", "ternary", "w4a8", "vq"))
    if precision == "int8":
        check_whole("metadata", metadata, "activation_bits", 2, 8)
    if own:
        check_weight_bits(metadata["weight_bits"], precision)
    _check_rays(metadata["rays"])
    _check_camera(metadata["camera"])
    _check_sampler(metadata["sampler"], precision == "vq")
    fields = metadata["fields"]
    names = set(fields) if isinstance(fields, dict) else set()
    if "network_fn" not in names or not names <= {"network_fn", "network_fine"}:
        raise BrokenFile("fields: expected network_fn, and network_fine where there is a fine pass")
    for name in names:
        _check_field(name, fields[name])
        if precision == "int8" and fields[name].get("residual"):
            raise BrokenFile(f"{name}: residual, which int8 files cannot be")
        if precision not in PRECISIONS[fields[name]["kind"]]:
            raise BrokenFile(f"{name}: a {fields[name]['kind']} cannot be {precision}")


def check_weight_bits(weight_bits: dict, precision: str) -> None:
    if not isinstance(weight_bits, dict):
        raise BrokenFile(f"weight_bits is {short(weight_bits)}, expected bits by layer")
    for layer, number in weight_bits.items():
        if precision == "int8" or not (is_whole(number) and number == 32):  # 32: a BitNeRF's layer that is not rounded
            check_whole("weight_bits", weight_bits, layer, 2, 8)


def _check_rays(rays: dict) -> None:
    check_keys("rays", rays, {"near", "far", "ndc_near", "pixel_offset", "background"})
    check_number("rays", rays, "near", 0, FAR_AWAY)
    check_number("rays", rays, "far", 0, FAR_AWAY)
    if rays["near"] >= rays["far"]:
        raise BrokenFile(f"rays: near {rays['near']} is not below far {rays['far']}")
    if rays["ndc_near"] is not None:
        check_number("rays", rays, "ndc_near", 1e-6, FAR_AWAY)
    check_number("rays", rays, "pixel_offset", 0, 1)
    check_numbers("rays background", rays["background"], 3, 0, 1)


def _check_camera(camera: dict) -> None:
    check_keys("camera", camera, {"height", "width", "K"})
    check_whole("camera", camera, "height", 1, LARGEST_PICTURE)
    check_whole("camera", camera, "width", 1, LARGEST_PICTURE)
    if camera["height"] * camera["width"] > MOST_PIXELS:
        raise BrokenFile(f"camera: {camera['height']} x {camera['width']} pixels, expected {MOST_PIXELS} at most")
    rows = camera["K"]
    if not isinstance(rows, list) or len(rows) != 3:
        raise BrokenFile("camera: K is not a matrix of 3 x 3")
    for row in rows:
        check_numbers("camera K", row, 3, -FAR_AWAY, FAR_AWAY)
    if not (rows[0][0] > 0 and rows[1][1] > 0):
        raise BrokenFile("camera: a focal length is not positive")


def _check_sampler(sampler: dict, coded: bool) -> None:
    """coded: whether the grid's cells are range-coded."""
    kind = sampler.get("kind") if isinstance(sampler, dict) else None
    if kind == "hierarchical" and not coded:
        check_keys("sampler", sampler, {"kind", "n_samples", "n_importance", "lindisp"})
        check_whole("sampler", sampler, "n_samples", 2, MOST_SAMPLES)
        check_whole("sampler", sampler, "n_importance", 0, MOST_SAMPLES)
        check_one_of("sampler", sampler, "lindisp", (True, False))
        return
    check_one_of("sampler", {"kind": kind}, "kind", ("occupancy",) if coded else ("occupancy", "hierarchical"))
    own = {"grid_coder"} if coded else set()
    check_keys("sampler", sampler, {"kind", "step", "min_transmittance", "grid_resolution", "aabb"} | own)
    if coded:
        check_one_of("sampler", sampler, "grid_coder", CODERS)
    check_whole("sampler", sampler, "grid_resolution", 1, LARGEST_GRID)
    check_number("sampler", sampler, "min_transmittance", 0, 1)
    box = sampler["aabb"]
    if not isinstance(box, list) or len(box) != 2:
        raise BrokenFile("sampler: aabb is not two corners")
    for corner in box:
        check_numbers("sampler aabb", corner, 3, -FAR_AWAY, FAR_AWAY)
    problem = box_problem(torch.tensor(box))
    if problem:
        raise BrokenFile(f"sampler: {problem}")
    sides = [high - low for low, high in zip(*box, strict=True)]
    check_number("sampler", sampler, "step", math.hypot(*sides) / MOST_STEPS, FAR_AWAY)


def _check_field(name: str, field: dict) -> None:
    if not isinstance(field, dict):
        raise BrokenFile(f"{name}: {short(field)} is not a table")
    check_one_of(name, {"kind": field.get("kind")}, "kind", tuple(FIELD_CHECKS))
    FIELD_CHECKS[field["kind"]](name, field)
    check_one_of(name, field, "density_activation", ("relu", "softplus"))
    check_number(name, field, "density_bias", -FAR_AWAY, FAR_AWAY)
    check_number(name, field, "density_scale", 1e-6, FAR_AWAY)


def _check_nerf(name: str, field: dict) -> None:
    check_keys(
        name, field,
        {
            "kind", "depth", "width", "skips", "use_viewdirs", "output_ch", "multires", "multires_views", "i_embed",
            "density_activation", "density_bias", "density_scale", "residual",
        },
    )  # fmt: skip
    check_whole(name, field, "depth", 1, 256)
    check_whole(name, field, "width", 2, 8192)
    check_whole(name, field, "output_ch", 4, 5)
    check_whole(name, field, "multires", 0, 32)
    check_whole(name, field, "multires_views", 0, 32)
    check_whole(name, field, "i_embed", -1, 0)
    check_one_of(name, field, "use_viewdirs", (True, False))
    check_one_of(name, field, "residual", (True, False))
    if not isinstance(field["skips"], list) or not all(is_whole(skip) for skip in field["skips"]):
        raise BrokenFile(f"{name}: skips is {short(field['skips'])}, expected layer numbers")


def _check_tensorf(name: str, field: dict, more: frozenset[str] = frozenset()) -> None:
    check_keys(name, field, TENSORF_KEYS | more)
    check_one_of(name, field, "decomposition", ("vm", "cp"))
    for ranks in ("density_ranks", "color_ranks"):
        check_numbers(f"{name} {ranks}", field[ranks], 3, 1, 4096)
        if not all(is_whole(rank) for rank in field[ranks]):
            raise BrokenFile(f"{name}: {ranks} is {short(field[ranks])}, expected whole numbers")
    check_whole(name, field, "features", 1, 4096)
    check_whole(name, field, "feature_octaves", 0, 16)
    check_whole(name, field, "view_octaves", 0, 16)
    check_whole(name, field, "hidden", 1, 8192)


def _check_vq_tensorf(name: str, field: dict) -> None:
    _check_tensorf(name, field, frozenset({"resolution", "codes", "coder"}))
    check_one_of(name, field, "decomposition", ("vm",))
    check_one_of(name, field, "coder", CODERS)
    for key, low, high in (("resolution", 2, MOST_ENTRIES), ("codes", 0, MOST_CODES)):
        check_numbers(f"{name} {key}", field[key], 3, low, high)
        if not all(is_whole(number) for number in field[key]):
            raise BrokenFile(f"{name}: {key} is {short(field[key])}, expected whole numbers")


FIELD_CHECKS = {"nerf": _check_nerf, "tensorf": _check_tensorf, "vq_tensorf": _check_vq_tensorf}


# ------------------------------------------------------------------------------------ single values
