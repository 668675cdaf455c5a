"""Exact summaries of each group of rows, for many groups at once: means, deviations, modes; quantiles are in ranks.py.

A state is a few flat arrays, one entry for each group and number that was counted in it, so a group costs some tens of
bytes and no object of its own: 100,000 groups are as usual as ten. Nothing is an estimate, and no cut changes a bit.

    mean        (group, exponent of the value) -> sums of the upper and lower half of the mantissa, count
    quantile    (group, bin of values) -> count; then only the bin of each rank, finer, until its values are few
    mode        (group, value) -> count
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.fields import combined, countable, kind_of, numbers, numpy_of
from pipelines.sketch import group_labels, plain
from pipelines.sums import SCALE, quotient

__all__ = [
    "GROUPS",
    "Entries",
    "Fitted",
    "GroupedModes",
    "GroupedMoments",
    "grouped",
    "merged",
    "reduced",
    "within",
]

GROUPS = 100_000
"""Groups of one step: what is fitted of them is in the log of the table and goes to every worker, about 30 bytes each."""

ENTRIES = 1 << 23  # of a state: 200 MB
_HALF = 27  # bits of the lower half of a mantissa
_WHOLE, _BEYOND = (
    1 << 13,
    1 << 14,
)  # exponents that no float has: of integers, and of a square that left float64

Fitted = dict[str, list[Any]]
"""By the label of the group, in ascending order: its numbers, null where it has too few values."""


@dataclass(frozen=True)
class Entries:
    """Sums by group and key, each pair once, in ascending order. Shapes: (entries,) each."""

    labels: pa.StringArray  # of the groups, ascending
    group: np.ndarray  # place among the labels
    key: np.ndarray
    sums: tuple[np.ndarray, ...]  # int64


def reduced(labels: pa.StringArray, group: np.ndarray, key: np.ndarray, *sums: np.ndarray) -> Entries:
    """Each pair once, with the sums of its entries."""
    order = np.lexsort((key, group))
    group, key = group[order], key[order]
    new = (group[1:] != group[:-1]) | (key[1:] != key[:-1])
    starts = np.flatnonzero(np.concatenate([[True], new])) if len(group) else np.zeros(0, np.int64)
    totals = tuple(np.add.reduceat(one[order], starts) if len(group) else one for one in sums)
    return Entries(labels, group[starts], key[starts], totals)


def merged(one: Entries, other: Entries, by: Sequence[str]) -> Entries:
    """The sums of both.

    Raises: InputError if there are too many groups, or too many different values in them.
    """
    if one.labels.equals(other.labels):
        labels, groups = one.labels, [one.group, other.group]
    else:
        labels = _ascending(pa.concat_arrays([one.labels, other.labels]))
        groups = [
            numpy_of(pc.index_in(state.labels, value_set=labels)).astype(np.int64)[state.group]
            for state in (one, other)
        ]
    sums = (np.concatenate(pair) for pair in zip(one.sums, other.sums, strict=True))
    return within(reduced(labels, np.concatenate(groups), np.concatenate([one.key, other.key]), *sums), by)


def _ascending(labels: pa.Array) -> pa.StringArray:
    found = pc.unique(labels)
    return found.take(pc.sort_indices(found))


def within(state: Entries, by: Sequence[str]) -> Entries:
    """The state.

    Raises: InputError if there are too many groups, or too many different values in them.
    """
    _refuse_many(len(state.labels), by)
    if len(state.group) > ENTRIES:
        raise InputError(
            f"by = {list(by)}: the {len(state.labels):,} groups hold {len(state.group):,} different values or bins of them, "
            f"{ENTRIES:,} can be counted at once; choose columns with fewer values"
        )
    return state


def _refuse_many(groups: int, by: Sequence[str]) -> None:
    if groups > GROUPS:
        raise InputError(
            f"by = {list(by)} makes {groups:,} groups and more, up to {GROUPS:,} can be fitted; choose columns with fewer "
            "values, or leave by out"
        )


def grouped(
    table: pa.Table, by: tuple[str, ...], column: str
) -> tuple[pa.StringArray, np.ndarray, np.ndarray]:
    """Labels of the groups, ascending; of each row with a group and a value, the place of its group, and the value."""
    texts, values = group_labels(table, by), combined(table[column])
    if kind_of(values.type) == "float":
        values = values.cast(pa.float64(), safe=False)
        known = pc.fill_null(pc.is_finite(values), fill_value=False)
    else:
        known = pc.is_valid(values)
    there = pc.and_(pc.is_valid(texts), known)
    texts = texts.filter(there)
    labels = _ascending(texts)
    place = numpy_of(pc.index_in(texts, value_set=labels)).astype(np.int64)
    return labels, place, numbers(values.filter(there))


# ---- means and deviations


@dataclass(frozen=True)
class GroupedMoments:
    """The mean of each group, and with `spread` its standard deviation (by the count less one). Fitted: [mean], [mean, std]."""

    by: tuple[str, ...]
    column: str
    spread: bool = False

    def sketch(self, table: pa.Table, request: Fitted | None) -> Entries:
        """Sums of the values; in the second round of the squared distances from the mean of the group."""
        labels, group, values = grouped(table, self.by, self.column)
        if request is not None:
            known = pa.array(list(request), pa.string())
            place = numpy_of(pc.index_in(labels, value_set=known)).astype(np.int64)
            means = np.array([one[0] for one in request.values()], np.float64)
            with np.errstate(over="ignore"):
                values = np.square(values - means[place][group])
        return within(reduced(labels, group, *_exact(values)), self.by)

    def merge(self, left: Entries, right: Entries) -> Entries:
        """The sums of both."""
        return merged(left, right, self.by)

    def finish(self, state: Entries, request: Fitted | None) -> tuple[bool, Any]:
        """The means, then the deviations."""
        totals, counts = _totals(state)
        labels = state.labels.to_pylist()
        if request is None:
            means = {
                label: [quotient(total, count)]
                for label, total, count in zip(labels, totals, counts, strict=True)
            }
            return not (self.spread and means), means
        return True, {
            label: [*request[label], _root(total, count - 1)]
            for label, total, count in zip(labels, totals, counts, strict=True)
        }


def _exact(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Exponent, upper and lower half of the mantissa, and 1, of each value: their sums lose nothing for 2 ** 36 rows."""
    ones = np.ones(len(values), np.int64)
    if values.dtype.kind != "f":
        return np.full(len(values), _WHOLE), values >> 32, values & 0xFFFFFFFF, ones
    beyond = ~np.isfinite(values)
    mantissa, exponent = np.frexp(np.where(beyond, 0.0, values))
    whole = (mantissa * 2.0**53).astype(np.int64)
    key = np.where(beyond, _BEYOND, exponent.astype(np.int64))
    return key, whole >> _HALF, whole & ((1 << _HALF) - 1), ones


