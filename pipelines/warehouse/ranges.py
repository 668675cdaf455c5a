"""Rows in the order of a key, cut into ranges that one worker can hold: a sort over all workers, through files.

    files -> sample keys -> bounds of the ranges            (driver: some thousand keys)
    files -> split: sort, one record batch per range        (a task per file)
    batches of one range -> sort again, write               (a task per range)

Equal keys always meet in one range, in the order of their files and rows: so what is twice is found, and the answer
does not depend on the workers. Files between the passes are plain Arrow IPC, as those of `pipelines.reads`.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SchemaMismatch
from pipelines.failpoints import failpoint
from pipelines.places import created, opened, place
from pipelines.warehouse import keys
from pipelines.warehouse.disk import refused
from pipelines.warehouse.file import LiveFile, read_file
from pipelines.warehouse.lean import lean

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = [
    "RANGE_ROWS",
    "Range",
    "batches",
    "bounds_of",
    "distinct_ranges",
    "range_of",
    "read_batch",
    "read_range",
    "split_files",
    "write_batches",
]

RANGE_ROWS = 1 << 20  # that one task sorts and holds
_SAMPLED = 256  # keys of a file, for the bounds


@dataclass(frozen=True)
class Range:
    """Rows of a source, sorted by key, no key twice; in a file of one record batch. `low` and `high` by key column.

    The keys are also in a file of their own: of each file of the table they are read, the rows once.
    """

    number: int
    path: str
    keys: str
    rows: int
    low: Mapping[str, Any]
    high: Mapping[str, Any]


@dataclass(frozen=True)
class _Split:
    file: LiveFile
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    bounds: pa.Table
    work: str


@dataclass(frozen=True)
class _Gather:
    number: int
    paths: tuple[str, ...]
    by: tuple[str, ...]
    unique: tuple[str, ...]  # begins with `by`
    where: str
    work: str


def distinct_ranges(
    source: pa.Table | Sequence[LiveFile],
    schema: pa.Schema,
    by: Sequence[str],
    *,
    unique: Sequence[str],
    where: str,
    work: str,
    runner: "Runner",
) -> list[Range]:
    """The rows of a source in ranges of their key `by`; `unique`, which begins with it, says what is there once.

    Raises: SchemaMismatch for a null in `unique`, or values that are there twice; `where` names the source.
    """
    if isinstance(source, pa.Table):
        try:
            paths: list[tuple[str, ...]] = [
                (write_batches(work, piece.schema, [piece]),)
                for piece in _pieces(source.select(schema.names), by)
            ]
        except OSError as error:  # on a worker the runner says so
            raise refused(work, source.nbytes, error) from error
        number = 0
    else:
        files, number = split_files(source, schema, by, work=work, runner=runner)
        paths = [tuple(files)] * number
    gathers = [
        _Gather(i if number else 0, path, tuple(by), tuple(unique), where, work)
        for i, path in enumerate(paths)
        if path
    ]
    found = runner.run(_gather, gathers, name="sort", progress=_quiet)
    return [
        Range(i, *said) for i, said in enumerate(said for said in found if said is not None and said[2] > 0)
    ]


def range_of(number: int, rows: pa.Table, by: Sequence[str], work: str) -> Range:
    """Sorted rows as a range: in a file of one record batch, with its bounds."""
    path = write_batches(work, rows.schema, [rows])
    bounds = {name: pc.min_max(rows[name]) for name in by} if rows.num_rows else {}
    low, high = ({name: bound[end].as_py() for name, bound in bounds.items()} for end in ("min", "max"))
    alone = rows.select(list(by))
    return Range(number, path, write_batches(work, alone.schema, [alone]), rows.num_rows, low, high)


def split_files(
    files: Sequence[LiveFile],
    schema: pa.Schema,
    by: Sequence[str],
    *,
    work: str,
    runner: "Runner",
    range_rows: int = RANGE_ROWS,
    align: Callable[[pa.Table], pa.Table] | None = None,
) -> tuple[list[str], int]:
    """A file of record batches, one per range of the key, for each file; and the number of ranges.

    `align` moves the bounds between ranges, so that rows which belong together stay together.
    """
    number = -(-sum(file.rows for file in files) // range_rows)
    if not number:
        return [], 0
    asked = [_Split(file, tuple(schema), tuple(by), schema.empty_table().select([]), work) for file in files]
    bounds = schema.empty_table().select(list(by))
    if number > 1:
        sample = pa.concat_tables(runner.run(_sample, asked, name="sample", progress=_quiet))
        bounds = bounds_of(sample, by, number)
        bounds = bounds if align is None else align(bounds)
    asked = [_Split(file, tuple(schema), tuple(by), bounds, work) for file in files]
    return runner.run(_split, asked, name="split", progress=_quiet), bounds.num_rows + 1


def bounds_of(sample: pa.Table, by: Sequence[str], number: int) -> pa.Table:
    """The first keys of all ranges but the first, from a sample of the keys."""
    ordered = keys.sorted_by(sample.select(list(by)), by)
    places = (np.arange(1, number) * ordered.num_rows) // number
    return ordered.take(pa.array(np.unique(places[places < ordered.num_rows])))


def read_range(paths: Sequence[str], number: int, by: Sequence[str]) -> pa.Table:
    """The rows of one range, sorted by key."""
    table = pa.concat_tables([read_batch(path, number) for path in paths])
    return keys.sorted_by(table, by) if by else table


def batches(table: pa.Table, bounds: pa.Table, by: Sequence[str]) -> list[pa.Table]:
    """The rows cut at the bounds, each piece sorted by key."""
    if not bounds.num_rows:
        return [keys.sorted_by(table, by)]
    names = list(by)
    both = pa.concat_tables([bounds.select(names), table.select(names)]).combine_chunks()
    is_row = pa.array(
        np.arange(both.num_rows) >= bounds.num_rows
    )  # a bound comes before the rows equal to it
    order = pc.sort_indices(
        both.append_column("row", is_row.cast(pa.int8())),
        [*((name, "ascending") for name in names), ("row", "ascending")],
    ).to_numpy()
    first_rows = np.flatnonzero(order < bounds.num_rows)
    starts = [0, *(first_rows - np.arange(len(first_rows)))]
    rows = order[order >= bounds.num_rows] - bounds.num_rows
    ordered = table.take(pa.array(rows))
    return [
        ordered.slice(start, end - start)
        for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True)
    ]


def write_batches(work: str, schema: pa.Schema, tables: Sequence[pa.Table]) -> str:
    """A new file with one record batch per table."""
    failpoint("rewrite.before_write")
    path = str(place(work, f"{uuid.uuid4().hex}.arrow"))
    with created(path) as file, pa.ipc.new_file(file, schema) as writer:
        for table in tables:
            found = table.combine_chunks().to_batches()
            writer.write_batch(found[0] if found else pa.RecordBatch.from_pylist([], schema))
    return path


def read_batch(path: str, number: int) -> pa.Table:
    """One record batch of such a file."""
    with opened(path) as file, pa.ipc.open_file(file) as reader:
        return pa.Table.from_batches([reader.get_batch(number)])


def _pieces(table: pa.Table, by: Sequence[str]) -> list[pa.Table]:
    number = max(1, -(-table.num_rows // RANGE_ROWS))
    bounds = (
        bounds_of(table.select(list(by)), by, number) if number > 1 else table.select(list(by)).slice(0, 0)
    )
    return batches(table, bounds, by)


def _sample(asked: _Split) -> pa.Table:
    found = read_file(asked.file, pa.schema(asked.columns), names=asked.by)
    return found.take(pa.array(np.arange(0, found.num_rows, max(1, found.num_rows // _SAMPLED))))


def _split(asked: _Split) -> str:
    table = read_file(asked.file, pa.schema(asked.columns))
    return write_batches(asked.work, table.schema, batches(table, asked.bounds, asked.by))


@lean()
def _gather(asked: _Gather) -> tuple[str, str, int, dict[str, Any], dict[str, Any]]:
    rows = read_range(asked.paths, asked.number, asked.unique).combine_chunks()
    if (null := keys.first_null(rows, asked.unique)) is not None:
        raise SchemaMismatch(
            f"{asked.where}: key column {null[0]!r} has a null, expected a value in every row; fill or reject the rows"
        )
    if (place := keys.repeated(rows, asked.unique)) is not None:
        key = rows.select(list(asked.unique)).slice(place, 1).to_pylist()[0]
        raise SchemaMismatch(
            f"{asked.where}: key {key} is there twice, expected once; deduplicate the rows by {list(asked.unique)}"
        )
    made = range_of(0, rows, asked.by, asked.work)
    return made.path, made.keys, made.rows, dict(made.low), dict(made.high)


def _quiet(*_: object) -> None:
    return None
