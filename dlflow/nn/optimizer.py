"""What all optimizers share: frozen settings whose `step` updates a flat vector in place; all their state is one flat array.

Every operation is elementwise and correctly rounded, so a step on [lo, hi) gives the bits that a step on the whole gives there:
ranks can each own a segment. Work goes through blocks that stay in the cache.

Of a table of which a batch touches some rows (see `tables`), a weight without a gradient stays as it is under SGD and Adagrad: there a
step looks at the touched rows alone, and gives the bits of a step on the whole. The moments of the others go on without a gradient, and
so do the weights: there a step costs what the table costs, unless `lazy` says that rows wait, with their moments, until a batch touches
them. That is another rule, with other results: those of PyTorch's SparseAdam.

Letters: P parameters, t number of the step, from 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.params import Array, aligned
from dlflow.nn.schedules import Schedule, rate_at
from dlflow.nn.tables import Rows, chunks, spans, table, within

__all__ = ["Optimizer"]

BLOCK = (
    1 << 14
)  # floats: 64 KiB of each of w, g, m, v and scratch fit the 1 MiB L2. 407k parameters: 0.38 ms per Adam step


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """How a gradient changes the weights.

    The state is `own_slots` values per parameter, and behind them the average of the weights if there is one.
    """

    kind: ClassVar[str]
    learning_rate: float | Schedule
    clip_value: float | None = None
    clip_norm: float | None = None
    clip_global_norm: float | None = None
    average: float | None = None
    lazy: bool = False

    @property
    @abstractmethod
    def own_slots(self) -> int:
        """State values per parameter, without the average."""

    @property
    def slots(self) -> int:
        """State values per parameter."""
        return self.own_slots + (self.average is not None)

    @property
    def rests(self) -> bool:
        """Whether a weight without a gradient stays as it is, with its state, by the rule itself."""
        return False

    @property
    def by_rows(self) -> bool:
        """Whether of a table only the rows that a batch touches change."""
        return self.lazy or (self.rests and self.average is None)

    def new_state(self, size: int, dtype: type = np.float32, arrays: Any = None) -> Array:
        """The state before the first step; `arrays` is the module that makes it, None for NumPy. Shapes: (slots * size,)."""
        return aligned(self.slots * size, dtype, arrays)

    def rate_at(self, t: int, scale: float = 1.0) -> float:
        """The learning rate of step t, from 1."""
        return rate_at(self.learning_rate, t - 1) * scale

    def step(
        self,
        w: Array,
        g: Array,
        state: Array,
        t: int,
        *,
        lo: int = 0,
        hi: int | None = None,
        scale: float = 1.0,
        rows: Rows | None = None,
    ) -> None:
        """Update w and state in place on [lo, hi), from the mean gradient g; `scale` multiplies the learning rate.

        `rows` are those of the message that g is of: where `by_rows` holds, nothing else of these parameters is looked at.

        Shapes: w (P,); g (P,), unchanged; state (slots * P,), as `new_state` made it.
        """
        size = len(w)
        columns = [state[slot * size : (slot + 1) * size] for slot in range(self.slots)]
        rate = self.rate_at(t, scale)
        scratch = np.empty_like(w[:BLOCK])
        stop = size if hi is None else hi
        known = rows if rows is not None and self.by_rows else {}
        for span in spans(known, lo, stop):
            for at in _blocks(span.start, span.stop):
                self._update(w[at], g[at], [column[at] for column in columns], scratch, rate, t)
        for slot, touched in known.items():
            tables = [table(flat, slot) for flat in (w, g, *columns)]
            for some in chunks(within(slot, touched, lo, stop), tables[0].shape[1]):
                W, G, *parts = (each[some].reshape(-1) for each in tables)
                self._update(W, G, parts, np.empty_like(W), rate, t)
                for each, made in zip((tables[0], *tables[2:]), (W, *parts), strict=True):
                    each[some] = made.reshape(len(some), -1)

    def averaged(self, w: Array, state: Array, t: int) -> Array:
        """What the model is after t steps: the average of the weights, or w if none is kept or no step was made."""
        return w if self.average is None or t == 0 else state[self.own_slots * len(w) :]

    def _update(self, W: Array, G: Array, state: list[Array], scratch: Array, rate: float, t: int) -> None:
        T = scratch[: len(W)]
        self._block(W, G, state, T, rate, t)
        if self.average is not None:
            self._follow(W, state[-1], T, t)

    @abstractmethod
    def _block(self, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int) -> None:
        """Update W and its state in place; T is scratch of the same length."""

    def _follow(self, W: Array, A: Array, T: Array, t: int) -> None:
        """A = average * A + (1 - average) * W; W itself at the first step."""
        if t == 1 or self.average is None:
            np.copyto(A, W)
            return
        np.subtract(W, A, out=T)
        np.multiply(T, 1 - self.average, out=T)
        np.add(A, T, out=A)

    def _check(self) -> None:
        if not isinstance(self.learning_rate, Schedule) and not 0 < self.learning_rate < inf:
            raise ModelError(
                f"{self.kind}: learning_rate is {self.learning_rate!r}, expected a small positive number such as 0.001"
            )
        for name in ("clip_value", "clip_norm", "clip_global_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ModelError(f"{self.kind}: {name} is {value!r}, expected a positive number such as 1.0")
        if self.clip_norm is not None and self.clip_global_norm is not None:
            raise ModelError(
                f"{self.kind}: clip_norm and clip_global_norm are both given, expected one of them"
            )
        if self.average is not None:
            self._check_share("average")
        if self.lazy and (self.rests or self.average is not None):
            why = "nothing else is done here" if self.rests else "an average of the weights moves all of them"
            raise ModelError(f"{self.kind}: lazy is true, and {why}; leave lazy out")

    def _check_share(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ModelError(f"{self.kind}: {name} is {value!r}, expected 0 <= {name} < 1")

    def _check_epsilon(self, value: float) -> None:
        if not 0 < value < inf:
            raise ModelError(
                f"{self.kind}: epsilon is {value!r}, expected a small positive number such as 1e-7"
            )


def _blocks(start: int, stop: int) -> Iterator[slice]:
    return (slice(at, min(at + BLOCK, stop)) for at in range(start, stop, BLOCK))
