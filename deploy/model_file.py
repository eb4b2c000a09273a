"""`model_int8.safetensors`, `model_ternary.safetensors` and the like: one file that renders alone.

Tensors: those of each network under `network_fn.` (and `network_fine.`), the occupancy grid as
`occupancy` (uint8: one bit a cell, DEFLATEd), the video path as `render_path` (float32
`[F, 3, 4]`). Everything else that rendering needs is one JSON metadata entry, `nerf_qat`.
There is no pickle in it, and beside a rounded weight no float copy of it.

A file's digest guards against accidents only; whoever writes a file can write a digest. So every
number is held against what a renderer can work with before anything is built from it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from deploy import description, grid_file, light_field_file, mip_file, nerf_file, ref_file, tensorf_file, vq_file
from deploy.backends.half import FLOATS
from rendering.kinds import RENDERERS
from rendering.renderer import Renderer
from scenes.scene import Cameras
from utils.bounds import FAR_AWAY
from utils.checks import check_keys, check_number, check_one_of, check_plain, check_whole, short
from utils.errors import BadInput, BrokenFile, UserError, first_line
from utils.files import atomic_write, digest

FORMAT, VERSION = "nerf-qat", 3
IN_FOLDER = "model.safetensors"  # a model file's name in a folder made to be shared (scripts/share.py)


@dataclass(frozen=True)
class FileKind:
    """A kind of field in files. precisions: those that it may have. check: its metadata, by the field's name. load:
    from name, metadata of the field without its kind, its tensors, all metadata, device and backend to the field.
    has_density: and says how it is activated; otherwise a renderer of its own asks it."""

    precisions: tuple[str, ...]
    check: Callable[[str, dict], None]
    load: Callable[..., torch.nn.Module]
    has_density: bool = True


KINDS = {
    "nerf": FileKind(("float32", "int8", *nerf_file.LOW_BIT), nerf_file.check, nerf_file.load),
    "mip": FileKind(("float32", "int8", *nerf_file.LOW_BIT), mip_file.check, mip_file.load),
    "ref": FileKind(("float32",), ref_file.check, ref_file.load),
    "tensorf": FileKind(("float32",), tensorf_file.check, tensorf_file.load),
    "vq_tensorf": FileKind(("vq",), vq_file.check, vq_file.load),
    "light_field": FileKind((*FLOATS, "int8"), light_field_file.check, light_field_file.load, has_density=False),
}
# What metadata says beside the rest, by precision.
PRECISIONS = {
    **{name: set() for name in FLOATS},
    "int8": {"weight_bits", "activation_bits"},
    "ternary": {"weight_bits"},
    "w4a8": {"weight_bits"},
    "vq": set(),
}


# ------------------------------------------------------------------------------------------ writing


def float_model(renderer: Renderer, render_path: Cameras, precision: str = "float32") -> bytes:
    """The file of a model whose weights are floats. precision: of FLOATS."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().to(FLOATS[precision]).contiguous()
        for name, network in renderer.networks.items()
        for key, value in network.state_dict().items()
    }
    return model_bytes(renderer, render_path, tensors, {"precision": precision})


def check_can_be_read(renderer: Renderer, render_path: Cameras) -> None:
    """Raises BadInput where no file of a renderer could be read again; to be asked before it is trained for hours."""
    described = {"format": FORMAT, "version": VERSION, "precision": "float32"}
    described |= json.loads(json.dumps(description.describe(renderer, render_path)))
    try:
        check_metadata(described)
        description.read_cameras(described["camera"], render_path.c2w.float().cpu())
    except BrokenFile as error:
        raise BadInput(f"the flags ask for what no model file may hold: {error}") from error


def save_float_model(path: Path, renderer: Renderer, render_path: Cameras, precision: str = "float32") -> int:
    """Writes it; returns its bytes on disk."""
    content = float_model(renderer, render_path, precision)
    atomic_write(path, content)
    return len(content)


def model_bytes(
    renderer: Renderer,
    render_path: Cameras,
    tensors: dict[str, torch.Tensor],
    precision: dict,
    of_field: dict | None = None,
) -> bytes:
    """A model's file. tensors: of the fields, their name in front. precision: its name and what PRECISIONS says beside
    it. of_field: what the field `network_fn` does not say of itself."""
    metadata = {"format": FORMAT, "version": VERSION, **precision, **description.describe(renderer, render_path)}
    metadata["fields"]["network_fn"] |= of_field or {}
    own = renderer.tensors()
    if "occupancy" in own:
        coder, own["occupancy"] = packed_grid(own["occupancy"], precision["precision"])
        metadata["sampler"] |= {"grid_coder": coder} if coder else {}
    tensors = {**own, **tensors, "render_path": render_path.c2w.float().cpu().contiguous()}
    metadata["sha256"] = digest([metadata, tensors])
    return safetensors.torch.save(tensors, {"nerf_qat": json.dumps(metadata, separators=(",", ":"))})


