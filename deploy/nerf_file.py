"""A NeRF's part of a model file, float32, int8 or of few bits: what may be in it, and the field it makes.

`load_network` does so for every network whose topology is a layer graph.
"""

import torch

from deploy.backends.choose import check_executes, make_int8_field, make_low_bit_field
from deploy.backends.half import FLOATS, in_16_bits
from deploy.packing import FLOAT, TERNARY, stored_bytes, unpack, unpack_bits
from fields.field import Trainable
from fields.nerf import FieldConfig, RadianceField, is_hidden
from utils.checks import check_keys, check_one_of, check_tensors, check_whole, is_whole, short
from utils.errors import BrokenFile

Expected = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # of tensors by name: type and shape

LOW_BIT = ("ternary", "w4a8")  # precisions of files that hold a BitNeRF


KEYS = {
    "kind", "depth", "width", "skips", "use_viewdirs", "output_ch", "multires", "multires_views", "i_embed",
    "density_activation", "density_bias", "density_scale", "residual",
}  # fmt: skip


def check(name: str, field: dict, more: frozenset[str] = frozenset()) -> None:
    """Raises BrokenFile where the metadata of field `name` is not what a NeRF's can be. more: keys that it has
    beyond."""
    check_keys(name, field, KEYS | more)
    check_whole(name, field, "depth", 1, 256)
    check_whole(name, field, "width", 2, 8192)
    check_whole(name, field, "output_ch", 4, 5)
    check_whole(name, field, "multires", 0, 32)
    check_whole(name, field, "multires_views", 0, 32)
    check_whole(name, field, "i_embed", -1, 0)
    check_one_of(name, field, "use_viewdirs", (True, False))
    check_one_of(name, field, "residual", (True, False))
    if (
        not isinstance(field["skips"], list)
        or len(field["skips"]) > 256
        or not all(is_whole(skip) for skip in field["skips"])
    ):
        raise BrokenFile(f"{name}: skips is {short(field['skips'])}, expected layer numbers")


def check_weight_bits(weight_bits: dict, precision: str) -> None:
    """Raises BrokenFile for bits by layer that no layer of a file of this precision can have."""
    if not isinstance(weight_bits, dict):
        raise BrokenFile(f"weight_bits is {short(weight_bits)}, expected bits by layer")
    for layer, number in weight_bits.items():
        if precision == "int8" or not (is_whole(number) and number == FLOAT):
            check_whole("weight_bits", weight_bits, layer, 2, 8)


def load(
    name: str, described: dict, state: dict[str, torch.Tensor], metadata: dict, device: torch.device, backend: str
) -> RadianceField:
    """The field `name` of checked metadata. Raises BrokenFile where its tensors do not fit."""
    config = FieldConfig(**{**described, "skips": tuple(described["skips"])})
    return load_network(name, config, state, metadata, device, backend)


def load_network(
    name: str,
    config,
    state: dict[str, torch.Tensor],
    metadata: dict,
    device: torch.device,
    backend: str,
) -> Trainable:
    """What `config` describes, from the tensors of its network in whatever precision. config: a FieldConfig, or
    anything with its `graph`, `input_widths`, `skeleton`, `make_network` and `make_field`."""
    precision = metadata["precision"]
    if precision in FLOATS:
        kind = FLOATS[precision]
        expected = {key: (kind, tuple(bare.shape)) for key, bare in config.skeleton().state_dict().items()}
        check_tensors("network", state, expected)
        field = config.make_field(config.make_network())
        field.network.load_state_dict(state)
        return in_16_bits(field, kind, device)
    check_executes(backend, precision)
    prefix = f"{name}."
    bits = {
        key.removeprefix(prefix): number for key, number in metadata["weight_bits"].items() if key.startswith(prefix)
    }
    if set(bits) != {layer.name for layer in config.graph.linears}:
        raise BrokenFile(f"weight_bits names {short(sorted(bits)[:3])}..., expected the layers of {name}")
    if precision == "int8":
        if config.graph.multiplies_floats:
            raise BrokenFile(f"{name}: residual, which int8 files cannot be")
        state = unpacked_int8(config, state, bits)
        check_tensors("int8 network", state, int8_tensors(config))
        check_zero_points(state, metadata["activation_bits"])
        state = {key: value.to(device) for key, value in state.items()}
        return make_int8_field(config, state, metadata["activation_bits"], device, backend)
    norms = any(key.endswith(".norm") for key in state)
    check_tensors("BitNeRF", state, low_bit_tensors(config, bits, norms))
    state = {key: value.to(device) for key, value in state.items()}
    return make_low_bit_field(config, unpacked_low_bit(config, state, bits), device, backend)


