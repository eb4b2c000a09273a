"""Small files that ask for much: refused by what they hold, before anything is made for them."""

import json
import lzma
import math
import tracemalloc
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import CPU, HIERARCHICAL, SMALL_TENSOR, TINY, calibrated, fails_cleanly, make_run

import run_nerf
import run_vq
from compressors.vq import VQCompressor
from deploy import vq_file
from deploy.coders import AdaptiveModel, LzmaDecoder, LzmaEncoder, RangeDecoder, RangeEncoder, uniform
from deploy.entropy_coding import _cell_fronts
from deploy.grid_file import unpack
from deploy.model_file import load_renderer, read_model, save_float_model
from fields import tensorf_training
from rendering.occupancy import OccupancyGrid, _grown
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.renderer import render_image
from scenes.poses import check_poses
from utils.errors import BadInput, BrokenFile
from utils.files import digest


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Untrained models: float32 of both samplers, TensoRF and VQ-TensoRF."""
    folder = tmp_path_factory.mktemp("files")
    small = "--netwidth", "16", "--netwidth_fine", "16", "--procedural_size", "12", *SMALL_TENSOR
    light_field = [*TINY, "--no_random_bkgd", "--field", "light_field", "--sampler", "light_field"]
    kinds = {"nerf": TINY, "hierarchical": HIERARCHICAL, "mip": [*TINY, "--field", "mip"], "light_field": light_field}
    for name, flags in kinds.items():
        args, scene, renderer = make_run(flags, *small)
        save_float_model(folder / f"{name}.safetensors", renderer, scene.render_path)
        if name == "nerf":
            field = tensorf_training.from_flags(args, renderer.grid.aabb)
            tensor = OccupancyRenderer(field, renderer.grid, renderer.setup, renderer.step, renderer.min_transmittance)
            save_float_model(folder / "tensorf.safetensors", tensor, scene.render_path)
            (folder / "vq.safetensors").write_bytes(calibrated(VQCompressor, args, scene, tensor).to_bytes())
    return folder


def altered(files, name: str, change):
    """The path of a file with a right digest whose metadata and tensors `change` has changed."""
    metadata, tensors = read_model(files / f"{name}.safetensors")
    change(metadata, metadata["fields"]["network_fn"], tensors)
    metadata["sha256"] = digest([metadata, tensors])
    path = files / "altered.safetensors"
    path.write_bytes(safetensors.torch.save(tensors, {"nerf_qat": json.dumps(metadata)}))
    return path


def refused(files, name: str, change, says: str) -> None:
    with pytest.raises(BrokenFile) as error:
        load_renderer(altered(files, name, change), CPU)
    message = str(error.value)
    assert says in message and message.isprintable() and len(message) < 400 + len(str(files))


def set_in(section: str, **values):
    return lambda metadata, field, tensors: (field if section == "field" else metadata[section]).update(values)


def as_bytes(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def unfolds_to(count: int, **values):
    """The stream of a VQ file becomes so many LZMA'd zeros."""

    def change(metadata, field, tensors) -> None:
        field.update(coder="lzma", **values)
        tensors["network_fn.stream"] = as_bytes(lzma.compress(bytes(count), preset=0))

    return change


def many_frames(metadata, field, tensors) -> None:
    tensors["render_path"] = tensors["render_path"][:1].repeat(100_001, 1, 1)


def far_step(metadata, field, tensors) -> None:
    low, high = metadata["sampler"]["aabb"]
    metadata["sampler"]["step"] = math.dist(low, high) / 20_000


def cells_of_no_grid(metadata, field, tensors) -> None:
    tensors["occupancy"] = as_bytes(zlib.compress(bytes(2**28), 1))


def hull(**values):
    """Proposals in the place of the sampler, and their hull."""

    def change(metadata, field, tensors) -> None:
        box = metadata["sampler"]["aabb"]
        own = {"kind": "proposal", "bins": [8, 8], "ray_warp": "linear", "opaque": False}
        metadata["sampler"] = own | {"hull": {"grid_resolution": 16, "aabb": box} | values}

    return change


def lindisp_from_zero(metadata, field, tensors) -> None:
    metadata["sampler"]["lindisp"], metadata["rays"]["near"] = True, 0


