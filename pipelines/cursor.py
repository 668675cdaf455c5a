"""Rows of a database by a cursor column: those that are new since the last load, each once, late ones too.

    ------ loaded ------|--- lag ---|high              rows from `high - lag` on are asked for again; those that are
                        |o  o  x  o |o   n   n         known (o) are left out, a late one (x) and new ones (n) come in

A row is known by its key and its cursor value: one that is changed, and has a newer value, comes in as another row. The
known rows of the window travel in the manifest, 16 bytes each, so they are in the same log entry as the rows. A row that
is set aside is known by its key and its text.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.fields import numbers
from pipelines.hashing import row_hash
from pipelines.stage import LINE, Rows

if TYPE_CHECKING:
    from pipelines.schema import Field
    from pipelines.sources.source import Source

__all__ = ["After", "after", "asked", "lag_of", "merged", "new_rows", "problems", "state_of"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LAG = re.compile(r"(\d{1,9})(s|m|h|d)")
_WHOLE = ("int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class After:
    """Which rows of a source are new. All numbers are those of the cursor column: days, microseconds or integers."""

    source: str  # its name
    column: str
    lag: int
    least: int | None = None  # rows before are known; None: nothing is
    known: bytes = b""  # hashes of the rows from `least` on that are in the table, sorted
    aside: bytes = b""  # and of all that were set aside


def problems(columns: "Mapping[str, Field]", cursor: str | None, lag: str, key: str | None) -> list[str]:
    """What is wrong with the settings of a source."""
    if cursor is None:
        return ["lag has no effect without a cursor; leave it out"] if lag != "0" else []
    found = columns.get(cursor)
    if found is None:
        return [f"cursor = {cursor!r} is no declared column"]
    wrong = []
    if found.type not in (*_WHOLE, "date", "timestamp"):
        wrong.append(f"cursor {cursor!r} is {found.type}; expected an integer, date or timestamp")
    if found.nullable:
        wrong.append(f"cursor {cursor!r} needs nullable = false: a row without a value would never be new")
    if key is None:
        wrong.append("a cursor needs key = a unique integer column, by which rows are told apart")
    if found.type in _WHOLE and not lag.isdecimal():
        wrong.append(f"lag = {lag!r}: expected a whole number, as the cursor is one")
    if found.type not in _WHOLE and lag != "0" and not _LAG.fullmatch(lag):
        wrong.append(f'lag = {lag!r}: expected a time such as "90s", "15m", "1h" or "7d"')
    return wrong


def lag_of(source: "Source") -> int:
    """The lag in the numbers of the cursor column."""
    kind = source.columns[source.cursor or ""].type
    if source.lag == "0" or kind in _WHOLE:
        return int(source.lag)
    match = _LAG.fullmatch(source.lag)
    if match is None:
        raise AssertionError(source.lag)
    seconds = int(match[1]) * _UNITS[match[2]]
    return -(-seconds // 86_400) if kind == "date" else seconds * 1_000_000


def after(name: str, source: "Source", state: Mapping[str, Any] | None) -> After:
    """What is new for a source with the state of the last load (None: everything)."""
    lag = lag_of(source)
    column = source.cursor or ""
    if state is None:
        return After(name, column, lag)
    aside = base64.b64decode(state["aside"])
    if state["high"] is None:
        return After(name, column, lag, None, b"", aside)
    least = max(state["high"] - lag, state["least"])  # below the old window nobody knows single rows
    values = np.frombuffer(base64.b64decode(state["values"]), np.int64)
    hashes = np.frombuffer(base64.b64decode(state["hashes"]), np.uint64)
    return After(name, column, lag, least, np.sort(hashes[values >= least]).tobytes(), aside)


def asked(source: "Source", since: After) -> "Source":
    """The source with a query that leaves out what is surely known; `new_rows` decides."""
    field = source.columns[since.column]
    if since.least is None or (field.format or "%Y-%m-%d")[:8] != "%Y-%m-%d":
        return source
    name = _quoted(source.names[since.column])
    if field.type in _WHOLE:
        least = str(since.least)
    else:  # a day before: texts may have an offset, and a date is the beginning of any ISO time
        days = since.least if field.type == "date" else since.least // 86_400_000_000
        least = f"'{np.datetime64(int(days) - 1, 'D')}'"
    if source.query is not None:
        rows = f"({source.query.rstrip().rstrip(';')}\n) AS asked"
    else:
        table = source.table or ""
        parts = [table] if source.reader == "sqlite" else table.split(".")
        rows = ".".join(_quoted(part) for part in parts)
    query = f"SELECT * FROM {rows} WHERE {name} >= {least} OR {name} IS NULL"  # noqa: S608 - quoted, and numbers
    path = "" if source.kind == "sql" else source.path  # of a URL it follows
    return replace(source, path=path, table=None, query=query)


def new_rows(rows: Rows, since: After) -> Rows:
    """Those that are not known."""
    kept = rows.kept
    fresh = ~np.isin(_hashes(kept, since.column), np.frombuffer(since.known, np.uint64))
    if since.least is not None:
        fresh &= numbers(kept[since.column]) >= since.least
    rejected = rows.rejected
    if rejected is not None:
        unseen = ~np.isin(_hashes(rejected, "raw"), np.frombuffer(since.aside, np.uint64))
        rejected = rejected.filter(pa.array(unseen))
    return replace(rows, kept=kept.filter(pa.array(fresh)), rejected=rejected)


def state_of(rows: Rows, since: After) -> dict[str, Any]:
    """What the next load has to know of the rows of one part."""
    values = numbers(rows.kept[since.column]).astype(np.int64)
    high = int(values.max()) if len(values) else None
    late = values >= (0 if high is None else high - since.lag)
    aside = np.zeros(0, np.uint64) if rows.rejected is None else _hashes(rows.rejected, "raw")
    return _state(high, None, values[late], _hashes(rows.kept, since.column)[late], aside)


def merged(before: Mapping[str, Any] | None, parts: Iterable[Mapping[str, Any]], lag: int) -> dict[str, Any]:
    """The state after a load."""
    states = [*([before] if before else []), *parts]
    highs = [one["high"] for one in states if one["high"] is not None]
    high = max(highs) if highs else None
    least = None if high is None else high - lag
    if before and before["least"] is not None and least is not None:
        least = max(least, before["least"])
    values = np.concatenate([np.zeros(0, np.int64), *(_array(one, "values", np.int64) for one in states)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(_array(one, "hashes", np.uint64) for one in states)])
    aside = np.concatenate([np.zeros(0, np.uint64), *(_array(one, "aside", np.uint64) for one in states)])
    order = np.lexsort((hashes, values))
    order = order if least is None else order[values[order] >= least]
    return _state(high, least, values[order], hashes[order], np.unique(aside))


def _state(
    high: int | None, least: int | None, values: np.ndarray, hashes: np.ndarray, aside: np.ndarray
) -> dict[str, Any]:
    texts = {"values": values, "hashes": hashes, "aside": aside}
    return {"high": high, "least": least} | {
        name: base64.b64encode(array.tobytes()).decode() for name, array in texts.items()
    }


def _array(state: Mapping[str, Any], name: str, kind: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(state[name]), kind)


def _hashes(table: pa.Table, column: str) -> np.ndarray:
    return row_hash(table, (LINE, column))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
