"""From finished files to a version that readers see: limits, ledger, checks, quarantine, commit, ledger tables.

The order is what makes a crash harmless: the quarantine first (unseen until its batch is in), then the rows with
their lineage, ledger and check results in one log entry, then the tables that are written from that entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import inspection, ledger, merges, warehouse
from pipelines.engine import Runner
from pipelines.errors import TooManyRejects
from pipelines.plan import TablePlan
from pipelines.storage import FileRef
from pipelines.task import COUNTS
from pipelines.verdicts import refuse_failed, verdicts
from pipelines.warehouse.file import live

__all__ = [
    "REPLAY",
    "Built",
    "Made",
    "already",
    "batch_key",
    "file_refs",
    "kept_refs",
    "lineage_of",
    "publish",
    "totals",
]

UNLOAD = "unload"  # the ledger's entry for rows that are taken out
REPLAY = "replay"  # and for rejects that are read again

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
    measured: Mapping[str, Any]  # what checks ask of the table as a whole, by the name of the check
    origins: Sequence[int] = ()  # of a load: the number of the source file of each file
    set_aside: Mapping[int, int] = field(
        default_factory=dict
    )  # of a load: rejects by number of the source file

    def by_number(self) -> dict[int, list[warehouse.Receipt]]:
        """The files by the number of the source file whose rows they hold."""
        found: dict[int, list[warehouse.Receipt]] = {}
        for origin, receipt in zip(self.origins, self.files, strict=True):
            found.setdefault(origin, []).append(receipt)
        return found


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
    return f"table:{plan.name}:{plan.work}"


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
    unloaded = () if plan.load is None else plan.load.remove
    lineage = lineage_of(plan, made, run=run, others=_unloaded(plan.name, unloaded))
    committed: warehouse.Committed | warehouse.Changed
    if plan.spec.load == "upsert":
        key, ids = batch_key(plan), _source_ids(made)
        committed = merges.commit(plan.spec, plan.uri, made, key=key, lineage=lineage, runner=runner, ids=ids)
    else:
        committed = _commit_load(plan, made, lineage) if plan.load else _commit_whole(plan, made, lineage)
    warehouse.tidy(plan.uri, lineage=lineage)
    ledger.record(str(Path(plan.uri).parent), plan.name, run=run)
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
    )


def _commit_whole(plan: TablePlan, made: Made, lineage: warehouse.Lineage) -> warehouse.Committed:
    key = batch_key(plan)
    warehouse.commit_rejects(plan.uri, made.rejects, key=key, lineage=lineage)
    return warehouse.replace(
        plan.uri,
        made.files,
        key=key,
        schema=made.schema,
        partition_by=plan.spec.partition_by,
        lineage=lineage,
        transactions=_source_ids(made),
        rows_out=lineage.counts["rows_out"],
        schema_change=True,  # the pipeline file is what the table should be
    )


def _commit_load(plan: TablePlan, made: Made, lineage: warehouse.Lineage) -> warehouse.Committed:
    load, key = plan.load, batch_key(plan)
    if load is None:
        raise AssertionError(plan.name)
    batches: dict[str, dict[str, str | None]] = {}  # whose rejects are taken over, without those of `remove`
    for one in load.remove:
        batches.setdefault(one.batch, {})[one.noted] = None
    keep = []
    for one in load.keep:
        if one.batch in batches:
            batches[one.batch][one.noted] = one.path
            one = replace(one, batch=key, noted=one.path)  # noqa: PLW2901
        keep.append(one)
    carried = warehouse.carry_rejects(plan.uri, batches, key=key) if batches else []
    warehouse.commit_rejects(plan.uri, [*made.rejects, *carried], key=key, lineage=lineage)
    added = _loaded_files(plan, made, key)
    manifest = warehouse.Manifest(
        number=1 + (load.before.number if load.before else 0),
        settings=load.settings,
        replays=load.before.replays if load.before and not load.whole else 0,
        files=(*keep, *added),
    )
    committed = warehouse.load(
        plan.uri,
        made.files,
        manifest,
        key=key,
        base=load.base,
        whole=load.whole,
        schema=made.schema,
        partition_by=plan.spec.partition_by,
        lineage=lineage,
        remove=[path for one in load.remove for path in one.files],
        release=[*batches, *_ids_of(load.remove)],
        transactions=_source_ids(made),
        rows_out=lineage.counts["rows_out"],
    )
    warehouse.prune_manifests(plan.uri)
    return committed


def _loaded_files(plan: TablePlan, made: Made, key: str) -> list[warehouse.LoadedFile]:
    """Entries of the manifest for the files that this load has read, in their order."""
    by_number = made.by_number()
    numbered = enumerate((one.name, file) for one in plan.inputs for file in one.files)
    return [
        warehouse.LoadedFile(
            source=name,
            path=file.path,
            noted=file.path,
            sha256=file.sha256,
            size=file.size,
            mtime_ns=file.mtime_ns,
            batch=key,
            rows=made.read[number]["rows"],
            kept=sum(receipt["rows"] for receipt in by_number.get(number, [])),
            quarantined=made.set_aside.get(number, 0),
            files=tuple(receipt["path"] for receipt in by_number.get(number, [])),
        )
        for number, (name, file) in numbered
    ]


def _unloaded(table: str, files: Sequence[warehouse.LoadedFile]) -> list[ledger.Entry]:
    """What leaves the books with source files whose rows are taken out: the same, with a minus."""
    if not files:
        return []
    rows, kept = sum(one.rows for one in files), sum(one.kept for one in files)
    quarantined = sum(one.quarantined for one in files)
    entry = ledger.Entry(
        table=table,
        step=UNLOAD,
        rows_in=-rows,
        rows_out=-kept,
        quarantined=-quarantined,
        filtered=-(rows - kept - quarantined),
    )
    return [entry]


def _source_ids(made: Made) -> list[str]:
    return warehouse.source_transactions((one["path"], one["sha256"]) for one in made.read if "sha256" in one)


def _ids_of(files: Sequence[warehouse.LoadedFile]) -> list[str]:
    return warehouse.source_transactions(
        (path, one.sha256) for one in files for path in {one.path, one.noted}
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
