"""Reading a version: some columns, the rows of a condition, files that cannot hold such rows not opened.

read(snapshot, ["id", "price"], where="day >= ...")     an Arrow table; .to_pandas() for pandas
units(snapshot)                                         (file, row groups) for training, some ten thousand rows each
read_matrix(units, schema, ["id", "price"])             some units as one float32 matrix
frame.dask_frame(snapshot)                              a Dask DataFrame, a partition per unit
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import PipelineError, SpecError
from pipelines.expression import expression
from pipelines.names import did_you_mean
from pipelines.warehouse import prune
from pipelines.warehouse.file import LiveFile, check_digest, read_file, row_groups
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["Unit", "read", "read_matrix", "read_unit", "units"]

Unit = tuple[LiveFile, tuple[int, ...]]
"""A file and some of its row groups: what one task reads."""

UNIT_ROWS = 1 << 20  # 16 to 24 row groups a task read at 22.8 Mrow/s, one at 10.8


def read(
    snapshot: Snapshot,
    columns: Sequence[str] | None = None,
    *,
    where: str | None = None,
    verify: bool = False,
) -> pa.Table:
    """The rows for which a condition (the language of the pipeline file) is true; `verify` compares digests.

    Raises: SpecError for a condition that is none; as `Snapshot.read`.
    """
    names = _names(snapshot, columns, where)
    files = prune.files(snapshot, where)
    wanted = pa.schema([snapshot.schema.field(name) for name in names])
    parts = [read_unit((file, ()), snapshot.schema, names, where=where, verify=verify) for file in files]
    return pa.concat_tables([wanted.empty_table(), *parts])


def read_unit(
    unit: Unit,
    schema: pa.Schema,
    columns: Sequence[str],
    *,
    where: str | None = None,
    verify: bool = False,
) -> pa.Table:
    """The rows of one unit; needs neither the log nor deltalake. No row groups: all of the file.

    Raises: as `read_file`.
    """
    file, groups = unit
    condition = expression(where) if where is not None else None
    needed = [*columns, *sorted((condition.columns if condition else frozenset()) - set(columns))]
    table = read_file(file, schema, names=needed, groups=groups or None, verify=verify)
    if condition is not None:
        table = table.filter(pc.fill_null(condition.evaluate(table), fill_value=False))
    return table.select(list(columns))


def read_matrix(
    found: Sequence[Unit], schema: pa.Schema, columns: Sequence[str], *, verify: bool = False
) -> npt.NDArray[np.float32]:
    """Numbers of some units in one matrix; null is nan. A column lies together in memory, as pandas and scikit-learn have it.

    One unit after the other is read and laid into it. `verify` compares the digest of each file once.

    Shapes: (rows, columns).
    Raises: as `read_file`; SpecError for a column that holds no numbers.
    """
    for name in columns:
        kind = schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise SpecError(f"column {name!r} is {kind}, expected numbers; leave it out, or encode it")
    if verify:
        for file in {file.path: file for file, _ in found}.values():
            check_digest(file)
    matrix = np.empty((len(columns), sum(map(_rows, found))), np.float32)
    start = 0
    for unit in found:
        table = read_unit(unit, schema, columns)
        for row, column in enumerate(table.columns):
            at = start
            for chunk in column.chunks:
                matrix[row, at : at + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
                at += len(chunk)
        start += table.num_rows
    return matrix.T


def units(
    snapshot: Snapshot, *, where: str | None = None, rows: int = UNIT_ROWS, verify: bool = False
) -> list[Unit]:
    """The files that a condition needs, in the order of their rows, cut into units of about so many rows at most.

    The footer of each file is parsed; `verify` compares the digest of the file before that.
    """
    found: list[Unit] = []
    for file in prune.files(snapshot, where):
        if verify:
            check_digest(file)
        groups: list[int] = []
        size = 0
        for number, count in enumerate(row_groups(file)):
            if groups and size + count > rows:
                found.append((file, tuple(groups)))
                groups, size = [], 0
            groups.append(number)
            size += count
        if groups:
            found.append((file, tuple(groups)))
    return found


def _rows(unit: Unit) -> int:
    file, groups = unit
    if not groups:
        return file.rows
    counts = row_groups(file)
    return sum(counts[group] for group in groups)


def _names(snapshot: Snapshot, columns: Sequence[str] | None, where: str | None) -> list[str]:
    names = snapshot.schema.names if columns is None else list(columns)
    if unknown := [name for name in names if name not in snapshot.schema.names]:
        raise PipelineError(
            f"{snapshot.uri}: there is no column {unknown[0]!r}{did_you_mean(unknown[0], snapshot.schema.names)}"
        )
    if where is not None and not pa.types.is_boolean(kind := expression(where).type(snapshot.schema)):
        raise SpecError(f"where = {where!r} gives {kind}, expected true or false; write a comparison")
    return names
