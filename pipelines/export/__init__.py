"""A version of a table written elsewhere: to a file, or to a table of SQLite or PostgreSQL; all of it or nothing.

    batches      the rows of a version, one row group at a time
    files        CSV, JSON lines, Parquet: under another name, then renamed
    database     what a database is told, in one transaction: load beside, compare, then upsert by key or replace
    postgresql, sqlite   how each of the two says it

Doing it again changes nothing.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from pipelines import warehouse
from pipelines.errors import SpecError
from pipelines.export import postgresql, sqlite
from pipelines.export.batches import Batches
from pipelines.export.database import Database, Exported, write_table
from pipelines.export.files import KINDS, write
from pipelines.names import did_you_mean
from pipelines.postgres import SCHEMES

__all__ = ["Exported", "export"]

_TARGETS = ("sqlite", *SCHEMES)


def export(
    snapshot: warehouse.Snapshot,
    to: str,
    *,
    table: str,
    key: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
) -> Exported:
    """Write a version of a table to a file, or to `table` of a database: upserted by `key`, else in place of what is there.

    `columns`: some of them only; none given: all.

    Raises: SpecError for a target or column that cannot be; InputError if the target does not fit or refuses the rows;
    PartFailed if it cannot be reached or is busy.
    """
    _check_columns(snapshot, "--columns", columns)
    _check_columns(snapshot, "--key", key)
    wanted = columns or tuple(snapshot.schema.names)
    if lost := [name for name in key if name not in wanted]:
        raise SpecError(f"--key {', '.join(lost)}: not in --columns; add it there")
    batches = Batches(snapshot, wanted)
    scheme, mark, rest = to.partition("://")
    if not mark:
        if key:
            raise SpecError("--key has no effect on a file, which is written anew; leave it out")
        rows = write(batches, Path(to))
        return Exported(to, rows)
    if scheme not in _TARGETS:
        raise SpecError(
            f"--to begins with {scheme}://, which nothing is written to{did_you_mean(scheme, _TARGETS)}; "
            f"or name a file that ends in {', '.join(KINDS)}"
        )
    if scheme == "sqlite" and not rest.startswith("/"):
        raise SpecError(
            f'--to {to}: expected "sqlite:///file.db", or "sqlite:////folder/file.db" from the root'
        )
    target: AbstractContextManager[Database] = (
        sqlite.opened(to) if scheme == "sqlite" else postgresql.connected(to)
    )
    with target as database:
        return write_table(database, batches, table, key)


def _check_columns(snapshot: warehouse.Snapshot, option: str, names: tuple[str, ...]) -> None:
    known = snapshot.schema.names
    for name in names:
        if name not in known:
            raise SpecError(f"{option}: there is no column {name!r}{did_you_mean(name, known)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"{option}: {', '.join(twice)} is there twice")
