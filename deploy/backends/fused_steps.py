"""A layer graph as integers go through it: each layer with what can be done before its sums are written."""

from dataclasses import dataclass

from fields.layer_graph import Add, Concat, Input, LayerGraph, Linear, Node, Round


@dataclass(frozen=True)
class Product:
    """A layer, its ReLU, and then: `added`, another tensor, is added, and the sum is rounded as `rounding` says, or
    stays in float. name: of what comes out."""

    layer: Linear
    name: str
    added: str | None = None
    rounding: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.layer.input,) if self.added is None else (self.layer.input, self.added)


Step = Product | Concat | Add | Round


def fuse(graph: LayerGraph) -> list[tuple[Step, list[str]]]:
    """The steps, each with what nothing needs after it. A sum of codes that is only rounded is one step with the layer
    that makes its last summand; one of floats stays in float."""
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    steps, made = [], set()
    for node in graph.nodes:
        if isinstance(node, Linear):
            step = _product(graph, node, users, made)
            steps.append(step)
            made |= {node.name, step.name}
        elif node.name not in made:
            made.add(node.name)
            steps += [] if isinstance(node, Input) else [node]
        if isinstance(node, Linear) and step.rounding and step.added:  # the sum itself is nowhere
            made |= {user.name for user in users[node.name]}
    return _with_last_uses(graph, steps)


def _product(graph: LayerGraph, node: Linear, users: dict[str, list[Node]], made: set[str]) -> Product:
    if node.name not in graph.floats:
        return Product(node, node.name, rounding=node.name)
    name, added = node.name, None
    user = _only(graph, name, users)
    if isinstance(user, Add) and not node.relu:
        (other,) = (summand for summand in user.inputs if summand != name)
        if other in made:
            name, added = user.name, other
            user = _only(graph, name, users)
    if isinstance(user, Round) and (added is None or added in graph.roundings):
        return Product(node, user.name, added, user.name)
    return Product(node, name, added)


def _only(graph: LayerGraph, name: str, users: dict[str, list[Node]]) -> Node | None:
    """The one node that uses a tensor, if there is just one."""
    found = users.get(name, [])
    return found[0] if len(found) == 1 and name not in graph.outputs else None


def _with_last_uses(graph: LayerGraph, steps: list[Step]) -> list[tuple[Step, list[str]]]:
    needed, schedule = set(graph.outputs), []
    for step in reversed(steps):
        last_used = [name for name in dict.fromkeys(step.inputs) if name not in needed]
        needed.update(step.inputs)
        schedule.append((step, last_used))
    return schedule[::-1]
