"""A VQ-TensoRF as bytes: one range-coded stream of states, row numbers and rounded values."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn

from deploy import tensorf_file
from deploy.coders import CODERS, Decoder, Encoder, make_decoder, make_encoder
from deploy.entropy_coding import code_numbers, code_states, code_values
from fields.tensorf import LINES, MOST_ENTRIES, PLANES, TensorfConfig, TensorField, TensorVM
from fields.vq_tensorf import CODED, KEPT, VQTensorVM
from utils.bounds import box_problem
from utils.checks import check_numbers, check_one_of, check_tensors, is_whole, short
from utils.errors import BrokenFile

MOST_CODES = 65_536  # of a codebook
MOST_VALUES = 2**26  # of all planes of a file: a quarter of a gigabyte of float32
# What a stream of so many bytes is believed to hold: a few of any symbols, and beyond that so many a byte. Real files
# hold less than ten values a byte.
FREE_SYMBOLS, SYMBOLS_A_BYTE = 2**22, 128
FREE_COMPARISONS, COMPARISONS_A_BYTE = 2**26, 2**15  # of entries with codes


def check(name: str, field: dict) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a VQ-TensoRF's can be."""
    tensorf_file.check(name, field, frozenset({"resolution", "codes", "coder"}))
    check_one_of(name, field, "decomposition", ("vm",))
    check_one_of(name, field, "coder", CODERS)
    for key, low, high in (("resolution", 2, MOST_ENTRIES), ("codes", 0, MOST_CODES)):
        check_numbers(f"{name} {key}", field[key], 3, low, high)
        if not all(is_whole(number) for number in field[key]):
            raise BrokenFile(f"{name}: {key} is {short(field[key])}, expected whole numbers")


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> TensorField:
    """The field `name` of checked metadata, its planes written out; torch alone executes it. Raises BrokenFile where
    its tensors do not fit."""
    return decode(described, state).to(device)


