"""How a graph runs: shapes are checked, the last activation is left to the loss, and neighbours become one step.

Dense + Activation                    one product, bias and activation in place
Conv + Activation + MaxPooling        bias and activation after the maximum, on the smaller array
... + softmax, cross-entropy          the loss starts from the output before the last activation (the head)
... + sigmoid, binary cross-entropy   likewise
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dlflow.errors import ModelError
from dlflow.nn.graph import Graph
from dlflow.nn.layers import Activation, Dense, Layer
from dlflow.nn.params import Shape

__all__ = ["Plan", "Step", "build"]


@dataclass(frozen=True)
class Step:
    """A layer to run: on the parameters and random numbers of node `number`, from the values at `sources` to that at `makes`."""

    layer: Layer
    number: int
    sources: tuple[int, ...]
    makes: int


@dataclass(frozen=True)
class Plan:
    """The steps in order, the place of Z, which is the output before the head, and the head."""

    steps: tuple[Step, ...]
    out: int
    head: str

    @classmethod
    def of(cls, graph: Graph, *, fuse: bool = True) -> "Plan":
        """The steps of a graph; `fuse=False` leaves each layer to itself, which gives the same to rounding."""
        last = len(graph.nodes) - 1
        first_place = len(graph.inputs)
        head, nodes, out = "linear", list(graph.nodes), first_place + last
        match nodes[last].layer:
            case Dense(activation=str(head)) as dense:
                nodes[last] = replace(nodes[last], layer=replace(dense, activation=None))
            case Activation(function=head):
                out = nodes.pop().sources[0]
        steps: list[Step] = []
        for number, node in enumerate(nodes):
            step = Step(node.layer, number, node.sources, first_place + number)
            before = [at for at, made in enumerate(steps) if node.sources == (made.makes,)]
            if fuse and before and graph.readers(node.sources[0]) == [number]:
                one = steps[before[0]].layer.followed_by(node.layer)
                if one is not None:
                    steps[before[0]] = replace(steps[before[0]], layer=one, makes=step.makes)
                    continue
            steps.append(step)
        return cls(tuple(steps), out, head)


def build(graph: Graph) -> tuple[list[Mapping[str, Shape]], list[Shape]]:
    """The parameters of each node, and the shape of what it gives for one sample.

    Raises: ModelError that names the layer that does not fit the one before it.
    """
    for name, shape in graph.inputs:
        if any(length < 1 for length in shape):
            raise ModelError(
                f"samples have shape {shape!r}, expected lengths of at least 1; give the shape of one sample"
                + (f" of {name!r}" if len(graph.inputs) > 1 else "")
            )
    needs: list[Mapping[str, Shape]] = []
    shapes = [shape for _, shape in graph.inputs]
    for number, node in enumerate(graph.nodes):
        before = tuple(shapes[source] for source in node.sources)
        try:
            need, shape = node.layer.build(before[0]) if len(before) == 1 else node.layer.build_joined(before)
        except ModelError as error:
            raise ModelError(f"layer {number}: {error}") from error
        owner = graph.owner(number)
        if owner < number and need != needs[owner]:
            raise ModelError(
                f"layer {number} ({node.layer.kind}) shares {node.shared!r} with layer {owner}, whose weights are {needs[owner]!r}; "
                f"here they would be {need!r}: give it inputs of the same form"
            )
        needs.append(need)
        shapes.append(shape)
    own = [need if graph.owner(number) == number else {} for number, need in enumerate(needs)]
    return own, shapes[len(graph.inputs) :]
