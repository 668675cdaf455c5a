"""Rows that speak of the same thing: copies are removed and counted, contradictions are resolved with evidence.

Both steps run after an Exchange: all rows of a key are in one part, in the order of their origin, beside the rows of
other keys, which change nothing. A row with a missing value in its key is never taken for a copy of another.

    rows of one key, best first:   winner | copies of it -> deduplicated | rows that disagree with it -> quarantine
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import ORDERED, combined, finite, kind_of, numpy_of, replaced, require, shown, titled
from pipelines.stage import LINE, SOURCE, Exchange, Rows, data_columns, rejects

__all__ = ["Deduplicate", "Resolve", "deduplicate", "resolve"]

_ANY = ("string", "bool", *ORDERED)


@dataclass(frozen=True, kw_only=True)
class Deduplicate:
    """Keeps one row of each key `by`; without `by`, one of rows that are equal in all columns (missing equals missing).

    keep = "first" and "last" go by origin, "latest" and "earliest" by the columns `order_by`, "best" takes the row
    with the fewest missing values, then the latest. Without a value to order by a row wins over none; of rows that are
    equal up to here "last" and "latest" take the last by origin, the others the first.
    """

    do: ClassVar[str] = "deduplicate"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: tuple[str, ...] = ()
    keep: Literal["first", "last", "latest", "earliest", "best"] = "first"
    order_by: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Exchange:
        """An Exchange by the key."""
        by = self.by or tuple(data_columns(schema))
        require(schema, by, step=self.do, kinds=_ANY)
        require(schema, self.order_by, step=self.do, kinds=_ANY)
        _require_order(self.do, "keep", self.keep, self.order_by)
        params = {"by": by, "whole": not self.by, "keep": self.keep, "order_by": self.order_by}
        return Exchange(
            titled(self.do, self.by or ("all columns",)), by, deduplicate, params, alone=bool(self.by)
        )


def deduplicate(
    table: pa.Table, *, by: tuple[str, ...], whole: bool, keep: str, order_by: tuple[str, ...]
) -> Rows:
    """One row of each key, in the order of their origin."""
    groups = _groups(table, by, null_is_value=whole)
    rows = np.arange(table.num_rows)
    kept = table.take(
        pa.array(np.flatnonzero(_best(groups, _preference(table, keep, order_by), rows) == rows))
    )
    return Rows(kept, deduplicated=table.num_rows - kept.num_rows)


@dataclass(frozen=True, kw_only=True)
class Resolve:
    """Makes one row of each key `by`, where rows of the same key may disagree in `columns` (default: all others).

    Two rows contradict each other where both have a value and the values differ. `policy` chooses the winner: "latest"
    by `order_by`, the "first" by origin, or the "majority", whose values in `columns` occur most often (then the
    latest if `order_by` is given, then the first). Where the winner has no value it takes that of the next best row.
    Rows that agree with it are deduplicated, those that contradict it go to the quarantine with both values. With
    policy = "quarantine" all rows of a key with a contradiction go there.
    """

    do: ClassVar[str] = "resolve"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: tuple[str, ...]
    policy: Literal["latest", "majority", "first", "quarantine"]
    columns: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Exchange:
        """An Exchange by the key."""
        if not self.by:
            raise SpecError(
                'resolve: by is empty; name the columns that say what a row is about: by = ["id"]'
            )
        require(schema, self.by, step=self.do, kinds=_ANY)
        rest = (*self.by, *self.order_by)
        columns = self.columns or tuple(name for name in data_columns(schema) if name not in rest)
        if not columns:
            raise SpecError(
                "resolve: there is no other column that rows of one key could disagree in; use deduplicate"
            )
        require(schema, columns, step=self.do, kinds=_ANY)
        require(schema, self.order_by, step=self.do, kinds=_ANY)
        if both := sorted(set(self.by) & set(columns)):
            raise SpecError(
                f"resolve: {both[0]!r} is part of the key, so rows of one key cannot disagree in it"
            )
        _require_order(self.do, "policy", self.policy, self.order_by)
        params = {"by": self.by, "columns": columns, "policy": self.policy, "order_by": self.order_by}
        return Exchange(titled(self.do, self.by), self.by, resolve, params, alone=True)


def resolve(
    table: pa.Table, *, by: tuple[str, ...], columns: tuple[str, ...], policy: str, order_by: tuple[str, ...]
) -> Rows:
    """One row of each key; those that contradict it are set aside."""
    rows = np.arange(table.num_rows)
    groups = _groups(table, by, null_is_value=False)
    order = (
        _majority(table, groups, columns, order_by)
        if policy == "majority"
        else _preference(table, policy, order_by)
    )
    winners = _best(groups, order, rows)
    merged = table
    against: dict[
        str, np.ndarray
    ] = {}  # by column: the row whose value survives, where a row has another value; -1 elsewhere
    notes = {}
    for name in columns:
        values = combined(table[name])
        valid = numpy_of(pc.is_valid(values))
        source = _best(groups, order[valid[order]], winners)
        codes = _codes(values)
        against[name] = np.where(valid & (codes != codes[source]), source, -1)
        notes[f"completed {name}"] = int((valid[source] & ~valid & (winners == rows)).sum())
        merged = replaced(merged, name, values.take(pa.array(source)))
    contradicts = np.logical_or.reduce([source >= 0 for source in against.values()])
    torn = np.unique(groups[contradicts])
    aside = np.isin(groups, torn) if policy == "quarantine" else contradicts
    survives = (winners == rows) & ~aside
    rejected = (
        _evidence(table, groups, aside, against, none_kept=policy == "quarantine") if aside.any() else None
    )
    return Rows(
        merged.take(pa.array(np.flatnonzero(survives))),
        rejected,
        deduplicated=int(table.num_rows - survives.sum() - aside.sum()),
        notes={**notes, "contradictions": len(torn)},
    )


def _evidence(
    table: pa.Table, groups: np.ndarray, aside: np.ndarray, against: dict[str, np.ndarray], *, none_kept: bool
) -> pa.Table:
    """The rows set aside, each with the first column in which it contradicts another row, and both values."""
    rows = table.num_rows
    column = np.full(rows, -1)  # number of the column that each row is set aside for
    mine, other = (
        np.arange(rows),
        np.full(rows, -1),
    )  # the row with the value, and the one that it contradicts
    for place, source in enumerate(against.values()):
        new = (column < 0) & (source >= 0)
        column[new], other[new] = place, source[new]
    torn = np.flatnonzero(column >= 0)
    first = np.full(int(groups.max(initial=-1)) + 1, -1)
    first[groups[torn[::-1]]] = torn[
        ::-1
    ]  # of each group its first row with a contradiction: it speaks for the rest
    rest = np.flatnonzero(aside & (column < 0))
    mine[rest] = first[groups[rest]]
    column[rest], other[rest] = column[mine[rest]], other[mine[rest]]
    fate = "no row of this key was kept" if none_kept else "which was kept"
    source, line = (numpy_of(combined(table[name])) for name in (SOURCE, LINE))
    parts = []
    for place, name in enumerate(against):
        found = np.flatnonzero((column == place) & (aside | (column >= 0)))
        values, others = (
            [shown(table.schema, name, value) for value in table[name].take(pa.array(which)).to_pylist()]
            for which in (mine[found], other[found])
        )
        there = other[found]
        elsewhere = source[mine[found]] != source[there]  # the record itself says where its row was
        texts = [
            f"column {name!r}: {value} contradicts {contrary} in line {at}"
            f"{f' of input file {number}' if far else ''}, {fate}"
            for value, contrary, at, number, far in zip(
                values, others, line[there].tolist(), source[there].tolist(), elsewhere.tolist(), strict=True
            )
        ]
        taken = table.take(pa.array(found))
        parts.append(rejects(taken, rule="contradiction", column=name, message=_one_by_one(texts)))
    return pa.concat_tables(parts).sort_by([(SOURCE, "ascending"), (LINE, "ascending")])


def _one_by_one(texts: list[str]) -> Callable[[Any], str]:
    rest = iter(texts)
    return lambda _: next(rest)


def _require_order(step: str, key: str, value: str, order_by: Sequence[str]) -> None:
    if value in {"latest", "earliest"} and not order_by:
        raise SpecError(
            f'{step}: {key} = {value!r} needs order_by, the columns that say which row is later: order_by = ["updated"]'
        )
    if value in {"first", "last", "quarantine"} and order_by:
        raise SpecError(
            f'{step}: order_by has no meaning with {key} = {value!r}; use {key} = "latest", or leave it out'
        )


def _groups(table: pa.Table, by: Sequence[str], *, null_is_value: bool) -> np.ndarray:
    """Number of the key of every row. Shapes: (rows,), int64. Unless missing is a value, a row with one is alone."""
    groups = np.zeros(table.num_rows, np.int64)
    alone = np.zeros(table.num_rows, bool)
    for name in by:
        values = combined(table[name])
        codes = _codes(values)
        both = groups * (int(codes.max(initial=0)) + 1) + codes
        groups = np.unique(both, return_inverse=True)[1] if groups.any() else codes
        alone |= ~numpy_of(pc.is_valid(values))
    if not null_is_value:
        groups[alone] = table.num_rows + np.flatnonzero(alone)
    return groups


def _codes(values: pa.Array) -> np.ndarray:
    """Equal numbers for equal values, and one for missing ones."""
    if kind_of(values.type) == "float":
        values = pc.add(finite(values), pa.scalar(0.0, values.type))  # -0.0 becomes 0.0
    encoded = values.dictionary_encode()
    return numpy_of(pc.fill_null(encoded.indices, len(encoded.dictionary))).astype(np.int64)


def _preference(
    table: pa.Table, keep: str, order_by: Sequence[str], votes: np.ndarray | None = None
) -> np.ndarray:
    """All rows, the best first."""
    rows = np.arange(table.num_rows)
    if keep in {"first", "quarantine"}:
        return rows
    if keep == "last":
        return rows[::-1]
    keys = pa.table({f"order {place}": table[name] for place, name in enumerate(order_by)} | {"row": rows})
    by = [
        (f"order {place}", "ascending" if keep == "earliest" else "descending")
        for place in range(len(order_by))
    ]
    if keep == "best":
        valid = [numpy_of(pc.is_valid(combined(table[name]))) for name in data_columns(table.schema)]
        votes = np.sum(valid, axis=0)
    if votes is not None:
        keys, by = keys.append_column("votes", pa.array(votes)), [("votes", "descending"), *by]
    by.append(("row", "descending" if keep == "latest" else "ascending"))
    return numpy_of(pc.sort_indices(keys, sort_keys=by)).astype(np.int64)  # nulls at the end, either way


def _majority(
    table: pa.Table, groups: np.ndarray, columns: Sequence[str], order_by: Sequence[str]
) -> np.ndarray:
    """All rows, first those of their key whose values in `columns` occur most often."""
    keyed = table.select(list(columns)).append_column("key", pa.array(groups))
    same = _groups(keyed, ["key", *columns], null_is_value=True)
    return _preference(table, "majority", order_by, np.bincount(same)[same])


def _best(groups: np.ndarray, order: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """For every row the first row of its key in `order`; where `order` has none of the key, `otherwise`."""
    best = np.full(int(groups.max(initial=-1)) + 1, -1)
    best[groups[order[::-1]]] = order[::-1]  # of several values for one place NumPy keeps the last
    return np.where(best[groups] >= 0, best[groups], otherwise)
