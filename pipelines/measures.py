"""What checks ask of a table as a whole: keys that meet, the newest time, how its values are spread.

It is asked of the finished files before they are committed, so it is true of exactly the rows that readers will see.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.drift import drift
from pipelines.engine import Runner
from pipelines.fields import kind_of
from pipelines.parts import file_reads
from pipelines.quality import Check
from pipelines.reads import TableFiles, read_rows
from pipelines.sketch import Moments, summarise
from pipelines.stage import SPLIT, Sketch
from pipelines.storage import FileRef, TableRef

__all__ = ["key_columns", "measure", "summarise_files", "torn"]

_DAY_S = 86_400


def key_columns(check: Check) -> tuple[str, ...]:
    """Columns that `torn` reads; empty if the check does not bring keys together."""
    if check.check == "apart":
        return (*check.targets, SPLIT)
    return check.targets if check.check in {"unique", "k_anonymity"} else ()


def torn(table: pa.Table, check: Check) -> int:
    """Of rows of which all of one key are here, what breaks the check; a missing value is no key.

    unique: rows beyond the first of each key. apart: keys that are in more than one part of the split. k_anonymity: rows
    of combinations that fewer than k rows have; a missing value is one of its own.
    """
    keys = list(check.targets)
    if check.check == "k_anonymity":
        sizes = table.group_by(keys, use_threads=False).aggregate([([], "count_all")])["count_all"]
        return pc.sum(sizes.filter(pc.less(sizes, check.k))).as_py() or 0
    keyed = table.select(list(key_columns(check))).filter(_whole(table, keys))
    if check.check == "unique":
        return keyed.num_rows - keyed.group_by(keys, use_threads=False).aggregate([]).num_rows
    parts = keyed.group_by([*keys, SPLIT], use_threads=False).aggregate([])
    return parts.num_rows - parts.group_by(keys, use_threads=False).aggregate([]).num_rows


def _whole(table: pa.Table, keys: Sequence[str]) -> pa.Array:
    mask = pa.repeat(pa.scalar(True), table.num_rows)
    for name in keys:
        mask = pc.and_(mask, pc.is_valid(table[name]))
    return mask


def measure(
    checks: Sequence[Check],
    files: Sequence[FileRef],
    schema: pa.Schema,
    runner: Runner,
    *,
    before: Callable[[], TableRef | None],
    reference: Callable[[str], TableRef],
) -> dict[str, Any]:
    """By the name of the check: the newest time as ISO text, or {"psi", "ks", "against"}.

    `before` gives the version that readers see now, `reference` that of another table.
    """
    measured: dict[str, Any] = {}
    for check in checks:
        if check.check not in {"freshness", "distribution"}:
            continue
        for name, column in check.measures:
            field = schema.field(str(column))
            new = partial(summarise_files, files=files, columns=(field,), runner=runner, name=name)
            if check.check == "freshness":
                measured[name] = _newest(field, new(Moments(field.name))["max"])
                continue
            other = before() if check.table is None else reference(check.table)
            measured[name] = _spread(field, new, other, runner, name)
    return measured


def _spread(
    field: pa.Field, new: Callable[[Sketch], Any], other: TableRef | None, runner: Runner, name: str
) -> dict[str, Any]:
    nothing = {"psi": None, "ks": None}
    if other is None:
        return {**nothing, "against": "there is no version before this one"}
    if field.name not in other.schema.names or other.schema.field(field.name).type != field.type:
        return {**nothing, "against": f"version {other.version} has no such column of this type"}
    old = partial(
        summarise_files,
        files=other.files,
        columns=(other.schema.field(field.name),),
        runner=runner,
        name=f"{name}-reference",
    )
    found = drift(field.name, field.type, new, old)
    against = f"version {other.version} of {other.name}"
    if found["psi"] is None:
        against = f"there are no values to compare with {against}"
    return {**found, "against": against}


def _newest(field: pa.Field, value: float | None) -> str | None:
    if value is None:
        return None
    seconds = value * _DAY_S if kind_of(field.type) == "date" else value / 1e6
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


def summarise_files(
    sketch: Sketch, *, files: Sequence[FileRef], columns: tuple[pa.Field, ...], runner: Runner, name: str
) -> Any:
    """What a sketch says of these columns of all rows of some files."""
    reads = file_reads(files, columns)
    if not reads:
        return summarise(sketch, [pa.schema(columns).empty_table()])
    request: Any = None
    while True:
        looks = [_Look(read, sketch, request) for read in reads]
        state = runner.fold(_look, looks, sketch.merge, name=name, progress=_silent)
        done, request = sketch.finish(state, request)
        if done:
            return request


def _silent(done: int, total: int, answer: Mapping[str, Any]) -> None:
    """No progress is shown: these are small passes."""


@dataclass(frozen=True)
class _Look:
    """One round of a sketch over some files."""

    read: TableFiles
    sketch: Sketch
    request: Any


def _look(look: _Look) -> Any:
    return look.sketch.sketch(read_rows(look.read).kept, look.request)
