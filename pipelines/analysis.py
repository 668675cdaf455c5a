"""What columns have to do with each other: correlations, clusters and frequent pairs, from mergeable exact summaries.

Each is a sketch (see sketch.py): it runs over the files of a table wherever they are, and says the same whatever the cut.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.fields import combined, kind_of, numpy_of
from pipelines.sketch import plain
from pipelines.sums import SCALE, exact_sum

__all__ = ["Clusters", "Correlations", "Pairs"]

_SEEDS = 4_096  # different rows among which the first centres are chosen
_PAIRS = 1_000_000


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlation of every two columns, over the rows that have a value in all of them.

    Fitted: {"columns", "rows", "correlations": {(a, b) as "a ~ b": number or null}}; null where a column has one value.
    """

    columns: tuple[str, ...]

    def sketch(self, table: pa.Table, request: Mapping[str, Any] | None) -> tuple[int, list[int]]:
        """Rows and exact sums; in the second round, of the products of the distances from the means."""
        rows = _matrix(table, self.columns)
        if request is None:
            return len(rows), [exact_sum(np.ascontiguousarray(one)) for one in rows.T]
        away = [np.ascontiguousarray(one - mean) for one, mean in zip(rows.T, request["means"], strict=True)]
        with np.errstate(over="ignore"):
            products = [one * other for one, other in self._both(away)]
        if not all(np.isfinite(one).all() for one in products):
            raise InputError(
                f"correlations of {', '.join(self.columns)}: squares of their values leave float64; scale them"
            )
        return len(rows), [exact_sum(one) for one in products]

    def merge(self, left: tuple[int, list[int]], right: tuple[int, list[int]]) -> tuple[int, list[int]]:
        """The sums of both."""
        return left[0] + right[0], [one + other for one, other in zip(left[1], right[1], strict=True)]

    def finish(self, state: tuple[int, list[int]], request: Mapping[str, Any] | None) -> tuple[bool, Any]:
        """The means for the second round, then the correlations."""
        rows, sums = state
        if request is None and rows:
            return False, {"means": [one / (rows << SCALE) for one in sums]}
        products = dict(zip(self._both(list(self.columns)), sums, strict=True)) if rows else {}
        found: dict[str, float | None] = {}
        for one, other in itertools.combinations(self.columns, 2):
            size = math.isqrt(products[one, one] * products[other, other]) if rows else 0
            found[f"{one} ~ {other}"] = max(-1.0, min(1.0, products[one, other] / size)) if size else None
        return True, {"columns": list(self.columns), "rows": rows, "correlations": found}

    @staticmethod
    def _both(items: list[Any]) -> list[tuple[Any, Any]]:
        return list(itertools.combinations_with_replacement(items, 2))


@dataclass(frozen=True)
class Clusters:
    """k-means (Lloyd) on standardised columns, over the rows that have a value in all of them.

    The first centres are rows far from each other, chosen from those whose hash is least: the same on every machine and
    for every cut; sums are exact. Fitted: {"rows", "columns", "centres" (in the columns' own units), "sizes", "inertia",
    "rounds"}, the largest cluster first. Raises: InputError if there are fewer different rows than clusters.
    """

    columns: tuple[str, ...]
    k: int
    rounds: int = 50

    def sketch(self, table: pa.Table, request: Mapping[str, Any] | None) -> Any:
        """Moments and seeds; then counts, sums and distances by cluster."""
        rows = _matrix(table, self.columns)
        if request is None:
            return len(rows), _sums(rows), _sums(np.square(rows)), _seeds(rows)
        scaled = (rows - np.array(request["means"])) / np.array(request["stds"])
        centres = np.array(request["centres"])
        away = np.stack([np.square(scaled - centre).sum(axis=1) for centre in centres], axis=1)
        nearest = away.argmin(axis=1) if len(rows) else np.zeros(0, np.int64)
        parts = [scaled[nearest == place] for place in range(self.k)]
        inertia = exact_sum(away[np.arange(len(rows)), nearest])
        return [len(part) for part in parts], [_sums(part) for part in parts], inertia

    def merge(self, left: Any, right: Any) -> Any:
        """Both together."""
        if len(left) == 4:
            both = np.unique(np.concatenate([left[3], right[3]]), axis=0)
            return left[0] + right[0], _added(left[1], right[1]), _added(left[2], right[2]), _least(both)
        counts = _added(left[0], right[0])
        return counts, [_added(*pair) for pair in zip(left[1], right[1], strict=True)], left[2] + right[2]

    def finish(self, state: Any, request: Mapping[str, Any] | None) -> tuple[bool, Any]:
        """The next centres, until they stay."""
        if request is None:
            return False, self._first(state)
        counts, sums, inertia = state
        old = request["centres"]
        new = [
            [total / (count << SCALE) for total in totals] if count else old[place]
            for place, (count, totals) in enumerate(zip(counts, sums, strict=True))
        ]
        done = request["round"] + 1
        if new != old and done < self.rounds:
            return False, {**request, "centres": new, "round": done}
        order = sorted(range(self.k), key=lambda place: (-counts[place], new[place]))
        own = np.array(new) * np.array(request["stds"]) + np.array(request["means"])
        return True, {
            "rows": sum(counts),
            "columns": list(self.columns),
            "centres": [own[place].tolist() for place in order],
            "sizes": [counts[place] for place in order],
            "inertia": inertia / (1 << SCALE),
            "rounds": done,
        }

    def _first(self, state: Any) -> dict[str, Any]:
        count, sums, squares, seeds = state
        if len(seeds) < self.k:
            raise InputError(
                f"clusters: {self.k} of {len(seeds)} different rows with a value in all of {', '.join(self.columns)}; ask for fewer"
            )
        means = [one / (count << SCALE) for one in sums]
        spread = [two / (count << SCALE) - mean * mean for two, mean in zip(squares, means, strict=True)]
        stds = [math.sqrt(one) if one > 0 else 1.0 for one in spread]
        scaled = (np.stack([seed[1:] for seed in seeds]) - np.array(means)) / np.array(stds)
        chosen = [int(np.square(scaled).sum(axis=1).argmin())]
        while len(chosen) < self.k:
            away = np.min([np.square(scaled - scaled[one]).sum(axis=1) for one in chosen], axis=0)
            chosen.append(int(away.argmax()))
        return {"means": means, "stds": stds, "centres": scaled[chosen].tolist(), "round": 0}


