"""Rows of one key that disagree: one row is made of them by a policy, and what was said against it is evidence.

The step runs after an Exchange: all rows of a key are in one part, in the order of their origin, beside the rows of
other keys, which change nothing. A row with a missing value in its key contradicts no other.

    rows of one key, best first:   winner | copies of it -> deduplicated | rows that disagree with it -> quarantine
    every column in dispute:       all its values -> evidence, with the one that was chosen and what decided
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import combined, numpy_of, replaced, require, shown, titled
from pipelines.groups import (
    COMPARED,
    Criterion,
    best_of,
    codes_of,
    criteria,
    decided,
    groups_of,
    ordered,
    require_order,
)
from pipelines.names import did_you_mean
from pipelines.stage import EVIDENCE, LINE, ORIGIN, SOURCE, Exchange, Rows, data_columns, rejects

__all__ = ["Resolve", "resolve"]

Policy = Literal["trust", "latest", "majority", "first", "quarantine"]


@dataclass(frozen=True, kw_only=True)
class Resolve:
    """Makes one row of each key `by`, where rows of the same key may disagree in `columns` (default: all others).

    Two rows contradict each other where both have a value and the values differ. `policy` chooses the winner: "trust"
    the row whose `source_column` comes first in `order` (a source that is not in it comes after all that are),
    "latest" by `order_by`, the "first" by origin, or the "majority", whose values in `columns` occur most often. A tie
    of trust or votes is decided by the latest if `order_by` is given, then by the first. `policies` has another policy
    for single columns. Where the winner has no value it takes that of the next best row. Rows that agree with it are
    deduplicated, those that contradict it go to the quarantine with both values; with "quarantine" all rows of a key
    with a contradiction go there.
    """

    do: ClassVar[str] = "resolve"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: tuple[str, ...]
    policy: Policy
    columns: tuple[str, ...] = ()
    policies: dict[str, Policy] = field(default_factory=dict)
    order_by: tuple[str, ...] = ()
    source_column: str | None = None
    order: tuple[str, ...] = ()

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
        require(schema, self.by, step=self.do, kinds=COMPARED)
        beside = () if self.source_column is None else (self.source_column,)
        require(schema, beside, step=self.do, kinds=("string",))
        rest = (*self.by, *self.order_by, *beside)
        columns = self.columns or tuple(name for name in data_columns(schema) if name not in rest)
        if not columns:
            raise SpecError(
                "resolve: there is no other column that rows of one key could disagree in; use deduplicate"
            )
        require(schema, columns, step=self.do, kinds=COMPARED)
        require(schema, self.order_by, step=self.do, kinds=COMPARED)
        if both := sorted(set(self.by) & set(columns)):
            raise SpecError(
                f"resolve: {both[0]!r} is part of the key, so rows of one key cannot disagree in it"
            )
        self._check_policies(columns)
        params = {
            "by": self.by,
            "columns": {name: self.policies.get(name, self.policy) for name in columns},
            "policy": self.policy,
            "order_by": self.order_by,
            "source_column": self.source_column,
            "order": self.order,
        }
        return Exchange(titled(self.do, self.by), self.by, resolve, params, alone=True)

    def _check_policies(self, columns: tuple[str, ...]) -> None:
        for name in self.policies:
            if name not in columns:
                raise SpecError(
                    f"resolve: policies names {name!r}, which is not one of columns{did_you_mean(name, columns)}"
                )
        used = [self.policy, *self.policies.values()]
        needy = next((one for one in used if one == "latest"), None)
        idle = all(one in {"first", "quarantine"} for one in used)
        if needy or idle:
            require_order(self.do, "policy", needy or self.policy, self.order_by)
        if "trust" not in used:
            if self.order:
                raise SpecError('resolve: order has no meaning without policy = "trust"; leave it out')
            return
        if self.source_column is None or not self.order:
            raise SpecError(
                'resolve: policy = "trust" needs the column that says where a row is from, and the sources in the order in '
                'which they are trusted: source_column = "origin", order = ["crm", "shop"]'
            )
        if self.source_column in columns:
            raise SpecError(
                f"resolve: {self.source_column!r} is the source_column, in which rows of two sources always disagree; "
                "leave it out of columns"
            )
        if twice := [one for one in self.order if self.order.count(one) > 1]:
            raise SpecError(f"resolve: order names {twice[0]!r} twice")


@dataclass(frozen=True)
class _Choice:
    """What became of one column: its policy, what decided, and for every row the row whose value is taken."""

    policy: str
    by: list[Criterion]
    source: np.ndarray
    against: np.ndarray  # bool: the row has another value


def resolve(
    table: pa.Table,
    *,
    by: tuple[str, ...],
    columns: Mapping[str, str],
    policy: str,
    order_by: tuple[str, ...],
    source_column: str | None,
    order: tuple[str, ...],
) -> Rows:
    """One row of each key; those that contradict it are set aside. `columns`: each with its policy."""
    rows = np.arange(table.num_rows)
    groups = groups_of(table, by, null_is_value=False)
    rank = (
        pc.index_in(combined(table[source_column]), value_set=pa.array(order, pa.string()), skip_nulls=True)
        if source_column is not None
        else None
    )

    def decides(policy: str, voters: list[str]) -> list[Criterion]:
        above = []
        if policy == "trust":
            above = [Criterion("trust", rank)]
        if policy == "majority":
            above = [Criterion("majority", _votes(table, groups, voters), greatest=True)]
        return criteria(table, policy, order_by, above)

    together = decides(policy, [name for name, one in columns.items() if one == policy])
    order_of = {policy: ordered(together)}
    winners = best_of(groups, order_of[policy], rows)
    merged, notes, choices = table, {}, dict[str, _Choice]()
    for name, own in columns.items():
        criteria_of = together if own == policy else decides(own, [name])
        best_first = order_of[policy] if own == policy else ordered(criteria_of)
        values = combined(table[name])
        valid = numpy_of(pc.is_valid(values))
        source = best_of(groups, best_first[valid[best_first]], winners)
        codes = codes_of(values)
        against = valid & (codes != codes[source])
        choices[name] = _Choice(own, criteria_of, source, against)
        notes[f"completed {name}"] = int((valid[source] & ~valid & (winners == rows)).sum())
        notes[f"overruled {name}"] = int((against & (winners == rows)).sum()) if own != "quarantine" else 0
        merged = replaced(merged, name, values.take(pa.array(source)))
    contradicts = np.logical_or.reduce([one.against for one in choices.values()])
    torn = [groups[one.against] for one in choices.values() if one.policy == "quarantine"]
    lost = np.isin(groups, np.concatenate(torn)) if torn else np.zeros(len(rows), bool)  # with their key
    aside = lost | (contradicts & (winners != rows))
    survives = (winners == rows) & ~aside
    if rank is not None and order:
        notes["sources not in order"] = rank.null_count
    evidence = None
    if contradicts.any():
        evidence = _evidence(table, groups, choices, lost, by=by, origin=source_column, time=order_by[:1])
        notes["ties"] = _ties(evidence)
    return Rows(
        merged.take(pa.array(np.flatnonzero(survives))),
        _records(table, groups, aside, choices, lost) if aside.any() else None,
        deduplicated=int(table.num_rows - survives.sum() - aside.sum()),
        notes={**notes, "contradictions": len(np.unique(groups[contradicts]))},
        evidence=evidence,
    )


def _votes(table: pa.Table, groups: np.ndarray, columns: list[str]) -> pa.Array:
    """How many rows of its key have the same values in `columns`, of every row."""
    keyed = table.select(columns).append_column("key", pa.array(groups))
    same = groups_of(keyed, ["key", *columns], null_is_value=True)
    return pa.array(np.bincount(same)[same])


def _records(
    table: pa.Table, groups: np.ndarray, aside: np.ndarray, choices: Mapping[str, _Choice], lost: np.ndarray
) -> pa.Table:
    """The rows set aside, each with the first column in which it contradicts another row, and both values."""
    rows = table.num_rows
    column = np.full(rows, -1)  # number of the column that each row is set aside for
    mine, other = (
        np.arange(rows),
        np.full(rows, -1),
    )  # the row with the value, and the one that it contradicts
    for place, choice in enumerate(choices.values()):
        new = (column < 0) & choice.against
        column[new], other[new] = place, choice.source[new]
    torn = np.flatnonzero(column >= 0)
    first = np.full(int(groups.max(initial=-1)) + 1, -1)
    first[groups[torn[::-1]]] = torn[
        ::-1
    ]  # of each group its first row with a contradiction: it speaks for the rest
    rest = np.flatnonzero(aside & (column < 0))
    mine[rest] = first[groups[rest]]
    column[rest], other[rest] = column[mine[rest]], other[mine[rest]]
    source, line = (numpy_of(combined(table[name])) for name in (SOURCE, LINE))
    parts = []
    for place, name in enumerate(choices):
        found = np.flatnonzero((column == place) & aside)
        values, others = (
            [shown(table.schema, name, value) for value in table[name].take(pa.array(which)).to_pylist()]
            for which in (mine[found], other[found])
        )
        there = other[found]
        elsewhere = source[mine[found]] != source[there]  # the record itself says where its row was
        texts = [
            f"column {name!r}: {value} contradicts {contrary} in line {at}"
            f"{f' of input file {number}' if far else ''}, {'no row of this key was kept' if none else 'which was kept'}"
            for value, contrary, at, number, far, none in zip(
                values,
                others,
                line[there].tolist(),
                source[there].tolist(),
                elsewhere.tolist(),
                lost[found].tolist(),
                strict=True,
            )
        ]
        taken = table.take(pa.array(found))
        parts.append(rejects(taken, rule="contradiction", column=name, message=_one_by_one(texts)))
    return pa.concat_tables(parts).sort_by([(SOURCE, "ascending"), (LINE, "ascending")])


def _evidence(
    table: pa.Table,
    groups: np.ndarray,
    choices: Mapping[str, _Choice],
    lost: np.ndarray,
    *,
    by: tuple[str, ...],
    origin: str | None,
    time: tuple[str, ...],
) -> pa.Table:
    """Every value of every column in dispute, by key and column, in the order of their rows (EVIDENCE)."""
    first = best_of(groups, np.arange(table.num_rows), np.arange(table.num_rows))
    parts = []
    for name, choice in choices.items():
        valid = numpy_of(pc.is_valid(combined(table[name])))
        claims = np.flatnonzero(valid & np.isin(groups, groups[choice.against]))
        against, none = choice.against[claims], lost[claims]
        won_by = decided(choice.by, claims, choice.source[claims])
        names = pa.array([one.name for one in choice.by], pa.string())
        open_to = against & (choice.policy != "quarantine")
        at, about = pa.array(claims), pa.array(first[claims])
        text = _text(table, name)
        chosen = text.take(pa.array(choice.source[claims]))
        parts.append(
            pa.table(
                [
                    *(table[one].take(at) for one in ORIGIN.names),
                    table[SOURCE].take(about),
                    table[LINE].take(about),
                    _key(table.take(at), by),
                    pa.repeat(pa.scalar(name), len(claims)),
                    text.take(at),
                    pc.if_else(pa.array(~none), chosen, pa.scalar(None, pa.string())),
                    pa.repeat(pa.scalar(choice.policy), len(claims)),
                    names.take(pa.array(won_by, mask=~open_to)),
                    pa.nulls(len(claims), pa.string()) if origin is None else _text(table, origin).take(at),
                    _text(table, time[0]).take(at) if time else pa.nulls(len(claims), pa.string()),
                ],
                schema=EVIDENCE,
            )
        )
    order = [
        (one, "ascending") for one in ("first_source", "first_line")
    ]  # sorting is stable: then by column
    return pa.concat_tables(parts).sort_by(order)


def _ties(evidence: pa.Table) -> int:
    """How many values lost by something else than their policy: it could not tell them from the one that was chosen."""
    return pc.sum(pc.not_equal(evidence["decided"], evidence["policy"])).as_py() or 0


def _text(table: pa.Table, name: str) -> pa.Array:
    """The values as text, dates and times as ISO has them; those of a private column are not told."""
    values = combined(table[name])
    if b"privacy" in (table.schema.field(name).metadata or {}):
        return pc.if_else(pc.is_valid(values), pa.scalar("***"), pa.scalar(None, pa.string()))
    return values.cast(pa.string())


def _key(rows: pa.Table, by: tuple[str, ...]) -> pa.Array:
    """The key as text; of several columns as a JSON list of texts."""
    if len(by) == 1:
        return _text(rows, by[0])
    columns = (_text(rows, name).to_pylist() for name in by)
    return pa.array([json.dumps(key, ensure_ascii=False) for key in zip(*columns, strict=True)], pa.string())


def _one_by_one(texts: list[str]) -> Callable[[Any], str]:
    rest = iter(texts)
    return lambda _: next(rest)
