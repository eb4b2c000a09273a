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
    """The steps, each with what nothing needs after it. A sum that a layer's output goes into, and nothing else, is one
    step with it: one with codes if all it is for is to be rounded again, one of floats in any case."""
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
    user = _only(graph, node.name, users)
    if isinstance(user, Round):
        return Product(node, user.name, None, user.name)
    if not isinstance(user, Add) or node.relu:
        return Product(node, node.name)
    (added,) = (summand for summand in user.inputs if summand != node.name)
    of_sum, codes = _only(graph, user.name, users), added in graph.roundings
    if added in made and codes and isinstance(of_sum, Round):
        return Product(node, of_sum.name, added, of_sum.name)
    return Product(node, user.name, added) if added in made and not codes else Product(node, node.name)


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
