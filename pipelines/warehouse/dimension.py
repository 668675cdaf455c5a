"""Dimensions with history (slowly changing, type 2): each row says from when to when it was true.

A change names a key, the time from which it holds and the values of then. It closes the version that was valid at
that time and opens one that is valid until the next recorded change, also when that is long ago: late changes split
the version they fall into. What says nothing new is no change. A time of a key is stated once: a second statement
corrects the first.

    valid    |--A--------------|--C---->         a change to B at t:        |--A---|--B------|--C---->
                   t                                                               t

Versions of a key never overlap, because they are made from one sorted list of its times.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SchemaMismatch
from pipelines.warehouse.columns import UTC
from pipelines.warehouse.feed import same_values
from pipelines.warehouse.file import Receipt, live
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.merge import Changed, merge
from pipelines.warehouse.snapshot import RELEASED

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["CURRENT", "FROM", "TO", "history_schema", "record_changes"]

FROM, TO, CURRENT = "valid_from", "valid_to", "is_current"
_TIME, _NEW, _SETS, _ROW, _OVER, _STEAD = "__time", "__new", "__sets", "__row", "__over", "__stead"


def history_schema(changes: pa.Schema, *, at: str, deleted: str | None = None) -> pa.Schema:
    """The columns of the dimension for changes of these columns.

    Raises: SchemaMismatch if `at` is no time in UTC, `deleted` no bool, or a column has a name of ours.
    """
    for name, kind in ((at, UTC), (deleted, pa.bool_())):
        if name is not None and (name not in changes.names or changes.field(name).type != kind):
            found = changes.field(name).type if name in changes.names else "not there"
            raise SchemaMismatch(f"column {name!r} is {found}, expected {kind}; cast or add it")
    if taken := sorted({FROM, TO, CURRENT} & set(changes.names) - {at}):
        raise SchemaMismatch(f"columns {taken} are those of the history; rename them")
    kept = [field for field in changes if field.name not in {at, deleted}]
    return pa.schema(
        [
            *kept,
            pa.field(FROM, UTC, nullable=False),
            pa.field(TO, UTC),
            pa.field(CURRENT, pa.bool_(), nullable=False),
        ]
    )


def record_changes(
    uri: str,
    changes: pa.Table | Sequence[Receipt],
    *,
    columns: pa.Schema,
    key: str,
    by: Sequence[str],
    at: str,
    deleted: str | None = None,
    partition_by: Sequence[str] = (),
    lineage: Lineage,
    runner: "Runner",
    transactions: Iterable[str] = (),
    release: Iterable[str] = (),
    evolve: bool = False,
) -> Changed:
    """Bring changes into a dimension with history, in one commit; `changes` as for `upsert`, with these `columns`.

    `by` identifies what changes, `at` is the time from which a change holds, a true `deleted` says that the key ends
    then. Counted: opened and closed versions, corrected ones, and changes that say nothing new.

    Raises: SchemaMismatch, also for two changes of a key at the same time; else as `commit`.
    """
    schema = history_schema(columns, at=at, deleted=deleted)
    timeline = _Timeline(tuple(by), at, deleted)
    given = changes if isinstance(changes, pa.Table) else [live(uri, one, columns) for one in changes]
    return merge(
        uri,
        given,
        operation="scd2",
        key=key,
        by=by,
        rule=timeline,
        news=timeline.news,
        schema=schema,
        source_schema=columns,
        partition_by=partition_by,
        lineage=lineage,
        runner=runner,
        transactions={**dict.fromkeys(release, RELEASED), **dict.fromkeys(transactions)},
        source_key=[*by, at],
        whole=True,
        evolve=evolve,
    )


@dataclass(frozen=True)
class _Timeline:
    """Old versions and changes of the same keys as one sorted list of times, and from it the new versions."""

    by: tuple[str, ...]
    at: str
    deleted: str | None

    def __call__(self, old: pa.Table, new: pa.Table) -> tuple[pa.Table, Mapping[str, int]]:
        events, values, says, unchanged, corrected = self._line(old, new)
        is_new = events[_NEW].to_numpy().astype(bool)
        kept = events.filter(pa.array(says))
        rows = self._versions(kept, values, old.schema)
        opened = (kept[_NEW].to_numpy() == 1) & (kept[_SETS].to_numpy() == 1) & (kept[_OVER].to_numpy() == 0)
        was_open, is_open = (
            pc.sum(pc.cast(table[CURRENT], pa.int64())).as_py() or 0 for table in (old, rows)
        )
        newly_open = int((opened & _last_of_key(self._borders(kept))).sum())
        return rows, {
            "opened": int(opened.sum()),
            "closed": was_open - (is_open - newly_open),
            "corrected": corrected,
            "unchanged": unchanged + int((~says & is_new).sum()),
        }

    def news(self, old: pa.Table, new: pa.Table) -> tuple[np.ndarray, Mapping[str, int]]:
        """Which of the changes say something new of their key, and how many say nothing.

        Shapes: (rows of new,), bool.
        """
        events, _, says, _, _ = self._line(old, new)
        stead = events[_STEAD].to_numpy().astype(bool)
        tells = events[_NEW].to_numpy().astype(bool) & (says | stead)
        found = np.zeros(new.num_rows, bool)
        found[events[_ROW].to_numpy()[tells] - old.num_rows] = True
        return found, {"opened": 0, "closed": 0, "corrected": 0, "unchanged": int((~found).sum())}

    def _line(self, old: pa.Table, new: pa.Table) -> tuple[pa.Table, pa.Table, np.ndarray, int, int]:
        """The events of all keys, one for each time, and their values; which say something, and what `_settled` counts."""
        values = pa.concat_tables([old.drop_columns([FROM, TO, CURRENT]), self._values(new, old.schema)])
        sets = pa.array(np.ones(new.num_rows, bool))
        if self.deleted:
            sets = pc.invert(pc.fill_null(new[self.deleted], fill_value=False))
        first = old.num_rows
        events = pa.concat_tables(
            [
                self._events(old, FROM, np.arange(first), sets=True),
                self._events(
                    ends := old.filter(pc.is_valid(old[TO])), TO, np.zeros(ends.num_rows), sets=False
                ),
                self._events(new, self.at, first + np.arange(new.num_rows), sets=sets, new=True),
            ]
        ).combine_chunks()
        events, unchanged, corrected = self._settled(self._sorted(events), values)
        return events, values, self._says(events, values), unchanged, corrected

    def _values(self, new: pa.Table, schema: pa.Schema) -> pa.Table:
        names = [name for name in schema.names if name not in {FROM, TO, CURRENT}]
        return new.select(names).cast(pa.schema([schema.field(name) for name in names]))

    def _events(
        self, table: pa.Table, time: str, rows: np.ndarray, *, sets: bool | pa.Array, new: bool = False
    ) -> pa.Table:
        chosen = [table[name] for name in self.by]
        sets = pa.array(np.full(table.num_rows, sets)) if isinstance(sets, bool) else sets
        columns = [
            *chosen,
            table[time].cast(pa.int64()),
            pa.array(np.full(table.num_rows, int(new), np.int8)),
            sets.cast(pa.int8()),
            pa.array(rows.astype(np.int64)),
        ]
        return pa.table(columns, names=[*self.by, _TIME, _NEW, _SETS, _ROW])

    def _sorted(self, events: pa.Table) -> pa.Table:
        """By key and time; at one time the end of a version, then a version that begins, then what is new."""
        order = [(name, "ascending") for name in (*self.by, _TIME, _NEW, _SETS)]
        return events.take(pc.sort_indices(events, order)).combine_chunks()

    def _borders(self, events: pa.Table) -> np.ndarray:
        """Whether each event is the first of its key."""
        if not events.num_rows:
            return np.zeros(0, bool)
        same = same_values(events.slice(1), events.slice(0, events.num_rows - 1), self.by)
        return np.append([True], ~same)

    def _settled(self, events: pa.Table, values: pa.Table) -> tuple[pa.Table, int, int]:
        """One event for each time of a key: what is new corrects what was there, unless it says the same.

        Also how many say the same, and how many correct.
        """
        time, rows = events[_TIME].to_numpy(), events[_ROW].to_numpy()
        is_new, is_set = (events[name].to_numpy().astype(bool) for name in (_NEW, _SETS))
        same_time = ~self._borders(events)[1:] & (time[1:] == time[:-1])  # of an event and the next one
        old_set = (~is_new & is_set)[:-1] & same_time
        self._check(events, old_set & (~is_new & is_set)[1:])
        attributes = [name for name in values.column_names if name not in self.by]
        same = same_values(values.take(pa.array(rows[:-1])), values.take(pa.array(rows[1:])), attributes)
        again = old_set & is_new[1:] & is_set[1:] & same
        over = old_set & is_new[1:] & ~again
        dropped = np.append(same_time & ~again, [False])[: len(time)] | np.append([False], again)[: len(time)]
        stead = is_new[1:] & same_time & ~again  # in the stead of a version or an end that is there
        for name, found in ((_OVER, over), (_STEAD, stead)):
            events = events.append_column(
                name, pa.array(np.append([False], found)[: len(time)].astype(np.int8))
            )
        return events.filter(pa.array(~dropped)), int(again.sum()), int(over.sum())

    def _check(self, events: pa.Table, twice: np.ndarray) -> None:
        if twice.any():
            key = events.select(list(self.by)).slice(int(np.flatnonzero(twice)[0]), 1).to_pylist()[0]
            raise SchemaMismatch(
                f"key {key} has two versions that begin at the same time, expected one; the table is no history of {list(self.by)}"
            )

    def _says(self, events: pa.Table, values: pa.Table) -> np.ndarray:
        """Whether an event says something that was not so before it; what is in the table is never dropped."""
        if not events.num_rows:
            return np.zeros(0, bool)
        attributes = [name for name in values.column_names if name not in self.by]
        rows, sets = events[_ROW].to_numpy(), events[_SETS].to_numpy().astype(bool)
        one, other = values.take(pa.array(rows[1:])), values.take(pa.array(rows[:-1]))
        same = np.append([False], same_values(one, other, attributes)) & sets & np.append([False], sets[:-1])
        both_end = ~sets & np.append([False], ~sets[:-1])
        first = self._borders(events)
        idle = ((same | both_end) & ~first) | (first & ~sets)  # an end of what never began
        return ~(idle & events[_NEW].to_numpy().astype(bool))

    def _versions(self, events: pa.Table, values: pa.Table, schema: pa.Schema) -> pa.Table:
        time = events[_TIME].to_numpy()
        last = _last_of_key(self._borders(events))
        until = pa.array(np.append(time[1:], [0])[: len(time)], mask=last).cast(UTC)
        sets = pa.array(events[_SETS].to_numpy().astype(bool))
        rows = values.take(events[_ROW].combine_chunks())
        rows = rows.append_column(schema.field(FROM), pa.array(time).cast(UTC))
        rows = rows.append_column(schema.field(TO), until)
        rows = rows.append_column(schema.field(CURRENT), pa.array(last))
        return rows.filter(sets).select(schema.names).cast(schema)


def _last_of_key(first: np.ndarray) -> np.ndarray:
    return np.append(first[1:], [True])[: len(first)]
