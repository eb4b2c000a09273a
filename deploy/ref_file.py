"""A Ref-NeRF's part of a model file: a mip-NeRF's, and what follows its surfaces."""

import torch

from deploy import mip_file, nerf_file
from fields.ref_nerf import MOST_LEVELS, RefConfig, RefField
from utils.checks import check_whole
from utils.errors import BrokenFile

OWN = frozenset({"bottleneck", "levels", "view_depth"})


def check(name: str, field: dict) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a Ref-NeRF's can be."""
    mip_file.check(name, field, OWN)
    check_whole(name, field, "bottleneck", 1, 8192)
    check_whole(name, field, "levels", 1, MOST_LEVELS)
    check_whole(name, field, "view_depth", 1, 256)
    if field["residual"] or not field["use_viewdirs"]:
        raise BrokenFile(f"{name}: residual, or without view directions, which a Ref-NeRF cannot be")


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> RefField:
    """The field `name` of checked metadata. Raises BrokenFile where its tensors do not fit."""
    config = RefConfig(**{**described, "skips": tuple(described["skips"])})
    return nerf_file.load_network(name, config, state, metadata, device, backend)
