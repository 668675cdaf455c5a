"""Export to PostgreSQL: rows by COPY in binary into a temporary table, then within the server."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines import postgres
from pipelines.errors import InputError
from pipelines.export.batches import Batches
from pipelines.failpoints import failpoint

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Cursor

__all__ = ["PostgreSQL", "connected"]

_CONNECT_S, _QUERY_S, _LOCK_S = 10.0, 3600.0, 30.0
_TYPES = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.date32(): "date",
    pa.timestamp("us", "UTC"): "timestamptz",
    pa.binary(): "bytea",
}
_FITS = {  # the server's own names
    "boolean": {"bool"},
    "smallint": {"int2", "int4", "int8", "numeric"},
    "integer": {"int4", "int8", "numeric"},
    "bigint": {"int8", "numeric"},
    "real": {"float4", "float8"},
    "double precision": {"float8"},
    "text": {"text", "varchar"},
    "date": {"date"},
    "timestamptz": {"timestamptz"},
    "bytea": {"bytea"},
}


@contextlib.contextmanager
def connected(url: str) -> Iterator["PostgreSQL"]:
    """A database to write to.

    Raises: PartFailed if the server cannot be reached or is too slow; InputError if it refuses user or rows.
    """
    with (
        postgres.connected(
            url, connect_s=_CONNECT_S, query_s=_QUERY_S, lock_s=_LOCK_S, readonly=False
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield PostgreSQL(postgres.place(url), cursor)


class PostgreSQL:
    """A connection that writes one table."""

    distinct = "IS DISTINCT FROM"

    def __init__(self, place: str, cursor: "Cursor") -> None:
        self.place, self._cursor = place, cursor

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done inside, or nothing: whatever ends it, the server forgets what was not committed."""
        self.run("BEGIN")
        yield
        failpoint("export.before_commit")
        self.run("COMMIT")
        failpoint("export.after_commit")

    def column_type(self, kind: pa.DataType) -> str | None:
        """The server's type, which takes every value as it is."""
        return "bytea" if pa.types.is_fixed_size_binary(kind) else _TYPES.get(kind)

    def columns(self, table: str) -> Mapping[str, str] | None:
        """Columns of a table, which others may still read."""
        name = self.name(table)
        found = self.ask(f"SELECT relkind::text FROM pg_class WHERE oid = to_regclass({postgres.text(name)})")  # noqa: S608
        if not found:
            return None
        if found[0][0] not in {"r", "p"}:
            raise InputError(
                f"{self.place}: {table!r} is no table that rows can be written to; choose another (--table)"
            )
        self.run(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
        types = self.ask(
            "SELECT attname::text, typname::text FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "  # noqa: S608 - quoted
            f"WHERE attrelid = to_regclass({postgres.text(name)}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return dict(types)

    def fits(self, declared: str, found: str) -> bool:
        """Whether nothing is lost by an assignment."""
        return found in _FITS[declared]

    def load(self, table: str, columns: Mapping[str, str], batches: Batches) -> int:
        """COPY the rows."""
        del columns  # those of the driver are the same
        try:
            rows: int = self._cursor.adbc_ingest(table, batches.reader(), mode="create", temporary=True)
        except Exception:
            if batches.error is not None:
                raise batches.error from None
            raise
        self.run(f"ANALYZE {postgres.quoted(table)}")
        return rows

    def name(self, table: str) -> str:
        """Quoted; "schema.table" is a table of a schema."""
        return ".".join(map(postgres.quoted, table.split(".")))

    def run(self, statement: str) -> int:
        """Rows that a statement has changed."""
        self._cursor.execute(statement)
        return max(int(self._cursor.rowcount), 0)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a small answer."""
        self._cursor.execute(query)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows
