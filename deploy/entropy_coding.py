"""Tables of whole numbers in a coder's stream: each entry is expected from its neighbours that are known before it.

A traversal is written once for both directions, of what is given or, where that is None, of what is read. Tables are
walked in wavefronts: entry (r, c) belongs to front 2 r + c, so its left, upper and upper right neighbours are known
before it, and all entries of a front are coded at once.
"""

from collections.abc import Iterator

import numpy as np

from deploy.coders import INCREMENT, AdaptiveModel, Decoder, Encoder, uniform
from utils.errors import BrokenFile

STATES = 3  # of a table's entry: pruned, from the codebook, kept
MAGNITUDES = 12  # contexts of a value: how large its neighbours and its channel let expect it
SIGNS = 5  # and contexts of where its neighbours lie: far below zero, below, at, above, far above


def two_sided(low: int, high: int) -> np.ndarray:
    """A prior for whole numbers `low` to `high` around zero: a half for each step away."""
    return np.maximum(INCREMENT >> np.minimum(np.abs(np.arange(low, high + 1)), 10), 1)


def fronts(rows: int, columns: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row and column numbers of each wavefront of a table, one after another."""
    for t in range(2 * (rows - 1) + columns):
        first = max(0, (t - columns + 2) // 2)
        row = np.arange(first, min(rows - 1, t // 2) + 1)
        if len(row):
            yield row, t - 2 * row


def _wanted_parts(wanted: np.ndarray, most: int = 2**20) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row and column numbers of each wavefront's `wanted [H, W]` entries, so many at once."""
    for row, column in fronts(*wanted.shape):
        here = wanted[row, column]
        row, column = row[here], column[here]
        for start in range(0, len(row), most):
            yield row[start : start + most], column[start : start + most]


def code_states(coder: Encoder | Decoder, shape: tuple[int, int], states: np.ndarray | None = None) -> np.ndarray:
    """A table `[H, W]` of 0 to STATES - 1, each expected from four neighbours."""
    rows, columns = shape
    known = np.zeros((rows + 1, columns + 3), np.uint8)  # a border above, two to the left, one to the right
    model = AdaptiveModel(STATES**4 * STATES, uniform(STATES) * 4)
    for row, column in fronts(rows, columns):
        around = [(row + 1, column + 1), (row, column + 1), (row, column + 2), (row, column + 3), (row + 1, column)]
        contexts = np.zeros(len(row), np.int64)
        for at in around:
            contexts = contexts * STATES + known[at]
        given = None if states is None else states[row, column].astype(np.int64)
        known[row + 1, column + 2] = coder.code(model, contexts, given)
    return known[1:, 2 : columns + 2]


def code_cells(coder: Encoder | Decoder, shape: tuple[int, int, int], cells: np.ndarray | None = None) -> np.ndarray:
    """A boolean grid `[X, Y, Z]`, each cell expected from those around it in its own and the last slice.

    Cell (x, y, z) belongs to front 4 x + 2 y + z: all of the last slice within one cell of it, and in
    its own slice what `fronts` has known, come before it.
    """
    known = np.zeros(tuple(size + 2 for size in shape), np.uint8)
    flat, strides = known.reshape(-1), np.array(known.strides)
    before = (np.array(BEFORE) @ strides).tolist()
    model = AdaptiveModel(1 << len(BEFORE), uniform(2) * 2)
    for at in _cell_fronts(shape):
        place = sum((numbers + 1) * stride for numbers, stride in zip(at, strides.tolist(), strict=True))
        contexts = np.zeros(len(place), np.int64)
        for offset in before:
            contexts += contexts
            contexts += flat.take(place + offset)
        given = None if cells is None else cells[at].astype(np.int64)
        flat[place] = coder.code(model, contexts, given)
    return known[1:-1, 1:-1, 1:-1].view(bool)


def _cell_fronts(shape: tuple[int, int, int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """x, y and z of each front of a grid that has cells, one front after another."""
    last_x, last_y, last_z = (size - 1 for size in shape)
    for front in range(4 * last_x + 2 * last_y + last_z + 1):
        x = np.arange(max(0, -((2 * last_y + last_z - front) // 4)), min(last_x, front // 4) + 1)
        rest = front - 4 * x  # 2 y + z
        first = np.maximum(0, -((last_z - rest) // 2))
        count = np.maximum(0, np.minimum(last_y, rest // 2) + 1 - first)
        start = np.cumsum(count) - count
        y = np.arange(count.sum()) + np.repeat(first - start, count)
        if len(y):
            yield np.repeat(x, count), y, np.repeat(rest, count) - 2 * y


# Neighbours of a cell that are known before it, by axis.
BEFORE = (
    (0, 0, -1), (0, -1, -1), (0, -1, 0), (0, -1, 1), (-1, 0, 0), (-1, 0, 1), (-1, 0, -1), (-1, 1, 0), (-1, -1, 0),
    (-1, 1, 1),
)  # fmt: skip


def code_numbers(
    coder: Encoder | Decoder, wanted: np.ndarray, codes: np.ndarray, numbers: np.ndarray | None = None
) -> np.ndarray:
    """The code of each `wanted [H, W]` entry of a table, as its number `[H, W]` among `codes [K, C]` of whole numbers.

    What is written is how many codes are nearer than it to the mean of the left, upper and upper right
    neighbours' codes, expected from how far these are from one another. All distances are whole
    numbers below 2**53, so float64 has them exactly, the same on any machine.
    """
    rows, columns = wanted.shape
    codes = codes.astype(np.float64)
    known = np.full((rows + 1, columns + 2), len(codes), np.int32)  # as if a last code of zeros stood around
    vectors = np.vstack([codes, np.zeros_like(codes[:1])])
    sizes = (codes * codes).sum(1)
    octaves = AdaptiveModel(2 * len(SPREAD_STEPS) + 3, uniform(len(codes).bit_length() + 1))
    bits = AdaptiveModel(8 * octaves.symbols, uniform(2) * 2)
    for row, column in _wanted_parts(wanted, max(1, MOST_DISTANCES // len(codes))):
        near = known[np.stack([row + 1, row, row]), np.stack([column, column + 1, column + 2])]
        weight = np.array([[2], [2], [1]]) * (near < len(codes))
        around = vectors[near]
        total, share = (weight[..., None] * around).sum(0), weight.sum(0)
        # Of each code: its squared distance to total / share, times share, without what all have in common;
        # then the code's number, so that no two are equal.
        distances = np.maximum(share, 1)[:, None] * sizes - 2 * total @ codes.T
        keys = distances.astype(np.int64) * len(codes) + np.arange(len(codes))
        spread = share * (weight * (around * around).sum(-1)).sum(0) - (total * total).sum(-1)
        spread = spread / np.maximum(share * share, 1) / max(1, codes.shape[1])
        contexts = np.searchsorted(SPREAD_STEPS, spread) + (len(SPREAD_STEPS) + 1) * (share > 2)
        contexts[share == 0] = octaves.contexts - 1
        if numbers is None:
            nearer = code_from_zero(coder, octaves, bits, contexts)
            if (nearer >= len(codes)).any():
                raise BrokenFile("the coded stream is damaged")
            found = np.sort(keys, 1)[np.arange(len(row)), nearer] % len(codes)
        else:
            found = numbers[row, column].astype(np.int64)
            nearer = (keys < keys[np.arange(len(row)), found][:, None]).sum(1)
            code_from_zero(coder, octaves, bits, contexts, nearer)
        known[row + 1, column + 1] = found
    return np.where(wanted, known[1:, 1:-1], 0)


MOST_DISTANCES = 2**22  # at once, between entries and codes: 32 MB
# Contexts of a code: the variance of its neighbours' codes, of a channel, in whole numbers squared.
SPREAD_STEPS = np.array([0.0, 0.05, 0.15, 0.35, 0.7, 1.2, 2.0, 3.5, 6.0, 12.0, 25.0])


def code_from_zero(
    coder: Encoder | Decoder,
    octaves: AdaptiveModel,
    bits: AdaptiveModel,
    contexts: np.ndarray,
    values: np.ndarray | None = None,
) -> np.ndarray:
    """Whole numbers from 0, mostly small: of each plus one how many bits it has, then these, highest first."""
    lengths = None if values is None else np.frexp(values + 1)[1] - 1
    lengths = coder.code(octaves, contexts, lengths)
    found = np.ones(len(contexts), np.int64)
    for place in range(lengths.max()):
        longer = lengths > place
        given = None if values is None else ((values + 1) >> (lengths - 1 - place))[longer] & 1
        bit = coder.code(bits, 8 * lengths[longer] + np.minimum(found[longer], 7), given)
        found[longer] = 2 * found[longer] + bit
    return found - 1


def code_values(
    coder: Encoder | Decoder,
    wanted: np.ndarray,
    low: int,
    high: int,
    table: np.ndarray,
    there: np.ndarray | None = None,
) -> np.ndarray:
    """Whole numbers of a table `[H, W, channels]`, int8 from low to high, at the `wanted [H, W]` entries.

    table: of an encoder, with what is to be coded; of a decoder, without. Elsewhere than `wanted`
    it holds what both know; `there [H, W]` says where. What is expected of a value comes from the
    same channel: at the left, upper and upper right neighbours as far as they are known, and over
    all that was coded before. Returns the whole table.
    """
    rows, columns, channels = table.shape
    known = np.zeros((rows + 1, columns + 2, channels), np.int8)
    known[1:, 1:-1] = np.where(wanted[..., None], 0, table)
    there = np.pad((wanted if there is None else wanted | there).astype(np.int8), ((1, 0), (1, 1)))
    model = AdaptiveModel(MAGNITUDES * SIGNS, two_sided(low, high))
    sums, count = np.full(channels, 1.0), 1
    for row, column in _wanted_parts(wanted):
        near = np.stack([row + 1, row, row]), np.stack([column, column + 1, column + 2])
        neighbours, weight = known[near].astype(np.int64), there[near].sum(0)[:, None]
        of_channel = sums / count
        magnitude = (2 * np.abs(neighbours).sum(0) + of_channel) / (2 * weight + 1)
        mean = neighbours.sum(0) / np.maximum(weight, 1)
        contexts = _magnitude_context(magnitude) * SIGNS + _sign_context(mean)
        given = (table[row, column].astype(np.int64) - low).reshape(-1)
        coded = coder.code(model, contexts.reshape(-1), given).reshape(-1, channels) + low
        known[row + 1, column + 1] = coded
        sums, count = sums + np.abs(coded).sum(0), count + len(row)
    return known[1:, 1:-1]


MAGNITUDE_STEPS = np.array([0.05, 0.12, 0.25, 0.45, 0.7, 1.0, 1.5, 2.3, 3.5, 6.0, 12.0])
SIGN_STEPS = np.array([-1.2, -0.3, 0.3, 1.2])


def _magnitude_context(magnitude: np.ndarray) -> np.ndarray:
    return np.searchsorted(MAGNITUDE_STEPS, magnitude)


def _sign_context(mean: np.ndarray) -> np.ndarray:
    return np.searchsorted(SIGN_STEPS, mean)
