"""A TensoRF whose plane entries are pruned, shared from codebooks, or kept, all trained through their rounding.

Sharing is exact: a plane is a table of row numbers into codes and kept vectors, so training moves all users of a
code together. Every number is trained through its rounding, with a step that is learnt as well, and pays for the bits
that an adaptive coder would spend on it. How entries are split is in `compressors.codebooks`.
"""

import math

import torch
import torch.nn as nn

from fields.tensorf import (
    LINES,
    PLANES,
    TensorField,
    TensorNetwork,
    TensorVM,
    bilinear_corners,
    linear_corners,
    look_up,
    sizes_problem,
)

PRUNED, CODED, KEPT = 0, 1, 2  # states of a plane's entry
STEP = 0.15  # first step of rounding a plane, in root mean squares of what is rounded; of all else half of that
Q_MAX = 127
LEAST_SCALE = 0.04  # of a channel's values in steps: what an adaptive coder still learns of all-zero ones


class _RoundToStep(torch.autograd.Function):
    """x to whole multiples of a step, at most Q_MAX; gradients of LSQ (Esser et al. 2020, eq. 3)."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, step)
        return (x / step).round_().clamp_(-Q_MAX, Q_MAX).mul_(step)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, step = ctx.saved_tensors
        scaled = x / step
        inside = scaled.abs() <= Q_MAX
        d_step = gradient * (scaled.round().clamp(-Q_MAX, Q_MAX) - scaled * inside)
        return gradient * inside, d_step.sum_to_size(step.shape)


def laplace_bits(scaled: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """-log2 of what a Laplace distribution of a scale gives the unit interval around `scaled`."""
    far = scaled.abs()
    tail = -(far - 0.5) / scale + torch.log(-0.5 * torch.expm1(-1 / scale))
    near = (0.5 - far).clamp_min(0)  # where the interval holds zero
    middle = torch.log1p(-0.5 * (torch.exp(-near / scale) + torch.exp(-(0.5 + far) / scale)))
    return torch.where(far < 0.5, middle, tail) / -math.log(2)


class RoundedTensor(nn.Module):
    """A trained tensor `[..., R]` that is rounded to steps, one for each group of channels.

    value: the latent floats. log_step: `[G]`, natural logarithm. groups: channels of each group.
    """

    def __init__(self, value: torch.Tensor, groups: tuple[int, ...], step: float):
        super().__init__()
        self.groups = groups
        self.value = nn.Parameter(value.detach().clone())
        parts = self.value.detach().split(groups, -1)
        sizes = torch.stack([part.square().mean().sqrt() if part.numel() else part.new_ones(()) for part in parts])
        self.log_step = nn.Parameter((step * sizes).clamp_min(1e-6).log())

    def steps(self) -> torch.Tensor:
        """Of every channel `[R]`."""
        # Nothing here asks the device how long it is, as repeat_interleave would.
        return torch.cat([step.expand(size) for step, size in zip(self.log_step.exp(), self.groups, strict=True)])

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Takes on the number of rows of what is loaded."""
        stored = state_dict.get(f"{prefix}value")
        if stored is not None and stored.shape[1:] == self.value.shape[1:]:
            self.value.data = self.value.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self) -> torch.Tensor:
        return _RoundToStep.apply(self.value, self.steps())

    def integers(self) -> torch.Tensor:
        return (self.value / self.steps()).round().clamp(-Q_MAX, Q_MAX).to(torch.int8)

    def bits(self, share: int = 1, start: int = 0) -> torch.Tensor:
        """What storing it costs; estimated from every `share`-th of its rows from `start` on."""
        if not self.value.numel():
            return self.value.new_zeros(())
        rows = self.value.reshape(-1, self.value.shape[-1])
        rows = rows[start % min(share, len(rows)) :: share]
        scaled = rows / self.steps()
        scale = scaled.detach().abs().mean(0).clamp_min(LEAST_SCALE)
        return laplace_bits(scaled, scale).sum() * (self.value.numel() / scaled.numel())


class RoundedLinear(nn.Module):
    """A linear layer with a RoundedTensor for its weight."""

    def __init__(self, layer: nn.Linear, step: float):
        super().__init__()
        self.weight = RoundedTensor(layer.weight, (layer.in_features,), step)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight(), self.bias)


