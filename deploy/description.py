"""All of a model file but fields and their tensors: rays, camera, renderer; written, checked and read."""

import dataclasses

import torch

from deploy import grid_file
from deploy.coders import CODERS
from rendering.kinds import RENDERERS
from rendering.rays import RaySetup
from rendering.renderer import Renderer
from scenes.poses import check_poses
from scenes.scene import Cameras
from utils.bounds import FAR_AWAY
from utils.checks import check_keys, check_number, check_numbers, check_one_of, check_whole
from utils.errors import BrokenFile

LARGEST_PICTURE = 65_536  # pixels on a side
MOST_PIXELS = 2**27  # of a picture
SHORTEST_FOCAL = 1e-3  # pixels
MOST_FRAMES = 100_000  # of the video path


def describe(renderer: Renderer, render_path: Cameras) -> dict:
    """Everything but tensors that it takes to build the renderer again."""
    camera = {
        "height": render_path.height,
        "width": render_path.width,
        "K": [[float(x) for x in row] for row in render_path.K[0]],
    }
    return {
        "rays": dataclasses.asdict(renderer.setup),
        "camera": camera,
        "sampler": renderer.describe(),
        "fields": {name: field.describe() for name, field in renderer.fields.items()},
    }


def check(metadata: dict) -> None:
    """Raises BrokenFile at the first thing that is not as `describe` writes it; fields are not looked at."""
    _check_rays(metadata["rays"])
    _check_camera(metadata["camera"])
    _check_sampler(metadata["sampler"], metadata["precision"] == "vq")


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
    if not min(rows[0][0], rows[1][1]) >= SHORTEST_FOCAL:
        raise BrokenFile(f"camera: a focal length is below {SHORTEST_FOCAL:g} pixels")


def _check_sampler(sampler: dict, vq: bool) -> None:
    """vq: whether it is of a VQ-TensoRF, whose grid is always coded."""
    kind = sampler.get("kind") if isinstance(sampler, dict) else None
    check_one_of("sampler", {"kind": kind}, "kind", ("occupancy",) if vq else tuple(RENDERERS))
    own = dict(sampler)
    if vq or "grid_coder" in own:
        check_one_of("sampler", {"grid_coder": own.pop("grid_coder", None)}, "grid_coder", CODERS)
    RENDERERS[kind].check(own)


def read_cameras(described: dict, c2w: torch.Tensor) -> Cameras:
    """The video path, from a checked description and its poses."""
    path = c2w.dtype == torch.float32 and c2w.ndim == 3 and c2w.shape[1:] == (3, 4)
    if not path or not 1 <= len(c2w) <= MOST_FRAMES:
        found = f"{c2w.dtype} {tuple(c2w.shape)}"
        raise BrokenFile(f"render_path is {found}, expected float32 [F, 3, 4] of {MOST_FRAMES} frames at most")
    check_poses(c2w.numpy(), "render_path")
    if c2w.abs().max() > FAR_AWAY:
        raise BrokenFile(f"render_path: a camera stands farther away than {FAR_AWAY:g} world units")
    K = torch.tensor(described["K"], dtype=torch.float32)
    return Cameras(c2w, K.expand(len(c2w), 3, 3), described["height"], described["width"])


def read_renderer(metadata: dict, fields: dict[str, torch.nn.Module], tensors: dict[str, torch.Tensor]) -> Renderer:
    """From checked metadata and fields; what it needs of `tensors` is taken out of them."""
    rays, sampler = metadata["rays"], dict(metadata["sampler"])
    setup = RaySetup(**{**rays, "background": tuple(rays["background"])})
    coder = sampler.pop("grid_coder", None)
    side = sampler.get("hull", sampler).get("grid_resolution")
    if side and "occupancy" in tensors:
        packed = tensors["occupancy"]
        tensors["occupancy"] = grid_file.decode(coder, packed, side) if coder else grid_file.unpack(packed, side)
    return RENDERERS[sampler["kind"]].from_description(sampler, fields, setup, tensors)
