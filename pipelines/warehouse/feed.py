"""The change feed: which rows were added, removed or updated between two versions of a table, by key.

Only the files that one of the two versions has and the other has not are read: where a file is in both, no row of it
has changed. Their rows meet in ranges of the key over all workers, and each range is compared. So a compaction in
between costs time and adds no row, and it does not matter how the change was made.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SchemaMismatch
from pipelines.warehouse import columns, keys, ranges
from pipelines.warehouse.merge import workspace
from pipelines.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["CHANGE", "Feed", "changes", "same_values"]

CHANGE = "_change"
"""Name of the first column: added, removed, updated_from or updated_to."""


@dataclass(frozen=True)
class Feed:
    """The changes, in the order of the key; in files that are there as long as the context of `changes` is."""

    since: int
    until: int
    schema: pa.Schema
    counts: Mapping[str, int]  # added, removed, updated: rows
    paths: tuple[str, ...]

    def tables(self) -> Iterator[pa.Table]:
        """The changed rows, a range of the key at a time; an updated row before (`updated_from`) and after."""
        for path in self.paths:
            yield ranges.read_batch(path, 0)

    def read(self) -> pa.Table:
        """All of them."""
        return pa.concat_tables([self.schema.empty_table(), *self.tables()])


@dataclass(frozen=True)
class _Compare:
    where: str
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    number: int
    work: str


@contextmanager
def changes(
    uri: str, since: int, until: int | None = None, *, by: Sequence[str], runner: "Runner"
) -> Iterator[Feed]:
    """What version `until` (the newest by default) has that `since` has not, and the other way round.

    Raises: SchemaMismatch if the versions have different columns, or a key that is null or there twice.
    """
    old, new = Snapshot.open(uri, since), Snapshot.open(uri, until)
    if found := columns.difference(new.schema, old.schema):
        raise SchemaMismatch(
            f"{uri}: version {new.version} and {old.version}: {found}; ask for versions with the same columns"
        )
    keys.check(uri, new.schema, by)
    before, after = ({file.path: file for file in one.files()} for one in (old, new))
    gone = [file for path, file in before.items() if path not in after]
    come = [file for path, file in after.items() if path not in before]
    schema = pa.schema([pa.field(CHANGE, pa.string(), nullable=False), *new.schema])
    with workspace(uri) as work:
        paths, number = ranges.split_files([*gone, *come], new.schema, by, work=work, runner=runner)
        asked = [
            _Compare(
                uri,
                tuple(new.schema),
                tuple(by),
                tuple(paths[: len(gone)]),
                tuple(paths[len(gone) :]),
                place,
                work,
            )
            for place in range(number)
        ]
        found_by_range = runner.run(_compare, asked, name="compare", progress=lambda *_: None)
        counts = Counter({"added": 0, "removed": 0, "updated": 0})
        for _, said in found_by_range:
            counts.update(said)
        yield Feed(
            old.version, new.version, schema, dict(counts), tuple(path for path, _ in found_by_range if path)
        )


def same_values(one: pa.Table, other: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Row by row, whether two tables have the same values in some columns; null is the same as null.

    Shapes: (rows,), bool.
    """
    same = np.ones(one.num_rows, bool)
    for name in names:
        left, right = one[name], other[name]
        equal = pc.fill_null(pc.equal(left, right), fill_value=False)
        both_null = pc.and_(pc.is_null(left), pc.is_null(right))
        same &= pc.or_(equal, both_null).to_numpy()
    return same


def _compare(asked: _Compare) -> tuple[str | None, dict[str, int]]:
    schema = pa.schema(asked.columns)
    old, new = (
        pa.concat_tables([schema.empty_table(), ranges.read_range(paths, asked.number, asked.by)])
        if paths
        else schema.empty_table()
        for paths in (asked.before, asked.after)
    )
    for rows in (old, new):
        _check_keys(asked, rows.combine_chunks())
    at = keys.positions(new, old, asked.by)
    met = at >= 0
    there = np.zeros(old.num_rows, bool)
    there[at[met]] = True
    was, became = old.take(pa.array(at[met])), new.filter(pa.array(met))
    differs = ~same_values(was, became, [name for name in schema.names if name not in asked.by])
    pieces = {
        "added": new.filter(pa.array(~met)),
        "removed": old.filter(pa.array(~there)),
        "updated_from": was.filter(pa.array(differs)),
        "updated_to": became.filter(pa.array(differs)),
    }
    counts = {
        "added": pieces["added"].num_rows,
        "removed": pieces["removed"].num_rows,
        "updated": pieces["updated_to"].num_rows,
    }
    if not any(counts.values()):
        return None, counts
    field = pa.field(CHANGE, pa.string(), nullable=False)
    told = pa.concat_tables(
        [
            piece.add_column(0, field, pa.repeat(pa.scalar(name), piece.num_rows))
            for name, piece in pieces.items()
        ]
    )
    told = keys.sorted_by(told, asked.by)
    return ranges.write_batches(asked.work, told.schema, [told]), counts


def _check_keys(asked: _Compare, rows: pa.Table) -> None:
    if (null := keys.first_null(rows, asked.by)) is not None:
        raise SchemaMismatch(
            f"{asked.where}: key column {null[0]!r} has a null, expected a value in every row; name a key without nulls"
        )
    if (place := keys.repeated(rows, asked.by)) is not None:
        key = rows.select(list(asked.by)).slice(place, 1).to_pylist()[0]
        raise SchemaMismatch(
            f"{asked.where}: key {key} is there twice in one version, expected once; name a key that is unique"
        )
