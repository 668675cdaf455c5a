"""Delta statistics of a data file, from its Parquet footer.

A wrong bound hides rows from readers, a missing one costs a little time. So a bound that cannot be stated safely is
left out: long text as a maximum, decimals (a float would round them), binary, infinite numbers.
"""

import datetime as dt
import json
import math
from typing import Any

import pyarrow.parquet as pq

__all__ = ["from_footer"]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_LONGEST = 32  # characters of text kept as a minimum; more says nothing to a pruning reader


def from_footer(footer: pq.FileMetaData) -> str:
    """Row count, bounds and null counts of one file: JSON in the names of the Delta protocol, as the log has it."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        groups = [footer.row_group(r).column(index).statistics for r in range(footer.num_row_groups)]
        if not groups or any(s is None or not s.has_null_count for s in groups):
            continue
        nulls[name] = sum(s.null_count for s in groups)
        bounded = [s for r, s in enumerate(groups) if s.null_count < footer.row_group(r).num_rows]
        if not bounded or not all(s.has_min_max for s in bounded):
            continue
        try:
            smallest, largest = min(s.min for s in bounded), max(s.max for s in bounded)
        except (OverflowError, ValueError):  # a time outside the years that Python knows
            continue
        if (bound := _lower(smallest)) is not None:
            low[name] = bound
        if (bound := _upper(largest)) is not None:
            high[name] = bound
    return _encode({"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _lower(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else _plain(value)  # a prefix is never greater


def _upper(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else None  # a prefix would be too small
    if isinstance(value, dt.datetime) and value.microsecond % 1000:
        value = _round_up(value)
    return None if value is None else _plain(value)


def _round_up(value: dt.datetime) -> dt.datetime | None:
    try:
        return value + dt.timedelta(microseconds=1000 - value.microsecond % 1000)
    except OverflowError:  # the last millisecond of the year 9999
        return None


def _plain(value: Any) -> Any:
    """JSON form of a bound, or None. Times are in milliseconds: Delta's readers know no finer ones."""
    if isinstance(value, bool):
        return None  # of no use to prune
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="milliseconds") + ("Z" if value.tzinfo else "")
    if isinstance(value, dt.date):
        return value.isoformat()
    return value if isinstance(value, (int, str)) else None
