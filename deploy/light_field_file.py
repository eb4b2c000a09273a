"""A light field's part of a model file: what may be in it, and what it makes."""

import torch

from deploy import nerf_file
from fields.field import Trainable
from fields.light_field import LightFieldConfig
from rendering.light_field import MOST_PLACES
from utils.checks import check_keys, check_one_of, check_whole

KEYS = {"kind", "depth", "width", "points", "use_viewdirs", "multires", "multires_views", "rounded_stream"}


def check(name: str, field: dict) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a light field's can be."""
    check_keys(name, field, KEYS)
    check_whole(name, field, "depth", 2, 1024)
    check_whole(name, field, "width", 1, 8192)
    check_whole(name, field, "points", 1, MOST_PLACES)
    check_whole(name, field, "multires", 1, 32)
    check_whole(name, field, "multires_views", 0, 32)
    check_one_of(name, field, "use_viewdirs", (True, False))
    check_one_of(name, field, "rounded_stream", (True, False))


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> Trainable:
    """The light field `name` of checked metadata. Raises BrokenFile where its tensors do not fit."""
    return nerf_file.load_network(name, LightFieldConfig(**described), state, metadata, device, backend)
