"""BitNeRFs as ONNX: what ONNX Runtime gives of the exported graph is what the reference gives."""

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, TINY, calibrated, make_run

from compressors.low_bit import TernaryCompressor, W4A8Compressor, convert_bitnet, default_bits, to_bitnet
from deploy.backends.choose import make_low_bit_field
from deploy.backends.low_bit import RowQuantizedLinear
from deploy.backends.onnx_field import field_to_onnx
from deploy.backends.onnx_low_bit import BitGraph
from deploy.backends.onnx_runtime import OnnxField
from deploy.model_file import load_renderer
from deploy.nerf_file import unpacked_low_bit
from deploy.onnx_file import export
from deploy.packing import FLOAT, TERNARY
from fields.mip_nerf import MipConfig
from fields.nerf import FieldConfig
from rendering.points import Cones, Points
from rendering.renderer import render_image

VIEWS = FieldConfig(depth=6, width=64, multires=6, density_activation="softplus", density_bias=-1)
CONFIGS = {
    "views": VIEWS,
    "no views": FieldConfig(depth=3, width=33, skips=(1,), use_viewdirs=False, multires=4),
    "no encoding": FieldConfig(depth=2, width=16, i_embed=-1),
    "residual": FieldConfig(depth=6, width=64, multires=6, residual=True),
    "cones": MipConfig(depth=3, width=32, multires=5, directions=21, ball=0.5),
}
WEIGHT_TYPES = {TERNARY: "INT2", 3: "INT4", 4: "INT4", 8: "INT8", FLOAT: "FLOAT"}


def random_layers(config: FieldConfig, hidden: int, ends: int, norms: bool = True) -> dict[str, dict]:
    """Tensors by layer of an untrained BitNeRF. hidden, ends: bits of weights. Gains and biases differ by column."""
    network = config.make_network()
    bits = default_bits(network, hidden, ends)
    state = convert_bitnet(to_bitnet(network, bits, norms))
    for key, tensor in state.items():
        if key.endswith("norm"):
            state[key] = (0.5 + torch.rand(tensor.shape)).half()
    return unpacked_low_bit(config, state, bits)


def points_and_cones(count: int) -> Points:
    positions, directions = 2 * torch.rand(count, 3) - 1, F.normalize(torch.randn(count, 3), dim=-1)
    half, t, radii = 0.05 * torch.rand(count), torch.ones(count), 0.02 * torch.rand(count)
    return Points(positions, directions, Cones(positions - directions, directions, t - half, t + half, radii))


def run_layer(layer: RowQuantizedLinear, x: torch.Tensor) -> torch.Tensor:
    """One layer of floats `[P, in]` by ONNX Runtime."""
    graph = BitGraph()
    graph.add("Identity", [graph.linear("x", layer, "layer")], "y")
    helper, FLOAT32 = onnx.helper, onnx.TensorProto.FLOAT
    outputs, inputs = layer.weight.shape
    x_info = helper.make_tensor_value_info("x", FLOAT32, ["P", inputs])
    y_info = helper.make_tensor_value_info("y", FLOAT32, ["P", outputs])
    made = helper.make_graph(graph.nodes, "layer", [x_info], [y_info], list(graph.constants.values()))
    opset = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(made, opset_imports=opset, ir_version=graph.ir_version).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize("largest", [1, 7, 127])
def test_a_layer_is_the_references_but_for_ties(largest, norm):
    """100,000 rows of all sizes; where a code falls on the other side of a tie, one weight more or less is added."""
    codes = torch.randint(-largest, largest + 1, (48, 75), dtype=torch.int8)
    tensors = {"weight": codes, "scale": 0.5 + torch.rand(48), "bias": torch.randn(48)}
    layer = RowQuantizedLinear(tensors | ({"norm": 0.5 + torch.rand(75)} if norm else {}), "reference")
    x = torch.randn(100_000, 75) * torch.logspace(-3, 3, 100_000)[:, None]
    x[0] = 0
    expected, got = layer(x), run_layer(layer, x)
    assert torch.equal(got[0], layer.bias)
    scaled = x * layer.norm if norm else x
    size = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() if norm else torch.ones(len(x), 1)
    step = scaled.abs().amax(-1, keepdim=True) * size / 127
    difference = (got - expected).abs()
    rounding = 1e-5 * (1 + expected.abs())  # of float sums of bias and product
    tied = (difference > rounding).any(-1)
    assert tied.float().mean() < 1e-3
    assert (difference <= 2 * largest * step * layer.scale + rounding).all()


