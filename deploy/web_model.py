"""A model file as a page's program has it: what each network does step by step between buffers, and arrays.

`deploy/web/model.js` reads it, and hands it to `deploy/web/kernels.c` piece by piece.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from deploy import grid_file, vq_file
from deploy.backends.blocks import InBlocks
from deploy.backends.fused_steps import Product, fuse
from deploy.backends.int8 import Int8Network, Rounding
from deploy.backends.low_bit import BitNetwork
from deploy.entropy_coding import MOST_DISTANCES
from deploy.model_file import read_model
from deploy.web_arrays import ALIGNED, Arrays
from fields.layer_graph import Add, Concat, Input, Linear
from fields.tensorf import LINES, PLANES, TensorfConfig
from rendering.renderer import Renderer
from scenes.poses import focus_point
from scenes.scene import Cameras
from utils.errors import BadInput

CODES, FLOATS = "codes", "floats"
# Kinds of fields that a page's engine of WebGPU has, by samplers that ask them.
BY_WEBGPU = {"occupancy": {"nerf", "mip"}, "proposal": {"nerf", "mip"}, "hierarchical": {"nerf"}}
MOST_BINS, MOST_PLACES, MOST_STEPS = 500, 64, 512  # that the page's program has room for


class Buffers:
    """Places for tensors, which are used again once nothing needs what is in them."""

    def __init__(self):
        self.kinds: list[tuple[str, int]] = []
        self.of: dict[str, int] = {}
        self.free: list[int] = []

    def take(self, name: str, kind: str, columns: int) -> int:
        wanted = (kind, columns)
        number = next((i for i in self.free if self.kinds[i] == wanted), None)
        if number is None:
            number = len(self.kinds)
            self.kinds.append(wanted)
        else:
            self.free.remove(number)
        self.of[name] = number
        return number

    def release(self, names: list[str]) -> None:
        self.free += [self.of.pop(name) for name in names]


def check_room(renderer: Renderer) -> None:
    """Raises BadInput where a page has no room for what its file asks for; to be asked before it is trained for
    hours."""
    sampler = renderer.describe()
    samples = sampler.get("n_importance", 0) + sampler.get("n_samples", 0)
    if max(samples, *sampler.get("bins", [0])) > MOST_BINS:
        raise BadInput(f"--export_html: a page has room for {MOST_BINS} samples or bins of a ray; give fewer")
    for field in renderer.fields.values():
        if getattr(field.config, "points", 0) > MOST_PLACES:
            raise BadInput(f"--export_html: a page has room for {MOST_PLACES} places on a ray; give fewer --ray_points")
        if hasattr(field.config, "graph") and steps_of(field) > MOST_STEPS:
            raise BadInput(f"--export_html: a page has room for {MOST_STEPS} steps of a network; give fewer --netdepth")


def steps_of(field: nn.Module) -> int:
    """Of its network in a page, at most: one of few bits, as no light field is, adds apart."""
    graph = field.config.graph
    return len(fuse(graph)) if field.kind == "light_field" else sum(not isinstance(node, Input) for node in graph.nodes)


def page_model(file: Path, renderer: Renderer, path: Cameras, metadata: dict, code_cells: bool) -> tuple[dict, bytes]:
    """Of a model file, with what was loaded of it: the header, and all that a page has of the model. code_cells: with a
    grid as the file has it, for a page to decode. Raises BadInput for what a page cannot render."""
    check_room(renderer)
    arrays = Arrays()
    if metadata["precision"] == "vq":
        fields = [of_tensor(file, renderer.fields["network_fn"].config, arrays)]
    else:
        fields = [describe_field(name, field, arrays) for name, field in renderer.fields.items()]
    sampler = describe_sampler(renderer, arrays, code_cells)
    if sampler["kind"] == "proposal":
        fields.append(fields.pop(0))  # as rays ask them
    target = focus_point(path.c2w.double().numpy())
    described = {
        "rays": asdict(renderer.setup),
        "camera": {"height": path.height, "width": path.width, "K": path.K[0].tolist()},
        "path": arrays.add(path.c2w.float()),
        "frames": len(path),
        "target": [float(x) for x in target],
        "sampler": sampler,
        "fields": fields,
        "webgpu": by_webgpu(sampler, fields),
        "arrays": arrays.places,
        "coded": arrays.coded,
        "packed": arrays.packed,
    }
    header = json.dumps(described, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNED)
    return described, len(header).to_bytes(ALIGNED, "little") + header + b"".join(arrays.parts)


def by_webgpu(sampler: dict, fields: list[dict]) -> bool:
    """Whether a page's engine of WebGPU (`webgpu.js`) renders such a model too."""
    if sampler["kind"] == "light_field":
        return bool(sampler.get("every"))
    return {field["kind"] for field in fields} <= BY_WEBGPU.get(sampler["kind"], set())


