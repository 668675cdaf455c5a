"""Snapshots of PostgreSQL servers: a transaction that holds one lives as long as what was listed in it.

A plan lists its sources inside `one_moment`: sources of the same database are then read in the same snapshot, so that
rows of one table that refer to rows of another find them. Workers read in it by its name.
"""

import contextlib
import contextvars
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipelines.errors import PartFailed
from pipelines.postgres import connected, text, told
from pipelines.sources.source import Source

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection, Cursor

__all__ = ["Held", "held", "one_moment", "within"]

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_moment: contextvars.ContextVar[dict[str, "Held"] | None] = contextvars.ContextVar("moment", default=None)


@contextlib.contextmanager
def one_moment() -> Iterator[None]:
    """What is listed inside is listed in one snapshot of each database."""
    token = _moment.set({})
    try:
        yield
    finally:
        _moment.reset(token)


class Held:
    """A snapshot and the transaction that keeps it."""

    def __init__(self, source: Source) -> None:
        with contextlib.ExitStack() as opened:
            connection = opened.enter_context(_connected(source))
            self.cursor: Cursor = opened.enter_context(connection.cursor())
            self.cursor.execute(_BEGIN)
            self.cursor.execute("SELECT pg_export_snapshot()")
            [(name,)] = self.cursor.fetchall()
            self.name: str = name
            self._users = 0
            self._opened = opened.pop_all()

    def keep_for(self, user: Any) -> None:
        """Keep it while this object lives."""
        self._users += 1
        weakref.finalize(user, self._leave)

    def close_unused(self) -> None:
        """End the transaction, if nothing was listed in it."""
        if not self._users:
            self._opened.close()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            with contextlib.suppress(PartFailed):  # the server has ended it before
                self._opened.close()


@contextlib.contextmanager
def held(source: Source) -> Iterator[Held]:
    """The snapshot of this moment; it ends with the block if nothing was listed in it.

    Raises: as `connected`.
    """
    shared = _moment.get()
    found = None if shared is None else shared.get(source.url or "")
    found = found or Held(source)
    try:
        with told(source.url or "", query_s=source.query_s, lock_s=source.busy_s):
            yield found
    except BaseException:
        found.close_unused()
        raise
    if shared is not None:
        shared[source.url or ""] = found


@contextlib.contextmanager
def within(source: Source, name: str) -> Iterator["Cursor"]:
    """A cursor that sees what the plan has seen.

    Raises: PartFailed if the snapshot is gone; else as `connected`.
    """
    with _connected(source) as connection, connection.cursor() as cursor:
        cursor.execute(_BEGIN)
        try:
            cursor.execute(f"SET TRANSACTION SNAPSHOT {text(name)}")
        except Exception as error:
            if getattr(error, "sqlstate", None) != "22023":
                raise
            raise PartFailed(
                f"{source.path}: the snapshot of the plan is gone, as its connection was lost; run again"
            ) from error
        yield cursor


@contextlib.contextmanager
def _connected(source: Source) -> Iterator["Connection"]:
    deadlines = {"connect_s": source.connect_s, "query_s": source.query_s, "lock_s": source.busy_s}
    with connected(source.url or "", **deadlines, readonly=True) as connection:
        yield connection
