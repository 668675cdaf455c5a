"""The row ledger: every row that came in is accounted for, and what each build did can be queried.

The truth is in the log entry of the data: lineage, ledger and checks are committed with the rows, at once. The
tables `_dlflow/ledger`, `_dlflow/quality` and `_dlflow/commits` are written from it afterwards. Each remembers up to
which version of a table it has come, in the commit that brings it there; so `record` after a build and `repair`
after a crash are the same: write what is not written yet. Nothing can be missed or doubled.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.errors import LedgerImbalance
from pipelines.failpoints import failpoint
from pipelines.warehouse import log
from pipelines.warehouse.catalog import Event, history, names
from pipelines.warehouse.columns import UTC
from pipelines.warehouse.commit import Change, commit
from pipelines.warehouse.file import write_file
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.names import system_uri, table_uri
from pipelines.warehouse.snapshot import BORN, Snapshot

__all__ = ["Entry", "balance", "record", "repair"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The rows of one step of one table: in + added = out + quarantined + deduplicated + filtered."""

    table: str
    step: str
    rows_in: int
    rows_out: int
    added: int = 0
    quarantined: int = 0
    deduplicated: int = 0
    filtered: int = 0

    @property
    def missing(self) -> int:
        """Rows that nobody accounts for; negative: rows from nowhere."""
        gone = self.rows_out + self.quarantined + self.deduplicated + self.filtered
        return self.rows_in + self.added - gone

    def record(self) -> dict[str, Any]:
        """For `Lineage.ledger`."""
        return asdict(self)


def balance(entries: Iterable[Entry]) -> None:
    """Nothing, if each step accounts for its rows, and each takes up all that the one before it let go.

    Entries of a table come in the order of its steps.

    Raises: LedgerImbalance.
    """
    before: dict[str, Entry] = {}
    for entry in entries:
        if entry.missing:
            raise LedgerImbalance(
                f"table {entry.table!r}, step {entry.step!r}: {abs(entry.missing)} rows {_wrong(entry.missing)}: "
                f"{entry.rows_in} in + {entry.added} added, but {entry.rows_out} out + {entry.quarantined} quarantined + "
                f"{entry.deduplicated} deduplicated + {entry.filtered} filtered; nothing was committed, this is a bug of the step"
            )
        last = before.get(entry.table)
        if last is not None and last.rows_out != entry.rows_in:
            raise LedgerImbalance(
                f"table {entry.table!r}, step {entry.step!r}: {entry.rows_in} rows in, expected the {last.rows_out} that "
                f"step {last.step!r} let go, {abs(last.rows_out - entry.rows_in)} {_wrong(last.rows_out - entry.rows_in)}; "
                "nothing was committed, this is a bug between the steps"
            )
        before[entry.table] = entry


def _wrong(missing: int) -> str:
    return "are missing" if missing > 0 else "came from nowhere"


def record(root: str, name: str, *, run: str = "record") -> int:
    """Write what the log of one table says into the ledger tables, as far as it is not there; the rows written."""
    uri = table_uri(root, name)
    return sum(_bring_up(root, name, Snapshot.open(uri), book, run) for book in _BOOKS)


def repair(root: str, *, run: str = "repair") -> list[str]:
    """Do that for all tables, after a crash between a build's commit and its ledger; the tables that needed it."""
    return [name for name in names(root) if record(root, name, run=run)]


@dataclass(frozen=True)
class _Book:
    """A table of the framework, and its rows for one version of a table of the user."""

    name: str
    schema: pa.Schema
    rows: Callable[[str, Event], list[Mapping[str, Any]]]


class _OvertakenError(Exception):
    """Another process has brought the book further. Look again."""


def _bring_up(root: str, name: str, table: Snapshot, book: _Book, run: str) -> int:
    """Write what one book lacks of one table; the rows."""
    uri = system_uri(root, book.name)
    mark = f"ledger:{name}:{table.transaction(BORN)}"
    written = 0
    while (since := _reached(uri, mark)) < table.version:
        events = [
            event for event in history(table.uri, since=since + 1)[::-1] if event.version <= table.version
        ]
        rows = [row for event in events for row in book.rows(name, event)]
        try:
            _write(uri, rows, book, mark, since, table.version, run)
        except _OvertakenError:
            continue
        written += len(rows)
    return written


def _write(
    uri: str, rows: list[Mapping[str, Any]], book: _Book, mark: str, since: int, version: int, run: str
) -> None:
    table = pa.Table.from_pylist(rows, book.schema)
    receipts = [write_file(uri, table, partition={}, schema=book.schema)] if rows else []

    def plan(snapshot: Snapshot | None) -> Change:
        if snapshot is not None and _number(snapshot, mark) != since:
            raise _OvertakenError
        return Change(
            operation="record",
            add=receipts,
            schema=book.schema,
            partition_by=(),
            transactions={mark: version},
        )

    failpoint("ledger.before_commit")
    commit(uri, key=f"{mark}@{version}", plan=plan, lineage=Lineage(run=run))
    failpoint("ledger.after_commit")


def _reached(uri: str, mark: str) -> int:
    return _number(Snapshot.open(uri), mark) if log.exists(uri) else -1


def _number(snapshot: Snapshot, mark: str) -> int:
    number = snapshot.transaction(mark)
    return -1 if number is None else number


def _head(name: str, event: Event) -> dict[str, Any]:
    return {"time": event.time, "run": event.run, "table": name, "version": event.version}


def _ledger_rows(name: str, event: Event) -> list[Mapping[str, Any]]:
    return [
        {**entry, **_head(name, event), "position": i}
        for i, entry in enumerate(event.record.get("ledger", ()))
    ]


def _quality_rows(name: str, event: Event) -> list[Mapping[str, Any]]:
    return [{**check, **_head(name, event)} for check in event.record.get("checks", ())]


def _commit_rows(name: str, event: Event) -> list[Mapping[str, Any]]:
    said = event.record
    texts = {
        key: json.dumps(said.get(key), ensure_ascii=False) for key in ("parts", "sources", "counts", "why")
    }
    return [{**said, **texts, **_head(name, event), "operation": event.operation}]


def _book(
    name: str, columns: Mapping[str, pa.DataType], rows: Callable[[str, Event], list[Mapping[str, Any]]]
) -> _Book:
    head = [("time", UTC), ("run", pa.string()), ("table", pa.string()), ("version", pa.int64())]
    return _Book(name, pa.schema([*head, *columns.items()]), rows)


_COUNTS = ("rows_in", "added", "rows_out", "quarantined", "deduplicated", "filtered")
_BOOKS = (
    _book(
        "ledger",
        {"position": pa.int64(), "step": pa.string()} | dict.fromkeys(_COUNTS, pa.int64()),
        _ledger_rows,
    ),
    _book(
        "quality",
        dict.fromkeys(("name", "column", "severity"), pa.string())
        | {"passed": pa.bool_()}
        | dict.fromkeys(("found", "expected"), pa.string()),
        _quality_rows,
    ),
    _book(
        "commits",
        dict.fromkeys(("operation", "key", "fingerprint"), pa.string())
        | dict.fromkeys(("rows", "files", "bytes"), pa.int64())
        | dict.fromkeys(("code", "who", "why", "parts", "sources", "counts"), pa.string()),
        _commit_rows,
    ),
)