def has_few_bits(field: dict) -> bool:
    """Whether any of its layers takes floats."""
    return any(step["layer"]["kind"] != "integer" for step in field["steps"] if "layer" in step)


def describe_sampler(renderer: Renderer, arrays: Arrays, code_cells: bool) -> dict:
    described = renderer.describe()
    described.pop("grid_coder", None)
    grid = described.get("hull", described)
    if "occupancy" in renderer.tensors():
        grid["occupancy"] = add_cells(renderer.tensors()["occupancy"], arrays, code_cells)
    return described


def add_cells(cells: torch.Tensor, arrays: Arrays, code: bool) -> int:
    """The number of an array of bits."""
    if code and len(cells) <= grid_file.LARGEST_CODED:
        coder, stream = grid_file.encode(cells)
        if coder == "range":  # and not what stands in for it
            return arrays.add_coded(stream, [{"kind": "cells", "side": len(cells)}])[0]
    return arrays.add(np.packbits(cells.cpu().numpy().reshape(-1)))


def describe_field(name: str, field: nn.Module, arrays: Arrays) -> dict:
    field = field.field if isinstance(field, InBlocks) else field
    network, config = field.network, field.config
    if isinstance(network, Int8Network):
        described = of_integers(network, arrays)
    elif isinstance(network, BitNetwork):
        described = of_few_bits(network, arrays)
    else:
        raise BadInput(f"{name}: a page renders files of integers: int8, w4a8, ternary; this one is float")
    described |= {"name": name, "kind": field.kind}
    for key in ("multires", "multires_views", "i_embed", "use_viewdirs", "ball", "directions", "points"):
        if hasattr(config, key):
            described[key] = getattr(config, key)
    for key in ("density_activation", "density_bias", "density_scale"):
        if hasattr(config, key):
            described[key] = getattr(config, key)
    if field.kind == "mip":
        described["basis"] = arrays.add(field.basis.float())
    return described


def of_rounding(rounding: Rounding) -> list[float]:
    return [float(rounding.scale), float(rounding.zero_point), float(rounding.q_max)]


