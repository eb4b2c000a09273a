"""What a page holds coded, decoded in a real browser: exactly what Python decodes from the same stream."""

import base64
import json

import numpy as np
import pytest
import torch
from chromium import browser, find_chromium

from deploy import coders, entropy_coding
from deploy.coders import make_encoder
from deploy.entropy_coding import code_cells, code_numbers, code_states, code_values
from deploy.web_arrays import Arrays
from deploy.web_page import SOURCES, script
from fields.vq_tensorf import CODED, KEPT

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; apt-get install chromium")
pytestmark = [
    needs_chromium,
    pytest.mark.skipif(coders.constriction is None, reason="no constriction, whose streams these are"),
]
READ_MODEL = """function readModel(content) {
    const length = new DataView(content).getUint32(0, true);
    const described = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 4, length)));
    return { described, arrays: new Uint8Array(content, 4 + length) };
}"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coder")
    page = folder / "page.html"
    page.write_text(f"<script>{READ_MODEL}\n{script('unfold.js').decode()}</script>")
    with browser(folder / "profile", "--disable-gpu") as tab:
        tab.open(page.as_uri())
        tab.wait_for("typeof unfold === 'function'")
        yield tab


def decoded(tab, coder, parts: list[dict]) -> list[np.ndarray]:
    """What the page makes of an encoder's stream that holds `parts`, bytes."""
    stream = coder.bytes()
    described = {"arrays": [[0, len(stream)], *([len(stream), 0] for _ in parts)]}
    described["packed"] = []
    described["coded"] = [{"stream": 0, "parts": [{"to": 1 + i, **part} for i, part in enumerate(parts)]}]
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 4)
    program = base64.b64encode((SOURCES / "range_coder.wasm").read_bytes()).decode()
    model = base64.b64encode(len(header).to_bytes(4, "little") + header + stream).decode()
    found = tab.run(
        f"""(async () => {{
            const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
            const {{ described, arrays }} = readModel(await unfold(bytes("{model}"), bytes("{program}")));
            return described.arrays.slice(1).map(([start, length]) =>
                btoa(Array.from(arrays.subarray(start, start + length), (byte) => String.fromCharCode(byte)).join("")));
        }})()"""
    )
    return [np.frombuffer(base64.b64decode(text), np.uint8) for text in found]


@pytest.mark.parametrize("side", [1, 2, 5, 24])
def test_cells(tab, side):
    random = np.random.default_rng(side)
    at = np.indices((side,) * 3) - (side - 1) / 2
    cells = ((at**2).sum(0) < (0.4 * side) ** 2) ^ (random.random((side,) * 3) < 0.02)
    _, coder = make_encoder()
    code_cells(coder, cells.shape, cells)
    (bits,) = decoded(tab, coder, [{"kind": "cells", "side": side}])
    assert np.array_equal(np.unpackbits(bits, count=side**3).reshape(cells.shape), cells)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-1, 2), (-128, 127)])
def test_tables(tab, low, high):
    """Two in one stream, the second as floats."""
    random = np.random.default_rng(1)
    drift = np.cumsum(random.normal(size=(1, 70, 9)), axis=1)
    table = (drift * (high - low) / 9).round().clip(low, high).astype(np.int8)
    _, coder = make_encoder()
    for _ in range(2):
        code_values(coder, np.ones((1, 70), bool), low, high, table)
    part = {"kind": "table", "columns": 70, "channels": 9, "range": [low, high]}
    whole, floats = decoded(tab, coder, [part, part | {"step": 0.1}])
    assert np.array_equal(whole.view(np.int8).reshape(table.shape), table)
    assert np.array_equal(floats.view(np.float32).reshape(table.shape), (table * 0.1).astype(np.float32))


@pytest.mark.parametrize("most", [entropy_coding.MOST_DISTANCES, 700])
@pytest.mark.parametrize("codes", [0, 1, 300])
@pytest.mark.parametrize("shape", [(40, 23), (3, 60), (1, 1)])
def test_planes(tab, monkeypatch, shape, codes, most):
    """States, a codebook, whose rows which entries have, and what the others have; also with two entries at once."""
    monkeypatch.setattr(entropy_coding, "MOST_DISTANCES", most)
    random = np.random.default_rng(2)
    ranks, low, high = (3, 5), -9, 12
    places = np.indices(shape).sum(0)
    state = (2 + np.sin(places / 5) + 0.3 * random.normal(size=shape)).round().clip(0, 2).astype(np.uint8)
    if not codes:
        state[state == CODED] = KEPT
    book = random.integers(low, high + 1, (1, codes, sum(ranks))).astype(np.int8)
    numbers = [np.where(state == CODED, random.integers(0, max(codes, 1), shape), 0) for _ in ranks]
    plane = np.zeros((*shape, sum(ranks)), np.int8)
    plane[state == KEPT] = random.normal(0, 3, (int((state == KEPT).sum()), sum(ranks))).round().clip(low, high)
    _, coder = make_encoder()
    code_states(coder, shape, state)
    code_values(coder, np.ones((1, codes), bool), low, high, book)
    if (state == CODED).any():
        books = np.split(book[0], [ranks[0]], axis=1)
        for one, number in zip(books, numbers, strict=True):
            code_numbers(coder, state == CODED, one, number)
        of_codes = [one[number[state == CODED]] for one, number in zip(books, numbers, strict=True)]
        plane[state == CODED] = np.concatenate(of_codes, axis=1)
    code_values(coder, state == KEPT, low, high, plane, state == CODED)
    shape_of = {"rows": shape[0], "columns": shape[1], "ranks": ranks, "codes": codes, "most": most}
    (found,) = decoded(tab, coder, [{"kind": "plane", **shape_of, "range": [low, high]}])
    assert np.array_equal(found.view(np.int8).reshape(plane.shape), plane)


@pytest.mark.parametrize(
    ("low", "high", "together"), [(-1, 1, 5), (-8, 7, 2), (0, 1, 8), (-2, 3, 3), (0, 0, 1), (-90, 90, 1)]
)
def test_weights_of_few_bits(tab, low, high, together):
    weights = torch.from_numpy(np.random.default_rng(3).integers(low, high + 1, (7, 9)).astype(np.int8))
    weights[0, :2] = torch.tensor([low, high])
    arrays = Arrays()
    assert arrays.add_weights(weights) == 0
    assert len(arrays.parts[0]) == 4 * np.ceil(np.ceil(63 / together) / 4)
    shown = tab.run(
        f"""(() => {{
            const [packed] = {json.dumps(arrays.packed or [None])};
            const bytes = new Uint8Array({list(arrays.parts[0])});
            return Array.from(new Int8Array(packed ? unpackedWeights(bytes, packed).buffer : bytes.buffer));
        }})()"""
    )
    assert shown[:63] == weights.flatten().tolist()
