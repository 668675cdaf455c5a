"""Export to SQLite: integers, reals, texts and blobs as the sqlite source reads them; bools are 0 and 1, dates and times ISO text."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, PartFailed
from pipelines.export.batches import Batches
from pipelines.failpoints import failpoint

__all__ = ["SQLite", "opened"]

_BUSY_S = 30.0
_TYPES = {
    pa.float32(): "REAL",
    pa.float64(): "REAL",
    pa.string(): "TEXT",
    pa.date32(): "TEXT",
    pa.timestamp("us", "UTC"): "TEXT",
    pa.binary(): "BLOB",
    pa.bool_(): "INTEGER",
}
_FITS = {  # affinities that keep the type of what is written
    "INTEGER": {"INTEGER", "NUMERIC", "BLOB"},
    "REAL": {"REAL", "BLOB"},
    "TEXT": {"TEXT", "BLOB"},
    "BLOB": {"INTEGER", "NUMERIC", "REAL", "TEXT", "BLOB"},
}


@contextlib.contextmanager
def opened(url: str) -> Iterator["SQLite"]:
    """A database to write to, "sqlite:///file"; a file that is not there is made.

    Raises: InputError if it is no database or refuses the rows; PartFailed if it is locked or cannot be written.
    """
    path = Path(url.removeprefix("sqlite:///"))
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as database:
            yield SQLite(str(path), database)
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise PartFailed(
                f"{path}: {error}, after waiting {_BUSY_S:g} s; nothing was written, run again when no other program writes"
            ) from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise PartFailed(
                f"{path}: {error}; nothing was written, check folder, rights and disk"
            ) from error
        what = "no SQLite database" if name == "SQLITE_NOTADB" else "refuses the rows"
        raise InputError(
            f"{path}: {what}: {error}; nothing was written, check the table there, or --to"
        ) from error


class SQLite:
    """A connection that writes one table."""

    distinct = "IS NOT"

    def __init__(self, place: str, database: sqlite3.Connection) -> None:
        self.place, self._database = place, database

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done inside, or nothing; nobody else writes meanwhile."""
        self.run("BEGIN IMMEDIATE")
        yield
        failpoint("export.before_commit")
        self.run("COMMIT")
        failpoint("export.after_commit")

    def column_type(self, kind: pa.DataType) -> str | None:
        """What a value becomes."""
        if pa.types.is_signed_integer(kind):
            return "INTEGER"
        return "BLOB" if pa.types.is_fixed_size_binary(kind) else _TYPES.get(kind)

    def columns(self, table: str) -> Mapping[str, str] | None:
        """Declared types; those of a view are none to write to."""
        found = self._database.execute(
            "SELECT type FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')",
            (table,),
        ).fetchall()
        if not found:
            return None
        if found[0][0] != "table":
            raise InputError(
                f"{self.place}: {table!r} is no table that rows can be written to; choose another (--table)"
            )
        return {row[1]: row[2] for row in self.ask(f"PRAGMA table_info({self.name(table)})")}

    def fits(self, declared: str, found: str) -> bool:
        """Whether the affinity of a declared type lets the values be what they are."""
        return _affinity(found) in _FITS[declared]

    def load(self, table: str, columns: Mapping[str, str], batches: Batches) -> int:
        """Insert the rows, batch by batch."""
        listed = ", ".join(f"{self.name(name)} {kind}" for name, kind in columns.items())
        self.run(f"CREATE TEMP TABLE {self.name(table)} ({listed})")
        places = ", ".join("?" * len(columns))
        rows = 0
        for batch in batches:
            cells = [_plain(column).to_pylist() for column in batch.columns]
            self._database.executemany(
                f"INSERT INTO {self.name(table)} VALUES ({places})",  # noqa: S608 - names are quoted
                zip(*cells, strict=True),
            )
            rows += batch.num_rows
        return rows

    def name(self, table: str) -> str:
        """Quoted."""
        return '"' + table.replace('"', '""') + '"'

    def run(self, statement: str) -> int:
        """Rows that a statement has changed."""
        return max(self._database.execute(statement).rowcount, 0)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a small answer."""
        return self._database.execute(query).fetchall()


def _affinity(declared: str) -> str:
    """The affinity of a declared type.

    Source: https://www.sqlite.org/datatype3.html, section 3.1.

    >>> [_affinity(one) for one in ("bigint", "varchar(9)", "", "double", "decimal")]
    ['INTEGER', 'TEXT', 'BLOB', 'REAL', 'NUMERIC']
    """
    kind = declared.upper()
    for names, affinity in (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    ):
        if any(name in kind for name in names):
            return affinity
    return "NUMERIC" if kind else "BLOB"


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_boolean(column.type):
        return pc.cast(column, pa.int8())
    return pc.cast(column, pa.string()) if pa.types.is_temporal(column.type) else column
