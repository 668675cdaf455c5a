"""How an input is cut into what each task reads: by its size alone, never by the number of workers.

So any number of workers makes the same files with the same rows. Small files are packed together, large ones cut.
"""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pipelines import sources
from pipelines.reads import SourceParts, TableFiles
from pipelines.storage import FileRef, TableRef

__all__ = ["bucket_count", "file_reads", "slices", "source_reads", "table_reads"]

PART_BYTES = (
    1 << 20,
    1 << 24,
)  # source text of a task: 10 to 150 ms of work, so that a task's own 1 ms does not show
PART_ROWS = (1 << 15, 1 << 19)  # rows of a table that a task reads
BUCKET_BYTES = (
    1 << 23,
    1 << 26,
)  # of an exchange's input that meet in one task, which holds it four times over
BUCKETS = 64  # of an exchange, within these bounds
SKEWED_ROWS, SKEWED_TIMES = (
    1 << 18,
    4,
)  # a bucket with more rows, and more than so many times the mean, is cut
SKEWED_FITS = (
    2  # a bucket of more bytes than so many times the greatest is cut, too: a task could not hold it
)
TASKS = 16  # that an input is cut into, within these bounds: enough for some workers, few files for readers


def source_reads(source: sources.Source, files: Sequence[sources.InputFile], first: int) -> list[SourceParts]:
    """Parts of the files of a source, numbered from `first`."""
    least, most = PART_BYTES
    size = min(source.part_bytes, max(least, min(most, sum(file.size for file in files) // TASKS)))
    source = replace(source, part_bytes=size)
    parts = [part for number, file in enumerate(files, first) for part in sources.cut(source, file, number)]
    groups: list[list[sources.Part]] = []
    packed = 0
    for part in parts:
        weight = part.stop - part.start if part.weight is None else part.weight
        if not groups or packed + weight > size:
            groups.append([])
            packed = 0
        groups[-1].append(part)
        packed += weight
    return [SourceParts(source, tuple(group)) for group in groups]


def table_reads(ref: TableRef, number: int) -> list[TableFiles]:
    """Row groups of a version: one input with this number, its rows counted through, so that its files do not show."""
    return file_reads(ref.files, ref.columns, number, together=True)


def file_reads(
    files: Sequence[FileRef], columns: tuple[pa.Field, ...], first: int = 0, *, together: bool = False
) -> list[TableFiles]:
    """Row groups of files, packed to some ten thousand rows a task and more.

    Files are numbered from `first`; `together`, they have all this number and their rows are counted through.
    """
    least, most = PART_ROWS
    target = max(least, min(most, sum(file.rows for file in files) // TASKS))
    reads: list[list[tuple[int, FileRef, tuple[int, ...], int]]] = []
    rows, before = target, 0
    for place, file in enumerate(files):
        number = first if together else first + place
        for group, size in enumerate(file.row_groups):
            if rows >= target:
                reads.append([])
                rows = 0
            last = reads[-1]
            if last and last[-1][1] is file:
                last[-1] = (number, file, (*last[-1][2], group), before)
            else:
                last.append((number, file, (group,), before))
            rows += size
        before += file.rows if together else 0
    return [TableFiles(columns, tuple(read)) for read in reads]


def bucket_count(size: int) -> int:
    """Buckets of an exchange of so many bytes: small ones keep all workers busy, large ones must fit into memory."""
    least, most = BUCKET_BYTES
    return max(2, -(-size // max(least, min(most, size // BUCKETS))))


def slices(rows: Sequence[int], usual: int, row_size: float) -> list[tuple[int, int]]:
    """How the files of one bucket are given to tasks: all to one, unless it has far more rows than usual or than fit.

    `rows` of the bucket in each file, `row_size` bytes of input of a row. A hot key, and a large partition, has all its rows
    in one bucket; its files in their order to several tasks give the same rows in the same order.
    """
    fit = int(BUCKET_BYTES[1] / max(row_size, 1))
    most = min(max(SKEWED_ROWS, SKEWED_TIMES * usual), SKEWED_FITS * fit)
    if sum(rows) <= most:
        return [(0, len(rows))]
    most = min(most, fit)
    found, start, total = [], 0, 0
    for place, count in enumerate(rows):
        if total and total + count > most:
            found.append((start, place))
            start, total = place, 0
        total += count
    return [*found, (start, len(rows))]
