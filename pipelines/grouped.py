"""Exact summaries of each group of rows, for many groups at once: means, deviations, modes; quantiles are in ranks.py.

A state is a few flat arrays, one entry for each group and number that was counted in it, so a group costs some tens of
bytes and no object of its own: 100,000 groups are as usual as ten. Nothing is an estimate, and no cut changes a bit.

    mean        (group, exponent of the value) -> sums of the upper and lower half of the mantissa, count
    deviation   beside them the sums of four parts of the square
    quantile    (group, bin of values) -> count; then only the bin of each rank, finer, until its values are few
    mode        (group, value) -> count
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.fields import combined, countable, kind_of, numbers, numpy_of
from pipelines.sketch import group_labels
from pipelines.sums import SCALE, deviations, quotient, squared
from pipelines.warehouse.by_group import ByGroup

__all__ = [
    "GROUPS",
    "Entries",
    "GroupedModes",
    "GroupedMoments",
    "grouped",
    "merged",
    "reduced",
    "within",
]

GROUPS = 100_000
"""Groups of one step: what is fitted of them is in a file beside the table that every worker reads, about 30 bytes each."""

ENTRIES = 1 << 23  # of a state: 200 MB
_HALF = 27  # bits of the lower half of a mantissa
_WHOLE = 1 << 13  # an exponent that no float has: of integers
_WORD = 0xFFFFFFFF


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

    def sketch(self, table: pa.Table, request: None) -> Entries:
        """Sums of the values, and with `spread` of their squares."""
        del request
        labels, group, values = grouped(table, self.by, self.column)
        key, *sums = _exact(values, self.spread)
        return within(reduced(labels, group, key, *sums), self.by)

    def merge(self, left: Entries, right: Entries) -> Entries:
        """The sums of both."""
        return merged(left, right, self.by)

    def finish(self, state: Entries, request: None) -> tuple[bool, ByGroup]:
        """The means and deviations."""
        del request
        totals = list(_totals(state))
        found = [[quotient(total, count) for total, _, count in totals]]
        if self.spread:
            found.append([deviations(*one)[1] for one in totals])
        return True, ByGroup.of(state.labels, *found)


def _exact(values: np.ndarray, spread: bool) -> list[np.ndarray]:
    """A key that says how to read the others; halves of each value, 1, and with `spread` four parts of its square.

    They are integers, whose sums lose nothing for 2 ** 29 rows.
    """
    ones = np.ones(len(values), np.int64)
    if values.dtype.kind != "f":
        sums = [values >> 32, values & _WORD, ones]
        return [np.full(len(values), _WHOLE), *sums, *(_quarters(values) if spread else ())]
    mantissa, exponent = np.frexp(values)
    sums = [*_split(mantissa * 2.0**53), ones]
    if spread:
        square, rest = squared(mantissa)
        sums += [*_split(square * 2.0**54), *_split(rest * 2.0**106)]
    return [exponent.astype(np.int64), *sums]


def _split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole = values.astype(np.int64)
    return whole >> _HALF, whole & ((1 << _HALF) - 1)


def _quarters(values: np.ndarray) -> list[np.ndarray]:
    """The squares, cut at each 32 bits, the highest first; what is carried to the next stays where it is."""
    upper, lower = values >> 32, values & _WORD
    high, middle, low = upper * upper, upper * lower, lower.astype(np.uint64) ** 2
    third = (low >> np.uint64(32)).astype(np.int64) + 2 * (middle & _WORD)
    return [high >> 32, (high & _WORD) + 2 * (middle >> 32), third, (low & np.uint64(_WORD)).astype(np.int64)]


def _totals(state: Entries) -> Iterator[tuple[int, int, int]]:
    """Of each group the sum in units of 2 ** -SCALE, that of the squares in 2 ** -(2 * SCALE), and how many values it has."""
    sums = [one.tolist() for one in state.sums]
    ends = np.searchsorted(state.group, np.arange(len(state.labels)), side="right").tolist()
    keys, start = state.key.tolist(), 0
    for end in ends:
        total = squares = count = 0
        for entry in range(start, end):
            upper, lower, rows, *parts = (one[entry] for one in sums)
            exponent, count = keys[entry], count + rows
            if exponent == _WHOLE:
                total += ((upper << 32) + lower) << SCALE
                squares += sum(part << 32 * (3 - i) for i, part in enumerate(parts)) << 2 * SCALE
                continue
            total += ((upper << _HALF) + lower) << (exponent - 53 + SCALE)
            if parts:
                square, rest = ((parts[i] << _HALF) + parts[i + 1] for i in (0, 2))
                squares += ((square << 52) + rest) << (2 * exponent - 106 + 2 * SCALE)
        yield total, squares, count
        start = end


# ---- modes


@dataclass(frozen=True)
class GroupedModes:
    """The most frequent value of each group, of equally frequent ones the smallest. Fitted: [value]."""

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

    def finish(self, state: pa.Table, request: None) -> tuple[bool, ByGroup]:
        """The value of each group."""
        del request
        order = [("group", "ascending"), ("count", "descending"), ("value", "ascending")]
        state = state.take(pc.sort_indices(state, order))
        group = state["group"].combine_chunks()
        first = np.ones(len(group), bool)
        if len(group):
            first[1:] = numpy_of(pc.not_equal(group[1:], group[:-1]))
        best = state.filter(pa.array(first))
        return True, ByGroup.of(combined(best["group"]), combined(best["value"]))

    def _within(self, state: pa.Table) -> pa.Table:
        _refuse_many(len(pc.unique(state["group"])), self.by)
        if state.num_rows > ENTRIES:
            raise InputError(
                f"by = {list(self.by)}: the groups hold {state.num_rows:,} different values of {self.column!r}, "
                f"{ENTRIES:,} can be counted; choose columns with fewer values"
            )
        return state
