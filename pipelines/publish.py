"""From finished files to a version that readers see: limits, ledger, checks, quarantine, commit, ledger tables.

The order is what makes a crash harmless: the quarantine first (unseen until its batch is in), then the rows with
their lineage, ledger and check results in one log entry, then the tables that are written from that entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import inspection, ledger, quality, warehouse
from pipelines.errors import TooManyRejects
from pipelines.plan import TablePlan
from pipelines.storage import FileRef
from pipelines.task import COUNTS
from pipelines.warehouse.partition import decode

__all__ = ["Built", "Made", "already", "batch_key", "file_refs", "publish", "totals"]

Steps = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Made:
    """What the passes of a build leave for the commit."""

    schema: pa.Schema
    files: Sequence[warehouse.Receipt]
    rejects: Sequence[warehouse.Receipt]
    steps: Steps
    fitted: Mapping[str, Any]
    read: Sequence[Mapping[str, Any]]  # input files
    surplus: Mapping[tuple[str, ...], int]  # rows beyond the first of each key that is declared unique


@dataclass(frozen=True)
class Built:
    """The version that readers see now, and how its rows came to be."""

    version: int
    already: bool
    files: int
    bytes: int
    steps: Steps = ()
    checks: Sequence[Mapping[str, Any]] = ()
    inputs: Sequence[Mapping[str, Any]] = ()


def batch_key(plan: TablePlan) -> str:
    """The transaction id of a build: the same for every attempt at the same content."""
    return f"table:{plan.name}:{plan.fingerprint}"


def already(plan: TablePlan) -> Built:
    """What an earlier commit of the same content says of itself."""
    snapshot = warehouse.Snapshot.open(plan.uri)
    files = snapshot.files()
    events = (event.record for event in warehouse.history(plan.uri))
    said = next((record for record in events if record.get("fingerprint") == plan.fingerprint), {})
    steps = [
        {"name": entry["step"], "notes": {}, **{name: entry[name] for name in COUNTS}}
        for entry in said.get("ledger", [])
    ]
    return Built(
        snapshot.version,
        True,
        len(files),
        sum(file.bytes for file in files),
        steps,
        said.get("checks", []),
        said.get("sources", []),
    )


def publish(plan: TablePlan, made: Made, *, run: str) -> Built:
    """Commit a build.

    Raises: TooManyRejects, LedgerImbalance, CheckFailed: nothing was committed. SchemaMismatch, CommitConflict.
    """
    counts = totals(made.steps)
    _check_limit(plan, made, counts)
    entries = [
        ledger.Entry(table=plan.name, step=step["name"], **{name: step[name] for name in COUNTS})
        for step in made.steps
    ]
    ledger.balance(entries)
    notes = {key: value for step in made.steps for key, value in step["notes"].items()}
    checks = quality.verdicts(plan.spec.checks, notes, rows=counts["rows_out"], surplus=made.surplus)
    quality.refuse_failed(plan.name, checks)
    inputs = _inputs(made.read)
    lineage = warehouse.Lineage(
        run=run,
        fingerprint=plan.fingerprint,
        parts=_flat(plan.parts),
        sources=inputs,
        code=version("dlflow"),
        why=plan.why,
        ledger=[entry.record() for entry in entries],
        checks=checks,
        counts=counts,
        fitted=made.fitted,
    )
    key = batch_key(plan)
    warehouse.commit_rejects(plan.uri, made.rejects, key=key, lineage=lineage)
    committed = warehouse.replace(
        plan.uri,
        made.files,
        key=key,
        schema=made.schema,
        partition_by=plan.spec.partition_by,
        lineage=lineage,
        transactions=warehouse.source_transactions(
            (one["path"], one["sha256"]) for one in made.read if "sha256" in one
        ),
        rows_out=counts["rows_out"],
        schema_change=True,  # the pipeline file is what the table should be
    )
    warehouse.tidy(plan.uri, lineage=lineage)
    ledger.record(str(Path(plan.uri).parent), plan.name, run=run)
    return Built(
        committed.version,
        committed.already,
        len(made.files),
        sum(file["bytes"] for file in made.files),
        [dict(step) for step in made.steps],
        checks,
        inputs,
    )


def totals(steps: Steps) -> dict[str, int]:
    """The counts of a whole table: rows into its first step, rows out of its last, everything set aside on the way."""
    total = {name: sum(step[name] for step in steps) for name in COUNTS}
    if steps:
        total |= {"rows_in": steps[0]["rows_in"], "rows_out": steps[-1]["rows_out"]}
    return total


def file_refs(uri: str, files: Sequence[warehouse.Receipt], schema: pa.Schema) -> list[FileRef]:
    """Files that are written and not committed yet, as workers read them."""
    return [
        FileRef(
            warehouse.LiveFile(
                path=file["path"],
                absolute=str(Path(uri, file["path"])),
                rows=file["rows"],
                bytes=file["bytes"],
                partition={
                    name: decode(schema.field(name), text) for name, text in file["partition"].items()
                },
                modified_ms=0,
            ),
            tuple(file["row_groups"]),
        )
        for file in files
    ]


def _check_limit(plan: TablePlan, made: Made, counts: Mapping[str, int]) -> None:
    limit = plan.spec.reject_limit
    if limit is None:
        return
    allowed = limit * counts["rows_in"] if limit < 1 else limit
    if counts["quarantined"] <= allowed:
        return
    reasons = inspection.rejects_by_rule(plan.uri, made.rejects)
    worst = "; ".join(f"{count:,} x {rule}: {sample}" for rule, count, sample in reasons[:3])
    raise TooManyRejects(
        f"table {plan.name!r}: {counts['quarantined']:,} of {counts['rows_in']:,} rows would be quarantined, the limit is "
        f"{f'{limit:.2%}' if limit < 1 else f'{limit:,.0f} rows'} (reject_limit); nothing was committed. Commonest: {worst}"
    )


def _inputs(read: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per source file, or per table version, what was read."""
    found: list[dict[str, Any]] = []
    for one in read:
        if "version" not in one:
            found.append({"kind": "source", **one})
            continue
        last = found[-1] if found else {}
        if last.get("name") == one["name"]:
            last["rows"] += one["rows"]
        else:
            found.append(
                {
                    "kind": "table",
                    "name": one["name"],
                    "path": one["path"],
                    "rows": one["rows"],
                    "version": one["version"],
                }
            )
    return found


def _flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in parts.items()}
