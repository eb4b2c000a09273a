"""`model_int8.safetensors`, `model_ternary.safetensors` and the like: one file that renders alone.

Tensors: those of each network under `network_fn.` (and `network_fine.`), the occupancy grid as
`occupancy` (uint8: one bit a cell, DEFLATEd), the video path as `render_path` (float32
`[F, 3, 4]`). Everything else that rendering needs is one JSON metadata entry, `nerf_qat`.
There is no pickle in it, and beside a rounded weight no float copy of it.
"""

import dataclasses
import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from deploy import vq_file
from deploy.backends.int8 import Int8Field, Int8Network
from deploy.backends.low_bit import PRODUCTS, BitField, BitNetwork
from deploy.backends.onnx_graph import OnnxField
from deploy.description import MOST_FRAMES, check_metadata
from deploy.packing import pack_bits, unpack_bits
from deploy.tensorf_file import load_tensor_field
from fields.nerf import FieldConfig, RadianceField, layer_inputs, make_field, skeleton
from rendering.hierarchical import HierarchicalRenderer
from rendering.occupancy import OccupancyGrid
from rendering.occupancy_renderer import OccupancyRenderer
from rendering.rays import RaySetup
from rendering.renderer import networks_of
from scenes.poses import check_poses
from scenes.scene import Cameras
from training.checkpoint_checks import check_plain
from utils.bounds import FAR_AWAY
from utils.checks import check_tensors, short
from utils.errors import BadInput, BrokenFile, UserError, first_line
from utils.files import atomic_write, digest

FORMAT, VERSION = "nerf-qat", 3
BITNETS = ("ternary", "w4a8")  # precisions of files that hold a BitNeRF
TENSOR_FIELDS = {"tensorf": load_tensor_field, "vq_tensorf": vq_file.decode}  # by kind


# ------------------------------------------------------------------------------------------ saving


def save_float_model(path: Path, renderer: torch.nn.Module, render_path: Cameras) -> int:
    """Writes the float32 model; returns its bytes on disk."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks_of(renderer).items()
        for key, value in network.state_dict().items()
    }
    return _save(path, renderer, render_path, tensors, {"precision": "float32"})


def save_int8_model(
    path: Path,
    renderer: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    render_path: Cameras,
    weight_bits: dict[str, int],
    activation_bits: int,
) -> int:
    """Writes the int8 model of `tensors` (from `quantization.remap_state_dict`); returns its bytes.

    weight_bits: by layer, its network's name in front; below 8 they are packed in the file.
    renderer: any renderer of the scene with this architecture; its own weights are not read.
    """
    precision = {"precision": "int8", "weight_bits": weight_bits, "activation_bits": activation_bits}
    packed = {
        f"{layer}.weight": pack_bits(tensors[f"{layer}.weight"], bits)
        for layer, bits in weight_bits.items()
        if bits < 8
    }
    tensors = tensors | packed
    return _save(path, renderer, render_path, tensors, precision)


def save_bitnet_model(
    path: Path,
    renderer: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    render_path: Cameras,
    precision: str,
    weight_bits: dict[str, int],
) -> int:
    """Writes the BitNeRF of `tensors` (from `bitnet.convert_bitnet`, names with their network in
    front); returns its bytes.

    precision: one of BITNETS. weight_bits: by layer, its network's name in front.
    """
    return _save(path, renderer, render_path, tensors, {"precision": precision, "weight_bits": weight_bits})


def save_vq_model(
    path: Path, renderer: torch.nn.Module, described: dict, tensors: dict[str, torch.Tensor], render_path: Cameras
) -> int:
    """Writes a VQ-TensoRF as `vq_file.encode` describes and packs it; returns its bytes."""
    tensors = {f"network_fn.{key}": value for key, value in tensors.items()}
    return _save(path, renderer, render_path, tensors, {"precision": "vq"}, described)


def _save(
    path: Path, renderer, render_path: Cameras, tensors: dict, precision: dict, of_field: dict | None = None
) -> int:
    """of_field: what `_describe` does not know of the field `network_fn`."""
    tensors = {**tensors, "render_path": render_path.c2w.float().cpu().contiguous()}
    metadata = {"format": FORMAT, "version": VERSION, **precision, **_describe(renderer, render_path)}
    metadata["fields"]["network_fn"] |= of_field or {}
    if precision["precision"] == "vq":
        metadata["sampler"]["grid_coder"], tensors["occupancy"] = vq_file.encode_grid(renderer.grid)
    elif isinstance(renderer, OccupancyRenderer):
        tensors["occupancy"] = renderer.grid.pack()
    metadata["sha256"] = digest([metadata, tensors])
    content = safetensors.torch.save(tensors, {"nerf_qat": json.dumps(metadata, separators=(",", ":"))})
    atomic_write(path, content)
    return path.stat().st_size


def _describe(renderer: torch.nn.Module, render_path: Cameras) -> dict:
    """Everything but tensors that it takes to build the renderer again."""
    camera = {
        "height": render_path.height,
        "width": render_path.width,
        "K": [[float(x) for x in row] for row in render_path.K[0]],
    }
    described = {"rays": dataclasses.asdict(renderer.setup), "camera": camera}
    if isinstance(renderer, OccupancyRenderer):
        described["sampler"] = {
            "kind": "occupancy",
            "step": renderer.step,
            "min_transmittance": renderer.min_transmittance,
            "grid_resolution": renderer.grid.resolution,
            "aabb": renderer.grid.aabb.cpu().tolist(),
        }
    else:
        described["sampler"] = {
            "kind": "hierarchical",
            "n_samples": renderer.n_samples,
            "n_importance": renderer.n_importance,
            "lindisp": renderer.lindisp,
        }
    described["fields"] = {
        name: {"kind": field.kind, **dataclasses.asdict(field.config)} for name, field in renderer.fields.items()
    }
    return described


# ----------------------------------------------------------------------------------------- loading


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


def load_renderer(
    path: Path, device: torch.device, backend: str = "reference"
) -> tuple[torch.nn.Module, Cameras, dict]:
    """A renderer, its video path, and the metadata, from the file alone.

    backend: what executes an int8 network, of `int8_model.BACKENDS`.
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


