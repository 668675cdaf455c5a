"""What layers of a model share, and what they ask for: by name and place, once for all nodes that use the same weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.choice import suggestion
from dlflow.nn.graph import Graph
from dlflow.nn.layers import Layer
from dlflow.nn.params import Array, Slot, Views

__all__ = ["Second", "Wishes"]

Thing = TypeVar("Thing")


class Second:
    """Where a layer leaves its gradient that has left one in this backward pass already, at another place of the graph."""

    def __init__(self, layers: Sequence[Layer], p: Sequence[Views]) -> None:
        self._layers, self._p = layers, p
        self._made: dict[int, Views] = {}

    def views(self, owner: int) -> Views:
        """Work arrays in the place of the gradient; tables are 0."""
        if owner not in self._made:
            self._made[owner] = {name: np.zeros_like(view) for name, view in self._p[owner].items()}
        return self._made[owner]

    def add(self, owner: int, dp: Views, rows: Mapping[str, Array]) -> None:
        """Add them to the gradient; of tables these rows, which become 0 again."""
        tables = self._layers[owner].tables()
        for name, view in self._made[owner].items():
            if name not in tables:
                np.add(dp[name], view, out=dp[name])
            elif name in rows:
                dp[name][rows[name]] += view[rows[name]]
                view[rows[name]] = 0


class Wishes:
    """What each layer asks for its parameters by name, with their places."""

    def __init__(self, graph: Graph, slots: Sequence[Slot]) -> None:
        self._graph, self._slots = graph, slots
        self._places = {(slot.layer, slot.name): slot for slot in slots}

    def of(self, asked: Callable[[Layer], Mapping[str, Thing]]) -> list[tuple[Slot, Thing]]:
        """What this asks of every layer with weights of its own.

        Raises: ModelError for a parameter that is not there, with a "did you mean".
        """
        made = []
        for number, layer in enumerate(self._graph.layers):
            for name, wish in asked(layer).items() if self._graph.owner(number) == number else ():
                if (number, name) not in self._places:
                    known = [slot.name for slot in self._slots if slot.layer == number]
                    where = self._graph.name(len(self._graph.inputs) + number)
                    raise ModelError(f"{where}: no parameter {name!r}; {suggestion(name, known)}")
                made.append((self._places[number, name], wish))
        return made
