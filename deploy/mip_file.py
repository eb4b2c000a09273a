"""A mip-NeRF's part of a model file: a NeRF's, and how its points are encoded."""

import torch

from deploy import nerf_file
from fields.mip_nerf import MipConfig
from fields.nerf import RadianceField
from rendering.cones import DIRECTIONS
from utils.bounds import FAR_AWAY, SMALLEST_SIDE
from utils.checks import check_number, check_one_of, check_whole

OWN = frozenset({"directions", "ball", "point_size"})


def check(name: str, field: dict, more: frozenset[str] = frozenset()) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a mip-NeRF's can be. more: keys that it has
    beyond."""
    nerf_file.check(name, field, OWN | more)
    check_whole(name, field, "directions", min(DIRECTIONS), max(DIRECTIONS))
    check_one_of(name, {"directions": str(field["directions"])}, "directions", tuple(map(str, DIRECTIONS)))
    check_whole(name, field, "multires", 1, 32)
    check_number(name, field, "ball", SMALLEST_SIDE if field["ball"] else 0, FAR_AWAY)
    check_number(name, field, "point_size", 0, FAR_AWAY)


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> RadianceField:
    """The field `name` of checked metadata. Raises BrokenFile where its tensors do not fit."""
    config = MipConfig(**{**described, "skips": tuple(described["skips"])})
    return nerf_file.load_network(name, config, state, metadata, device, backend)
