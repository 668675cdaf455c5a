"""What one worker does with one part of one table: read, map, and leave the rows where the next pass finds them.

A task is a value; running it twice does no harm: every file has a name of its own, and the receipt that names the
files appears by one rename at the end. Who finds the receipt (after a crash, a retry) does not work again. Only the
receipt travels back, never rows.

    read (source parts | table files | kept rows | a bucket of an exchange) -> Map -> Map -> then (keep | exchange | write)
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import between
from pipelines.cursor import state_of
from pipelines.errors import LedgerImbalance
from pipelines.failpoints import failpoint
from pipelines.fields import combined, numpy_of
from pipelines.layout import Layout, bucket_numbers
from pipelines.places import Place, place, put
from pipelines.reads import Bucket, Read, SourceParts, SourceRows, read_rows, read_side
from pipelines.stage import SOURCE, Map, Rows, Sketch
from pipelines.warehouse.evidence import write_evidence
from pipelines.warehouse.names import evidence_uri, quarantine_uri
from pipelines.warehouse.quarantine import write_rejects
from pipelines.warehouse.split import write_rows

__all__ = [
    "COUNTS",
    "ExchangeTo",
    "Keep",
    "KeysTo",
    "LayOut",
    "LeaveOut",
    "Receipt",
    "Task",
    "WriteTo",
    "run",
    "run_maps",
]

COUNTS = ("rows_in", "added", "rows_out", "quarantined", "deduplicated", "filtered")

ROW = "_row"  # of a key in its bucket

Receipt = dict[str, Any]


@dataclass(frozen=True)
class Keep:
    """Leave the rows in one file, by partition where there is a layout, and sketch them."""

    sketch: Sketch
    columns: tuple[str, ...]
    layout: Layout | None = None


@dataclass(frozen=True)
class ExchangeTo:
    """Leave the rows in one file with a record batch per bucket."""

    by: tuple[str, ...]
    buckets: int
    alone: bool = False  # a row with a missing value in `by` may go to any bucket


@dataclass(frozen=True)
class KeysTo:
    """Leave the rows in one file, and in another one `columns` of them with a record batch per bucket."""

    by: tuple[str, ...]
    columns: tuple[str, ...]
    buckets: int
    alone: bool = False
    layout: Layout | None = None


@dataclass(frozen=True)
class LayOut:
    """Leave the rows in one file by partition: a record batch for each bucket of which there are rows."""

    layout: Layout


@dataclass(frozen=True)
class LeaveOut:
    """Of rows that were read by their keys, leave those that did not go on in one file with a batch per part that has them."""

    parts: int


@dataclass(frozen=True)
class WriteTo:
    """Write files of the table: not visible until the driver commits them."""

    columns: tuple[pa.Field, ...]
    partition_by: tuple[str, ...]
    by_source: bool = False  # a file holds rows of one source file, so that they can be taken out again


Then = Keep | ExchangeTo | KeysTo | LayOut | LeaveOut | WriteTo


@dataclass(frozen=True)
class Task:
    """One part of one pass over one table."""

    name: str  # "orders/1/00003": table, pass, part
    read: Read
    maps: tuple[Map, ...]
    then: Then
    uri: str  # of the table
    work: str  # folder of receipts and files between passes
    inputs: str  # JSON file: what is told of the input files, by number
    key: str  # of the batch
    run: str

    @property
    def part(self) -> int:
        """Number of the part in its pass."""
        return int(self.name.rpartition("/")[2])


def run(task: Task) -> tuple[Receipt, Any]:
    """The receipt, and the state of the sketch where there is one."""
    receipt = _finished(task)
    if receipt is not None:
        if not isinstance(task.then, Keep):
            return receipt, None
        return receipt, task.then.sketch.sketch(between.read_rows(receipt["kept"], task.then.columns), None)
    started = time.perf_counter()
    failpoint("part.before_read", task.name)
    rows = read_rows(task.read)
    failpoint("part.after_read", task.name)
    rejected = [] if rows.rejected is None else [("read", rows.rejected)]
    disputed: list[tuple[str, pa.Table]] = []
    seen = _rows_by_input(rows) if isinstance(task.read, SourceParts | SourceRows) else {}
    new = task.read.after if isinstance(task.read, SourceParts) else None
    steps = [_counted("read", rows.kept.num_rows + _count(rows.rejected) + rows.filtered, rows)]
    maps = task.maps
    if isinstance(task.read, Bucket) and task.read.other is not None:
        maps = (maps[0].beside(read_side(task.read)), *maps[1:])
    found = rows.kept
    if isinstance(task.then, LeaveOut):
        found = found.append_column(ROW, pa.array(np.arange(found.num_rows)))
    table = run_maps(found, maps, steps, rejected, disputed)
    failpoint("part.before_write", task.name)
    made = _receipt(task, steps, table.num_rows)
    made |= {"read": seen, "cursor": None if new is None else state_of(rows, new)}
    state = _left(task, made, found, table)
    made["set_aside"] = _numbers([one[SOURCE] for _, one in rejected])
    made["rejects"] = _write_beside(task, write_rejects, rejected)
    made["evidence"] = _write_beside(task, write_evidence, disputed)
    failpoint("part.after_write", task.name)
    made["seconds"] = round(time.perf_counter() - started, 4)
    _finish(task, made)
    return made, state


def run_maps(
    table: pa.Table,
    maps: Sequence[Map],
    steps: list[dict[str, Any]],
    rejected: list[tuple[str, pa.Table]],
    disputed: list[tuple[str, pa.Table]],
) -> pa.Table:
    """The rows after all maps; counts go to `steps`, rows set aside to `rejected`, values in dispute to `disputed`.

    Raises: LedgerImbalance if a step lost or invented a row.
    """
    for step in maps:
        rows = step(table)
        count = _counted(step.name, table.num_rows, rows)
        gone = count["quarantined"] + count["deduplicated"] + count["filtered"]
        if count["rows_in"] + count["added"] != count["rows_out"] + gone:
            raise LedgerImbalance(
                f"step {step.name!r}: {count['rows_in']} rows in + {count['added']} added, but {count['rows_out']} out + "
                f"{gone} set aside; the step must account for every row in its Rows"
            )
        steps.append(count)
        if rows.rejected is not None and rows.rejected.num_rows:
            rejected.append((step.name, rows.rejected))
        if rows.evidence is not None and rows.evidence.num_rows:
            disputed.append((step.name, rows.evidence))
        table = rows.kept
    return table


def _rows_by_input(rows: Rows) -> dict[str, int]:
    """Rows of each input file (by number, as JSON has it), good and bad."""
    tables = [rows.kept] if rows.rejected is None else [rows.kept, rows.rejected]
    return _numbers([table[SOURCE] for table in tables])


def _numbers(columns: Sequence[pa.ChunkedArray]) -> dict[str, int]:
    """How often each number is there."""
    counts = pc.value_counts(
        pa.chunked_array([one for column in columns for one in column.chunks], pa.int32())
    )
    return {str(one["values"]): one["counts"] for one in counts.to_pylist()}


def _by_source(table: pa.Table) -> list[tuple[int, pa.Table]]:
    """The rows of each source file."""
    numbers = sorted(pc.unique(table[SOURCE]).to_pylist())
    if len(numbers) == 1:
        return [(numbers[0], table)]
    return [(number, table.filter(pc.equal(table[SOURCE], number))) for number in numbers]


def _counted(name: str, rows_in: int, rows: Rows) -> dict[str, Any]:
    return {
        "name": name,
        "rows_in": rows_in,
        "added": rows.added,
        "rows_out": rows.kept.num_rows,
        "quarantined": _count(rows.rejected),
        "deduplicated": rows.deduplicated,
        "filtered": rows.filtered,
        "notes": {key: int(value) for key, value in rows.notes.items() if value},
    }


def _count(table: pa.Table | None) -> int:
    return 0 if table is None else table.num_rows


def _keep(task: Task, tables: list[pa.Table]) -> str:
    return between.write_batches(task.work, task.name, tables)


def _receipt(task: Task, steps: list[dict[str, Any]], rows: int) -> Receipt:
    """What is said of a task, with nothing left yet."""
    return {
        "task": task.name,
        "steps": steps,
        "read": {},  # rows by input file
        "cursor": None,
        "files": [],
        "origins": [],  # of the files, the source file of each
        "set_aside": {},  # rows, by source file
        "kept": None,
        "keys": None,
        "buckets": [],  # rows of each, in an exchange
        "laid": [],  # bucket and rows of each batch, of rows that wait by partition
        "rejects": [],
        "evidence": [],
        "rows": rows,
    }


def _left(task: Task, made: Receipt, found: pa.Table, table: pa.Table) -> Any:
    """The files that a task leaves, told in its receipt: of the rows that it `found` these stay. The state of the sketch."""
    match task.then:
        case Keep(sketch, columns, layout):
            _leave(task, made, table, layout)
            return sketch.sketch(table.select(list(columns)), None)
        case ExchangeTo(by, buckets, alone):
            tables = between.by_bucket(table, by, buckets, alone=alone)
            made["kept"] = _keep(task, tables)
            made["buckets"] = [one.num_rows for one in tables]
        case LayOut(layout):
            _leave(task, made, table, layout)
        case KeysTo(by, columns, buckets, alone, layout):
            places = _leave(task, made, table, layout)
            keys = between.keys_of(table, columns, task.part, places)
            made["keys"] = _keep(task, between.by_bucket(keys, by, buckets, alone=alone))
        case LeaveOut(parts):
            gone = np.ones(found.num_rows, bool)
            gone[numpy_of(combined(table[ROW]))] = False
            places = numpy_of(combined(found[between.PLACE]))[gone]
            made["kept"] = _keep(task, between.by_part(places, parts))
        case WriteTo(columns, partition_by, by_source):
            for origin, rows_of in _by_source(table) if by_source else [(-1, table)]:
                schema = pa.schema(columns)
                files = write_rows(
                    task.uri, rows_of, schema=schema, partition_by=partition_by, part=task.part
                )
                made["files"] += map(dict, files)
                made["origins"] += [origin] * len(files)
    return None


def _leave(task: Task, made: Receipt, table: pa.Table, layout: Layout | None) -> np.ndarray | None:
    """Where each row is in the file in which they wait; None: as they come."""
    if layout is None:
        made["kept"] = _keep(task, [table])
        return None
    tables, made["laid"], places = between.laid(table, bucket_numbers(table, layout))
    made["kept"] = _keep(task, tables)
    return places


def _write_beside(
    task: Task, write: Callable[..., Mapping[str, Any]], found: list[tuple[str, pa.Table]]
) -> list[Receipt]:
    """One file of what the steps have found for the quarantine, or for the evidence."""
    if not found:
        return []
    names = json.loads(place(task.inputs).read_text("utf-8"))
    rows = pa.concat_tables([table.select(found[0][1].schema.names) for _, table in found])
    steps = pa.array([step for step, table in found for _ in range(table.num_rows)], pa.string())
    return [
        dict(write(task.uri, rows, key=task.key, run=task.run, step=steps, sources=names, part=task.part))
    ]


def _receipt_path(task: Task) -> Place:
    return place(task.work, f"{task.name.replace('/', '-')}.json")


def _finished(task: Task) -> Receipt | None:
    """The receipt of an earlier attempt whose files are all there."""
    try:
        receipt = json.loads(_receipt_path(task).read_text("utf-8"))
    except FileNotFoundError:
        return None
    kept = all(place(receipt[one]).exists() for one in ("kept", "keys") if receipt[one] is not None)
    files = [place(task.uri, file["path"]) for file in receipt["files"]]
    files += [place(quarantine_uri(task.uri), file["path"]) for file in receipt["rejects"]]
    files += [place(evidence_uri(task.uri), file["path"]) for file in receipt["evidence"]]
    sizes = [file["bytes"] for file in (*receipt["files"], *receipt["rejects"], *receipt["evidence"])]
    return receipt if kept and all(map(_is_whole, files, sizes)) else None


def _is_whole(path: Place, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _finish(task: Task, receipt: Receipt) -> None:
    failpoint("part.before_receipt", task.name)
    put(_receipt_path(task), json.dumps(receipt).encode())
