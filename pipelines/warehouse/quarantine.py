"""The rows that were set aside, in a table beside their table: `<table>__quarantine`, one row for each.

They are committed before the rows of their batch, and seen with them (see companion).
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.stage import LINE, OFFSET, REJECTS, SOURCE
from pipelines.warehouse import log
from pipelines.warehouse.companion import BATCH, Companion
from pipelines.warehouse.file import Receipt, read_file
from pipelines.warehouse.names import QUARANTINE, quarantine_uri
from pipelines.warehouse.snapshot import Snapshot

__all__ = [
    "SCHEMA",
    "carry_rejects",
    "commit_rejects",
    "live_rejects",
    "read_quarantine",
    "tidy",
    "write_rejects",
]

SCHEMA = pa.schema(
    [
        pa.field(BATCH, pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.string()),
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("offset", pa.int64()),
        *(REJECTS.field(name) for name in ("rule", "column", "message", "raw")),
    ]
)
"""A rejected row: batch key, run, step that rejected it, path, line and byte of its origin, and why."""

_BESIDE = Companion("quarantine", QUARANTINE, SCHEMA)
commit_rejects = _BESIDE.commit
live_rejects = _BESIDE.live
read_quarantine = _BESIDE.read
tidy = _BESIDE.tidy


def write_rejects(
    uri: str,
    rejects: pa.Table,
    *,
    key: str,
    run: str,
    step: str | pa.Array,
    sources: Sequence[str],
    part: int = 0,
) -> Receipt:
    """Write rejects (stage.REJECTS) of one part of the table at `uri`; runs on a worker, nobody sees them yet.

    `sources` are the paths that the numbers in `_source` stand for; `step` is one name, or one per row.
    """
    paths = pa.DictionaryArray.from_arrays(
        pc.cast(_flat(rejects[SOURCE]), pa.int32()), pa.array(sources, pa.string())
    )
    steps = pa.repeat(pa.scalar(step), rejects.num_rows) if isinstance(step, str) else step
    table = pa.table(
        [
            pa.repeat(pa.scalar(run), rejects.num_rows),
            steps,
            paths.cast(pa.string()),
            rejects[LINE],
            rejects[OFFSET],
            *(rejects[name] for name in ("rule", "column", "message", "raw")),
        ],
        names=SCHEMA.names[1:],
    )
    return _BESIDE.write(uri, table, key=key, part=part)


def carry_rejects(uri: str, batches: Mapping[str, Mapping[str, str | None]], *, key: str) -> list[Receipt]:
    """Write the rejects of other batches again as part of batch `key`, which takes their place in its commit.

    `batches`: by batch, the sources whose rejects are no longer meant (None), or have another path now.
    """
    place = quarantine_uri(uri)
    if not log.exists(place):
        return []
    snapshot = Snapshot.open(place)
    rows = [SCHEMA.empty_table()]
    for batch, sources in batches.items():
        for file in snapshot.files({BATCH: batch}):
            table = read_file(file, SCHEMA)
            gone = [source for source, path in sources.items() if path is None]
            table = table.filter(pc.invert(pc.is_in(table["source"], value_set=pa.array(gone, pa.string()))))
            paths = [sources.get(name) or name for name in table["source"].to_pylist()]
            rows.append(_with(table, "source", pa.array(paths, pa.string())))
    found = pa.concat_tables(rows)
    if not found.num_rows:
        return []
    found = _with(found, BATCH, pa.repeat(pa.scalar(key), found.num_rows))
    return [_BESIDE.write(uri, found, key=key)]


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), values)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
