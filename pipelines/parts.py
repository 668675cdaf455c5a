"""How an input is cut into what each task reads: by its size alone, never by the number of workers.

So any number of workers makes the same files with the same rows. Small files are packed together, large ones cut.
"""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pipelines import sources
from pipelines.reads import SourceParts, TableFiles
from pipelines.storage import FileRef, TableRef

__all__ = ["file_reads", "source_reads", "table_reads"]

PART_BYTES = (
    1 << 20,
    1 << 24,
)  # source text of a task: 10 to 150 ms of work, so that a task's own 1 ms does not show
PART_ROWS = (1 << 15, 1 << 19)  # rows of a table that a task reads
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
        if not groups or packed + part.stop - part.start > size:
            groups.append([])
            packed = 0
        groups[-1].append(part)
        packed += part.stop - part.start
    return [SourceParts(source, tuple(group)) for group in groups]


def table_reads(ref: TableRef, first: int) -> list[TableFiles]:
    """Row groups of a version, in the order of its files, numbered from `first`."""
    return file_reads(ref.files, ref.columns, first)


def file_reads(files: Sequence[FileRef], columns: tuple[pa.Field, ...], first: int = 0) -> list[TableFiles]:
    """Row groups of files, packed to some ten thousand rows a task and more."""
    least, most = PART_ROWS
    target = max(least, min(most, sum(file.rows for file in files) // TASKS))
    reads: list[list[tuple[int, FileRef, tuple[int, ...]]]] = []
    rows = target
    for number, file in enumerate(files, first):
        for group, size in enumerate(file.row_groups):
            if rows >= target:
                reads.append([])
                rows = 0
            last = reads[-1]
            if last and last[-1][0] == number:
                last[-1] = (number, file, (*last[-1][2], group))
            else:
                last.append((number, file, (group,)))
            rows += size
    return [TableFiles(columns, tuple(read)) for read in reads]
