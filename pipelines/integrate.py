"""Bringing tables together: joins whose cardinality is declared and enforced, whose unmatched rows are counted.

The other side is a committed snapshot that every worker reads once and keeps (a broadcast). Its keys become integers:
each key column is coded by its place among the distinct values, the codes of one row form one number, and a sorted
array of these numbers answers every look-up. A declared uniqueness of this side's keys needs all rows of a key in one
place: then the join is an Exchange, otherwise a Map.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.names import did_you_mean
from pipelines.stage import Exchange, Map, Rows, Stage, data_columns, reject
from pipelines.storage import TableRef, read_table

__all__ = ["Join", "Joined"]

LIMIT_BYTES = 1 << 29  # of a broadcast side, decoded, in each worker


@dataclass(frozen=True, kw_only=True)
class Join:
    """Adds columns of another table of the warehouse to the rows that have the same key; a null key matches nothing.

    `on` names the key columns, or maps this table's names to the other's. `cardinality` is a promise that is checked:
    m:1 and 1:1 refuse a key that the other table has twice, 1:1 and 1:m a key that this table has twice. What has no
    partner is kept with nulls (how = "left"), left out and counted ("inner", "semi"), or set aside
    (unmatched = "quarantine").
    """

    do: ClassVar[str] = "join"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    with_: str
    on: tuple[str, ...] | dict[str, str]
    cardinality: Literal["m:1", "1:1", "1:m", "m:m"]
    how: Literal["left", "inner", "semi", "anti"] = "left"
    columns: tuple[str, ...] | None = None
    prefix: str = ""
    unmatched: Literal["keep", "quarantine"] = "keep"

    def __post_init__(self) -> None:
        if self.unmatched == "quarantine" and self.how in {"semi", "anti"}:
            raise SpecError(f'join: unmatched = "quarantine" has no meaning with how = {self.how!r}')

    @property
    def keys(self) -> dict[str, str]:
        """This table's key columns and the other's."""
        return dict(self.on) if isinstance(self.on, Mapping) else {name: name for name in self.on}

    def beside(self, other: TableRef) -> "Joined":
        """The join with a version of the other table, or before a run with its coming columns."""
        return Joined(self, other)


@dataclass(frozen=True)
class Joined:
    """A join whose other side is known: a step."""

    join: Join
    other: TableRef

    def taken(self) -> dict[str, str]:
        """The other table's columns that are taken over, and their names here."""
        join = self.join
        if join.how in {"semi", "anti"}:
            return {}
        names = data_columns(self.other.schema)
        wanted = (
            [name for name in names if name not in join.keys.values()]
            if join.columns is None
            else join.columns
        )
        for name in wanted:
            if name not in names:
                raise SpecError(
                    f"join: table {join.with_!r} has no column {name!r}{did_you_mean(name, names)}"
                )
        return {name: join.prefix + name for name in wanted}

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns of this table and those taken over."""
        name, other = self.join.with_, self.other.schema
        for left, right in self.join.keys.items():
            if left not in schema.names:
                raise SpecError(f"join: no column {left!r}{did_you_mean(left, schema.names)}")
            if right not in other.names:
                raise SpecError(
                    f"join: table {name!r} has no column {right!r}{did_you_mean(right, other.names)}"
                )
            if schema.field(left).type != other.field(right).type:
                raise SpecError(
                    f"join: {left!r} is {schema.field(left).type}, {name}.{right} is {other.field(right).type}; "
                    f"declare the same type, or add a cast step before"
                )
        taken = self.taken()
        if clash := sorted(set(taken.values()) & set(schema.names)):
            raise SpecError(
                f'join: both tables have {clash}; set prefix = "{name}_" or list the columns to take'
            )
        return pa.schema(
            [*schema, *(other.field(one).with_name(new).with_nullable(True) for one, new in taken.items())]
        )

    def stage(self, schema: pa.Schema) -> Stage:
        """A Map, or an Exchange where this table's keys must be unique."""
        del schema
        params = {"joined": self}
        if self.join.cardinality in {"1:1", "1:m"}:
            return Exchange(f"join {self.join.with_}", tuple(self.join.keys), join_unique, params)
        return Map(f"join {self.join.with_}", join_part, params)


def join_unique(table: pa.Table, *, joined: Joined) -> Rows:
    """Join after all rows of a key have met; refuses a key that occurs twice."""
    join = joined.join
    keys = list(join.keys)
    counts = table.select(keys).drop_null().group_by(keys).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if twice.num_rows:
        raise InputError(
            f"join with {join.with_!r}: declared {join.cardinality}, but this table has {twice.num_rows:,} keys more than once, "
            f"e.g. {_first(twice, keys)}; deduplicate by {keys} first, or declare m:{join.cardinality[-1]}"
        )
    return join_part(table, joined=joined)