def of_integers(network: Int8Network, arrays: Arrays) -> dict:
    """Buffers and steps of an int8 network."""
    graph, buffers, steps = network.graph, Buffers(), []
    columns = dict(zip(graph.inputs, network.widths, strict=True))
    inputs = {name: buffers.take(name, CODES, columns[name]) for name in graph.inputs}
    for step, last_used in network.steps:
        sources = [buffers.of[name] for name in step.inputs]
        described = {"from": sources}
        if isinstance(step, Product):
            layer = network.layer(step.layer.name)
            columns[step.name] = len(layer.weight)
            described |= {"kind": "linear", "layer": integer_layer(layer, arrays)}
            if layer.rounding is not None:
                described["rounding"] = of_rounding(layer.rounding)
            if layer.added is not None:
                described["added"] = of_rounding(layer.added)
            kind = CODES if layer.rounding is not None else FLOATS
        elif isinstance(step, Concat):
            columns[step.name], kind = sum(columns[name] for name in step.inputs), CODES
            described["kind"] = "concat"
        elif isinstance(step, Add):
            columns[step.name], kind = columns[step.inputs[0]], FLOATS
            order = sorted(step.inputs, key=lambda name: name not in graph.roundings)  # codes first
            described |= {"kind": "add", "from": [buffers.of[name] for name in order]}
            if order[0] in graph.roundings:
                described["added"] = of_rounding(network.codes_of(order[0]))
        else:
            columns[step.name], kind = columns[step.input], CODES
            described |= {"kind": "round", "rounding": of_rounding(network.codes_of(step.name))}
        described["to"] = buffers.take(step.name, kind, columns[step.name])
        steps.append(described)
        buffers.release([name for name in last_used if name not in inputs])
    roundings = {name: of_rounding(network.inputs[name]) for name in inputs}
    return network_of(graph, buffers, steps, inputs, roundings)


def integer_layer(layer: nn.Module, arrays: Arrays) -> dict:
    outputs, inputs = layer.weight.shape
    return {
        "kind": "integer",
        "inputs": inputs,
        "outputs": outputs,
        "relu": layer.relu,
        "weight": arrays.add_weights(layer.weight),
        "zero_points": arrays.add(layer.input_zero_points),
        "scale": arrays.add(layer.scale),
        "bias": arrays.add(layer.bias),
    }


def of_few_bits(network: BitNetwork, arrays: Arrays) -> dict:
    """Buffers and steps of a BitNeRF, whose tensors are floats between layers."""
    graph, buffers, steps = network.graph, Buffers(), []
    columns = dict(zip(graph.inputs, network.widths, strict=True))
    inputs = {name: buffers.take(name, FLOATS, columns[name]) for name in graph.inputs}
    for node, last_used in graph.schedule:
        if isinstance(node, Input):
            continue
        described = {"from": [buffers.of[name] for name in node.inputs]}
        if isinstance(node, Linear):
            layer = network.layer(node.name)
            columns[node.name] = len(layer.weight)
            described |= {"kind": "linear", "layer": row_layer(layer, node.relu, arrays)}
        elif isinstance(node, Concat):
            columns[node.name] = sum(columns[name] for name in node.inputs)
            described["kind"] = "concat"
        else:
            columns[node.name] = columns[node.inputs[0]]
            described["kind"] = "add"
        described["to"] = buffers.take(node.name, FLOATS, columns[node.name])
        steps.append(described)
        buffers.release([name for name in last_used if name not in inputs])
    return network_of(graph, buffers, steps, inputs, {name: [1.0, 0.0, 0.0] for name in inputs})


def row_layer(layer: nn.Module, relu: bool, arrays: Arrays) -> dict:
    outputs, inputs = layer.weight.shape
    described = {"inputs": inputs, "outputs": outputs, "relu": relu, "bias": arrays.add(layer.bias)}
    if layer.scale is None:
        return {"kind": "float", "weight": arrays.add(layer.weight.float()), **described}
    described |= {"weight": arrays.add_weights(layer.weight), "scale": arrays.add(layer.scale.float().expand(outputs))}
    if layer.norm is not None:
        described["gains"] = arrays.add(layer.norm)
    return {"kind": "by_row", **described}


