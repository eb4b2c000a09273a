"""The range coder: exact round trips, sizes against entropies, wavefronts in their order."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import coders
from deploy.coders import (
    AdaptiveModel,
    LzmaDecoder,
    LzmaEncoder,
    RangeDecoder,
    RangeEncoder,
    make_decoder,
    make_encoder,
    uniform,
)
from deploy.entropy_coding import code_cells, code_from_zero, code_numbers, code_states, code_values, fronts
from utils.errors import BadInput, BrokenFile

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
    wanted, there = states == 2, states == 1
    codes = random.integers(-3, 4, (20, channels))  # some of them alike
    numbers = random.integers(0, 20, states.shape) * there
    table = random.integers(-7, 12, (rows, columns, channels)) * (wanted | there)[..., None]
    writer = encoder()
    code_states(writer, states.shape, states)
    code_numbers(writer, there, codes, numbers)
    code_values(writer, wanted, -7, 11, table, there)
    reader = decoder(writer.bytes())
    np.testing.assert_array_equal(code_states(reader, states.shape), states)
    np.testing.assert_array_equal(code_numbers(reader, there, codes), numbers)
    known = table * there[..., None]
    np.testing.assert_array_equal(code_values(reader, wanted, -7, 11, known, there), table)


EVERYWHERE = np.ones((64, 64), bool)


def test_numbers_that_neighbours_tell_nothing_of_take_their_entropy():
    random = np.random.default_rng(0)
    codes, numbers = random.integers(-9, 10, (256, 8)), random.integers(0, 256, EVERYWHERE.shape)
    size = len(written(lambda coder: code_numbers(coder, EVERYWHERE, codes, numbers)))
    assert numbers.size < size < 1.03 * numbers.size


def test_neighbours_tell_of_numbers():
    """Near codes side by side take a fraction of what the same ones do in random places."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 10
    plane = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x), np.cos(2 * y)], -1) * 20
    codes = np.round(plane.reshape(-1, 4)[random.permutation(64 * 64)[:256]]).astype(int)
    numbers = np.square(plane[:, :, None] - codes).sum(-1).argmin(-1)
    mixed = random.permutation(numbers.reshape(-1)).reshape(numbers.shape)
    sizes = [len(written(lambda coder, n=n: code_numbers(coder, EVERYWHERE, codes, n))) for n in (numbers, mixed)]
    assert sizes[0] < 0.5 * sizes[1]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=50), st.integers(0, 2**31))
def test_whole_numbers_of_any_size_come_back(values, seed):
    """What octaves and bits under many contexts write is what they read."""
    values = np.array(values)
    contexts = np.random.default_rng(seed).integers(0, 3, len(values))

    def models() -> tuple[AdaptiveModel, AdaptiveModel]:
        return AdaptiveModel(3, uniform(22)), AdaptiveModel(8 * 22, uniform(2))

    content = written(lambda coder: code_from_zero(coder, *models(), contexts, values))
    np.testing.assert_array_equal(code_from_zero(RangeDecoder(content), *models(), contexts), values)


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
    code_states(writer, (2, 5), np.ones((2, 5), int))
    with pytest.raises(BrokenFile, match="ends early"):
        code_states(LzmaDecoder(writer.bytes()), (2, 6))
    with pytest.raises(BrokenFile, match="damaged"):
        LzmaDecoder(b"not a stream")


def test_without_constriction_lzma_writes(monkeypatch):
    monkeypatch.setattr(coders, "constriction", None)
    name, encoder = make_encoder()
    assert name == "lzma" and isinstance(encoder, LzmaEncoder)
    with pytest.raises(BadInput, match="pip install constriction"):
        make_decoder("range", b"")