def matrices(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that mix and decode, by name, in the order of the file."""
    layers = [(f"decoder.{i}", layer) for i, layer in enumerate(network.decoder) if not isinstance(layer, nn.ReLU)]
    return [("basis", network.basis), *layers]


def encode(network: VQTensorVM) -> tuple[dict, dict[str, torch.Tensor]]:
    """What a file says of the network beside its config, and the tensors of the file.

    stream: uint8, all integers, range-coded. ranges: int8 `[T, 2]`, the least and largest integer of
    tables, lines and matrices. steps: float32, what one stands for, two of each table and line, one of
    each matrix. biases: float16, of the decoder. aabb: float32 `[2, 3]`.
    """
    tensors = [*network.tables, *network.lines, *(layer.weight for _, layer in matrices(network))]
    integers = [tensor.integers().cpu().numpy() for tensor in tensors]
    ranges = [(int(x.min(initial=0)), int(x.max(initial=0))) for x in integers]
    codes, states = network.codes.tolist(), [state.cpu().numpy() for state in network.states()]
    given: dict[str, np.ndarray] = {}
    for i, (state, count) in enumerate(zip(states, codes, strict=True)):
        books = np.split(integers[i][:count], [network.tables[i].groups[0]], axis=1)
        numbers = np.where(state == CODED, network.rows[i].cpu().numpy() - 1, 0)
        if count:
            numbers = [first_of_equals(book)[of_group] for book, of_group in zip(books, numbers, strict=True)]
        plane = np.zeros((*state.shape, integers[i].shape[1]), np.int64)
        plane[state == KEPT] = integers[i][count:]
        given |= {f"states.{i}": state, f"codes.{i}": integers[i][None, :count]}
        given |= {f"numbers.{i}": numbers, f"planes.{i}": plane}
    for name, values in zip(_names_of_matrices(network), integers[3:], strict=True):
        given[name] = values[None]
    coder_name, coder = make_encoder()
    _walk(coder, network.config, network.resolution, codes, ranges, given)
    biases = [layer.bias.detach() for _, layer in matrices(network) if layer.bias is not None]
    described = {"resolution": list(network.resolution), "codes": codes, "coder": coder_name}
    return described, {
        "stream": torch.frombuffer(bytearray(coder.bytes()), dtype=torch.uint8),
        "ranges": torch.tensor(ranges, dtype=torch.int8),
        "steps": torch.cat([tensor.log_step.detach().exp() for tensor in tensors]).cpu(),
        "biases": torch.cat(biases).half().cpu(),
        "aabb": network.aabb.cpu(),
    }


def first_of_equals(rows: np.ndarray) -> np.ndarray:
    """For each row of `[K, C]` the number of the first one like it: codes that round alike need no telling apart."""
    _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first[kind.reshape(-1)]


@dataclass(frozen=True)
class Rounded:
    """What a file holds, before whole numbers become floats. integers: int8, by the names of `_walk`. steps: of planes
    and of lines, of density and of colour each, then of each matrix."""

    config: TensorfConfig
    integers: dict[str, np.ndarray]
    steps: list[torch.Tensor]
    biases: torch.Tensor
    aabb: torch.Tensor

    def ranks(self, axis: int) -> tuple[int, int]:
        """Of density and of colour."""
        return self.config.density_ranks[axis], self.config.color_ranks[axis]


def decode(described: dict, state: dict[str, torch.Tensor]) -> TensorField:
    """The field of a file, its planes written out; see `read_rounded`."""
    rounded = read_rounded(described, state)
    found, steps = rounded.integers, rounded.steps
    network = TensorVM(rounded.config, (2, 2, 2), rounded.aabb)
    with torch.no_grad():
        for i in range(3):
            network.planes[i] = nn.Parameter(_scaled(found.pop(f"planes.{i}"), steps[i], rounded.ranks(i)))
            network.lines[i] = nn.Parameter(_scaled(found[f"lines.{i}"][0], steps[3 + i], rounded.ranks(i)))
        left = rounded.biases
        for (name, layer), step in zip(matrices(network), steps[6:], strict=True):
            layer.weight.copy_(_scaled(found[name][0], step, (layer.in_features,)))
            if layer.bias is not None:
                bias, left = left[: layer.out_features], left[layer.out_features :]
                layer.bias.copy_(bias)
    return TensorField(rounded.config, network)


def read_rounded(described: dict, state: dict[str, torch.Tensor]) -> Rounded:
    """described: checked metadata of the field, without its kind. Raises BrokenFile where tensors do not fit it."""
    own = ("resolution", "codes", "coder")
    config = tensorf_file.tensorf_config({key: value for key, value in described.items() if key not in own})
    resolution, codes = tuple(described["resolution"]), described["codes"]
    ranks = list(zip(config.density_ranks, config.color_ranks, strict=True))
    values = sum(resolution[a] * resolution[b] * sum(rank) for (a, b), rank in zip(PLANES, ranks, strict=True))
    if values > MOST_VALUES:
        raise BrokenFile(f"VQ-TensoRF: planes of {values} numbers, expected {MOST_VALUES} at most")
    layers = matrices(config.skeleton())
    biases = sum(layer.bias.numel() for _, layer in layers if layer.bias is not None)
    expected = {
        "ranges": (torch.int8, (6 + len(layers), 2)),
        "steps": (torch.float32, (12 + len(layers),)),
        "biases": (torch.float16, (biases,)),
        "aabb": (torch.float32, (2, 3)),
        "stream": (torch.uint8, (len(state["stream"]),)),
    }
    check_tensors("VQ-TensoRF", state, expected)
    ranges = state["ranges"].tolist()
    if not all(low <= 0 <= high for low, high in ranges):
        raise BrokenFile("VQ-TensoRF: a range of integers does not hold zero")
    if not (state["steps"] > 0).all():
        raise BrokenFile("VQ-TensoRF: a step is not positive")
    problem = box_problem(state["aabb"])
    if problem:
        raise BrokenFile(f"VQ-TensoRF: {problem}")
    size = len(state["stream"])
    coder = make_decoder(described["coder"], state["stream"].numpy().tobytes(), FREE_SYMBOLS + SYMBOLS_A_BYTE * size)
    coder.expect(_least_symbols(config, resolution, codes))
    found = _walk(coder, config, resolution, codes, ranges, {}, FREE_COMPARISONS + COMPARISONS_A_BYTE * size)
    steps = list(state["steps"].split([2] * 6 + [1] * len(layers)))
    return Rounded(config, found, steps, state["biases"].float(), state["aabb"])


def _scaled(integers: np.ndarray, steps: torch.Tensor, groups: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(integers).float().contiguous().mul_(steps.repeat_interleave(torch.tensor(groups)))


def _least_symbols(config: TensorfConfig, resolution: tuple[int, int, int], codes: list[int]) -> int:
    """Of a file's stream: all but those of entries that are kept or have codes."""
    ranks = [density + color for density, color in zip(config.density_ranks, config.color_ranks, strict=True)]
    entries = sum(resolution[a] * resolution[b] for a, b in PLANES)
    tables = sum((count + resolution[axis]) * rank for count, axis, rank in zip(codes, LINES, ranks, strict=True))
    return entries + tables + sum(layer.weight.numel() for _, layer in matrices(config.skeleton()))


def _names_of_matrices(network: nn.Module) -> list[str]:
    """Of what follows the planes: tables of one row."""
    return [*(f"lines.{i}" for i in range(3)), *(name for name, _ in matrices(network))]


def _walk(
    coder: Encoder | Decoder,
    config: TensorfConfig,
    resolution: tuple[int, int, int],
    codes: list[int],
    ranges: list[list[int]],
    given: dict[str, np.ndarray],
    most_comparisons: float = math.inf,
) -> dict[str, np.ndarray]:
    """Codes everything in the order of the file: written from `given`, or read where that is empty.

    most_comparisons: of entries with codes, which are what takes time.
    Returns what was coded by the same names; planes with their codes in place.
    """
    found: dict[str, np.ndarray] = {}

    def code_table(name: str, shape: tuple[int, ...], bounds: list[int]) -> None:
        table = given.get(name, np.zeros((1, *shape), np.int8))
        found[name] = code_values(coder, np.ones((1, shape[0]), bool), *bounds, table)

    for i, (column, row) in enumerate(PLANES):
        ranks = config.density_ranks[i], config.color_ranks[i]
        shape = resolution[row], resolution[column]
        state = found[f"states.{i}"] = code_states(coder, shape, given.get(f"states.{i}"))
        coded = state == CODED
        if coded.any() and not codes[i]:
            raise BrokenFile("VQ-TensoRF: entries with codes, but no codebook")
        most_comparisons -= int(coded.sum()) * codes[i]
        if most_comparisons < 0:
            raise BrokenFile("VQ-TensoRF: more entries and codes than its few bytes can mean")
        code_table(f"codes.{i}", (codes[i], sum(ranks)), ranges[i])
        plane = np.array(given.get(f"planes.{i}", np.zeros((*shape, sum(ranks)), np.int8)))
        if coded.any():
            books = np.split(found[f"codes.{i}"][0], [ranks[0]], axis=1)
            given_numbers = given.get(f"numbers.{i}", (None, None))
            numbers = [code_numbers(coder, coded, *pair) for pair in zip(books, given_numbers, strict=True)]
            plane[coded] = np.concatenate([book[n[coded]] for book, n in zip(books, numbers, strict=True)], 1)
        found[f"planes.{i}"] = code_values(coder, state == KEPT, *ranges[i], plane, state == CODED)
    for i, axis in enumerate(LINES):
        code_table(f"lines.{i}", (resolution[axis], config.density_ranks[i] + config.color_ranks[i]), ranges[3 + i])
    for (name, layer), bounds in zip(matrices(config.skeleton()), ranges[6:], strict=True):
        code_table(name, tuple(layer.weight.shape), bounds)
    return found
