"""Mergeable exact summaries: small states that add up to the answer for all rows, whatever the cut and the order.

    sketch(part) -> state        merge(state, state) -> state        finish(state) -> fitted, or a request for one more round

Nothing here is an estimate. Sums are integers (sums.py), quantiles are counted (quantiles.py), and what would grow
without bound, the distinct values of a column, stops at a limit and says so. Missing values, nan and infinities do
not count. A fitted value is JSON-able; times are ISO 8601 text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import combined, finite, kind_of, numbers
from pipelines.quantiles import Quantiles
from pipelines.stage import Sketch
from pipelines.sums import deviations, exact_squares, exact_sum, quotient

__all__ = [
    "Histogram",
    "Moments",
    "Quantiles",
    "Several",
    "Spread",
    "Values",
    "group_labels",
    "plain",
    "summarise",
]


def summarise(sketch: Sketch, tables: Iterable[pa.Table]) -> Any:
    """What a sketch says of all rows of these tables, in this process."""
    parts = list(tables)
    request: Any = None
    while True:
        states = [sketch.sketch(part, request) for part in parts]
        state = states[0]
        for other in states[1:]:
            state = sketch.merge(state, other)
        done, request = sketch.finish(state, request)
        if done:
            return request


def plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    if isinstance(value, date):  # or a datetime
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


@dataclass(frozen=True)
class Spread:
    """The state of Moments. Equal for equal rows, however they were cut."""

    rows: int
    count: int
    total: int  # in units of 2 ** -SCALE
    low: float | None
    high: float | None
    squares: int  # the sum of the squares, in units of 2 ** -(2 * SCALE)


@dataclass(frozen=True)
class Moments:
    """Rows, missing values, mean, extremes; with `spread` also variance and standard deviation.

    All come from the exact sums of the values and of their squares, and are rounded once. `variance` divides by the count,
    `std` by the count less one, as pandas does. They are null where there are too few values, or beyond the floats.
    """

    column: str
    spread: bool = False

    def sketch(self, table: pa.Table, request: None) -> Spread:
        """Sums of one part."""
        del request
        values = numbers(table[self.column])
        if not len(values):
            return Spread(table.num_rows, 0, 0, None, None, 0)
        low, high = values.min().item(), values.max().item()
        squares = exact_squares(values) if self.spread else 0
        return Spread(table.num_rows, len(values), exact_sum(values), low, high, squares)

    def merge(self, left: Spread, right: Spread) -> Spread:
        """The sums of both."""
        lows = [one.low for one in (left, right) if one.low is not None]
        highs = [one.high for one in (left, right) if one.high is not None]
        return Spread(
            left.rows + right.rows,
            left.count + right.count,
            left.total + right.total,
            min(lows, default=None),
            max(highs, default=None),
            left.squares + right.squares,
        )

    def finish(self, state: Spread, request: None) -> tuple[bool, Any]:
        """The numbers."""
        del request
        fitted = {
            "rows": state.rows,
            "nulls": state.rows - state.count,
            "count": state.count,
            "mean": quotient(state.total, state.count),
            "min": state.low,
            "max": state.high,
        }
        if not self.spread:
            return True, fitted
        variance, std = deviations(state.total, state.squares, state.count)
        return True, {**fitted, "variance": variance, "std": std}


@dataclass(frozen=True)
class Values:
    """How often each value occurs: for the mode, categories, top values. Exact up to `limit` distinct values.

    Fitted: {"rows", "nulls", "distinct", "values": [[value, count], ...]}, the most frequent first, of equals the
    smallest first, at most `top` of them. With more than `limit` distinct values, distinct and values are null.
    """

    column: str
    limit: int = 100_000
    top: int | None = None

    def sketch(self, table: pa.Table, request: None) -> tuple[int, int, pa.Table | None]:
        """Rows, missing values, and the distinct values in ascending order with their counts."""
        del request
        values = combined(table[self.column])
        if kind_of(values.type) == "float":
            values = pc.add(finite(values), pa.scalar(0.0, values.type))  # -0.0 becomes 0.0
        if kind_of(values.type) == "timestamp":
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
        valid = values.drop_null()
        if len(pc.unique(valid[: 4 * self.limit])) > self.limit:
            return table.num_rows, table.num_rows - len(valid), None
        counted = pc.value_counts(valid)
        pairs = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
        return table.num_rows, table.num_rows - len(valid), self._within(pairs.sort_by("value"))

    def merge(
        self, left: tuple[int, int, pa.Table | None], right: tuple[int, int, pa.Table | None]
    ) -> tuple[int, int, pa.Table | None]:
        """The counts of both."""
        rows, nulls = left[0] + right[0], left[1] + right[1]
        if left[2] is None or right[2] is None:
            return rows, nulls, None
        both = (
            pa.concat_tables([left[2], right[2]])
            .group_by("value", use_threads=False)
            .aggregate([("count", "sum")])
        )
        both = both.rename_columns(["value", "count"]).combine_chunks()
        return rows, nulls, self._within(both.sort_by("value"))

    def finish(self, state: tuple[int, int, pa.Table | None], request: None) -> tuple[bool, Any]:
        """The counts."""
        del request
        rows, nulls, pairs = state
        if pairs is None:
            return True, {"rows": rows, "nulls": nulls, "distinct": None, "values": None}
        pairs = pairs.take(
            pc.sort_indices(pairs, [("count", "descending")])
        )  # stable: of equals the smallest first
        shown = pairs.slice(0, self.top)
        pairs_of = zip(shown["value"].to_pylist(), shown["count"].to_pylist(), strict=True)
        values = [[plain(value), count] for value, count in pairs_of]
        return True, {"rows": rows, "nulls": nulls, "distinct": pairs.num_rows, "values": values}

    def _within(self, pairs: pa.Table) -> pa.Table | None:
        return pairs if pairs.num_rows <= self.limit else None


@dataclass(frozen=True)
class Histogram:
    """Counts between given edges, ascending; the last bin holds its upper edge, as in numpy.

    Fitted: {"edges", "counts", "below", "above"}.
    """

    column: str
    edges: tuple[float, ...]

    def sketch(self, table: pa.Table, request: None) -> tuple[int, ...]:
        """Counts below, in each bin, above."""
        del request
        values = numbers(table[self.column])
        edges = np.array(self.edges)
        place = np.searchsorted(edges, values, side="right")
        place[values == edges[-1]] = len(edges) - 1
        return tuple(np.bincount(place, minlength=len(edges) + 1).tolist())

    def merge(self, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
        """The counts of both."""
        return tuple(one + other for one, other in zip(left, right, strict=True))

    def finish(self, state: tuple[int, ...], request: None) -> tuple[bool, Any]:
        """The counts."""
        del request
        return True, {
            "edges": list(self.edges),
            "counts": list(state[1:-1]),
            "below": state[0],
            "above": state[-1],
        }


@dataclass(frozen=True)
class Several:
    """Many sketches in the rounds of the longest. Fitted: what each has fitted, by its name."""

    sketches: Mapping[str, Sketch]

    def sketch(self, table: pa.Table, request: dict[str, Any] | None) -> dict[str, Any]:
        """States of those that are not done."""
        if request is None:
            return {name: sketch.sketch(table, None) for name, sketch in self.sketches.items()}
        return {name: self.sketches[name].sketch(table, one) for name, one in request["open"].items()}

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        """Each with its own."""
        return {name: self.sketches[name].merge(left[name], right[name]) for name in left}

    def finish(self, state: dict[str, Any], request: dict[str, Any] | None) -> tuple[bool, Any]:
        """What all have fitted, or the requests of those that need another round."""
        before = request or {"open": dict.fromkeys(self.sketches), "done": {}}
        done: dict[str, Any] = dict(before["done"])
        still: dict[str, Any] = {}
        for name, one in state.items():
            is_done, answer = self.sketches[name].finish(one, before["open"][name])
            (done if is_done else still)[name] = answer
        if still:
            return False, {"open": still, "done": done}
        return True, {name: done[name] for name in self.sketches}


def group_labels(table: pa.Table, by: tuple[str, ...]) -> pa.StringArray:
    """One text per row that names its group; null where a column of `by` is."""
    texts = [combined(table[name]).cast(pa.string()) for name in by]
    if len(texts) == 1:
        return texts[0]
    escaped = [pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), "|", "\\p") for text in texts]
    return pc.binary_join_element_wise(*escaped, "|", null_handling="emit_null")
