"""Models with branches: a graph of layers, written by calling layers on what comes before them.

    image, words, row = Input((28, 28, 1), "image"), Input((100,), "words"), Input((12,), "row")
    seen = join(image, Conv2D(16, 3, activation="relu"), GlobalAveragePooling2D())
    read = join(words, Embedding(20_000, 32), LSTM(64))
    both = join((seen, read, row), Concatenate(), Dense(32, "relu"), Dense(1, "sigmoid"))
    graph = Graph.of(both)

A Graph is a value: the inputs, then the nodes in an order in which each comes after what it reads. A layer used twice is two nodes
with weights of their own; `join(..., shared=name)` has the weights of all others of this name:

    left, right = (join(Input(20, name), Embedding(1000, 16), LSTM(16), shared="reader") for name in ("left", "right"))
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dlflow.errors import ModelError
from dlflow.nn.layers import Layer
from dlflow.nn.params import Shape

__all__ = ["Graph", "Input", "Node", "Value", "join"]


@dataclass(frozen=True)
class Node:
    """A layer and the places of what it reads: inputs first (0, 1, ...), then nodes."""

    layer: Layer
    sources: tuple[int, ...]
    shared: str = ""  # nodes of one name have the weights of the first of them


@dataclass(frozen=True, eq=False)
class Value:
    """What an input or a layer gives, while a graph is written. Compared by identity."""

    layer: Layer | None
    sources: tuple["Value", ...]
    shape: Shape = ()
    name: str = ""
    shared: str = ""


def Input(shape: Shape | int, name: str) -> Value:  # noqa: N802  (read like Keras)
    """One of the inputs of a graph, by the shape of one sample."""
    return Value(None, (), (shape,) if isinstance(shape, int) else tuple(shape), name)


def join(source: Value | Sequence[Value], *layers: Layer, shared: str = "") -> Value:
    """The value after these layers, one after the other; the first reads all the sources.

    Where other values are joined by the same layers and `shared` name, all use the same weights.

    Raises: ModelError without a layer, or for a source that is no value of a graph.
    """
    sources = (source,) if isinstance(source, Value) else tuple(source)
    if not layers or not sources:
        raise ModelError(f"join: {len(sources)} sources and {len(layers)} layers, expected at least one each")
    for each in sources:
        if not isinstance(each, Value):
            raise ModelError(f"join: {each!r} is no value of a graph; begin with Input(shape, name)")
    for number, layer in enumerate(layers):
        sources = (Value(layer, sources, shared=f"{shared}.{number}" if shared else ""),)
    return sources[0]


@dataclass(frozen=True)
class Graph:
    """Named inputs and nodes; the output is that of the last node.

    Raises: ModelError for a node that reads what is not there, an input that nobody reads, or a node that leads nowhere.
    """

    inputs: tuple[tuple[str, Shape], ...]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ModelError("the model has no layers, expected at least one; add a Dense layer")
        names = [name for name, _ in self.inputs]
        if not names or len(set(names)) < len(names):
            raise ModelError(f"graph: inputs are named {names!r}, expected different names; rename one")
        read: set[int] = set()
        for number, node in enumerate(self.nodes):
            there = len(self.inputs) + number
            if not node.sources or any(not 0 <= source < there for source in node.sources):
                raise ModelError(
                    f"graph: layer {number} ({node.layer.kind}) reads {node.sources!r}, expected places before {there}"
                )
            read.update(node.sources)
        self._check_shared()
        unread = [place for place in range(len(self.inputs) + len(self.nodes) - 1) if place not in read]
        if unread:
            what = [self.name(place) for place in unread]
            raise ModelError(f"graph: nobody reads {', '.join(what)}; join it, or leave it out")

    @classmethod
    def chain(cls, layers: Sequence[Layer], in_shape: Shape) -> "Graph":
        """Layers in order over one input."""
        return cls((("X", in_shape),), tuple(Node(layer, (number,)) for number, layer in enumerate(layers)))

    @classmethod
    def of(cls, output: Value) -> "Graph":
        """The graph that ends in this value. Inputs are in the order in which they are reached.

        Raises: ModelError as the Graph itself.
        """
        inputs: list[Value] = []
        inner: list[Value] = []
        seen: set[int] = set()
        waiting = [(output, False)]
        while waiting:  # no recursion: a graph may be deeper than Python's stack
            value, ready = waiting.pop()
            if ready:
                inner.append(value)
            elif id(value) not in seen:
                seen.add(id(value))
                if value.layer is None:
                    inputs.append(value)
                else:
                    waiting.append((value, True))
                    waiting.extend((source, False) for source in reversed(value.sources))
        places = {id(value): place for place, value in enumerate((*inputs, *inner))}
        nodes = tuple(
            Node(value.layer, tuple(places[id(source)] for source in value.sources), value.shared)
            for value in inner
            if value.layer is not None
        )
        return cls(tuple((value.name, value.shape) for value in inputs), nodes)

    @property
    def is_chain(self) -> bool:
        """Whether it is layers in order over one input, as `chain` makes them."""
        return [node.sources for node in self.nodes] == [
            (number,) for number in range(len(self.nodes))
        ] and not (len(self.inputs) > 1 or any(node.shared for node in self.nodes))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, node by node."""
        return tuple(node.layer for node in self.nodes)

    def owner(self, number: int) -> int:
        """The node whose weights this node uses: itself, or the first of its shared name."""
        shared = self.nodes[number].shared
        return next(at for at, node in enumerate(self.nodes) if node.shared == shared) if shared else number

    def _check_shared(self) -> None:
        for number, node in enumerate(self.nodes):
            first = self.nodes[self.owner(number)].layer
            if node.layer != first:
                raise ModelError(
                    f"graph: layer {number} shares {node.shared!r} and is {node.layer!r}, the first of it is {first!r}; "
                    "give both the same settings, or other names"
                )
            if node.shared and (first.statistics() or first.stateful):
                raise ModelError(
                    f"graph: layer {number} ({first.kind}) shares {node.shared!r}, but follows what it sees in one place; "
                    "leave it out of what is shared"
                )

    def name(self, place: int) -> str:
        """How messages call a place."""
        if place < len(self.inputs):
            return f"input {self.inputs[place][0]!r}"
        number = place - len(self.inputs)
        return f"layer {number} ({self.nodes[number].layer.kind})"

    def readers(self, place: int) -> list[int]:
        """The numbers of the nodes that read this place."""
        return [number for number, node in enumerate(self.nodes) if place in node.sources]