def _build(metadata: dict, tensors: dict, device: torch.device, backend: str) -> tuple[torch.nn.Module, Cameras]:
    fields = {}
    for name, described in metadata["fields"].items():
        prefix = f"{name}."
        state = {k.removeprefix(prefix): tensors.pop(k) for k in list(tensors) if k.startswith(prefix)}
        architecture = {key: value for key, value in described.items() if key != "kind"}
        if described["kind"] in TENSOR_FIELDS:
            fields[name] = TENSOR_FIELDS[described["kind"]](architecture, state).to(device)
            continue
        config = FieldConfig(**{**architecture, "skips": tuple(architecture["skips"])})
        bits = metadata.get("weight_bits", {})
        bits = {key.removeprefix(prefix): number for key, number in bits.items() if key.startswith(prefix)}
        if metadata["precision"] != "float32" and set(bits) != set(layer_inputs(skeleton(config))):
            raise BrokenFile(f"weight_bits names {short(sorted(bits)[:3])}..., expected the layers of {name}")
        if metadata["precision"] == "int8":
            _unpack_weights(config, state, bits)
        fields[name] = _field(config, state, bits, metadata, device, backend)
    rays = metadata["rays"]
    setup = RaySetup(**{**rays, "background": tuple(rays["background"])})
    cameras = _cameras(metadata["camera"], tensors.pop("render_path"))
    sampler = metadata["sampler"]
    if sampler["kind"] == "occupancy":
        aabb = torch.tensor(sampler["aabb"], dtype=torch.float32)
        packed = tensors.pop("occupancy")
        if packed.dtype != torch.uint8 or packed.ndim != 1:
            raise BrokenFile(f"occupancy is {packed.dtype} {tuple(packed.shape)}, expected uint8 of one dimension")
        cells = packed, aabb, sampler["grid_resolution"]
        coder = sampler.get("grid_coder")
        grid = vq_file.decode_grid(coder, *cells) if coder else OccupancyGrid.unpack(*cells)
        grid = grid.to(device)
        renderer = OccupancyRenderer(fields["network_fn"], grid, setup, sampler["step"], sampler["min_transmittance"])
    else:
        renderer = HierarchicalRenderer(
            fields["network_fn"],
            fields.get("network_fine"),
            setup,
            sampler["n_samples"],
            sampler["n_importance"],
            sampler["lindisp"],
        )
    if tensors:
        raise BrokenFile(f"unexpected tensor {short(next(iter(tensors)))}")
    return renderer.to(device), cameras


def _unpack_weights(config: FieldConfig, state: dict[str, torch.Tensor], weight_bits: dict[str, int]) -> None:
    """Puts int8 weights in the place of packed ones."""
    bare = skeleton(config)
    for layer, bits in weight_bits.items():
        name = f"{layer}.weight"
        if bits < 8 and name in state:
            try:
                state[name] = unpack_bits(state[name], bits, tuple(bare.get_submodule(layer).weight.shape))
            except ValueError as error:
                raise BrokenFile(f"int8 network: {name}: {error}") from error


def _cameras(described: dict, c2w: torch.Tensor) -> Cameras:
    path = c2w.dtype == torch.float32 and c2w.ndim == 3 and c2w.shape[1:] == (3, 4)
    if not path or not 1 <= len(c2w) <= MOST_FRAMES:
        found = f"{c2w.dtype} {tuple(c2w.shape)}"
        raise BrokenFile(f"render_path is {found}, expected float32 [F, 3, 4] of {MOST_FRAMES} frames at most")
    check_poses(c2w.numpy(), "render_path")
    if c2w.abs().max() > FAR_AWAY:
        raise BrokenFile(f"render_path: a camera stands farther away than {FAR_AWAY:g} world units")
    K = torch.tensor(described["K"], dtype=torch.float32)
    return Cameras(c2w, K.expand(len(c2w), 3, 3), described["height"], described["width"])


def _field(
    config: FieldConfig,
    state: dict[str, torch.Tensor],
    bits: dict[str, int],
    metadata: dict,
    device: torch.device,
    backend: str,
) -> RadianceField:
    if metadata["precision"] == "float32":
        expected = {name: (torch.float32, tuple(bare.shape)) for name, bare in skeleton(config).state_dict().items()}
        check_tensors("network", state, expected)
        field = make_field(config)
        field.network.load_state_dict(state)
        return field.to(device)
    state = {key: value.to(device) for key, value in state.items()}
    if metadata["precision"] in BITNETS:
        if backend not in PRODUCTS:
            raise BadInput(f"--backend {backend} does not execute BitNeRFs; use auto, reference or torch")
        network = BitNetwork(config, state, bits, backend)
        return BitField(config, network).to(device)
    network = Int8Network(config, state, metadata["activation_bits"], "reference").to(device)
    if backend == "onnxruntime":
        return OnnxField(RadianceField(config, network))
    if backend == "triton":
        from deploy.backends.triton_kernel import TritonField  # where there is Triton only

        return TritonField(Int8Field(config, network).to(device))
    network.use_backend(backend)
    return Int8Field(config, network).to(device)