def of_tensor(file: Path, config: TensorfConfig, arrays: Arrays) -> dict:
    """A VQ-TensoRF: its planes and lines as whole numbers, what mixes and what decodes them as floats, all coded as the
    file has them. Raises BadInput where that is not by the range coder."""
    metadata, tensors = read_model(file)
    described = {key: value for key, value in metadata["fields"]["network_fn"].items() if key != "kind"}
    if described["coder"] != "range":
        raise BadInput(f"{file}: coded by {described['coder']}, which a page cannot read; write it with constriction")
    prefix = "network_fn."
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    steps = state["steps"].tolist()
    parts = parts_of_tensor(described, config, state["ranges"].tolist(), steps[12:])
    numbers = arrays.add_coded(state["stream"], parts)
    layers, left = [], state["biases"].float()
    for (name, layer), weight in zip(vq_file.matrices(config.skeleton()), numbers[6:], strict=True):
        count = 0 if layer.bias is None else layer.out_features
        bias, left = left[:count], left[count:]
        outputs, inputs = layer.weight.shape
        relu = name.startswith("decoder") and layer.out_features != 3
        layers.append({"kind": "float", "inputs": inputs, "outputs": outputs, "relu": relu, "weight": weight})
        layers[-1]["bias"] = arrays.add(bias if count else torch.zeros(outputs))
    embedded = config.features * (1 + 2 * config.feature_octaves)
    views = 3 * (1 + 2 * config.view_octaves)
    mix = {
        "buffers": [[FLOATS, sum(config.color_ranks)], [FLOATS, config.features]],
        "steps": [{"kind": "linear", "from": [0], "to": 1, "layer": layers[0]}],
    }
    widths = [embedded, views, embedded + views, config.hidden, config.hidden, 3]
    decoder = [{"kind": "linear", "from": [2 + i], "to": 3 + i, "layer": layer} for i, layer in enumerate(layers[1:])]
    return {
        "name": "network_fn",
        "kind": "tensor",
        "buffers": [[FLOATS, width] for width in widths],
        "steps": [{"kind": "concat", "from": [0, 1], "to": 2}, *decoder],
        "inputs": {
            "quant_pts": {"buffer": 0, "rounding": [1.0, 0.0, 0.0]},
            "quant_views": {"buffer": 1, "rounding": [1.0, 0.0, 0.0]},
        },
        "outputs": [len(widths) - 1],
        "mix": mix,
        "multires": config.feature_octaves,
        "multires_views": config.view_octaves,
        "features": config.features,
        "resolution": described["resolution"],
        "ranks": [*config.density_ranks, *config.color_ranks],
        "aabb": state["aabb"].flatten().tolist(),
        "steps_of_factors": [step for i in range(3) for step in (*steps[2 * i :][:2], *steps[6 + 2 * i :][:2])],
        "planes": numbers[:3],
        "lines": numbers[3:6],
        "density_activation": config.density_activation,
        "density_bias": config.density_bias,
        "density_scale": config.density_scale,
    }


def parts_of_tensor(described: dict, config: TensorfConfig, ranges: list, steps: list[float]) -> list[dict]:
    """What is in a VQ-TensoRF's stream, in order. ranges: of planes, lines and matrices. steps: of matrices."""
    resolution, parts = described["resolution"], []
    ranks = list(zip(config.density_ranks, config.color_ranks, strict=True))
    for i, (column, row) in enumerate(PLANES):
        shape = {"rows": resolution[row], "columns": resolution[column], "ranks": ranks[i]}
        codes = {"codes": described["codes"][i], "most": MOST_DISTANCES}
        parts.append({"kind": "plane", **shape, **codes, "range": ranges[i]})
    for i, axis in enumerate(LINES):
        shape = {"columns": resolution[axis], "channels": sum(ranks[i])}
        parts.append({"kind": "table", **shape, "range": ranges[3 + i]})
    matrices = vq_file.matrices(config.skeleton())
    for (_, layer), span, step in zip(matrices, ranges[6:], steps, strict=True):
        outputs, inputs = layer.weight.shape
        parts.append({"kind": "table", "columns": outputs, "channels": inputs, "range": span, "step": step})
    return parts


def network_of(graph, buffers: Buffers, steps: list[dict], inputs: dict[str, int], roundings: dict) -> dict:
    return {
        "buffers": buffers.kinds,
        "steps": steps,
        "inputs": {name: {"buffer": number, "rounding": roundings[name]} for name, number in inputs.items()},
        "outputs": [buffers.of[name] for name in graph.outputs],
    }
