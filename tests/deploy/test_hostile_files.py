"""Any damage to an int8 file, by accident or by a writer who knows the format, is one clear error.

Every mutation ends in BrokenFile, or in the very picture that the good file gives; never in another
exception, a hang, or another picture.
"""

import json
import struct

import pytest
import torch
from helpers import SMALL_TENSOR, TINY, calibrated, make_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from compressors.kinds import COMPRESSORS
from compressors.vq import VQCompressor
from deploy.model_file import load_renderer, read_model
from fields import tensorf_training
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.renderer import render_image
from utils.errors import BrokenFile
from utils.files import digest

CPU = torch.device("cpu")
MUTATIONS = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD_NUMBERS = st.sampled_from([0, -1, 1e-45, 1e38, -1e38, 2**31, 2**63, float("nan"), float("inf"), -float("inf")])
ODD_VALUES = st.one_of(ODD_NUMBERS, st.none(), st.booleans(), st.text(max_size=5), st.lists(st.integers(), max_size=4))


@pytest.fixture(scope="module", params=["qat", "ternary", "w4a8", "vq"])
def good(request, tmp_path_factory):
    """A quantised file's bytes, where to write others, and its picture."""
    folder = tmp_path_factory.mktemp("hostile")
    args, scene, renderer = make_run(
        TINY, "--netdepth", "3", "--netwidth", "16", "--procedural_size", "12", *SMALL_TENSOR
    )
    if request.param == "vq":
        field = tensorf_training.from_flags(args, renderer.grid.aabb)
        renderer = OccupancyRenderer(field, renderer.grid, renderer.setup, renderer.step, renderer.min_transmittance)
    content = calibrated(COMPRESSORS.get(request.param, VQCompressor), args, scene, renderer).to_bytes()
    (folder / "good.safetensors").write_bytes(content)
    return folder, content, picture(folder / "good.safetensors")


def picture(path) -> torch.Tensor:
    renderer, cameras, _ = load_renderer(path, CPU)
    return render_image(renderer, cameras[0]).rgb


def check(good, content: bytes) -> None:
    folder, _, expected = good
    path = folder / "mutated.safetensors"
    path.write_bytes(content)
    try:
        got = picture(path)
    except BrokenFile as error:
        assert "mutated.safetensors" in str(error) and "\n" not in str(error)
    else:
        assert torch.equal(got, expected)


@MUTATIONS
@given(data=st.data())
def test_damaged_bytes(good, data):
    """Flips, cuts, insertions and overwritten stretches, anywhere."""
    content = bytearray(good[1])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "overwrite", "truncate"]))
        some = data.draw(st.binary(min_size=1, max_size=16))
        if kind == "flip" and at < len(content):
            content[at] ^= some[0] or 1
        elif kind == "cut":
            del content[at : at + len(some)]
        elif kind == "insert":
            content[at:at] = some
        elif kind == "overwrite":
            content[at : at + len(some)] = some
        elif kind == "truncate":
            del content[at:]
        if not content:
            break
    check(good, bytes(content))


@MUTATIONS
@given(size=st.integers(0, 2**64 - 1), rest=st.binary(max_size=64))
def test_damaged_header_size(good, size, rest):
    """The first eight bytes say how long the header is; they may say anything."""
    check(good, struct.pack("<Q", size) + good[1][8:])
    check(good, struct.pack("<Q", size) + rest)


@MUTATIONS
@given(data=st.data())
def test_hostile_writer(good, data):
    """Any one value of metadata or tensors replaced, dropped or added, under a digest that is right."""
    folder = good[0]
    metadata, tensors = read_model(folder / "good.safetensors")
    before = json.dumps(metadata), {key: value.clone() for key, value in tensors.items()}
    if data.draw(st.booleans()):
        replace_in_json(metadata, data)
    else:
        replace_in_tensors(tensors, data)
    metadata["sha256"] = digest([metadata, tensors])
    content = save(tensors, {"nerf_qat": json.dumps(metadata)})
    path = folder / "hostile.safetensors"
    path.write_bytes(content)
    metadata.pop("sha256")
    changed = json.dumps(metadata) != before[0] or not same_tensors(tensors, before[1])
    try:
        renderer, cameras, _ = load_renderer(path, CPU)
    except BrokenFile as error:
        assert "hostile.safetensors" in str(error) and "\n" not in str(error)
        assert changed
        return
    # What loads is another model that is possible in itself: it must render to finite colours.
    got = render_image(renderer, cameras[0]).rgb if cameras.height * cameras.width < 10_000 else torch.zeros(1)
    assert torch.isfinite(got).all() and got.min() >= 0 and got.max() <= 1 + 1e-5  # weights sum to 1 but for rounding


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and torch.equal(a[key], b[key]) for key in a
    )


def replace_in_json(value: dict | list, data) -> None:
    """Walks to a random place of nested JSON and changes it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = data.draw(st.sampled_from(keys))
    if isinstance(value[key], dict | list) and len(value[key]) and data.draw(st.integers(0, 4)):
        return replace_in_json(value[key], data)
    change = data.draw(st.sampled_from(["replace", "drop", "add"]))
    if change == "drop":
        del value[key]
    elif change == "add" and isinstance(value, dict):
        value["surprise"] = data.draw(ODD_VALUES)
    else:
        value[key] = data.draw(ODD_VALUES)


def replace_in_tensors(tensors: dict, data) -> None:
    key = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[key]
    change = data.draw(st.sampled_from(["value", "drop", "shape", "type", "add", "huge"]))
    if change == "value":
        number = float(data.draw(ODD_NUMBERS))
        if not tensor.is_floating_point():
            number = data.draw(st.integers(0, 127))
        tensor.view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = number
    elif change == "drop":
        del tensors[key]
    elif change == "shape":
        tensors[key] = torch.cat([tensor.view(-1), tensor.view(-1)[:1]])
    elif change == "type":
        tensors[key] = tensor.to(data.draw(st.sampled_from([torch.float16, torch.int32, torch.int8, torch.bool])))
    elif change == "add":
        tensors["network_fn.surprise"] = tensor.clone()
    else:
        tensors[key] = tensor.view(-1)[:1].expand(10_000).clone()
