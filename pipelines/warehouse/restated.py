"""A log entry that states the columns anew, as the Delta protocol has it: deltalake cannot make one by compare-and-swap.

Its own ways to change columns or partitioning remove all live files, or commit on whatever version is the newest. So
for this one case the entry is written here, a line per action, and put under the name of the next version if nobody
has done so: by a hard link, or by a conditional put.

Source: the Delta transaction log protocol, "Actions".
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from pipelines.warehouse import columns, partition

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from pipelines.warehouse.log import Entry

__all__ = ["content"]


def content(table: "DeltaTable", entry: "Entry") -> bytes:
    """The entry that follows the version of `table`: the same table, with other columns or another partitioning."""
    now = int(time.time() * 1000)
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return "".join(f"{encode({kind: said})}\n" for kind, said in _actions(table, entry, now)).encode()


def _actions(table: "DeltaTable", entry: "Entry", now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from deltalake import Schema  # noqa: PLC0415 - slow to import, not for workers

    yield (
        "commitInfo",
        {
            "timestamp": now,
            "operation": "WRITE",
            "operationParameters": {"mode": "Overwrite"},
            "engineInfo": "dlflow",
            "dlflow": dict(entry.metadata),
        },
    )
    old = table.metadata()
    yield (
        "metaData",
        {
            "id": str(old.id),
            "name": old.name,
            "description": old.description,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(columns.to_delta(entry.schema)).to_json(),
            "partitionColumns": list(entry.partition_by),
            "configuration": old.configuration,
            "createdTime": old.created_time,
        },
    )
    for name, number in entry.transactions.items():
        yield "txn", {"appId": name, "version": number, "lastUpdated": now}
    before = columns.from_delta(pa.schema(table.schema().to_arrow()))
    written = {unquote(path): path for path in pa.table(table.get_add_actions())["path"].to_pylist()}
    for file in entry.remove:
        yield (
            "remove",
            {
                "path": written[file.path],
                "deletionTimestamp": now,
                "dataChange": entry.data_change,
                "extendedFileMetadata": True,
                "partitionValues": partition.encode_all(before, file.partition),
                "size": file.bytes,
            },
        )
    for receipt in entry.add:
        yield (
            "add",
            {
                "path": receipt["path"],
                "partitionValues": receipt["partition"],
                "size": receipt["bytes"],
                "modificationTime": now,
                "dataChange": entry.data_change,
                "stats": receipt["stats"],
            },
        )