def long_key(metadata, field, tensors) -> None:
    metadata["weight_bits\x1b[31m" + "x" * 5000] = 3


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("nerf", set_in("sampler", grid_resolution=1024), "grid_resolution is 1024"),
        ("nerf", set_in("sampler", grid_resolution=512), "unfold"),
        ("nerf", far_step, "step is"),
        ("nerf", set_in("camera", height=65_536, width=65_536), "65536 x 65536 pixels"),
        ("nerf", set_in("field", width=8192, depth=256), "expected torch.float32 (8192,"),
        ("nerf", many_frames, "100000 frames at most"),
        ("nerf", long_key, "unexpected"),
        ("hierarchical", cells_of_no_grid, "unexpected tensor 'occupancy'"),
        ("nerf", hull(grid_resolution=1024), "grid_resolution is 1024"),
        ("nerf", set_in("camera", K=[[1e-38, 0, 6], [0, 20, 6], [0, 0, 1]]), "focal length"),
        ("nerf", set_in("field", skips=[1] * 100_000), "skips"),
        ("hierarchical", set_in("sampler", n_samples=2), "n_samples is 2"),
        ("hierarchical", lindisp_from_zero, "lindisp"),
        ("mip", set_in("field", ball=1e-30), "ball is 1e-30"),
        ("light_field", set_in("field", depth=2000), "depth is 2000"),
        ("light_field", set_in("field", points=0), "points is 0"),
        ("light_field", set_in("field", kind="nerf"), "kind is 'nerf'"),
        ("nerf", set_in("field", kind="light_field"), "kind is 'light_field'"),
        ("light_field", set_in("sampler", every=0), "every is 0"),
        ("light_field", set_in("sampler", every="x"), "every"),
        ("light_field", set_in("sampler", kind="occupancy"), "sampler"),
        ("nerf", hull(aabb=3), "aabb is not two corners"),
        ("nerf", hull(more=1), "sampler hull: unexpected 'more'"),
        ("nerf", hull(), "16^3 cells"),
        ("nerf", set_in("sampler", cone_steps=-1), "cone_steps is -1"),
        ("nerf", set_in("sampler", grid_coder="zip"), "grid_coder"),
        ("hierarchical", set_in("sampler", n_samples=65_536), "n_samples is 65536"),
        ("hierarchical", set_in("sampler", n_importance=65_536), "n_importance is 65536"),
        ("tensorf", set_in("field", features=4096, hidden=8192, feature_octaves=16), "expected torch.float32"),
        ("vq", set_in("sampler", grid_resolution=1024), "grid_resolution is 1024"),
        ("vq", set_in("sampler", grid_resolution=512), "few bytes cannot mean"),
        ("vq", set_in("field", resolution=[4096] * 3), "expected 67108864 at most"),
        ("vq", set_in("field", resolution=[2048] * 3), "few bytes cannot mean"),
        ("vq", set_in("field", codes=[65_536] * 3, density_ranks=[4096] * 3), "few bytes cannot mean"),
        ("vq", set_in("field", features=4096, hidden=8192, feature_octaves=16), "expected torch.float16"),
        ("vq", unfolds_to(2**25, resolution=[2048, 2048, 2048]), "few bytes cannot mean"),
        ("vq", unfolds_to(100), "ends early"),
    ],
)
def test_what_a_file_asks_for_follows_from_what_it_holds(files, name, change, says):
    refused(files, name, change, says)


def test_comparing_many_entries_with_many_codes_is_believed_of_long_streams_only(files, monkeypatch):
    load_renderer(files / "vq.safetensors", CPU)
    monkeypatch.setattr(vq_file, "FREE_COMPARISONS", 0)
    monkeypatch.setattr(vq_file, "COMPARISONS_A_BYTE", 0)
    refused(files, "vq", set_in("camera"), "more entries and codes")


@pytest.mark.parametrize("encoder, decoder", [(RangeEncoder, RangeDecoder), (LzmaEncoder, LzmaDecoder)])
def test_a_decoder_gives_no_more_symbols_than_are_believed(encoder, decoder):
    def models():
        return AdaptiveModel(1, uniform(3)), np.zeros(10, np.int64)

    writer = encoder()
    writer.code(*models(), np.arange(10) % 3)
    reader = decoder(writer.bytes(), 19)
    assert reader.code(*models()).tolist() == (np.arange(10) % 3).tolist()
    reader.expect(9)
    with pytest.raises(BrokenFile, match="10 symbols more"):
        reader.code(*models())
    with pytest.raises(BrokenFile, match="symbols more"):  # where there is only one symbol, nothing is read
        decoder(writer.bytes(), 9).code(AdaptiveModel(1, uniform(1)), np.zeros(10, np.int64))


