"""A TensoRF from the tensors of a model file."""

import torch

from deploy.description import MOST_ENTRIES
from fields.tensorf import LINES, PLANES, TensorfConfig, TensorField
from utils.bounds import box_problem
from utils.checks import check_tensors
from utils.errors import BrokenFile


def tensorf_config(described: dict) -> TensorfConfig:
    """described: the config as JSON holds it."""
    ranks = {name: tuple(described[name]) for name in ("density_ranks", "color_ranks")}
    return TensorfConfig(**{**described, **ranks})


def load_tensor_field(described: dict, state: dict[str, torch.Tensor]) -> TensorField:
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
    with torch.device("meta"):  # no memory for what a file only claims to have
        bare = config.make_network((2, 2, 2), torch.zeros(2, 3)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in bare.items()}
    axes = LINES if config.decomposition == "vm" else (0, 1, 2)
    for i, ((column, row), axis) in enumerate(zip(PLANES, axes, strict=True)):
        shapes[f"lines.{i}"] = (resolution[axis], *shapes[f"lines.{i}"][1:])
        if config.decomposition == "vm":
            shapes[f"planes.{i}"] = (resolution[row], resolution[column], *shapes[f"planes.{i}"][2:])
    return {name: (torch.float32, shape) for name, shape in shapes.items()}
