"""The exported graph is valid and says what the reference executor says."""

import onnx
import onnxruntime
import pytest
import torch
from helpers import HIERARCHICAL, TINY, calibrated, make_run, random_int8_field

from compressors.int8 import Int8Compressor
from deploy.backends.int8 import Int8Linear
from deploy.backends.onnx_field import field_to_onnx
from deploy.backends.onnx_int8 import Int8Graph, integer_bias
from deploy.backends.onnx_runtime import OnnxField, export_onnx
from deploy.model_file import load_renderer
from evaluation.videos import render_video
from fields.mip_nerf import MipConfig
from fields.nerf import FieldConfig
from rendering.points import Cones, Points
from rendering.renderer import RenderLimits, render_image

CONFIGS = {
    "views": FieldConfig(depth=6, width=64, multires=6, density_activation="softplus", density_bias=-4),
    "no views": FieldConfig(depth=3, width=32, skips=(), use_viewdirs=False, multires=4),
    "no encoding": FieldConfig(depth=2, width=16, i_embed=-1),
    "cones": MipConfig(depth=3, width=32, multires=5, directions=21, ball=0.5),
}


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_runtime_agrees_with_the_reference(config, bits):
    field = random_int8_field(config, bits)
    onnx_field = OnnxField(field)
    generator = torch.Generator().manual_seed(1)
    positions = 2 * torch.rand(20_000, 3, generator=generator) - 1
    directions = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=generator), dim=-1)
    half = 0.05 * torch.rand(20_000, generator=generator)
    t, radii = torch.ones(20_000), 0.02 * torch.rand(20_000, generator=generator)
    points = Points(positions, directions, Cones(positions - directions, directions, t - half, t + half, radii))
    density, rgb, _ = field(points)
    assert density.std() > 0 and rgb.std() > 0.01  # not a constant
    onnx_density, onnx_rgb, _ = onnx_field(points)
    # A code that falls on the other side of a tie changes what follows a little, in some rows.
    difference = (rgb - onnx_rgb).abs().amax(-1)
    assert (difference > 1e-4).float().mean() < 0.25
    assert difference.mean() < 5e-4 * 2 ** (8 - bits) and difference.max() < 0.02 * 2 ** (8 - bits)
    if not field.wants_cones:
        torch.testing.assert_close(onnx_field.density(positions), onnx_density)


def run_layer(layer: Int8Linear, codes: torch.Tensor) -> torch.Tensor:
    """One layer of codes `[P, in]` by ONNX Runtime."""
    graph = Int8Graph()
    output = graph.product("codes", layer, "layer")
    helper, types = onnx.helper, onnx.TensorProto
    kind = types.FLOAT if layer.is_head else types.UINT8
    model = helper.make_graph(
        graph.nodes, "layer",
        [helper.make_tensor_value_info("codes", types.UINT8, ["P", layer.weight.shape[1]])],
        [helper.make_tensor_value_info(output, kind, ["P", len(layer.weight)])],
        list(graph.constants.values()),
    )  # fmt: skip
    model = helper.make_model(model, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=graph.ir_version)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"codes": codes.numpy()})[0])


def test_every_layer_is_within_one_rounding_step():
    """On what the reference itself feeds its layers for 100,000 random samples."""
    field = random_int8_field(CONFIGS["views"])
    seen = {}
    for name, layer in field.network.layers.items():
        layer.register_forward_hook(lambda layer, x, y, name=name: seen.update({name: (layer, x[0], y)}))
    positions = 2 * torch.rand(100_000, 3, generator=torch.Generator().manual_seed(2)) - 1
    field(Points(positions, torch.nn.functional.normalize(positions, dim=-1)))
    assert len(seen) == 10
    for layer, codes, expected in seen.values():
        got = run_layer(layer, codes)
        assert expected.float().std() > 0
        if layer.is_head:  # its bias is rounded to whole accumulator units
            assert ((got - expected).abs() < 0.51 * layer.scale + 1e-5).all()
        else:
            difference = (got.int() - expected.int()).abs()
            assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_integer_bias_by_hand():
    tensors = {
        "weight": torch.tensor([[2, -3]], dtype=torch.int8),
        "scale": torch.tensor([0.5]),
        "bias": torch.tensor([1.8]),
    }
    layer = Int8Linear(tensors, torch.tensor([10, 4], dtype=torch.uint8), relu=False, rounding=None)
    assert integer_bias(layer).tolist() == [4 - (2 * 10 - 3 * 4)]


