"""Bringing tables together: joins whose cardinality is declared and enforced, whose unmatched rows are counted.

A small other side is a committed snapshot that every worker reads once and keeps (a broadcast): the join is a Map. A
large one moves, as this side does: the rows of a key meet in one part (an Exchange). So they do too where one row
decides about others: a key that must be there once, rows of the other side that nobody has asked for.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.errors import InputError, SpecError
from pipelines.matching import (
    Index,
    first_twice,
    index_of,
    partners_taken,
    refuse_fan_out,
    shown_keys,
    spread,
)
from pipelines.names import did_you_mean
from pipelines.stage import (
    LINE,
    OFFSET,
    ORIGIN,
    SOURCE,
    Beside,
    Exchange,
    Map,
    Rows,
    Side,
    Stage,
    data_columns,
    reject,
)
from pipelines.storage import TableRef, read_table, row_bytes

__all__ = ["Join", "Joined", "attached", "broadcast_side"]

BROADCAST_BYTES = 1 << 27  # of an other side, estimated: up to here every worker holds it
LIMIT_BYTES = 1 << 29  # of a broadcast that was asked for, decoded, in each worker


@dataclass(frozen=True, kw_only=True)
class Join:
    """Adds columns of another table of the warehouse to the rows that have the same key; a null key matches nothing.

    `on` names the key columns, or maps this table's names to the other's. `cardinality` is a promise that is checked:
    m:1 and 1:1 refuse a key that the other table has twice, 1:1 and 1:m a key that this table has twice. A row without
    partner is kept with nulls (how = "left", "outer"), left out and counted ("inner", "right", "semi"), or set aside
    (unmatched = "quarantine"). "right" and "outer" add the rows of the other table that have no partner here. How the
    rows meet is chosen from the sizes (move = "auto"), or is "broadcast" or "exchange".
    """

    do: ClassVar[str] = "join"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    with_: str
    on: tuple[str, ...] | dict[str, str]
    cardinality: Literal["m:1", "1:1", "1:m", "m:m"]
    how: Literal["left", "inner", "right", "outer", "semi", "anti"] = "left"
    columns: tuple[str, ...] | None = None
    prefix: str = ""
    unmatched: Literal["keep", "quarantine"] = "keep"
    move: Literal["auto", "broadcast", "exchange"] = "auto"

    def __post_init__(self) -> None:
        if self.unmatched == "quarantine" and self.how in {"semi", "anti"}:
            raise SpecError(f'join: unmatched = "quarantine" has no meaning with how = {self.how!r}')
        if self.unmatched == "quarantine" and self.how == "outer":
            raise SpecError(
                'join: how = "outer" keeps the rows without partner; for unmatched = "quarantine" use how = "right"'
            )
        if not self.keys:
            raise SpecError('join: on is empty; name the key columns: on = ["customer_id"]')
        if self.move == "broadcast" and self.must_move is not None:
            raise SpecError(f'join: move = "broadcast" cannot be: {self.must_move}; use move = "auto"')

    @property
    def keys(self) -> dict[str, str]:
        """This table's key columns and the other's."""
        return dict(self.on) if isinstance(self.on, Mapping) else {name: name for name in self.on}

    @property
    def tables(self) -> tuple[str, ...]:
        """The other table."""
        return (self.with_,)

    @property
    def must_move(self) -> str | None:
        """Why the rows of a key must meet, whatever the sizes."""
        if self.how in {"right", "outer"}:
            return f'how = "{self.how}" must know all keys to find rows of {self.with_!r} without partner'
        if self.cardinality.startswith("1"):
            return f"{self.cardinality} must see all rows of a key to find one that is there twice"
        return None

    def beside(self, other: TableRef) -> "Joined":
        """The join with a version of the other table, or before a run with its coming columns."""
        return Joined(self, other)


@dataclass(frozen=True)
class Joined:
    """A join whose other side is known: a step."""

    join: Join
    other: TableRef

    @property
    def tables(self) -> tuple[str, ...]:
        """The other table."""
        return self.join.tables

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
            mine, theirs = (
                (one.metadata or {}).get(b"unit", b"").decode()
                for one in (schema.field(left), other.field(right))
            )
            if mine and theirs and mine != theirs:
                raise SpecError(
                    f"join: {left!r} is in {mine}, {name}.{right} in {theirs}; make them alike with a units step"
                )
        taken = self.taken()
        if clash := sorted(set(taken.values()) & set(schema.names)):
            raise SpecError(
                f'join: both tables have {clash}; set prefix = "{name}_" or list the columns to take'
            )
        if self.join.how in {"right", "outer"}:  # rows of the other table have none of this one's columns
            schema = pa.schema(
                [one if one.name in ORIGIN.names else one.with_nullable(True) for one in schema]
            )
        return pa.schema(
            [*schema, *(other.field(one).with_name(new).with_nullable(True) for one, new in taken.items())]
        )

    def stage(self, schema: pa.Schema) -> Stage:
        """A Map with a broadcast, else an Exchange of both tables."""
        del schema
        join, keys, params = self.join, tuple(self.join.keys), {"joined": self}
        if not self.way()[0]:
            made = tuple(self.taken().values()) if join.cardinality == "m:1" else None
            thins = join.how != "left" or join.unmatched != "keep"
            return Map(f"join {join.with_}", join_part, params, keys, made, thins, narrows=True)
        beside = Beside(self.other, tuple(join.keys.values()), self.columns(), join.must_move is not None)
        return Exchange(f"join {join.with_}", keys, join_bucket, params, alone=True, beside=beside)

    def columns(self) -> tuple[str, ...]:
        """The columns of the other table that are needed."""
        return tuple(dict.fromkeys((*self.join.keys.values(), *self.taken())))

    def way(self) -> tuple[bool, str]:
        """Whether both tables move, and why."""
        join = self.join
        if join.must_move is not None:
            return True, join.must_move
        if join.move != "auto":
            return join.move == "exchange", f'move = "{join.move}"'
        if self.other.version < 0:
            return False, f"{join.with_!r} is not built yet: if it is large, both will move"
        wanted = pa.schema([self.other.schema.field(name) for name in self.columns()])
        size = self.other.rows * row_bytes(wanted)
        text = f"{join.with_!r} takes about {size / 2**20:,.1f} MiB, a broadcast may have {BROADCAST_BYTES >> 20}"
        return size > BROADCAST_BYTES, text


def join_part(table: pa.Table, *, joined: Joined, only: tuple[str, ...] | None = None) -> Rows:
    """One part of this table with the partners of its rows, from the broadcast; of the columns taken over, `only` these."""
    keys, taken = joined.join.keys, joined.taken()
    index, other = _broadcast(joined.other, tuple(keys.values()), tuple(taken), joined.join.cardinality)
    if only is not None:
        few = tuple(name for name, new in taken.items() if new in only)
        joined = replace(joined, join=replace(joined.join, columns=few))
    return attached(table, joined, other, *index.partners([table[name] for name in keys]), index.order)


def join_bucket(table: pa.Table, *, joined: Joined, side: Side) -> Rows:
    """The rows of one bucket of both tables; where the task answers for the bucket, what is true of all its rows too."""
    join, keys = joined.join, list(joined.join.keys)
    theirs = list(join.keys.values())
    index = index_of([side.rows[name] for name in theirs])
    _refuse_twice(join.with_, join.cardinality, theirs, index, side.rows)
    looks = [found := index.partners([table[name] for name in keys])]
    if side.answers and side.elsewhere is not None:
        looks.append(index.partners([side.elsewhere[name] for name in keys]))
    if side.answers and join.cardinality.startswith("1"):
        mine = [table.select(keys)] + ([] if side.elsewhere is None else [side.elsewhere])
        _refuse_twice_here(join, pa.concat_tables(mine))
    made = attached(table, joined, side.rows, *found, index.order)
    if join.how not in {"right", "outer"}:
        return made
    schema = joined.build(table.schema)
    kept = pa.Table.from_arrays(made.kept.columns, schema=schema)
    if not side.answers:
        return Rows(kept, made.rejected, filtered=made.filtered, added=made.added, notes=made.notes)
    alone = np.ones(side.rows.num_rows, bool)
    alone[index.order] = ~partners_taken(index, looks)
    rest = _without_partner(side.rows.take(pa.array(np.flatnonzero(alone))), joined, schema)
    notes = {**made.notes, f"unmatched of {join.with_}": rest.num_rows}
    return Rows(
        pa.concat_tables([kept, rest]),
        made.rejected,
        filtered=made.filtered,
        added=made.added + rest.num_rows,
        notes=notes,
    )


def attached(
    table: pa.Table,
    joined: Joined,
    other: pa.Table,
    first: np.ndarray,
    count: np.ndarray,
    order: np.ndarray,
) -> Rows:
    """The rows with their partners: `count` rows of `other` each, from `order[first]` on."""
    join = joined.join
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
    if join.how in {"inner", "right"} and join.unmatched == "keep":
        table, filtered = table.filter(pa.array(matched)), unmatched
        count, first = count[matched], first[matched]
    rows_before = table.num_rows
    if count.size and count.max() > 1:
        refuse_fan_out(join.with_, table, list(join.keys), (first, count), joined.build(table.schema))
    pick, partner = spread(first, count)
    if pick is not None:
        table = table.take(pa.array(pick))
    there = partner >= 0
    rows = np.zeros(len(partner), np.int64)
    rows[there] = order[partner[there]]
    indices = pa.array(rows, mask=~there)
    for name, new in joined.taken().items():
        field = other.schema.field(name).with_name(new).with_nullable(True)
        values = other[name].take(indices) if other.num_rows else pa.nulls(len(rows), field.type)
        table = table.append_column(field, values)
    return Rows(table, rejected, filtered=filtered, added=table.num_rows - rows_before, notes=notes)


def _without_partner(rows: pa.Table, joined: Joined, schema: pa.Schema) -> pa.Table:
    """Rows of the other table as rows of this one: keys, origin and what is taken over; the rest is missing."""
    theirs = joined.join.keys | {new: name for name, new in joined.taken().items()}
    theirs |= {name: name for name in (SOURCE, LINE, OFFSET)}
    columns = [
        rows[theirs[field.name]] if field.name in theirs else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


@functools.lru_cache(maxsize=8)
def _broadcast(
    other: TableRef, keys: tuple[str, ...], columns: tuple[str, ...], cardinality: str
) -> tuple[Index, pa.Table]:
    """The other side and its index, made once per worker."""
    table = broadcast_side(other, tuple(dict.fromkeys((*keys, *columns))))
    index = index_of([table[key] for key in keys])
    _refuse_twice(other.name, cardinality, keys, index, table)
    return index, table.select(list(columns))


def broadcast_side(other: TableRef, columns: tuple[str, ...]) -> pa.Table:
    """The other side as every worker holds it.

    Raises: InputError if it is too large for that.
    """
    table = read_table(other, columns=columns).combine_chunks()
    if table.nbytes > LIMIT_BYTES:
        raise InputError(
            f"join with {other.name!r}: its columns take {table.nbytes:,} bytes in memory, the limit of a broadcast side is "
            f'{LIMIT_BYTES:,}; take fewer columns, or let both tables move: move = "exchange"'
        )
    return table


def _refuse_twice(name: str, cardinality: str, keys: Sequence[str], index: Index, other: pa.Table) -> None:
    if cardinality.endswith("m"):
        return
    twice, place = first_twice(index.codes)
    if twice:
        raise InputError(
            f"join with {name!r}: declared {cardinality}, but it has {twice:,} surplus rows of equal keys, e.g. "
            f"{shown_keys(other, keys, int(index.order[place]))}; deduplicate table {name!r} by {list(keys)}, "
            f"or declare {cardinality[0]}:m"
        )


def _refuse_twice_here(join: Join, table: pa.Table) -> None:
    keys = list(join.keys)
    index = index_of([table[name] for name in keys])
    twice, place = first_twice(index.codes)
    if twice:
        raise InputError(
            f"join with {join.with_!r}: declared {join.cardinality}, but this table has {twice:,} keys more than once, "
            f"e.g. {shown_keys(table, keys, int(index.order[place]))}; deduplicate by {keys} first, or declare m:{join.cardinality[-1]}"
        )
