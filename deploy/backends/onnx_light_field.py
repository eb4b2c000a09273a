"""The int8 light field as ONNX: `coordinates [P, C]`, of a ray's places and then its direction, to `rgb [P, 3]`."""

import numpy as np

from deploy.backends.onnx_int8 import Int8Graph
from fields.light_field import LightField


def light_field_to_onnx(field: LightField):
    """The ModelProto of a light field whose network is an `Int8Network`. Raises UserError without onnx."""
    graph, config = Int8Graph(), field.config
    columns = config.input_widths["quant_places"]
    places, parts = 3 * config.points, []
    for name, first, last, freqs in (
        ("places", 0, places, field.freqs),
        ("views", places, columns, field.freqs_views),
    ):
        if last > first:
            x = graph.columns("coordinates", first, last, name)
            row = graph.add("Unsqueeze", [x, graph.constant(f"{name}.second", np.array([1], np.int64))], f"{name}.row")
            octaves = graph.constant(f"{name}.octaves", freqs[:, None])
            angles = graph.add("Mul", [row, octaves], f"{name}.angles")  # [P, L, C]
            waves = [graph.add(wave, [angles], f"{name}.{wave}") for wave in ("Sin", "Cos")]
            joined = graph.add("Concat", waves, f"{name}.waves", axis=1)
            parts.append(graph.add("Flatten", [joined], f"{name}.encoded", axis=1))
    waves = graph.add("Concat", parts, "encoded_waves", axis=1)
    (logits,) = graph.network(field.network, {"quant_places": "coordinates", "quant_waves": waves})
    graph.add("Sigmoid", [logits], "rgb")
    return graph.model({"coordinates": columns}, {"rgb": ["P", 3]})
