"""From finished files to a version that readers see: limits, ledger, checks, quarantine, commit, ledger tables.

The order is what makes a crash harmless: evidence and quarantine first (unseen until their batch is in), then the rows with
their lineage, ledger and check results in one log entry, then the tables that are written from that entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipelines import difference, evolution, inspection, ledger, merges, warehouse
from pipelines.additions import UNLOAD, commit_load, unloaded
from pipelines.engine import Runner
from pipelines.errors import TooManyRejects
from pipelines.made import Made, Steps, batch_key
from pipelines.places import place
from pipelines.plan import TablePlan
from pipelines.storage import FileRef
from pipelines.task import COUNTS
from pipelines.verdicts import refuse_failed, verdicts
from pipelines.warehouse.file import live

__all__ = [
    "REPLAY",
    "Built",
    "already",
    "file_refs",
    "kept_refs",
    "lineage_of",
    "publish",
    "totals",
]

REPLAY = "replay"  # and for rejects that are read again


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


def already(plan: TablePlan) -> Built:
    """What an earlier commit of the same content says of itself."""
    snapshot = warehouse.Snapshot.open(plan.uri)
    files = snapshot.files()
    events = (event.record for event in warehouse.history(plan.uri))
    said = next((record for record in events if record.get("fingerprint") == plan.fingerprint), {})
    steps = [
        {"name": entry["step"], "notes": {}, **{name: entry[name] for name in COUNTS}}
        for entry in said.get("ledger", [])
        if entry["step"] not in {UNLOAD, REPLAY}
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


def publish(plan: TablePlan, made: Made, *, run: str, runner: Runner) -> Built:
    """Commit a build; `runner` does what is left to do of an upsert.

    Raises: TooManyRejects, LedgerImbalance, CheckFailed: nothing was committed. SchemaMismatch, CommitConflict.
    """
    _check_limit(plan, made, totals(made.steps))
    gone = () if plan.load is None else plan.load.remove
    lineage = lineage_of(plan, made, run=run, others=unloaded(plan.name, gone))
    committed: warehouse.Committed | warehouse.Changed
    if plan.spec.load == "upsert":
        key, ids = batch_key(plan), made.source_ids()
        grown = any(one.source is not None and one.source.evolved for one in plan.inputs)
        committed = merges.commit(
            plan.spec, plan.uri, made, key=key, lineage=lineage, runner=runner, ids=ids, evolve=grown
        )
    else:
        committed = commit_load(plan, made, lineage) if plan.load else _commit_whole(plan, made, lineage)
    warehouse.tidy(plan.uri, lineage=lineage)
    warehouse.tidy_evidence(plan.uri, lineage=lineage)
    ledger.record(str(place(plan.uri).parent), plan.name, run=run)
    return Built(
        committed.version,
        committed.already,
        len(made.files),
        sum(file["bytes"] for file in made.files),
        [dict(step) for step in made.steps],
        lineage.checks,
        lineage.sources,
    )


def lineage_of(
    plan: TablePlan, made: Made, *, run: str, others: Sequence[ledger.Entry] = ()
) -> warehouse.Lineage:
    """What a commit says of itself, after the ledger and the checks; `others` are further entries of the ledger.

    Raises: LedgerImbalance, CheckFailed.
    """
    counts = totals(made.steps)
    entries = [
        ledger.Entry(table=plan.name, step=step["name"], **{name: step[name] for name in COUNTS})
        for step in made.steps
    ]
    ledger.balance(entries)
    notes = {key: value for step in made.steps for key, value in step["notes"].items()}
    there = sum(file.rows for file in _kept(plan))
    checks = verdicts(plan.spec.checks, notes, rows=counts["rows_out"], measured=made.measured, there=there)
    refuse_failed(plan.name, checks)
    return warehouse.Lineage(
        run=run,
        fingerprint=plan.fingerprint or None,
        parts=_flat(plan.parts),
        sources=_inputs(made.read),
        code=version("dlflow"),
        why=plan.why,
        ledger=[entry.record() for entry in [*entries, *others]],
        checks=checks,
        counts=counts,
        fitted=made.fitted,
        evolved=_evolved(plan),
    )


def _evolved(plan: TablePlan) -> dict[str, Any]:
    """What the next run has to know of columns that came: of a table that is changed by key, whose files may all be others then."""
    used = {one.name: one.source for one in plan.inputs if one.source is not None and one.source.evolved}
    return (
        {name: evolution.came(source) for name, source in used.items()} if plan.spec.load == "upsert" else {}
    )


def _commit_whole(plan: TablePlan, made: Made, lineage: warehouse.Lineage) -> warehouse.Committed:
    key = batch_key(plan)
    warehouse.commit_evidence(plan.uri, made.evidence, key=key, lineage=lineage)
    warehouse.commit_rejects(plan.uri, made.rejects, key=key, lineage=lineage)
    return warehouse.replace(
        plan.uri,
        made.files,
        key=key,
        schema=made.schema,
        partition_by=plan.spec.partition_by,
        lineage=lineage,
        transactions=made.source_ids(),
        rows_out=lineage.counts["rows_out"],
        schema_change=True,  # the pipeline file is what the table should be
    )


def kept_refs(plan: TablePlan) -> list[FileRef]:
    """The files of the table that stay beside those of a load, as workers read them."""
    files = _kept(plan)
    return [FileRef(replace(file, stats={}), warehouse.row_groups(file)) for file in files]


def _kept(plan: TablePlan) -> tuple[warehouse.LiveFile, ...]:
    if plan.attempt:
        return warehouse.Snapshot.open(plan.uri).files()
    if plan.load is None or plan.load.whole:
        return ()
    gone = {path for one in plan.load.remove for path in one.files}
    return tuple(file for file in warehouse.Snapshot.open(plan.uri).files() if file.path not in gone)


def totals(steps: Steps) -> dict[str, int]:
    """The counts of a whole table: rows into its first step, rows out of its last, everything set aside on the way."""
    total = {name: sum(step[name] for step in steps) for name in COUNTS}
    if steps:
        total |= {"rows_in": steps[0]["rows_in"], "rows_out": steps[-1]["rows_out"]}
    return total


def file_refs(uri: str, files: Sequence[warehouse.Receipt], schema: pa.Schema) -> list[FileRef]:
    """Files that are written and not committed yet, as workers read them."""
    return [FileRef(live(uri, file, schema), tuple(file["row_groups"])) for file in files]


def _check_limit(plan: TablePlan, made: Made, counts: Mapping[str, int]) -> None:
    limit = plan.spec.reject_limit
    if limit is None:
        return
    allowed = limit * counts["rows_in"] if limit < 1 else limit
    if counts["quarantined"] <= allowed:
        return
    reasons = inspection.rejects_by_rule(plan.uri, made.rejects)
    head = (
        f"table {plan.name!r}: {counts['quarantined']:,} of {counts['rows_in']:,} rows would be quarantined, the limit is "
        f"{f'{limit:.2%}' if limit < 1 else f'{limit:,.0f} rows'} (reject_limit), so nothing was committed. Commonest"
    )
    worst = [f"{count:,} x {rule}: {sample}" for rule, count, sample in reasons[:3]]
    fix = "correct the data or the declaration, or raise reject_limit"
    raise TooManyRejects(difference.told(head, worst, fix))


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
