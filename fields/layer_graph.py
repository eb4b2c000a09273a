"""The topology of a network, said once: linear layers, concatenations, sums and roundings of named tensors.

Fake quantisation, the integer backends and ONNX read it instead of each knowing a network by heart. A network that
can be said so is compressed and executed by what is there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch


def module_key(name: str) -> str:
    """A tensor's or layer's name as modules may have it."""
    return name.replace(".", "_")


@dataclass(frozen=True)
class Input:
    """What goes in, encoded; it stands where it is first needed, and is rounded there."""

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Linear:
    """A layer, with a ReLU behind it or not; its output has its name."""

    name: str
    input: str
    relu: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True)
class Concat:
    """Columns side by side, in this order."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Add:
    """The sum of two tensors of one width."""

    name: str
    inputs: tuple[str, str]


@dataclass(frozen=True)
class Round:
    """The same tensor where integers execute it as codes; in float, itself. What is added is not rounded unless one of
    these says so."""

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


Node = Input | Linear | Concat | Add | Round


@dataclass(frozen=True)
class LayerGraph:
    """nodes: in an order in which each finds what it needs. outputs: names of what comes out, whose layers are the
    heads."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        return [node.name for node in self.nodes if isinstance(node, Input)]

    @property
    def linears(self) -> list[Linear]:
        return [node for node in self.nodes if isinstance(node, Linear)]

    @property
    def roundings(self) -> list[str]:
        """Names of what becomes codes on its own, and not in the layer that makes it: inputs, and `Round`s."""
        return [node.name for node in self.nodes if isinstance(node, Input | Round)]

    @cached_property
    def floats(self) -> frozenset[str]:
        """Names of tensors that integers keep in float: outputs, sums, and layers that are summands or are rounded
        by a `Round`."""
        sums = {node.name for node in self.nodes if isinstance(node, Add)}
        used = {name for node in self.nodes if isinstance(node, Add | Round) for name in node.inputs}
        return frozenset((sums | used | set(self.outputs)) - set(self.roundings))

    @property
    def multiplies_floats(self) -> bool:
        """Whether a layer is given a sum that no `Round` stands behind, which integers cannot multiply."""
        products = [source for node in self.linears for source in self.sources(node.input)]
        return not self.floats.isdisjoint(products)

    def sources(self, name: str) -> list[str]:
        """What a tensor's columns are made of, in order: inputs, layers and sums, seen through concatenations."""
        node = self._by_name.get(name)
        if not isinstance(node, Concat):
            return [name]
        return [source for part in node.inputs for source in self.sources(part)]

    def until(self, *outputs: str) -> "LayerGraph":
        """The part that some tensors need."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
                nodes.append(node)
        return LayerGraph(tuple(reversed(nodes)), outputs)

    def run(
        self,
        tensors: dict[str, torch.Tensor],
        linear: Callable[[Linear, torch.Tensor], torch.Tensor],
        rounded: Callable[[Round, torch.Tensor], torch.Tensor] = lambda node, x: x,
    ) -> list[torch.Tensor]:
        """The outputs. tensors: the inputs by name. linear: executes a layer and its ReLU on `[P, in]`. rounded:
        rounds."""
        tensors = dict(tensors)
        for node, last_used in self.schedule:
            if isinstance(node, Input):
                continue
            if isinstance(node, Linear):
                tensors[node.name] = linear(node, tensors[node.input])
            elif isinstance(node, Round):
                tensors[node.name] = rounded(node, tensors[node.input])
            elif isinstance(node, Concat):
                tensors[node.name] = torch.cat([tensors[name] for name in node.inputs], -1)
            else:
                first, second = node.inputs
                tensors[node.name] = tensors[first] + tensors[second]
            for name in last_used:  # so that the next layer's output may have its memory
                del tensors[name]
        return [tensors[name] for name in self.outputs]

    def __post_init__(self):
        # At once, and not when they are first asked for: what torch.compile traces may ask.
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})
        object.__setattr__(self, "schedule", self._with_last_uses())

    def _with_last_uses(self) -> list[tuple[Node, list[str]]]:
        """Nodes, each with what nothing needs after it."""
        schedule, needed = [], set(self.outputs)
        for node in reversed(self.nodes):
            last_used = [name for name in dict.fromkeys(node.inputs) if name not in needed]
            needed.update(node.inputs)
            schedule.append((node, last_used))
        return schedule[::-1]
