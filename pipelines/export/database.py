"""What a database is told to take a version in, whichever it is; all of it in one transaction.

    load the rows beside the table -> key present and unique? -> table there? its columns fit? else make it
    with a key      rows with another value are updated, rows with a new key inserted, others stay
    without a key   the table's rows are replaced, if they are others

Rows that are the same are not touched: doing it again changes nothing.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipelines.errors import InputError, SpecError
from pipelines.export.batches import Batches
from pipelines.names import did_you_mean

__all__ = ["Database", "Exported", "write_table"]

STAGE = "dlflow_export"  # a temporary table, seen by this connection alone


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    to: str  # without a password
    rows: int
    new: int | None = None  # of a database: rows inserted,
    changed: int | None = None  # updated,
    same: int | None = None  # and left as they were


class Database(Protocol):
    """One of the databases, as `write_table` speaks to it."""

    place: str
    distinct: str  # operator: one is another than the other, null is null

    def transaction(self) -> AbstractContextManager[None]:
        """All that is done inside, or nothing."""

    def column_type(self, kind: pa.DataType) -> str | None:
        """What a column of this type is there; None: there is no such type."""

    def columns(self, table: str) -> Mapping[str, str] | None:
        """Columns of a table and their types, and from then on nobody else writes to it; None: there is no such table."""

    def fits(self, declared: str, found: str) -> bool:
        """Whether a column of the type `found` takes every value of the type `declared` as it is."""

    def load(self, table: str, columns: Mapping[str, str], batches: Batches) -> int:
        """Make the temporary table and put all rows into it; their number."""

    def name(self, table: str) -> str:
        """The quoted name of a table, of a schema where that is said."""

    def run(self, statement: str) -> int:
        """Run a statement; rows that it has changed."""

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """The answer to a query."""


def write_table(database: Database, batches: Batches, table: str, key: Sequence[str]) -> Exported:
    """Write a version to a table.

    Raises: SpecError for a column of a type that the database does not have; InputError if the key is not one, or the
    table there does not fit.
    """
    columns = _types(database, batches.schema)
    with database.transaction():
        there = database.columns(table)
        if there is not None:
            _check_fit(database, table, there, columns)
        rows = database.load(STAGE, columns, batches)
        _check_key(database, key)
        if there is None:
            made = [f"{_quoted(name)} {kind}" for name, kind in columns.items()]
            if key:
                made.append(f"PRIMARY KEY ({_list(key)})")
            database.run(f"CREATE TABLE {database.name(table)} ({', '.join(made)})")
        if key:
            new, changed = _upsert(database, table, list(columns), key)
        else:
            new, changed = _replace(database, table, list(columns), rows), 0
    return Exported(f"{database.place}, table {table}", rows, new, changed, rows - new - changed)


def _types(database: Database, schema: pa.Schema) -> dict[str, str]:
    types = {field.name: database.column_type(field.type) for field in schema}
    if unknown := [f"{field.name} ({field.type})" for field in schema if types[field.name] is None]:
        raise SpecError(
            f"{database.place} has no type for columns {', '.join(unknown)}; leave them out with --columns"
        )
    return {name: kind for name, kind in types.items() if kind is not None}


def _check_fit(database: Database, table: str, there: Mapping[str, str], columns: Mapping[str, str]) -> None:
    problems = []
    for name, kind in columns.items():
        if name not in there:
            problems.append(f"column {name!r} is not in it{did_you_mean(name, there)}")
        elif not database.fits(kind, there[name]):
            problems.append(f"column {name!r} is {there[name]}, {kind} expected")
    if problems:
        raise InputError(
            f"{database.place}: table {table!r} does not fit: {'; '.join(problems)}; alter or drop it, or write to another (--table)"
        )


def _check_key(database: Database, key: Sequence[str]) -> None:
    if not key:
        return
    empty = " OR ".join(f"{_quoted(name)} IS NULL" for name in key)
    [(nulls,)] = database.ask(f"SELECT count(*) FROM {STAGE} WHERE {empty}")  # noqa: S608 - names are quoted
    twice = database.ask(
        f"SELECT {_list(key)}, count(*) FROM {STAGE} GROUP BY {_list(key)} HAVING count(*) > 1 ORDER BY 1 LIMIT 1"  # noqa: S608
    )
    if nulls or twice:
        what = (
            f"is missing in {nulls:,} rows" if nulls else f"{twice[0][:-1]!r} is there {twice[0][-1]:,} times"
        )
        raise InputError(
            f"--key {','.join(key)}: {what}, expected each once; nothing was written. Deduplicate the table, or take another key"
        )


def _upsert(database: Database, table: str, columns: Sequence[str], key: Sequence[str]) -> tuple[int, int]:
    name, others = database.name(table), [column for column in columns if column not in key]
    same_key = " AND ".join(f"there.{_quoted(one)} = {STAGE}.{_quoted(one)}" for one in key)
    changed = 0
    if others:
        values = ", ".join(f"{_quoted(one)} = {STAGE}.{_quoted(one)}" for one in others)
        differs = " OR ".join(
            f"there.{_quoted(one)} {database.distinct} {STAGE}.{_quoted(one)}" for one in others
        )
        changed = database.run(
            f"UPDATE {name} AS there SET {values} FROM {STAGE} WHERE {same_key} AND ({differs})"  # noqa: S608 - quoted
        )
    new = database.run(
        f"INSERT INTO {name} ({_list(columns)}) SELECT {_list(columns)} FROM {STAGE} "  # noqa: S608 - quoted
        f"WHERE NOT EXISTS (SELECT 1 FROM {name} AS there WHERE {same_key})"
    )
    return new, changed


def _replace(database: Database, table: str, columns: Sequence[str], rows: int) -> int:
    """Rows inserted: all of them, or none where the table has the same, each as often."""
    name, listed = database.name(table), _list(columns)
    [(before,)] = database.ask(f"SELECT count(*) FROM {name}")  # noqa: S608 - quoted
    counted = f"SELECT {listed}, count(*) FROM {{}} GROUP BY {listed}"  # noqa: S608 - quoted
    other = f"SELECT 1 FROM ({counted.format(STAGE)} EXCEPT {counted.format(name)}) AS other LIMIT 1"  # noqa: S608 - quoted
    if before == rows and not database.ask(other):
        return 0
    database.run(f"DELETE FROM {name}")  # noqa: S608 - quoted
    return database.run(f"INSERT INTO {name} ({listed}) SELECT {listed} FROM {STAGE}")  # noqa: S608 - quoted


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(_quoted, names))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
