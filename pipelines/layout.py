"""Rows that wait on the disk beside those of their partition, so that whoever writes a partition reads its rows alone.

        kept by the task of part 0        of part 1             ...
        +----------+                      +----------+
        | bucket 3 | --+                  | bucket 3 | --+
        | bucket 7 |   |                  | bucket 9 |   |
        +----------+   |                  +----------+   |
                       +-- task of bucket 3: maps, files +

Partitions are in buckets by hash, more of them than tasks will be: a file has a batch for each bucket of which it has
rows. How the buckets go to tasks follows from their rows, which the receipts tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.fields import combined, numpy_of
from pipelines.hashing import row_hash
from pipelines.parts import bucket_count, slices
from pipelines.reads import Kept, Laid
from pipelines.stage import ORIGIN, Map

__all__ = ["Layout", "bucket_numbers", "gathered", "layout_of"]

BUCKETS = 256  # at least: 72 partitions lie alone in most of them, and each costs a file about 50 us

_ROW = "_row"


@dataclass(frozen=True)
class Layout:
    """What the rows are laid out by: values of `by`, which `maps` make of `columns` of the rows as they are."""

    by: tuple[str, ...]
    buckets: int
    maps: tuple[Map, ...] = ()
    columns: tuple[str, ...] = ()


def layout_of(
    by: tuple[str, ...], size: int, maps: tuple[Map, ...] = (), columns: tuple[str, ...] = ()
) -> Layout:
    """The layout of an input of so many bytes; without `maps` the rows have `by` already."""
    return Layout(by, max(BUCKETS, bucket_count(size)), maps, columns or by)


def bucket_numbers(table: pa.Table, layout: Layout) -> np.ndarray:
    """The bucket of every row; 0 for one that the maps will leave out. Shapes: (rows,), int64."""
    columns = dict.fromkeys((*layout.columns, *(ORIGIN.names if layout.maps else ())))
    values = table.select(list(columns)).append_column(_ROW, pa.array(np.arange(table.num_rows)))
    for one in layout.maps:
        values = one(values).kept
    found = np.zeros(table.num_rows, np.int64)
    found[numpy_of(combined(values[_ROW]))] = row_hash(values, layout.by) % np.uint64(layout.buckets)
    return found


def gathered(kept: Sequence[Kept], size: int) -> list[Laid]:
    """What each task reads of rows that lie by partition; the input has `size` bytes, about."""
    places = [{bucket: place for place, (bucket, _) in enumerate(one.laid)} for one in kept]
    firsts = [np.cumsum([0, *(rows for _, rows in one.laid)]).tolist() for one in kept]

    def batch(file: int, bucket: int) -> tuple[str, int, int, str | None]:
        one, place = kept[file], places[file][bucket]
        return one.path, place, firsts[file][place], one.gone[0] if one.gone else None

    return [
        Laid(
            tuple(
                tuple(batch(file, bucket) for file in range(start, stop) if bucket in places[file])
                for bucket, start, stop in pieces
            )
        )
        for pieces in _packed([dict(one.laid) for one in kept], size)
    ]


def _packed(rows: Sequence[Mapping[int, int]], size: int) -> list[list[tuple[int, int, int]]]:
    """The buckets of each task, and the files that it reads of each, from the one up to the other.

    Each file has so many `rows` of a bucket. As many small buckets as fit; a large one has a task of its own, or some. The
    same for any number of workers.
    """
    total = sum(sum(one.values()) for one in rows)
    usual = max(total // bucket_count(size), 1)
    found: list[list[tuple[int, int, int]]] = []
    free = 0
    for bucket in sorted({number for one in rows for number in one}):
        counts = [one.get(bucket, 0) for one in rows]
        pieces = [(bucket, start, stop) for start, stop in slices(counts, usual, size / max(total, 1))]
        if len(pieces) > 1:
            found += [[piece] for piece in pieces]
            free = 0
            continue
        if not found or sum(counts) > free:
            found.append([])
            free = usual
        found[-1] += pieces
        free -= sum(counts)
    return found
