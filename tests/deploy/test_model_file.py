"""Files that render alone: round trips, size, damage, and a fresh process with nothing else."""

import json
import subprocess
import sys

import pytest
import safetensors
import torch
from conftest import ROOT
from helpers import HIERARCHICAL, TINY, calibrated, make_run

from compressors.int8 import Int8Compressor
from deploy.model_file import load_renderer, read_model, save_float_model
from deploy.nerf_file import int8_tensors
from rendering.renderer import render_image
from utils.errors import BrokenFile

CPU = torch.device("cpu")
VARIANTS = {"occupancy": TINY, "hierarchical": [*HIERARCHICAL, "--use_viewdirs"]}


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    """A renderer before and after preparation, and its two files."""
    folder = tmp_path_factory.mktemp(request.param)
    args, scene, renderer = make_run(VARIANTS[request.param])
    save_float_model(folder / "float.safetensors", renderer, scene.render_path)
    float_picture = render_image(renderer, scene.render_path[0])
    compressor = calibrated(Int8Compressor, args, scene, renderer)
    compressor.finish()
    (folder / "int8.safetensors").write_bytes(compressor.to_bytes())
    return folder, renderer, scene, float_picture


def test_float_file_renders_the_same_picture(saved):
    folder, _, scene, picture = saved
    renderer, path, metadata = load_renderer(folder / "float.safetensors", CPU)
    assert metadata["precision"] == "float32"
    assert torch.equal(render_image(renderer, path[0]).rgb, picture.rgb)
    assert torch.equal(path.c2w, scene.render_path.c2w) and torch.equal(path.K[1], scene.render_path.K[1])


def test_int8_file_renders_what_fake_quantisation_renders(saved):
    folder, fake_quantized, _, _ = saved
    renderer, path, _ = load_renderer(folder / "int8.safetensors", CPU)
    a, b = render_image(renderer, path[0]), render_image(fake_quantized, path[0])
    assert float((a.rgb - b.rgb).abs().mean()) < 2e-3


def test_dtypes_in_the_file_are_int8(saved):
    """What the file holds, not what the program says: no float copy of a quantised weight."""
    folder, renderer, _, _ = saved
    with safetensors.safe_open(folder / "int8.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, field in renderer.fields.items():
        for key, (dtype, shape) in int8_tensors(field.config).items():
            assert tensors[f"{name}.{key}"].dtype == dtype and tuple(tensors[f"{name}.{key}"].shape) == shape
    weights = sum(t.numel() for k, t in tensors.items() if k.endswith(".weight"))
    floats = sum(t.numel() for k, t in tensors.items() if t.dtype == torch.float32 and k != "render_path")
    assert floats < 0.2 * weights


def test_full_size_int8_file_is_a_quarter_of_the_float_one(tmp_path):
    args, scene, renderer = make_run(TINY, "--netdepth", "8", "--netwidth", "256", "--multires", "10")
    big = save_float_model(tmp_path / "float.safetensors", renderer, scene.render_path)
    small = len(calibrated(Int8Compressor, args, scene, renderer).to_bytes())
    assert big > 4 * 550_000 and small / big < 0.27


def test_a_fresh_process_renders_the_file_alone(saved, tmp_path):
    """Copied to an empty folder, with no data, no checkpoint and no config: the same pixels."""
    folder, _, _, _ = saved
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "int8.safetensors").read_bytes())
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import torch; from deploy.model_file import load_renderer; from rendering.renderer import render_image\n"
        "renderer, path, _ = load_renderer('alone.safetensors', torch.device('cpu'))\n"
        "torch.save(render_image(renderer, path[1]).rgb, 'picture.pt')\n"
        "assert 'torch._dynamo' not in sys.modules, 'seconds of imports that rendering has no use for'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    renderer, path, _ = load_renderer(alone, CPU)
    assert torch.equal(torch.load(tmp_path / "picture.pt"), render_image(renderer, path[1]).rgb)


def test_every_flipped_byte_is_noticed(saved, tmp_path):
    folder, _, _, _ = saved
    good = (folder / "int8.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    metadata, tensors = read_model(folder / "int8.safetensors")
    positions = [*range(0, 4000, 97), *range(4000, len(good), max(1, len(good) // 60))]
    for position in positions:
        damaged = bytearray(good)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        try:
            again, same_tensors = read_model(path)
        except BrokenFile as error:
            assert "model.safetensors" in str(error) and "\n" not in str(error)
        else:  # JSON leaves a few characters without meaning
            assert again == metadata and all(torch.equal(same_tensors[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize("size", [0, 5, 8, 500, -1])
def test_truncated_file(saved, tmp_path, size):
    good = (saved[0] / "int8.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(good[:size])
    with pytest.raises(BrokenFile, match="m.safetensors"):
        load_renderer(tmp_path / "m.safetensors", CPU)


def rewrite(source, target, change) -> None:
    """Writes a file whose metadata is changed and whose digest is right again: a hostile writer."""
    from safetensors.torch import save_file

    from utils.files import digest

    metadata, tensors = read_model(source)
    change(metadata, tensors)
    metadata["sha256"] = digest([metadata, tensors])
    save_file(tensors, target, {"nerf_qat": json.dumps(metadata)})


@pytest.mark.parametrize(
    "change",
    [
        lambda m, t: m.update(version=99),
        lambda m, t: m["fields"]["network_fn"].update(width=64),
        lambda m, t: m["fields"]["network_fn"].pop("depth"),
        lambda m, t: m["fields"]["network_fn"].update(surprise=1),
        lambda m, t: m["rays"].pop("near"),
        lambda m, t: m["camera"].update(K=[[1]]),
        lambda m, t: m["sampler"].update(kind="magic"),
        lambda m, t: t.update(extra=torch.zeros(3)),
        lambda m, t: t.pop("render_path"),
    ],
)
def test_consistent_nonsense_is_one_clear_error(saved, tmp_path, change):
    rewrite(saved[0] / "int8.safetensors", tmp_path / "m.safetensors", change)
    with pytest.raises(BrokenFile, match=r"m\.safetensors") as error:
        load_renderer(tmp_path / "m.safetensors", CPU)
    assert "\n" not in str(error.value)