def _totals(state: Entries) -> tuple[list[int | None], list[int]]:
    """Of each group the sum in units of 2 ** -SCALE (None: it left float64), and how many values it has."""
    totals: list[int | None] = [0] * len(state.labels)
    counts = [0] * len(state.labels)
    upper, lower, count = (one.tolist() for one in state.sums)
    for entry, (group, key) in enumerate(zip(state.group.tolist(), state.key.tolist(), strict=True)):
        counts[group] += count[entry]
        total = totals[group]
        if key == _BEYOND or total is None:
            totals[group] = None
        elif key == _WHOLE:
            totals[group] = total + (((upper[entry] << 32) + lower[entry]) << SCALE)
        else:
            totals[group] = total + (((upper[entry] << _HALF) + lower[entry]) << (key - 53 + SCALE))
    return totals, counts


def _root(total: int | None, count: int) -> float | None:
    square = quotient(total, count)
    return None if square is None else math.sqrt(square)


# ---- modes


@dataclass(frozen=True)
class GroupedModes:
    """The most frequent value of each group, of equally frequent ones the smallest. Fitted: [value]; times as ISO text."""

    by: tuple[str, ...]
    column: str

    def sketch(self, table: pa.Table, request: None) -> pa.Table:
        """How often each value occurs in each group."""
        del request
        values = countable(combined(table[self.column]))
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
        rows = pa.table({"group": group_labels(table, self.by), "value": values}).drop_null()
        counted = rows.group_by(["group", "value"], use_threads=False).aggregate([([], "count_all")])
        return self._within(counted.rename_columns(["group", "value", "count"]))

    def merge(self, left: pa.Table, right: pa.Table) -> pa.Table:
        """The counts of both."""
        both = pa.concat_tables([left, right]).group_by(["group", "value"], use_threads=False)
        return self._within(both.aggregate([("count", "sum")]).rename_columns(["group", "value", "count"]))

    def finish(self, state: pa.Table, request: None) -> tuple[bool, Fitted]:
        """The value of each group."""
        del request
        order = [("group", "ascending"), ("count", "descending"), ("value", "ascending")]
        state = state.take(pc.sort_indices(state, order))
        group = state["group"].combine_chunks()
        first = np.ones(len(group), bool)
        if len(group):
            first[1:] = numpy_of(pc.not_equal(group[1:], group[:-1]))
        best = state.filter(pa.array(first))
        return True, {
            label: [plain(value)]
            for label, value in zip(best["group"].to_pylist(), best["value"].to_pylist(), strict=True)
        }

    def _within(self, state: pa.Table) -> pa.Table:
        _refuse_many(len(pc.unique(state["group"])), self.by)
        if state.num_rows > ENTRIES:
            raise InputError(
                f"by = {list(self.by)}: the groups hold {state.num_rows:,} different values of {self.column!r}, "
                f"{ENTRIES:,} can be counted; choose columns with fewer values"
            )
        return state
