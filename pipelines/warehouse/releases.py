"""Releases: a name for versions of several tables that belong together. Readers by release see all of them, or none.

A release is made by one commit to one table, `_dlflow/releases`, with a row for each table: its version, its rows, and
the ledger and the check results of the commit that made its content. No commit spans the logs of several tables, so
this is where "together" is decided: tables are committed one by one as ever, unseen by who reads the release before,
and the release that names them appears at once. It pins what it names until it is dropped.
"""

import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.errors import CheckFailed, PipelineError, SpecError
from pipelines.names import did_you_mean
from pipelines.warehouse import catalog, log
from pipelines.warehouse.columns import UTC
from pipelines.warehouse.commit import Change, commit
from pipelines.warehouse.file import write_file
from pipelines.warehouse.lineage import Lineage, who
from pipelines.warehouse.names import check_table, system_uri, table_uri
from pipelines.warehouse.snapshot import BORN, Snapshot, rows_changed_since

__all__ = ["Release", "drop_release", "make_release", "open_release", "release_versions", "releases"]

_SCHEMA = pa.schema(
    [
        pa.field("release", pa.string(), nullable=False),
        ("time", UTC),
        ("run", pa.string()),
        ("who", pa.string()),
        ("note", pa.string()),
        pa.field("table", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        ("born", pa.int64()),
        ("rows", pa.int64()),
        ("built", pa.int64()),  # the version whose commit made the content
        ("ledger", pa.string()),
        ("checks", pa.string()),
    ]
)
_BY = ("release",)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release: when, by whom, what for, and the version of each of its tables."""

    name: str
    time: dt.datetime
    who: str
    note: str
    tables: Mapping[str, int]


def make_release(
    root: str,
    name: str,
    tables: Sequence[str] = (),
    *,
    note: str = "",
    run: str = "release",
    stale: bool = False,
) -> Release:
    """Name the newest versions of some tables (all by default) in one commit.

    Raises: SpecError for a name that is taken or against the rule; CheckFailed if a table was built from another
    version of one that goes with it (unless `stale`), or a blocking check of its content failed.
    """
    check_table(name)
    chosen = list(tables) or catalog.names(root)
    if not chosen:
        raise SpecError(f"{root}: there are no tables to release; build them first")
    snapshots = _together(root, chosen)
    rows = [_row(name, run, note, table, snapshot) for table, snapshot in snapshots.items()]
    if not stale:
        _check_together(snapshots, rows)
    _check_passed(rows)
    uri = system_uri(root, "releases")
    table = pa.Table.from_pylist(rows, _SCHEMA)
    receipt = write_file(uri, table.drop_columns(list(_BY)), partition={"release": name}, schema=_SCHEMA)

    def plan(snapshot: Snapshot | None) -> Change:
        if snapshot is not None and snapshot.files({"release": name}):
            raise SpecError(f"release {name!r} is there already; choose another name, or drop it first")
        return Change(operation="release", add=[receipt], schema=_SCHEMA, partition_by=_BY)

    commit(uri, key=f"release:{name}:{uuid.uuid4().hex}", plan=plan, lineage=Lineage(run=run))
    return _release(name, rows)


def drop_release(root: str, name: str, *, run: str = "release") -> None:
    """Forget a release: its versions are pinned no longer.

    Raises: SpecError if there is none of this name.
    """
    uri = system_uri(root, "releases")
    release_versions(root, name)

    def plan(snapshot: Snapshot | None) -> Change:
        gone = () if snapshot is None else snapshot.files({"release": name})
        return Change(operation="drop", remove=gone, schema=_SCHEMA, partition_by=_BY)

    commit(uri, key=f"drop:{name}:{uuid.uuid4().hex}", plan=plan, lineage=Lineage(run=run))


def releases(root: str) -> list[Release]:
    """All releases, oldest first."""
    uri = system_uri(root, "releases")
    rows = Snapshot.open(uri).read().to_pylist() if log.exists(uri) else []
    names = dict.fromkeys(row["release"] for row in rows)
    found = [_release(name, [row for row in rows if row["release"] == name]) for name in names]
    return sorted(found, key=lambda one: (one.time, one.name))


def release_versions(root: str, name: str) -> dict[str, int]:
    """The version of each table of a release.

    Raises: SpecError if there is none of this name; PipelineError if a table was made anew since.
    """
    uri = system_uri(root, "releases")
    rows = Snapshot.open(uri).read(where_partition={"release": name}).to_pylist() if log.exists(uri) else []
    if not rows:
        raise SpecError(
            f"there is no release {name!r}{did_you_mean(name, [one.name for one in releases(root)])}"
        )
    for row in rows:
        place = table_uri(root, row["table"])
        if not log.exists(place) or Snapshot.open(place).transaction(BORN) != row["born"]:
            raise PipelineError(
                f"release {name!r}: table {row['table']!r} is not the one that was released (dropped and made anew?); "
                "drop the release"
            )
    return {row["table"]: row["version"] for row in rows}


def open_release(root: str, name: str) -> dict[str, Snapshot]:
    """The tables of a release, as they were.

    Raises: as `release_versions`.
    """
    return {
        table: Snapshot.open(table_uri(root, table), version)
        for table, version in release_versions(root, name).items()
    }


def _together(root: str, tables: Sequence[str]) -> dict[str, Snapshot]:
    """The newest versions of all tables at one moment: opened until none has changed while the others were opened."""
    while True:
        opened = {table: Snapshot.open(table_uri(root, table)) for table in tables}
        if all(log.newest(one.uri) == one.version for one in opened.values()):
            return opened


def _release(name: str, rows: Sequence[Mapping[str, Any]]) -> Release:
    first = rows[0]
    return Release(
        name=name,
        time=first["time"],
        who=first["who"],
        note=first["note"],
        tables={row["table"]: row["version"] for row in sorted(rows, key=lambda row: str(row["table"]))},
    )


def _row(name: str, run: str, note: str, table: str, snapshot: Snapshot) -> dict[str, Any]:
    made = next(
        (
            event
            for event in catalog.history(snapshot.uri)
            if event.version <= snapshot.version and event.operation not in {"compact", "tidy"}
        ),
        None,
    )
    record = made.record if made else {}
    return {
        "release": name,
        "time": dt.datetime.now(dt.UTC),
        "run": run,
        "who": who(),
        "note": note,
        "table": table,
        "version": snapshot.version,
        "born": snapshot.transaction(BORN),
        "rows": snapshot.rows,
        "built": made.version if made else None,
        "ledger": json.dumps(record.get("ledger", []), ensure_ascii=False),
        "checks": json.dumps(record.get("checks", []), ensure_ascii=False),
        "_read": [one for one in record.get("sources", []) if one.get("kind") == "table"],
    }


def _check_together(snapshots: Mapping[str, Snapshot], rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for read in row["_read"]:
            other = snapshots.get(read["name"])
            if other is not None and rows_changed_since(other, read["version"]):
                raise CheckFailed(
                    f"table {row['table']!r} was built from version {read['version']} of {read['name']!r}, which is at "
                    f"{other.version} with other rows; bring it up to date by `dlflow run`, or release it as it is with --stale"
                )


def _check_passed(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for check in json.loads(row["checks"]):
            if check.get("severity") == "block" and not check.get("passed"):
                raise CheckFailed(
                    f"table {row['table']!r}: check {check.get('name')!r} failed ({check.get('found')}), expected "
                    f"{check.get('expected')}; nothing was released, correct the data"
                )
