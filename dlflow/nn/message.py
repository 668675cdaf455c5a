"""What a batch says of the weights: the sum of its gradients, of its losses and of its weights. Messages of shards add up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dlflow.nn.params import Array, Slot, Views, Zeros, aligned, views
from dlflow.nn.tables import chunks, spans, table, union

__all__ = ["Message"]

NONE: Array = np.empty(0, np.intp)


@dataclass(frozen=True, eq=False)
class Message:
    """The gradient of a loss sum, and at its end that sum and the sum of the sample weights: what ranks exchange.

    Sums, not means: so messages of any split of a batch, even of empty shares, add up to that of the whole batch.

    `tables` are the parameters of which a batch touches some rows, and `rows` says which, for those where it is known; all
    other rows of these are 0 then. Whoever writes elsewhere in g removes the parameter from `rows`.

    Shapes: g (P + 2,); dp has a dict of views of g per layer.
    """

    g: Array
    dp: tuple[Views, ...]
    tables: tuple[Slot, ...] = ()
    rows: dict[Slot, Array] = field(default_factory=dict)

    @staticmethod
    def of(
        slots: Sequence[Slot],
        tables: Sequence[Slot],
        layers: int,
        dtype: npt.DTypeLike,
        arrays: Any = None,
        zeros: Zeros | None = None,
    ) -> "Message":
        """A message of zeros; `arrays` is the module that makes it, None for NumPy; `zeros` its memory, if that is to be another's."""
        size = (slots[-1].stop if slots else 0) + 2
        g = zeros(size, dtype) if zeros else aligned(size, dtype, arrays)
        return Message(g, views(g, slots, layers), tuple(tables), dict.fromkeys(tables, NONE))

    def clear(self) -> None:
        """Make the tables zero, at the cost of the rows that are not."""
        for slot in self.tables:
            if slot in self.rows:
                table(self.g, slot)[self.rows[slot]] = 0
            else:
                self.g[slot.start : slot.stop] = 0
            self.rows[slot] = NONE

    def touch(self, slot: Slot, rows: Array) -> None:
        """Say that these rows, different and rising, have a gradient now too."""
        self.rows[slot] = union(self.rows[slot], rows)

    def add(self, other: "Message") -> None:
        """Add another message of the same model, in place; the rows become those of both."""
        for slot in [slot for slot in self.rows if slot not in other.rows]:
            del self.rows[slot]
        for at in spans(self.rows, 0, len(self.g)):
            np.add(self.g[at], other.g[at], out=self.g[at])
        for slot in self.rows:
            mine, theirs = table(self.g, slot), table(other.g, slot)
            for some in chunks(other.rows[slot], mine.shape[1]):
                mine[some] += theirs[some]
            self.touch(slot, other.rows[slot])
