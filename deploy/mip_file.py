"""A mip-NeRF's part of a model file: a NeRF's, and how its points are encoded."""

import torch

from deploy import nerf_file
from fields.mip_nerf import MipConfig
from fields.nerf import RadianceField
from utils.bounds import FAR_AWAY
from utils.checks import check_number, check_one_of, check_whole


def check(name: str, field: dict) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a mip-NeRF's can be."""
    nerf_file.check(name, field, frozenset({"directions", "contracted", "point_size"}))
    check_whole(name, field, "directions", 3, 21)
    check_one_of(name, {"directions": str(field["directions"])}, "directions", ("3", "21"))
    check_whole(name, field, "multires", 1, 32)
    check_one_of(name, field, "contracted", (True, False))
    check_number(name, field, "point_size", 0, FAR_AWAY)


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> RadianceField:
    """The field `name` of checked metadata. Raises BrokenFile where its tensors do not fit."""
    config = MipConfig(**{**described, "skips": tuple(described["skips"])})
    return nerf_file.load_network(name, config, state, metadata, device, backend)
