"""Exact quantiles of each group of rows, for many groups at once: what is looked for are values of known rank.

    round 1      of each group    .:|:. .      its values counted by the upper bits of their keys (quantiles.py)
    then         of each rank       [:]        only the values of the bin that holds it, by 8 bits more
    at the end   of each rank        v         those values by themselves, once they are few

A state holds a few bytes for each bin of each group; the second round is the last one for nearly everything.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import combined, numpy_of
from pipelines.grouped import Entries, grouped, merged, reduced, within
from pipelines.quantiles import MEDIAN, between, keys_of
from pipelines.warehouse.by_group import ByGroup

__all__ = ["GroupedMedianDistance", "GroupedQuantiles"]

LISTED = 1 << 20  # values that are listed by themselves, not counted in bins
SHIFTS = (49, 41, 33, 25, 17, 9)  # bits of a value's key that its bin leaves out, round by round


@dataclass(frozen=True)
class _Search:
    """Where the values of the wanted ranks lie. Shapes: sizes (groups,), rank, bins and before (groups, ranks)."""

    level: int  # the bins are keys >> SHIFTS[level]
    listed: bool  # the next round lists the values
    labels: pa.StringArray
    sizes: np.ndarray
    rank: np.ndarray
    bins: np.ndarray
    before: np.ndarray  # values of the group in lower bins


@dataclass(frozen=True)
class GroupedQuantiles:
    """Quantiles of each group, interpolated as numpy's "linear". Fitted: one number for each of `at`."""

    by: tuple[str, ...]
    column: str
    at: tuple[float, ...]

    def sketch(self, table: pa.Table, request: _Search | None) -> tuple[Entries, ...]:
        """Counts by group and bin; later of the values in the bin of each rank, by finer bins or by themselves."""
        return self.looked(*grouped(table, self.by, self.column), request)

    def looked(
        self, labels: pa.StringArray, group: np.ndarray, values: np.ndarray, request: _Search | None
    ) -> tuple[Entries, ...]:
        """The same, of values with the place of their group among the labels."""
        keys = keys_of(values)
        if request is None:
            ones = np.ones(len(values), np.int64)
            return (within(reduced(labels, group, keys >> SHIFTS[0], ones), self.by),)
        place = numpy_of(pc.index_in(labels, value_set=request.labels)).astype(np.int64)
        group = place[group]
        finer = values if request.listed else keys >> SHIFTS[request.level + 1]
        found = []
        for rank in range(request.bins.shape[1]):
            inside = keys >> SHIFTS[request.level] == request.bins[group, rank]
            ones = np.ones(int(inside.sum()), np.int64)
            found.append(reduced(request.labels, group[inside], finer[inside], ones))
        return tuple(found)

    def merge(self, left: tuple[Entries, ...], right: tuple[Entries, ...]) -> tuple[Entries, ...]:
        """The counts of both."""
        return tuple(merged(one, other, self.by) for one, other in zip(left, right, strict=True))

    def finish(self, state: tuple[Entries, ...], request: _Search | None) -> tuple[bool, Any]:
        """The quantiles once the value of each rank is known, else where to look."""
        if request is None:
            (first,) = state
            sizes = np.bincount(first.group, weights=first.sums[0], minlength=len(first.labels)).astype(
                np.int64
            )
            rank = np.stack([one for q in self.at for one in _ranks(q, sizes)], axis=1)
            request = _Search(-1, False, first.labels, sizes, rank, np.zeros_like(rank), np.zeros_like(rank))
            state = state * rank.shape[1]
        at = [_entry(one, request.rank[:, j] - request.before[:, j]) for j, one in enumerate(state)]
        if request.listed:
            values = [one.key[entry] for one, (entry, _) in zip(state, at, strict=True)]
            return True, self._fitted(request, values)
        bins = np.stack([one.key[entry] for one, (entry, _) in zip(state, at, strict=True)], axis=1)
        before = request.before + np.stack([passed for _, passed in at], axis=1)
        many = max(int(one.sums[0][entry].sum()) for one, (entry, _) in zip(state, at, strict=True))
        level = request.level + 1
        listed = many <= LISTED or level + 1 == len(SHIFTS)
        if not len(request.labels):
            return True, ByGroup.of([], *([] for _ in self.at))
        return False, replace(request, level=level, listed=listed, bins=bins, before=before)

    def _fitted(self, request: _Search, values: list[np.ndarray]) -> ByGroup:
        columns = []
        for place, q in enumerate(self.at):
            a, b = values[2 * place : 2 * place + 2]
            share = (request.sizes - 1) * q - request.rank[:, 2 * place]
            columns.append(_points(q, share, a, b))
        return ByGroup.of(request.labels, *columns)


def _points(q: float, share: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[float]:
    """`between` of each group."""
    if a.dtype.kind != "f" or q == MEDIAN:
        rows = zip(share.tolist(), a.tolist(), b.tolist(), strict=True)
        return [between(q, *row) for row in rows]
    with np.errstate(over="ignore", invalid="ignore"):
        point = np.where(share >= 0.5, b - (b - a) * (1 - share), a + (b - a) * share)
    found: list[float] = np.where(np.isfinite(point), point, a * (1 - share) + b * share).tolist()
    return found


def _ranks(q: float, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower = np.floor((sizes - 1) * q).astype(np.int64)
    return lower, np.minimum(lower + 1, sizes - 1)


def _entry(state: Entries, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entry that holds the value of this rank of each group, and how many values of the group come before it."""
    ends = np.cumsum(state.sums[0])
    starts = ends - state.sums[0]
    first = np.searchsorted(state.group, np.arange(len(rank)))
    base = starts[first] if len(rank) else starts
    entry = np.searchsorted(ends, base + rank, side="right")
    return entry, starts[entry] - base


@dataclass(frozen=True)
class GroupedMedianDistance:
    """Of each group the median, and the median distance from it. Fitted: [median, distance]."""

    by: tuple[str, ...]
    column: str

    @property
    def _median(self) -> GroupedQuantiles:
        return GroupedQuantiles(self.by, self.column, (0.5,))

    def sketch(self, table: pa.Table, request: dict[str, Any] | None) -> tuple[Entries, ...]:
        """Counts of the values, later of their distances from the median of the group."""
        labels, group, values = grouped(table, self.by, self.column)
        if request is None:
            return self._median.looked(labels, group, values, None)
        if (medians := request["medians"]) is not None:
            (middle,) = medians.of_rows(labels)
            values = np.abs(values - numpy_of(middle)[group])
        return self._median.looked(labels, group, values, request["inner"])

    def merge(self, left: tuple[Entries, ...], right: tuple[Entries, ...]) -> tuple[Entries, ...]:
        """The counts of both."""
        return self._median.merge(left, right)

    def finish(self, state: tuple[Entries, ...], request: dict[str, Any] | None) -> tuple[bool, Any]:
        """Both medians, or where to look."""
        request = request or {"medians": None, "inner": None}
        done, answer = self._median.finish(state, request["inner"])
        if not done:
            return False, {**request, "inner": answer}
        if request["medians"] is None:
            return (
                (False, {"medians": answer, "inner": None}) if len(answer) else (True, ByGroup.of([], [], []))
            )
        labels, distances = answer.table.columns
        return True, ByGroup.of(
            combined(labels), *request["medians"].of_rows(combined(labels)), combined(distances)
        )
