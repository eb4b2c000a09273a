"""The range coder: exact round trips, sizes against entropies, wavefronts in their order."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import entropy_coding
from entropy_coding import (
    LzmaDecoder,
    LzmaEncoder,
    RangeDecoder,
    RangeEncoder,
    code_cells,
    code_numbers,
    code_states,
    code_values,
    fronts,
    make_decoder,
    make_encoder,
)
from errors import BadInput, BrokenFile

CODERS = [(RangeEncoder, RangeDecoder), (LzmaEncoder, LzmaDecoder)]


def written(traverse) -> bytes:
    encoder = RangeEncoder()
    traverse(encoder)
    return encoder.bytes()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (4, 1), (3, 7), (6, 2)])
def test_fronts_visit_each_entry_once_and_after_its_neighbours(rows, columns):
    order = {}
    for front, (row, column) in enumerate(fronts(rows, columns)):
        for at in zip(row.tolist(), column.tolist(), strict=True):
            assert at not in order
            order[at] = front
    assert len(order) == rows * columns
    for (row, column), front in order.items():
        for before in [(row, column - 1), (row - 1, column), (row - 1, column + 1), (row - 1, column - 1)]:
            assert before not in order or order[before] < front


@pytest.mark.parametrize(("encoder", "decoder"), CODERS)
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_everything_comes_back(encoder, decoder, rows, columns, channels, seed):
    random = np.random.default_rng(seed)
    states = random.integers(0, 3, (rows, columns))
    numbers = random.integers(0, 300, int((states == 1).sum()))
    wanted, there = states == 2, states == 1
    table = random.integers(-7, 12, (rows, columns, channels)) * (wanted | there)[..., None]
    writer = encoder()
    code_states(writer, states.shape, states)
    code_numbers(writer, len(numbers), 300, numbers)
    code_values(writer, wanted, -7, 11, table, there)
    reader = decoder(writer.bytes())
    np.testing.assert_array_equal(code_states(reader, states.shape), states)
    np.testing.assert_array_equal(code_numbers(reader, len(numbers), 300), numbers)
    known = table * there[..., None]
    np.testing.assert_array_equal(code_values(reader, wanted, -7, 11, known, there), table)


def test_independent_numbers_take_their_entropy():
    random = np.random.default_rng(0)
    probabilities = np.array([0.7, 0.2, 0.05, 0.05])
    numbers = random.choice(4, 20_000, p=probabilities)
    entropy = -(probabilities * np.log2(probabilities)).sum() * len(numbers) / 8
    size = len(written(lambda coder: code_numbers(coder, len(numbers), 4, numbers)))
    assert 0.97 * entropy < size < 1.03 * entropy


def test_regions_cost_their_borders():
    """A disc in a table of 16,384 entries: far below the 0.8 bits an entry that its area alone tells."""
    y, x = np.mgrid[:128, :128]
    disc = np.where((x - 60) ** 2 + (y - 70) ** 2 < 40**2, 2, 0)
    assert len(written(lambda coder: code_states(coder, disc.shape, disc))) < 128 * 128 / 8 * 0.15


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_cells_come_back(x, y, z, seed):
    cells = np.random.default_rng(seed).random((x, y, z)) < 0.3
    content = written(lambda coder: code_cells(coder, cells.shape, cells))
    np.testing.assert_array_equal(code_cells(RangeDecoder(content), cells.shape), cells)


def test_a_rough_ball_costs_its_surface():
    """Against DEFLATE of one bit a cell."""
    x, y, z = np.mgrid[:40, :40, :40]
    noise = np.random.default_rng(0).normal(0, 0.7, x.shape)
    ball = np.sqrt((x - 20) ** 2 + (y - 19) ** 2 + (z - 21) ** 2) < 15 + noise
    size = len(written(lambda coder: code_cells(coder, ball.shape, ball)))
    assert size < 0.7 * len(zlib.compress(np.packbits(ball).tobytes(), 9))


def test_neighbours_tell_of_values():
    """A smooth table is written in fewer bits than the same values in random places."""
    y, x = np.mgrid[:48, :48]
    smooth = np.round(6 * np.sin(x / 9) * np.cos(y / 11))[..., None].astype(int)
    mixed = np.random.default_rng(0).permutation(smooth.reshape(-1)).reshape(smooth.shape)
    everywhere = np.ones(smooth.shape[:2], bool)
    sizes = [len(written(lambda coder, t=t: code_values(coder, everywhere, -6, 6, t))) for t in (smooth, mixed)]
    assert sizes[0] < 0.6 * sizes[1]


def test_two_writings_are_the_same_bytes():
    table = np.random.default_rng(1).integers(-3, 4, (9, 9, 5))
    everywhere = np.ones((9, 9), bool)
    first, second = (written(lambda coder: code_values(coder, everywhere, -3, 3, table)) for _ in range(2))
    assert first == second


def test_a_stream_of_lzma_that_ends_early_or_is_none():
    writer = LzmaEncoder()
    code_numbers(writer, 10, 4, np.arange(10) % 4)
    with pytest.raises(BrokenFile, match="ends early"):
        code_numbers(LzmaDecoder(writer.bytes()), 11, 4)
    with pytest.raises(BrokenFile, match="damaged"):
        LzmaDecoder(b"not a stream")


def test_without_constriction_lzma_writes(monkeypatch):
    monkeypatch.setattr(entropy_coding, "constriction", None)
    name, encoder = make_encoder()
    assert name == "lzma" and isinstance(encoder, LzmaEncoder)
    with pytest.raises(BadInput, match="pip install constriction"):
        make_decoder("range", b"")