@dataclass(frozen=True)
class Pairs:
    """How often two values occur in the same row, of all pairs of columns: those in at least `least` rows, at most `top`.

    Fitted: {"rows", "pairs": [{"a", "b", "rows", "support", "lift"}]}, the most frequent first; lift is how much more often
    than if they had nothing to do with each other. Raises: InputError beyond a million different pairs.
    """

    columns: tuple[str, ...]
    least: int = 2
    top: int = 50

    def sketch(self, table: pa.Table, request: None) -> tuple[int, dict[Any, int]]:
        """Counts of values and pairs."""
        del request
        found: dict[Any, int] = {}
        for names in (*((name,) for name in self.columns), *itertools.combinations(self.columns, 2)):
            keyed = table.select(list(names)).drop_null()
            counted = keyed.group_by(list(names), use_threads=False).aggregate([([], "count_all")])
            for row in counted.to_pylist():
                found[tuple(f"{name} = {plain(row[name])}" for name in names)] = row["count_all"]
        return table.num_rows, self._within(found)

    def merge(self, left: tuple[int, dict[Any, int]], right: tuple[int, dict[Any, int]]) -> Any:
        """The counts of both."""
        both = dict(left[1])
        for key, count in right[1].items():
            both[key] = both.get(key, 0) + count
        return left[0] + right[0], self._within(both)

    def finish(self, state: tuple[int, dict[Any, int]], request: None) -> tuple[bool, Any]:
        """The most frequent pairs."""
        del request
        rows, counts = state
        pairs = [(count, key) for key, count in counts.items() if len(key) == 2 and count >= self.least]
        shown = sorted(pairs, key=lambda one: (-one[0], one[1]))[: self.top]
        return True, {
            "rows": rows,
            "pairs": [
                {
                    "a": a,
                    "b": b,
                    "rows": count,
                    "support": count / rows,
                    "lift": count * rows / (counts[a,] * counts[b,]),
                }
                for count, (a, b) in shown
            ],
        }

    def _within(self, counts: dict[Any, int]) -> dict[Any, int]:
        if len(counts) > _PAIRS:
            raise InputError(
                f"pairs of {', '.join(self.columns)}: more than {_PAIRS:,} different ones; take columns with fewer values"
            )
        return counts


def _matrix(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """The rows that have a value in every column, as float64. Shapes: (rows, columns)."""
    arrays = [combined(table[name]) for name in columns]
    arrays = [
        (one.cast(pa.int64()) if kind_of(one.type) == "bool" else one).cast(pa.float64(), safe=False)
        for one in arrays
    ]
    known = np.ones(table.num_rows, bool)
    for one in arrays:
        known &= numpy_of(pc.fill_null(pc.is_finite(one), fill_value=False))
    return np.stack([numpy_of(pc.fill_null(one, 0.0))[known] + 0.0 for one in arrays], axis=1)


def _sums(rows: np.ndarray) -> list[int]:
    return [exact_sum(np.ascontiguousarray(one)) for one in rows.T]


def _added(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(left, right, strict=True)]


def _seeds(rows: np.ndarray) -> np.ndarray:
    """Different rows behind a hash of each, those of the least hashes. Shapes: (seeds, 1 + columns)."""
    total = np.zeros(len(rows), np.uint64)
    for one in np.ascontiguousarray(rows).view(np.uint64).T:
        total = (total ^ one) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    _, first = np.unique(total, return_index=True)
    first = first[:_SEEDS]
    return np.column_stack([(total[first] >> np.uint64(11)).astype(np.float64), rows[first]])


def _least(seeds: np.ndarray) -> np.ndarray:
    return seeds[np.lexsort(seeds.T[::-1])][:_SEEDS]