def test_quantised_gemms_are_one_kernel_each(tmp_path):
    """ONNX Runtime recognises every layer: no Gemm in float is left after its optimiser."""
    field = random_int8_field(CONFIGS["views"])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = field_to_onnx(field).SerializeToString()
    options.log_severity_level = 3  # that the file fits this CPU only
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    operations = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operations.count("QGemm") == len(field.network.layers)
    assert "Gemm" not in operations and "MatMul" not in operations


def test_zero_points_are_whole_numbers_and_biases_have_none():
    """As WebGPU builds of runtimes want it, which refuse a zero point of int32."""
    model = field_to_onnx(random_int8_field(CONFIGS["views"]))
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types, seen = onnx.TensorProto, set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            of_bias = kinds.get(node.input[0]) == types.INT32
            assert len(node.input) == (2 if of_bias else 3)
            seen.add("bias" if of_bias else types.DataType.Name(kinds[node.input[2]]))
    assert seen == {"bias", "UINT8", "INT8"}


def test_export_writes_valid_files(tmp_path):
    field = random_int8_field(CONFIGS["views"])
    renderer = torch.nn.Module()
    renderer.fields = {"network_fn": field, "network_fine": field}
    sizes = export_onnx(renderer, tmp_path / "model.onnx")
    assert set(sizes) == {"model.onnx", "model_fine.onnx"}
    for name, size in sizes.items():
        onnx.checker.check_model(str(tmp_path / name), full_check=True)
        assert (tmp_path / name).stat().st_size == size
    weights = sum(layer.weight.numel() for layer in field.network.layers.values())
    assert weights < sizes["model.onnx"] < 1.5 * weights + 20_000


def test_a_hierarchical_file_renders_and_exports(tmp_path):
    """Two fields without a tensor of PyTorch's in them once ONNX Runtime has them."""
    args, scene, renderer = make_run(HIERARCHICAL, "--use_viewdirs", "--procedural_size", "12")
    compressor = calibrated(Int8Compressor, args, scene, renderer)
    compressor.finish()
    (tmp_path / "int8.safetensors").write_bytes(compressor.to_bytes())
    expected, path, _ = load_renderer(tmp_path / "int8.safetensors", torch.device("cpu"))
    renderer, _, _ = load_renderer(tmp_path / "int8.safetensors", torch.device("cpu"), "onnxruntime")
    files = render_video(renderer, path, tmp_path / "video", RenderLimits())
    assert all(file.stat().st_size > 0 for file in files)
    a, b = render_image(expected, path[0]).rgb, render_image(renderer, path[0]).rgb
    assert float((a - b).abs().mean()) < 2e-3
    assert set(export_onnx(expected, tmp_path / "m.onnx")) == {"m.onnx", "m_fine.onnx"}


def test_proposals_render_and_export(tmp_path):
    """A mip-NeRF and its two proposal networks, by ONNX Runtime as by the reference."""
    flags = ["--field", "mip", "--sampler", "proposal", "--proposal_bins", "16", "12", "--final_bins", "8"]
    args, scene, renderer = make_run(TINY, *flags, "--N_rand", "64", "--use_viewdirs")
    compressor = calibrated(Int8Compressor, args, scene, renderer)
    compressor.finish()
    (tmp_path / "int8.safetensors").write_bytes(compressor.to_bytes())
    expected, path, _ = load_renderer(tmp_path / "int8.safetensors", torch.device("cpu"))
    renderer, _, _ = load_renderer(tmp_path / "int8.safetensors", torch.device("cpu"), "onnxruntime")
    a, b = render_image(expected, path[0]).rgb, render_image(renderer, path[0]).rgb
    assert float((a - b).abs().mean()) < 2e-3
    names = {"m.onnx", "m_proposal_0.onnx", "m_proposal_1.onnx"}
    assert set(export_onnx(expected, tmp_path / "m.onnx")) == names