class VQTensorVM(TensorNetwork):
    """A TensorVM whose planes are tables of rows.

    tables: for each plane `[K + n, R]`, codes first, then kept vectors in the order of their entries.
    rows: for each plane `[2, H, W]` (density, colour) numbers of rows, from 1; 0 stands for zeros.
    codes: how many rows of each table are codes, `[3]`.
    """

    def __init__(self, network: TensorVM, states: list[torch.Tensor], codes, numbers):
        """states: of each plane `[H, W]`; codes: `[K, R]`; numbers: `[2, H, W]` codes of CODED entries."""
        super().__init__(network.config, network.aabb, 1)
        self.tables, self.lines = nn.ModuleList(), nn.ModuleList()
        self.register_buffer("codes", torch.tensor([len(code) for code in codes]))
        groups = list(zip(network.config.density_ranks, network.config.color_ranks, strict=True))
        for i, (plane, state, code, number) in enumerate(zip(network.planes, states, codes, numbers, strict=True)):
            kept = state == KEPT
            self.tables.append(RoundedTensor(torch.cat([code, plane.detach()[kept]]), groups[i], STEP))
            rows = torch.zeros((2, *state.shape), dtype=torch.int32, device=state.device)
            rows[:, state == CODED] = 1 + number[:, state == CODED].int()
            rows[:, kept] = 1 + len(code) + torch.arange(int(kept.sum()), dtype=torch.int32, device=state.device)
            self.register_buffer(f"rows_{i}", rows)
        for line, group in zip(network.lines, groups, strict=True):
            self.lines.append(RoundedTensor(line, group, 0.5 * STEP))
        self.basis = RoundedLinear(network.basis, 0.5 * STEP)
        self.decoder = nn.Sequential(
            *(RoundedLinear(layer, 0.5 * STEP) if isinstance(layer, nn.Linear) else layer for layer in network.decoder)
        )

    @property
    def rows(self) -> list[torch.Tensor]:
        return [self.rows_0, self.rows_1, self.rows_2]

    @property
    def resolution(self) -> tuple[int, int, int]:
        return self.rows_0.shape[2], self.rows_0.shape[1], self.lines[0].value.shape[0]

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Takes on the resolution of what is loaded."""
        for i in range(3):
            stored = state_dict.get(f"{prefix}rows_{i}")
            if stored is not None and stored.ndim == 3:
                setattr(self, f"rows_{i}", self.rows[i].new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def problem(self) -> str:
        sizes = [rows.shape[1:] for rows in self.rows], [len(line.value) for line in self.lines]
        problem = super().problem() or sizes_problem(self.resolution, *sizes)
        for rows, table, codes in zip(self.rows, self.tables, self.codes.tolist(), strict=True):
            count = len(table.value)
            if not problem and not (0 <= codes <= count and rows.min() >= 0 and rows.max() <= count and len(rows) == 2):
                problem = f"rows beyond the {count} of a table"
        return problem

    def states(self) -> list[torch.Tensor]:
        """Of each plane's entries, `[H, W]`: PRUNED, CODED or KEPT."""
        return [
            torch.where(rows[0] == 0, PRUNED, torch.where(rows[0] <= count, CODED, KEPT))
            for rows, count in zip(self.rows, self.codes, strict=True)
        ]

    def rounded(self) -> dict[str, RoundedTensor]:
        return {name: module for name, module in self.named_modules() if isinstance(module, RoundedTensor)}

    def bits(self, share: int = 1, start: int = 0) -> torch.Tensor:
        """An estimate of what all rounded numbers take in the file; row numbers are not in it."""
        return sum(tensor.bits(share, start) for tensor in self.rounded().values())

    @torch.no_grad()
    def coarsen(self, factor: float) -> None:
        """Makes all steps larger by a factor; what is rounded stays."""
        for tensor in self.rounded().values():
            tensor.log_step += math.log(factor)

    def products(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density, components = at.new_zeros(at.shape[1]), []
        for i, ((column, row), axis, rank) in enumerate(zip(PLANES, LINES, self.config.density_ranks, strict=True)):
            rows, table = self.rows[i], self.tables[i]()
            index, weight = bilinear_corners(at[column], at[row], *rows.shape[1:])
            entries = torch.cat([table.new_zeros(1, table.shape[1]), table])
            line = self.lines[i]()
            of_line = look_up(line, *linear_corners(at[axis], len(line)))
            of_plane = [
                look_up(part.contiguous(), numbers.view(-1)[index], weight)
                for part, numbers in zip(entries.split(self.tables[i].groups, -1), rows, strict=True)
            ]
            density = density + (of_plane[0] * of_line[:, :rank]).sum(-1)
            components.append(of_plane[1] * of_line[:, rank:])
        return density, torch.cat(components, -1)

    def planes(self) -> list[torch.Tensor]:
        """Written out, `[H, W, R]` each, with gradients to codes and kept vectors."""
        planes = []
        for table, rows in zip(self.tables, self.rows, strict=True):
            values = table()
            entries = torch.cat([values.new_zeros(1, values.shape[1]), values])
            parts = zip(rows, entries.split(table.groups, -1), strict=True)
            planes.append(torch.cat([nn.functional.embedding(numbers, part) for numbers, part in parts], -1))
        return planes

    @torch.no_grad()
    def dense(self) -> TensorVM:
        """The same field with its planes written out."""
        network = TensorVM(self.config, self.resolution, self.aabb)
        for i, plane in enumerate(self.planes()):
            network.planes[i].copy_(plane)
            network.lines[i].copy_(self.lines[i]())
        network.basis.weight.copy_(self.basis.weight())
        for ours, theirs in zip(network.decoder, self.decoder, strict=True):
            if isinstance(ours, nn.Linear):
                ours.weight.copy_(theirs.weight())
                ours.bias.copy_(theirs.bias)
        return network.to(self.aabb.device)


class VQField(TensorField):
    """A VQTensorVM as a Field."""

    kind = "vq_tensorf"

    def rate_of(self, name: str) -> float:
        """Steps of rounding are logarithms, of size one whatever they belong to."""
        return 0.5 if name.endswith("log_step") else super().rate_of(name)
