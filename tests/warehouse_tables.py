"""A small table with one column of each awkward kind, for the tests of the warehouse."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipelines.stage import REJECTS
from pipelines.warehouse import Lineage, Receipt, Snapshot, append, write_file

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field(
            "x", pa.binary(8), metadata={b"dtype": b"float32", b"shape": b"[2]", b"names": b'["a", "b"]'}
        ),
        pa.field("speed", pa.float64(), metadata={b"unit": "µm/s".encode(), b"privacy": b"none"}),
        pa.field("day", pa.string()),
    ]
)


def rows(ids: Sequence[int]) -> pa.Table:
    """Rows that follow from their ids, without the partition column."""
    return pa.table(
        [
            pa.array(ids, pa.int64()),
            pa.array([i.to_bytes(8, "little") if i % 3 else None for i in ids], pa.binary(8)),
            pa.array([i / 2 for i in ids], pa.float64()),
        ],
        schema=pa.schema([SCHEMA.field(i) for i in range(3)]),
    )


def file(uri: str, ids: Sequence[int], *, day: str | None = "d1", part: int = 0) -> Receipt:
    """A written, uncommitted file."""
    return write_file(uri, rows(ids), partition={"day": day}, schema=SCHEMA, part=part)


def lineage(fingerprint: str | None = None, run: str = "run1", **said: object) -> Lineage:
    return Lineage(run=run, fingerprint=fingerprint, **said)


def put(uri: str, ids: Sequence[int], key: str, *, day: str | None = "d1") -> None:
    """One batch in the table."""
    append(uri, [file(uri, ids, day=day)], key=key, schema=SCHEMA, partition_by=["day"], lineage=lineage())


def ids(uri: str, version: int | None = None) -> list[int]:
    """The ids in the table, sorted, read without deltalake."""
    return sorted(Snapshot.open(uri, version).read(["id"], verify=True)["id"].to_pylist())


def rejects(lines: Sequence[int]) -> pa.Table:
    """Rejected rows of one source."""
    record = {"rule": "type", "column": "id", "message": "column 'id': cannot read 'x' as int64", "raw": "x"}
    return pa.Table.from_pylist([{"_source": 0, "_line": n, "_offset": -1, **record} for n in lines], REJECTS)


def stored(uri: str) -> set[str]:
    """Names of the data files on the disk, committed or not."""
    return {str(path.relative_to(uri)) for path in Path(uri, "data").glob("*")}