def join_part(table: pa.Table, *, joined: Joined) -> Rows:
    """One part of this table with the partners of its rows."""
    join, taken = joined.join, joined.taken()
    index = _index(joined.other, tuple(join.keys.values()), tuple(taken), join.cardinality)
    first, count = index.partners([table[name] for name in join.keys])
    matched = count > 0
    unmatched = int(len(matched) - matched.sum())
    notes = {"unmatched": unmatched} if unmatched else {}
    if join.how in {"semi", "anti"}:
        kept = table.filter(pa.array(matched if join.how == "semi" else ~matched))
        return Rows(kept, filtered=table.num_rows - kept.num_rows, notes=notes)
    rejected = None
    if join.unmatched == "quarantine":
        keys = list(join.keys)
        aside = reject(
            table,
            pa.array(~matched),
            rule="unmatched",
            column=keys[0] if len(keys) == 1 else None,
            message=lambda row: f"no row of {join.with_!r} has { ({key: row[key] for key in keys}) }",
        )
        table, rejected, count, first = aside.kept, aside.rejected, count[matched], first[matched]
    filtered = 0
    if join.how == "inner" and join.unmatched == "keep":
        table, filtered = table.filter(pa.array(matched)), unmatched
        count, first = count[matched], first[matched]
    rows_before = table.num_rows
    pick, partner = _spread(first, count)
    if pick is not None:
        table = table.take(pa.array(pick))
    indices = pa.array(partner, mask=partner < 0)
    for name, new in taken.items():
        values = (
            index.payload[name].take(indices)
            if index.payload.num_rows
            else pa.nulls(len(partner), index.payload[name].type)
        )
        table = table.append_column(
            index.payload.schema.field(name).with_name(new).with_nullable(True), values
        )
    return Rows(table, rejected, filtered=filtered, added=table.num_rows - rows_before, notes=notes)


def _spread(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Rows to repeat (None: each once) and the partner of each, -1 where there is none."""
    if count.size == 0 or count.max() <= 1:
        return None, np.where(count > 0, first, -1)
    times = np.maximum(count, 1)
    pick = np.repeat(np.arange(len(count)), times)
    within = np.arange(len(pick)) - np.repeat(np.cumsum(times) - times, times)
    return pick, np.where(count[pick] > 0, first[pick] + within, -1)


@dataclass(frozen=True)
class _Index:
    """Sorted keys of a broadcast side: `payload` is in the order of `codes`."""

    values: tuple[pa.Array, ...]  # distinct values of each key column
    codes: np.ndarray
    payload: pa.Table

    def partners(self, keys: list[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
        """Place of the first partner of each row in `payload`, and how many there are."""
        codes, known = _codes(keys, self.values)
        first = np.searchsorted(self.codes, codes, "left")
        count = np.searchsorted(self.codes, codes, "right") - first
        return first, np.where(known, count, 0)


def _codes(keys: list[pa.ChunkedArray], values: tuple[pa.Array, ...]) -> tuple[np.ndarray, np.ndarray]:
    total = np.zeros(len(keys[0]), np.int64)
    known = np.ones(len(keys[0]), bool)
    for column, distinct in zip(keys, values, strict=True):
        place = pc.index_in(column, value_set=distinct, skip_nulls=True)
        known &= place.is_valid().to_numpy()
        total = total * len(distinct) + pc.fill_null(place, 0).to_numpy()
    return total, known


@functools.lru_cache(maxsize=8)
def _index(other: TableRef, keys: tuple[str, ...], columns: tuple[str, ...], cardinality: str) -> _Index:
    """The other side, read once per worker."""
    name = other.name
    table = read_table(other, columns=tuple(dict.fromkeys((*keys, *columns))))
    if table.nbytes > LIMIT_BYTES:
        raise InputError(
            f"join with {name!r}: its columns take {table.nbytes:,} bytes in memory, the limit of a broadcast side is "
            f"{LIMIT_BYTES:,}; take fewer columns, or make the larger table the left side"
        )
    table = table.filter(functools.reduce(pc.and_, [table[key].is_valid() for key in keys]))
    values = tuple(pc.unique(table[key]) for key in keys)
    if np.prod([float(len(distinct)) for distinct in values]) > 2.0**62:
        raise InputError(
            f"join with {name!r}: the keys {list(keys)} have too many combinations; derive one key column from them"
        )
    codes, _ = _codes([table[key] for key in keys], values)
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    twice = int((codes[1:] == codes[:-1]).sum()) if len(codes) else 0
    if twice and cardinality in {"m:1", "1:1"}:
        example = table.take(pa.array(order[1:][codes[1:] == codes[:-1]][:1]))
        raise InputError(
            f"join with {name!r}: declared {cardinality}, but it has {twice:,} surplus rows of equal keys, e.g. "
            f"{_first(example, list(keys))}; deduplicate table {name!r} by {list(keys)}, or declare {cardinality[0]}:m"
        )
    return _Index(values, codes, table.take(pa.array(order)).select(list(columns)).combine_chunks())


def _first(table: pa.Table, keys: list[str]) -> dict[str, Any]:
    return {key: table[key][0].as_py() for key in keys}