# -------------------------------------------------------------------------------------------- int8


def unpacked_int8(config, state: dict[str, torch.Tensor], bits: dict[str, int]) -> dict:
    """The same with int8 weights in the place of packed ones."""
    bare, unpacked = config.skeleton(), dict(state)
    for layer, number in bits.items():
        name = f"{layer}.weight"
        if number < 8 and name in state:
            try:
                unpacked[name] = unpack_bits(state[name], number, tuple(bare.get_submodule(layer).weight.shape))
            except ValueError as error:
                raise BrokenFile(f"int8 network: {name}: {error}") from error
    return unpacked


def int8_tensors(config) -> Expected:
    """Of every tensor that an int8 network of this architecture has."""
    graph, bare, expected = config.graph, config.skeleton(), {}
    rounded = [node.name for node in graph.linears if node.name not in graph.floats]
    for name in (*graph.roundings, *rounded):
        expected[f"{name}.output_scale"] = (torch.float32, ())
        expected[f"{name}.output_zero_point"] = (torch.uint8, ())
    for node in graph.linears:
        name, layer = node.name, bare.get_submodule(node.name)
        expected[f"{name}.weight"] = (torch.int8, (layer.out_features, layer.in_features))
        expected[f"{name}.scale"] = (torch.float32, (layer.out_features,))
        expected[f"{name}.bias"] = (torch.float32, (layer.out_features,))
    return expected


def check_zero_points(state: dict[str, torch.Tensor], bits: int) -> None:
    """Raises BrokenFile where a zero point is no code."""
    for name, tensor in state.items():
        if name.endswith("zero_point") and int(tensor) > 2**bits - 1:
            raise BrokenFile(f"int8 network: {name} is {int(tensor)}, above {2**bits - 1}")


# -------------------------------------------------------------------------------------- of few bits


def low_bit_tensors(config, bits: dict[str, int], norms: bool) -> Expected:
    """Of every tensor in the file of a BitNeRF, whose layers `bits` names."""
    bare, expected = config.skeleton(), {}
    for name, number in bits.items():
        outputs, inputs = bare.get_submodule(name).weight.shape
        if number == FLOAT:
            expected[f"{name}.weight"] = (torch.float32, (outputs, inputs))
        else:
            packed = (torch.uint8, (stored_bytes(outputs * inputs, number),))
            expected[f"{name}.weight"] = (torch.int8, (outputs, inputs)) if number == 8 else packed
            expected[f"{name}.scale"] = (torch.float32, () if number == TERNARY else (outputs,))
        expected[f"{name}.bias"] = (torch.float16, (outputs,))
        if norms and is_hidden(name):
            expected[f"{name}.norm"] = (torch.float16, (inputs,))
    return expected


def unpacked_low_bit(
    config, state: dict[str, torch.Tensor], bits: dict[str, int]
) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by layer, weights as int8 codes `[out, in]` or, where they are not rounded, floats."""
    bare, layers = config.skeleton(), {}
    for name, number in bits.items():
        prefix = f"{name}."
        layers[name] = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if number != FLOAT:
            shape = tuple(bare.get_submodule(name).weight.shape)
            try:
                layers[name]["weight"] = unpack(layers[name]["weight"], number, shape)
            except ValueError as error:
                raise BrokenFile(f"BitNeRF: {name}.weight: {error}") from error
    return layers
