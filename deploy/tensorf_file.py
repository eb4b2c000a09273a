"""A TensoRF's part of a model file: what may be in it, and the field it makes."""

import torch

from fields.tensorf import LINES, MOST_ENTRIES, PLANES, TensorfConfig, TensorField
from utils.bounds import box_problem
from utils.checks import check_keys, check_numbers, check_one_of, check_tensors, check_whole, is_whole, short
from utils.errors import BrokenFile

KEYS = {
    "kind", "decomposition", "density_ranks", "color_ranks", "features", "feature_octaves", "view_octaves",
    "hidden", "density_activation", "density_bias", "density_scale",
}  # fmt: skip


def check(name: str, field: dict, more: frozenset[str] = frozenset()) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a TensoRF's can be. more: keys that it has
    beyond."""
    check_keys(name, field, KEYS | more)
    check_one_of(name, field, "decomposition", ("vm", "cp"))
    for ranks in ("density_ranks", "color_ranks"):
        check_numbers(f"{name} {ranks}", field[ranks], 3, 1, 4096)
        if not all(is_whole(rank) for rank in field[ranks]):
            raise BrokenFile(f"{name}: {ranks} is {short(field[ranks])}, expected whole numbers")
    check_whole(name, field, "features", 1, 4096)
    check_whole(name, field, "feature_octaves", 0, 16)
    check_whole(name, field, "view_octaves", 0, 16)
    check_whole(name, field, "hidden", 1, 8192)


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> TensorField:
    """The field `name` of checked metadata, which torch alone executes. Raises BrokenFile where its tensors do not
    fit."""
    return read_field(described, state).to(device)


def tensorf_config(described: dict) -> TensorfConfig:
    """described: the config as JSON holds it."""
    ranks = {name: tuple(described[name]) for name in ("density_ranks", "color_ranks")}
    return TensorfConfig(**{**described, **ranks})


def read_field(described: dict, state: dict[str, torch.Tensor]) -> TensorField:
    """described: checked metadata of the field, without its kind. Raises BrokenFile where tensors do not fit it."""
    config = tensorf_config(described)
    lines = [state.get(f"lines.{i}") for i in range(3)]
    counts = [0 if line is None or line.ndim == 0 else len(line) for line in lines]
    if not all(2 <= count <= MOST_ENTRIES for count in counts):
        raise BrokenFile(f"TensoRF: lines of {counts} entries, expected 2 to {MOST_ENTRIES}")
    resolution = [0, 0, 0]
    for axis, count in zip(LINES if config.decomposition == "vm" else (0, 1, 2), counts, strict=True):
        resolution[axis] = count
    check_tensors("TensoRF", state, expected_tensors(config, tuple(resolution)))
    problem = box_problem(state["aabb"])
    if problem:
        raise BrokenFile(f"TensoRF: {problem}")
    network = config.make_network((2, 2, 2), state["aabb"])
    network.load_state_dict(state)
    return TensorField(config, network)


def expected_tensors(
    config: TensorfConfig, resolution: tuple[int, int, int]
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name, type and shape of every tensor of such a field."""
    # No memory for what a file only claims to have.
    shapes = {name: tuple(tensor.shape) for name, tensor in config.skeleton().state_dict().items()}
    axes = LINES if config.decomposition == "vm" else (0, 1, 2)
    for i, ((column, row), axis) in enumerate(zip(PLANES, axes, strict=True)):
        shapes[f"lines.{i}"] = (resolution[axis], *shapes[f"lines.{i}"][1:])
        if config.decomposition == "vm":
            shapes[f"planes.{i}"] = (resolution[row], resolution[column], *shapes[f"planes.{i}"][2:])
    return {name: (torch.float32, shape) for name, shape in shapes.items()}
