"""A light field's part of a model file: what may be in it, and what it makes.

In int8 the small tensors of its many layers lie in one table for each kind, in the order of the layer graph: a file
spends some hundred bytes on naming a tensor, which for a scale is 4 bytes.
"""

import torch

from deploy import nerf_file
from fields.field import Trainable
from fields.light_field import LightFieldConfig
from rendering.light_field import MOST_PLACES
from utils.checks import check_keys, check_one_of, check_whole, short
from utils.errors import BrokenFile

TABLES = ("scale", "bias", "output_scale", "output_zero_point")
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
    config = LightFieldConfig(**described)
    if metadata["precision"] == "int8":
        state = unpacked_tables(config, state)
    return nerf_file.load_network(name, config, state, metadata, device, backend)


def packed_tables(config: LightFieldConfig, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From what `nerf_file.int8_tensors` says to what is stored: weights as they are, all else side by side."""
    tables: dict[str, list[torch.Tensor]] = {kind: [] for kind in TABLES}
    for name in nerf_file.int8_tensors(config):
        if not name.endswith(".weight"):
            tables[name.rpartition(".")[2]].append(state[name].reshape(-1))
    weights = {name: value for name, value in state.items() if name.endswith(".weight")}
    return weights | {f"{kind}s": torch.cat(parts) for kind, parts in tables.items()}


def unpacked_tables(config: LightFieldConfig, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse. Raises BrokenFile where a table is missing or has another length."""
    state = {name: value for name, value in stored.items() if name.endswith(".weight")}
    at = dict.fromkeys(TABLES, 0)
    for name, (_, shape) in nerf_file.int8_tensors(config).items():
        kind = name.rpartition(".")[2]
        if kind in at:
            table = stored.get(f"{kind}s")
            length, start = torch.Size(shape).numel(), at[kind]
            if table is None or table.ndim != 1 or len(table) < start + length:
                raise BrokenFile(f"int8 network: {kind}s is missing or too short")
            state[name] = table[start : start + length].view(shape).clone()
            at[kind] = start + length
    others = set(stored) - set(state) - {f"{kind}s" for kind in TABLES}
    too_long = [f"{kind}s" for kind in TABLES if len(stored[f"{kind}s"]) != at[kind]]
    if others or too_long:
        raise BrokenFile(f"int8 network: unexpected tensor {short(sorted([*others, *too_long])[0])}")
    return state