def test_lzma_unfolds_only_what_is_asked_for():
    bomb = lzma.compress(bytes(2**26), preset=0)
    tracemalloc.start()
    try:
        decoder = LzmaDecoder(bomb)
        assert decoder.code(AdaptiveModel(1, uniform(300)), np.zeros(1000, np.int64)).sum() == 0
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (5, 1, 2), (1, 7, 3), (9, 2, 1)])
def test_cells_come_in_the_order_that_files_have_them(shape):
    """By 4 x + 2 y + z, and those alike by x, then y."""
    x, y, z = (axis.reshape(-1) for axis in np.indices(shape))
    order = np.argsort(4 * x + 2 * y + z, kind="stable")
    expected = np.stack([x[order], y[order], z[order]])
    np.testing.assert_array_equal(np.concatenate([np.stack(at) for at in _cell_fronts(shape)], 1), expected)


def test_cells_spread_as_far_as_asked():
    cells = torch.rand(9, 12, 7, generator=torch.Generator().manual_seed(0)) < 0.01
    before = cells.clone()
    for radius in ([0, 0, 0], [1, 2, 3], [4, 0, 5], [20, 20, 20]):
        expected = torch.zeros_like(cells)
        for x, y, z in before.nonzero().tolist():
            low = [max(0, at - r) for at, r in zip((x, y, z), radius, strict=True)]
            expected[tuple(slice(a, at + r + 1) for a, at, r in zip(low, (x, y, z), radius, strict=True))] = True
        assert torch.equal(_grown(cells, radius), expected) and torch.equal(cells, before)


def test_the_largest_grid_loads():
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    packed = np.zeros(512**3 // 8, np.uint8)
    packed[5] = 255
    grid = OccupancyGrid.of_cells(unpack(as_bytes(zlib.compress(packed.tobytes(), 1)), 512), box)
    assert grid.occupied[0, 0, 40:48].all() and int(grid.occupied.sum()) == 8


# ------------------------------------------------------------------------------ not finite colours


def test_weights_that_overflow_are_said_when_they_are_rendered(files):
    def deep_and_large(metadata, field, tensors) -> None:
        """So that products of the largest weights pass the largest float."""
        for i in range(2, 9):
            for part in ("weight", "bias"):
                tensors[f"network_fn.pts_linears.{i}.{part}"] = tensors[f"network_fn.pts_linears.1.{part}"].clone()
        field.update(depth=9, skips=[])
        for name, tensor in tensors.items():
            if name.endswith("weight"):
                tensor.copy_(9e5 * tensor.sign())

    renderer, cameras, _ = load_renderer(altered(files, "nerf", deep_and_large), CPU)
    with pytest.raises(BrokenFile, match="not finite") as error:
        render_image(renderer, cameras[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_weights_that_are_no_numbers_are_refused(files, value):
    def change(metadata, field, tensors) -> None:
        tensors["network_fn.rgb_linear.bias"][1] = value

    refused(files, "nerf", change, "rgb_linear.bias holds NaN")


# ------------------------------------------------------------------------------------ flags, poses


@pytest.mark.parametrize(
    "module, flags, says",
    [
        (run_nerf, [*TINY, "--grid_resolution", "513"], "--grid_resolution 513"),
        (run_nerf, [*TINY, "--march_step", "0.001"], "--march_step 0.001"),
        (run_nerf, [*HIERARCHICAL, "--N_samples", "5000"], "--N_samples 5000"),
        (run_nerf, [*HIERARCHICAL, "--N_importance", "5000"], "--N_importance 5000"),
        (run_vq, [*TINY, "--field", "tensorf", "--grid_resolution", "330"], "--grid_resolution 330"),
    ],
)
def test_no_run_trains_what_its_file_could_not_say(tmp_path, capsys, module, flags, says):
    fails_cleanly(capsys, module, *flags, "--basedir", tmp_path, says=(says,))


def test_the_first_wrong_pose_is_named():
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (2000, 1, 1))
    check_poses(poses, "path")
    for value, says in ((math.nan, "pose 7 holds NaN"), (2.0, "pose 7 is not a rotation"), (-1.0, "det = -1")):
        wrong = poses.copy()
        wrong[[7, 9], 0, 0] = value
        with pytest.raises(BadInput, match=says):
            check_poses(wrong, "path")
