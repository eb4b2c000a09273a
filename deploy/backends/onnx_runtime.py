"""Models of integers as ONNX files, and executed by ONNX Runtime on the CPU."""

from pathlib import Path

import torch
import torch.nn as nn

from deploy.backends.onnx_field import field_to_onnx, input_widths
from deploy.backends.onnx_light_field import light_field_to_onnx
from fields.light_field import LightField
from fields.nerf import RadianceField
from rendering.points import FieldOutput, Points
from utils.files import atomic_write


def to_onnx(field: nn.Module):
    """The ModelProto of whatever an integer network is in. Raises UserError without onnx."""
    return light_field_to_onnx(field) if field.kind == LightField.kind else field_to_onnx(field)


def export_onnx(renderer: nn.Module, path: Path) -> dict[str, int]:
    """Writes each field of integers of a renderer (from `deploy.model_file.load_renderer`), the first to `path`, others
    beside it: a fine one as `NAME_fine.onnx`, proposals as `NAME_proposal_0.onnx`. Returns bytes on disk by name."""
    sizes = {}
    for name, field in renderer.fields.items():
        beside = path.with_name(f"{path.stem}_{name.removeprefix('network_')}{path.suffix}")
        file = path if name == "network_fn" else beside
        atomic_write(file, to_onnx(field).SerializeToString())
        sizes[file.name] = file.stat().st_size
    return sizes


# ---------------------------------------------------------------------------------- ONNX Runtime


def session_of(field: nn.Module):
    import onnxruntime  # an extra; `choose.select_backend` says where it is missing

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning would take the cores from torch's between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = to_onnx(field).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxField(nn.Module):
    """A field that ONNX Runtime executes, in place of a `RadianceField`."""

    def __init__(self, field: RadianceField):
        super().__init__()
        self.config, self.wants_cones, self.queries = field.config, field.wants_cones, field.queries
        self.inputs, self.session = list(input_widths(field)), session_of(field)

    def forward(self, points: Points) -> FieldOutput:
        """As `RadianceField.forward`."""
        queries = self.queries(points)
        feed = {name: queries[name].contiguous().numpy() for name in self.inputs}
        density, rgb = self.session.run(["density", "rgb"], feed)
        return FieldOutput(torch.from_numpy(density), torch.from_numpy(rgb))

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        return self(Points(positions, torch.zeros_like(positions))).density


class OnnxLightField(nn.Module):
    """A light field that ONNX Runtime executes."""

    def __init__(self, field: LightField):
        super().__init__()
        self.config, self.session = field.config, session_of(field)

    def forward(self, places: torch.Tensor, viewdirs: torch.Tensor) -> torch.Tensor:
        """As `LightField.forward`."""
        coordinates = self.config.coordinates(places, viewdirs).contiguous().numpy()
        return torch.from_numpy(self.session.run(["rgb"], {"coordinates": coordinates})[0])
