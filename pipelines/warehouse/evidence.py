"""The contradictions that were found in a table, in a table beside it: `<table>__evidence`, one row for each value.

It is committed before the rows that it is about, and seen with them (see companion).
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import stage
from pipelines.stage import LINE, OFFSET, SOURCE
from pipelines.warehouse.companion import BATCH, Companion
from pipelines.warehouse.file import Receipt
from pipelines.warehouse.names import EVIDENCE

__all__ = [
    "SCHEMA",
    "commit_evidence",
    "live_evidence",
    "read_evidence",
    "tidy_evidence",
    "write_evidence",
]

SCHEMA = pa.schema(
    [
        pa.field(BATCH, pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.string()),
        pa.field("about", pa.string()),
        *(
            stage.EVIDENCE.field(name)
            for name in ("key", "column", "value", "chosen", "policy", "decided", "origin", "time")
        ),
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("offset", pa.int64()),
    ]
)
"""A value in dispute: batch key, run, step, file and line where its key was first seen; then as in stage.EVIDENCE;
path, line and byte of the row that says so."""

_BESIDE = Companion("evidence", EVIDENCE, SCHEMA)
commit_evidence = _BESIDE.commit
live_evidence = _BESIDE.live
read_evidence = _BESIDE.read
tidy_evidence = _BESIDE.tidy


def write_evidence(
    uri: str,
    found: pa.Table,
    *,
    key: str,
    run: str,
    step: pa.Array,
    sources: Sequence[str],
    part: int = 0,
) -> Receipt:
    """Write evidence (stage.EVIDENCE) of one part of the table at `uri`; runs on a worker, nobody sees it yet.

    `sources` are the paths that the numbers in `_source` stand for.
    """
    paths = pa.array(sources, pa.string())
    about = pc.binary_join_element_wise(
        paths.take(found["first_source"].combine_chunks()), found["first_line"].cast(pa.string()), ":"
    )
    table = pa.table(
        [
            pa.repeat(pa.scalar(run), found.num_rows),
            step,
            about,
            *(found[name] for name in SCHEMA.names[4:12]),
            paths.take(found[SOURCE].combine_chunks()),
            found[LINE],
            found[OFFSET],
        ],
        names=SCHEMA.names[1:],
    )
    return _BESIDE.write(uri, table, key=key, part=part)
