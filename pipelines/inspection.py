"""A committed table looked at: what it was built from, what is in its quarantine and its evidence, its profile."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import profile, warehouse
from pipelines.engine import Runner
from pipelines.measures import summarise_files
from pipelines.storage import FileRef, TableRef

__all__ = [
    "build_state",
    "check_history",
    "evidence_summary",
    "fitted_of",
    "last_checks",
    "outline",
    "profile_table",
    "reject_summary",
    "rejects_by_rule",
    "rejects_by_step",
    "rejects_to_come",
]

SAMPLES = 3  # rows shown of each kind of reject


def build_state(uri: str, fingerprint: str) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether the table's content has this fingerprint, and the parts of the fingerprint that it has (None: no table)."""
    if not warehouse.log.exists(uri):
        return False, None
    if warehouse.current_fingerprint_is(uri, fingerprint):
        return True, None
    for event in warehouse.history(uri):
        if parts := event.record.get("parts"):
            return False, parts
    return False, {}


def fitted_of(uri: str, version: int | None = None) -> dict[str, Any]:
    """What the steps of a build have fitted, by their names: of the version, or of the newest."""
    return warehouse.fitted_of(warehouse.Snapshot.open(uri, version))


def last_checks(uri: str) -> list[dict[str, Any]]:
    """What the checks of the newest build of a table have found."""
    for event in warehouse.history(uri):
        if (found := event.record.get("checks")) is not None:
            return [dict(one) for one in found]
    return []


def check_history(uri: str, versions: int = 12) -> list[dict[str, Any]]:
    """What the checks of the newest builds of a table have found, version by version, newest first."""
    events = [event for event in warehouse.history(uri) if event.record.get("checks")]
    return [
        {
            "version": event.version,
            "time": event.time.isoformat(timespec="seconds"),
            "checks": [
                {name: one.get(name) for name in ("name", "severity", "passed", "found")}
                for one in event.record["checks"]
            ],
        }
        for event in events[:versions]
    ]


def outline(name: str, uri: str) -> TableRef | None:
    """The newest version of a table as its log describes it, no file of it opened; None: there is none."""
    if not warehouse.log.exists(uri):
        return None
    snapshot = warehouse.Snapshot.open(uri)
    files = tuple(FileRef(file, (file.rows,)) for file in snapshot.files())
    return TableRef(name, uri, snapshot.version, files, tuple(snapshot.schema))


def profile_table(ref: TableRef, runner: Runner) -> dict[str, Any]:
    """The profile of every column; vectors are left out, they have a column each where they were made from."""
    columns = tuple(field for field in ref.columns if not pa.types.is_fixed_size_binary(field.type))
    sketch = profile.sketch_of(pa.schema(columns))
    found = summarise_files(
        sketch, files=ref.files, columns=columns, runner=runner, name=f"profile-{ref.name}"
    )
    return dict(found) if ref.rows else {}


def reject_summary(uri: str) -> list[dict[str, Any]]:
    """Rejects of the current content by rule and column, the most frequent first, with a few samples of each."""
    table = warehouse.read_quarantine(uri)
    return _summary(table.rename_columns([name.lstrip("_") for name in table.column_names]))


def evidence_summary(uri: str) -> list[dict[str, Any]]:
    """Contradictions of the current content by step, column and policy, the most frequent first, with a few of each.

    `decided`: how many values lost by what; `samples`: of a key all values, with who says so.
    """
    table = warehouse.read_evidence(uri)
    kind = ["step", "column", "policy"]
    groups = table.group_by(kind, use_threads=False).aggregate(
        [([], "count_all"), ("about", "count_distinct")]
    )
    found = []
    for one in groups.sort_by([("about_count_distinct", "descending")]).to_pylist():
        wanted = [pc.equal(table[name], one[name]) for name in kind]
        rows = table.filter(functools.reduce(pc.and_, wanted))
        decided = pc.value_counts(rows["decided"].drop_null()).to_pylist()
        few = [rows.filter(pc.equal(rows["about"], about)) for about in rows["about"].unique()[:SAMPLES]]
        found.append(
            {
                **{name: one[name] for name in kind},
                "count": one["about_count_distinct"],
                "values": one["count_all"],
                "decided": {each["values"]: each["counts"] for each in decided},
                "samples": [_dispute(each.to_pylist()) for each in few],
            }
        )
    return found


def _dispute(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    claims = [
        {name: row[name] for name in ("value", "origin", "time", "source", "line", "decided")} for row in rows
    ]
    return {"key": rows[0]["key"], "chosen": rows[0]["chosen"], "values": claims}


def rejects_by_step(uri: str) -> dict[str, int]:
    """Rejects of the current content by the step that set them aside."""
    steps = warehouse.read_quarantine(uri, columns=["step"])["step"].to_pylist()
    return dict(Counter(steps).most_common())


def rejects_by_rule(uri: str, receipts: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """Of rejects that are not committed: rule, count, one message."""
    return [
        (each["rule"], each["count"], each["samples"][0]["message"])
        for each in rejects_to_come(uri, receipts)
    ]


def rejects_to_come(uri: str, receipts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`reject_summary` of rejects that are not committed."""
    files = [f"{warehouse.quarantine_uri(uri)}/{receipt['path']}" for receipt in receipts]
    tables = [pq.read_table(path, partitioning=None) for path in files]
    return _summary(pa.concat_tables(tables)) if tables else []


def _summary(table: pa.Table) -> list[dict[str, Any]]:
    counts = table.group_by(["rule", "column"], use_threads=False).aggregate([([], "count_all")])
    found = []
    for one in counts.sort_by([("count_all", "descending")]).to_pylist():
        wanted = pc.equal(table["rule"], one["rule"])
        column = (
            table["column"].is_null() if one["column"] is None else pc.equal(table["column"], one["column"])
        )
        samples = table.filter(pc.and_kleene(wanted, column)).slice(0, SAMPLES)
        shown = samples.select(["source", "line", "message", "raw"]).to_pylist()
        found.append(
            {"rule": one["rule"], "column": one["column"], "count": one["count_all"], "samples": shown}
        )
    return found