def packed_grid(cells: torch.Tensor, precision: str) -> tuple[str, torch.Tensor]:
    """An occupancy grid's cells as bytes, and the coder's name; empty where they are merely DEFLATEd: of float models,
    where bytes do not matter, and of grids that would take long to decode."""
    coded = precision == "vq" or (precision != "float32" and len(cells) <= grid_file.LARGEST_CODED)
    return grid_file.encode(cells) if coded else ("", grid_file.pack(cells))


# ----------------------------------------------------------------------------------------- reading


def find_model(path: Path | str) -> Path:
    """A model file, from its path or that of a folder that `scripts/share.py` made."""
    path = Path(path)
    return path / IN_FOLDER if path.is_dir() else path


def read_model(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata and tensors of a model file. Raises BrokenFile for anything that is not one."""
    path = Path(path)
    if not path.is_file():
        raise BrokenFile(f"{path}: no such model file; train one, or give --model")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = check_plain(json.loads(header["nerf_qat"]))
        expected = metadata.pop("sha256")
    except Exception as error:  # safetensors and json each raise several types for a damaged file
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise BrokenFile(f"{path}: not a whole NeRF-QAT model ({reason})") from error
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        found = f"format {short(metadata.get('format'))} version {short(metadata.get('version'))}"
        raise BrokenFile(f"{path}: {found}; this program reads {FORMAT!r} version {VERSION}")
    if digest([metadata, tensors]) != expected:
        raise BrokenFile(f"{path}: its content does not match its digest; the file was altered or damaged")
    return metadata, tensors


def load_renderer(path: Path, device: torch.device, backend: str = "reference") -> tuple[Renderer, Cameras, dict]:
    """A renderer, its video path, and the metadata, from the file alone.

    backend: what executes integers, of `backends.choose.BACKENDS`.
    Raises BrokenFile where the file is damaged or says something impossible.
    """
    metadata, tensors = read_model(path)
    try:
        check_metadata(metadata)
        renderer, cameras = _build(metadata, tensors, device, backend)
    except UserError as error:
        raise BrokenFile(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BrokenFile(
            f"{path}: metadata and tensors do not fit together ({type(error).__name__}: {first_line(error)})"
        ) from error
    return renderer.eval(), cameras, metadata


def check_metadata(metadata: dict) -> None:
    """Raises BrokenFile at the first thing that is not as `model_bytes` writes it."""
    precision = metadata.get("precision")
    own = PRECISIONS.get(str(precision), set())
    check_keys("metadata", metadata, {"format", "version", "precision", "rays", "camera", "sampler", "fields"} | own)
    check_one_of("metadata", metadata, "precision", tuple(PRECISIONS))
    if "activation_bits" in own:
        check_whole("metadata", metadata, "activation_bits", 2, 8)
    if "weight_bits" in own:
        nerf_file.check_weight_bits(metadata["weight_bits"], precision)
    description.check(metadata)
    fields = metadata["fields"]
    names = set(fields) if isinstance(fields, dict) else set()
    renderer = RENDERERS[metadata["sampler"]["kind"]]
    if "network_fn" not in names or not names <= set(renderer.field_names):
        raise BrokenFile(f"fields: expected network_fn, and of a {renderer.kind} none but {renderer.field_names}")
    asked = renderer.field_kinds or tuple(name for name, kind in KINDS.items() if kind.has_density)
    for name in names:
        _check_field(name, fields[name], precision, asked)


def _check_field(name: str, field: dict, precision: str, asked: tuple[str, ...]) -> None:
    """asked: kinds of field that the renderer asks."""
    if not isinstance(field, dict):
        raise BrokenFile(f"{name}: {short(field)} is not a table")
    check_one_of(name, {"kind": field.get("kind")}, "kind", asked)
    kind = KINDS[field["kind"]]
    kind.check(name, field)
    if kind.has_density:
        check_one_of(name, field, "density_activation", ("relu", "softplus"))
        check_number(name, field, "density_bias", -FAR_AWAY, FAR_AWAY)
        check_number(name, field, "density_scale", 1e-6, FAR_AWAY)
    if precision not in kind.precisions:
        raise BrokenFile(f"{name}: a {field['kind']} cannot be {precision}")


def _build(metadata: dict, tensors: dict, device: torch.device, backend: str) -> tuple[Renderer, Cameras]:
    fields = {}
    for name, described in metadata["fields"].items():
        prefix = f"{name}."
        state = {k.removeprefix(prefix): tensors.pop(k) for k in list(tensors) if k.startswith(prefix)}
        of_field = {key: value for key, value in described.items() if key != "kind"}
        fields[name] = KINDS[described["kind"]].load(name, of_field, state, metadata, device, backend)
    cameras = description.read_cameras(metadata["camera"], tensors.pop("render_path"))
    renderer = description.read_renderer(metadata, fields, tensors)
    if tensors:
        raise BrokenFile(f"unexpected tensor {short(next(iter(tensors)))}")
    return renderer.to(device), cameras