@pytest.mark.parametrize("lowest, kind", [(-1, "INT2"), (-2, "INT4"), (-7, "INT4"), (-8, "INT8"), (-128, "INT8")])
def test_no_code_is_too_large_for_its_type(lowest, kind):
    codes = torch.tensor([[lowest, 1, 0]], dtype=torch.int8)
    layer = RowQuantizedLinear({"weight": codes, "scale": torch.ones(1), "bias": torch.zeros(1)}, "reference")
    graph = BitGraph()
    graph.linear("x", layer, "layer")
    assert onnx.TensorProto.DataType.Name(graph.constants["layer.weight"].data_type) == kind
    x = torch.tensor([[127.0, 5.0, -60.0]])
    assert run_layer(layer, x).tolist() == layer(x).tolist() == [[127.0 * lowest + 5]]


@pytest.mark.parametrize("hidden, ends", [(TERNARY, 8), (4, 8), (3, FLOAT), (TERNARY, TERNARY), (8, 8)])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_runtime_agrees_with_the_reference(config, hidden, ends):
    layers, points = random_layers(config, hidden, ends), points_and_cones(10_000)
    expected = make_low_bit_field(config, layers, CPU, "reference")(points)
    field = make_low_bit_field(config, layers, CPU, "onnxruntime")
    assert isinstance(field, OnnxField)
    density, rgb, _ = field(points)
    assert expected.rgb.std() > 1e-3  # not a constant
    difference = (rgb - expected.rgb).abs().amax(-1)
    # Past a tie what follows differs a little; ties are seldom.
    assert (difference > 1e-5).float().mean() < 0.02 and difference.max() < 0.01
    torch.testing.assert_close(density, expected.density, rtol=0.02, atol=0.02)
    if not field.wants_cones:
        torch.testing.assert_close(field.density(points.positions), density)


@pytest.mark.parametrize("hidden, ends", [(TERNARY, 8), (4, 8), (8, FLOAT)])
def test_weights_are_stored_narrow_and_executed_as_integers(tmp_path, hidden, ends):
    """INT2 and INT4 in the file; ONNX Runtime widens them as it loads and multiplies int8 by int8."""
    config = VIEWS
    field = make_low_bit_field(config, random_layers(config, hidden, ends), CPU, "reference")
    model = field_to_onnx(field)
    types = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    for name in (node.name for node in config.graph.linears):
        first_or_head = name in ("pts_linears.0", "alpha_linear", "rgb_linear")
        assert types[f"{name}.weight"] == WEIGHT_TYPES[ends if first_or_head else hidden]
    assert model.opset_import[0].version == {TERNARY: 25, 4: 21, 8: 18}[hidden]
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert products and all(len(node.input) == 2 for node in products)  # no zero points: codes are about zero
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # that the file fits this CPU only
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    operations = [node.op_type for node in optimised.node]
    quantised = len(config.graph.linears) - (3 if ends == FLOAT else 0)
    assert sum(name.startswith("MatMulInteger") for name in operations) == quantised
    assert operations.count("Cast") <= 2 * quantised  # of codes and of sums; none of weights is left
    kinds = {tensor.data_type for tensor in optimised.initializer}
    assert not kinds & {onnx.TensorProto.INT2, onnx.TensorProto.INT4}


@pytest.mark.parametrize("kind", [TernaryCompressor, W4A8Compressor])
def test_a_file_exports_and_renders(tmp_path, kind):
    """The file alone, by ONNX Runtime as by the reference."""
    args, scene, renderer = make_run(TINY, "--netwidth", "64")
    compressor = calibrated(kind, args, scene, renderer)
    compressor.finish()
    file = tmp_path / compressor.file
    file.write_bytes(compressor.to_bytes())
    sizes = export(file)
    assert list(sizes) == [file.with_suffix(".onnx").name]
    onnx.checker.check_model(str(file.with_suffix(".onnx")), full_check=True)
    pictures = []
    for backend in ("reference", "onnxruntime"):
        renderer, path, _ = load_renderer(file, CPU, backend)
        pictures.append(render_image(renderer, path[0]).rgb)
    assert float((pictures[0] - pictures[1]).abs().max()) < 0.01
