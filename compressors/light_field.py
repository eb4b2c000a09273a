"""A light field to int8: its residual stream is evened out first, exactly, then it trains through rounding."""

from pathlib import Path

import torch
import torch.nn as nn

from compressors.fake_quantize import set_state
from compressors.int8 import Int8Compressor, prepare_graph, remap_state_dict
from deploy.light_field_file import packed_tables
from deploy.model_file import load_renderer, save_float_model
from fields.light_field import LightFieldNetwork
from scenes.scene import Cameras
from training.batches import RayBatches
from utils import distributed

# How far small channels of the stream are brought up to the largest: 0 not at all, 1 all the way, which would leave
# the weights behind them to be the uneven ones (as in SmoothQuant, Xiao et al. 2023, eq. 4).
EVENNESS = 0.5


class LightFieldCompressor(Int8Compressor):
    """int8 of a `LightFieldNetwork`."""

    def default_bits(self, network: nn.Module) -> dict[str, int]:
        return {node.name: self.bits for node in network.graph.linears}

    def prepare(self) -> None:
        for name, field in self.renderer.fields.items():
            network, widths = field.network, field.config.input_widths
            field.network = prepare_graph(network, network.graph, widths, self.bits_of(name), self.activation_bits)

    def as_stored(self, network: str, layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state = remap_state_dict(layers, network)
        own = {key.removeprefix(f"{network}."): value for key, value in state.items()}
        tables = packed_tables(self.renderer.fields[network].config, own)
        return {f"{network}.{key}": value for key, value in tables.items()}

    def calibrate(self, batches: RayBatches) -> None:
        drawn = batches.draw_some(self.renderer, self.calibration)
        set_state(self.renderer, observing=False, quantizing=False)
        for network in self.renderer.networks.values():
            with StreamRanges(network) as ranges:
                self.send_through(drawn)
            even_out(network, ranges.largest())
        super().calibrate(batches)


class StreamRanges:
    """The largest magnitude of each channel wherever a network rounds its stream, `[N, W]`, of what passes."""

    def __init__(self, network: LightFieldNetwork):
        self.stubs = [*network.quant_blocks, network.quant_tail]
        self.seen: list[torch.Tensor | None] = [None] * len(self.stubs)

    def __enter__(self) -> "StreamRanges":
        self.handles = [
            stub.register_forward_pre_hook(lambda _, x, i=i: self._look(i, x[0])) for i, stub in enumerate(self.stubs)
        ]
        return self

    def _look(self, i: int, x: torch.Tensor) -> None:
        now = x.detach().abs().amax(0).float()
        self.seen[i] = now if self.seen[i] is None else torch.maximum(self.seen[i], now)

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def largest(self) -> torch.Tensor:
        ranges = torch.stack(self.seen)
        return distributed.widest(-ranges, ranges)[1] if distributed.world_size() > 1 else ranges


@torch.no_grad()
def even_out(network: LightFieldNetwork, ranges: torch.Tensor, evenness: float = EVENNESS) -> torch.Tensor:
    """Multiplies channels of the stream, and divides the weights behind them, so that one scale fits all better. What
    the network computes stays the same. ranges: of channels, `[N, W]`. Returns the factors `[W]`."""
    share = ranges / ranges.amax(1, keepdim=True).clamp_min(1e-12)
    usual = share.clamp_min(1e-3).log().mean(0)  # of the largest channel, over all places
    factors = torch.exp(-evenness * (usual - usual.amax()))
    makers = [network.head, *(last for _, last in network.blocks)]
    users = [*(first for first, _ in network.blocks), network.tail]
    for layer in makers:
        layer.weight.mul_(factors[:, None])
        layer.bias.mul_(factors)
    for layer in users:
        layer.weight.div_(factors)
    return factors


def save_other_precisions(float_file: Path, render_path: Cameras) -> dict[str, str]:
    """A float model's file in 16 bits, of both kinds, and as R2L-quant's "8-bit" files are: every tensor rounded to 255
    levels of its largest magnitude and kept as floats. Written beside it; returns files by precision."""
    names = {kind: f"model_{kind}.safetensors" for kind in ("bfloat16", "float16", "fake8")}
    renderer = load_renderer(float_file, torch.device("cpu"))[0]
    for kind in ("bfloat16", "float16"):
        save_float_model(float_file.with_name(names[kind]), renderer, render_path, kind)
    with torch.no_grad():
        for tensor in renderer.fields["network_fn"].network.parameters():
            step = (tensor.abs().amax() / 127).clamp_min(1e-12)
            tensor.copy_((tensor / step).round().clamp(-127, 127) * step)
    save_float_model(float_file.with_name(names["fake8"]), renderer, render_path)
    return names
