"""Rows come back from the quarantine: after a rule or the schema was mended, only the rejects are read again.

    rejects by source file --> the file is still the same? --> their rows, by line and byte --> the steps of now
                                     | no: they stay                        | fit: into the table
                                                                            | do not: stay, with the reason of now

Rows that were in the table before stay as they are: whoever replays says that the change is about the rejects alone. All
is one commit of the table, with its rejects before it as in every build; a crash between the two changes nothing that
readers see, and replaying once more moves nothing twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines import fingerprint, ledger, loads, publish, warehouse
from pipelines.engine import Runner
from pipelines.errors import CommitConflict, PipelineError, SpecError
from pipelines.keyed import keyed_checks
from pipelines.made import Made, batch_key
from pipelines.passes import Passes
from pipelines.places import place, remove_tree
from pipelines.plan import Input, TablePlan
from pipelines.reads import SourceRows
from pipelines.sources import InputFile, Source
from pipelines.sources.again import parts_of
from pipelines.warehouse.columns import difference, settled
from pipelines.warehouse.commit import Change

__all__ = ["Replayed", "replay"]


@dataclass(frozen=True)
class Replayed:
    """What became of the rejects of a table."""

    table: str
    version: int | None  # that was made; None: nothing changed
    read: int = 0
    moved: int = 0
    filtered: int = 0  # left out by a declared rule, or dropped
    stay: int = 0  # do not fit now either
    skipped: Mapping[str, int] = field(default_factory=dict)  # could not be read again: rows by reason


@dataclass(frozen=True)
class _Rejects:
    """The rejects of one source file."""

    name: str
    source: Source
    file: InputFile
    noted: str  # the path that they have in the quarantine
    batch: str
    rows: Mapping[int, int]  # line -> byte offset


def replay(plan: TablePlan, runner: Runner, *, run: str, lock_s: float = 600.0) -> Replayed:
    """Move the rejects of a table that fit now into it.

    Raises: SpecError for a table whose rejects cannot be read one by one, or whose columns changed; as a build.
    """
    _check(plan)
    root = place(plan.uri).parent
    with warehouse.lock(str(root), plan.name, wait_s=lock_s, run=run):
        snapshot = warehouse.Snapshot.open(plan.uri)
        if found := difference(settled(plan.schema, snapshot.schema), snapshot.schema):
            raise SpecError(
                f"table {plan.name!r}: {found} as in the table; a replay adds rows to the columns that are there, "
                "so `dlflow run` has to build the table with the new ones"
            )
        groups, skipped = _grouped(plan)
        if not groups:
            return Replayed(plan.name, None, skipped=skipped)
        again = _planned(plan, groups, snapshot.version)
        work = root / "_dlflow" / "work" / f"{plan.name}-{again.work}"
        work.mkdir(parents=True, exist_ok=True)
        reads = [
            SourceRows(
                one.source, tuple(parts_of(one.source, one.file, number, one.rows)), tuple(sorted(one.rows))
            )
            for number, one in enumerate(groups)
        ]
        made = Passes(again, runner, work, _no_table, lambda *_: None, run, reads).finish()
        counts = publish.totals(made.steps)
        done = Replayed(
            plan.name,
            None,
            counts["rows_in"],
            counts["rows_out"],
            counts["filtered"] + counts["deduplicated"],
            counts["quarantined"],
            skipped,
        )
        if done.moved or done.filtered:
            done = replace(done, version=_commit(again, made, groups, run))
        remove_tree(work)
        return done


def _check(plan: TablePlan) -> None:
    if plan.spec.source is None:
        raise SpecError(
            f"table {plan.name!r} reads tables, not a source: replay the table that its rows come from, then `dlflow run`"
        )
    if plan.spec.load == "upsert":
        raise SpecError(
            f"table {plan.name!r} is changed by key, so a row that came later may not be overtaken: `dlflow run` does it"
        )
    if any(one.source is not None and one.source.cursor for one in plan.inputs):
        raise SpecError(
            f"table {plan.name!r} is loaded by a cursor: its database moves on, so rejects cannot be read as they were; "
            "changed rules load all rows again with `dlflow run`"
        )
    if plan.load is not None and plan.load.before is None:
        raise SpecError(f"table {plan.name!r}: nothing was loaded yet; `dlflow run` loads it")
    if plan.spec.union is not None:
        raise SpecError(
            f"table {plan.name!r} is a union, so its rejects cannot be read one by one; `dlflow run` builds the table again"
        )
    for check in keyed_checks(plan.spec.checks):
        raise SpecError(
            f"table {plan.name!r}: check {check.name!r} sets rows aside for what other rows of their key hold, so rejects cannot be "
            "read one by one; `dlflow run` builds the table with the new rules"
        )
    for move in plan.moves:
        if move.kind != "map" or move.step.startswith(("join ", "join_asof ")):
            raise SpecError(
                f"table {plan.name!r}: step {move.step!r} looks at more than one row, so rejects cannot be read one by one; "
                "`dlflow run` builds the table with the new rules"
            )


def _grouped(plan: TablePlan) -> tuple[list[_Rejects], dict[str, int]]:
    """The rejects by source file, and how many cannot be read again, by reason."""
    known = _known(plan)
    rows: dict[tuple[str, str], dict[int, int]] = {}
    table = warehouse.read_quarantine(plan.uri, columns=["batch", "source", "line", "offset"])
    for one in table.to_pylist():
        rows.setdefault((one["batch"], one["source"]), {})[one["line"]] = one["offset"]
    groups = []
    skipped: Counter[str] = Counter()
    for (batch, path), lines in sorted(rows.items()):
        found = known.get((batch, path)) or known.get(("", path))
        if found is None:
            skipped[f"{path}: changed since, or is gone"] += len(lines)
            continue
        name, source, file = found
        groups.append(_Rejects(name, source, file, path, batch, lines))
    return groups, dict(skipped)


def _known(plan: TablePlan) -> dict[tuple[str, str], tuple[str, Source, InputFile]]:
    """Source files whose content is what was read, by batch (empty: any) and path in the quarantine."""
    used = {one.name: one.source for one in plan.inputs if one.source is not None}
    if plan.load is not None:
        there = {(name, file.path): file for name, files in plan.load.there.items() for file in files}
        known = {}
        for entry in plan.load.before.files if plan.load.before else ():
            file = there.get((entry.source, entry.path)) or _moved(there, entry)
            if file is not None and file.sha256 == entry.sha256:
                known[entry.batch, entry.noted] = (entry.source, used[entry.source], file)
        return known
    read = {one.get("path"): one.get("sha256") for one in _last_build(plan).get("sources", ())}
    return {
        ("", file.path): (one.name, used[one.name], file)
        for one in plan.inputs
        for file in one.files
        if read.get(file.path) == file.sha256
    }


def _moved(there: Mapping[tuple[str, str], InputFile], entry: warehouse.LoadedFile) -> InputFile | None:
    same = (file for (name, _), file in there.items() if name == entry.source and file.sha256 == entry.sha256)
    return next(same, None)


def _last_build(plan: TablePlan) -> Mapping[str, Any]:
    """The record of the newest commit that has brought all of the content."""
    events = (event for event in warehouse.history(plan.uri) if event.operation == "replace")
    return next((event.record for event in events), {})


def _planned(plan: TablePlan, groups: Sequence[_Rejects], version: int) -> TablePlan:
    inputs = tuple(Input(one.name, "source", (one.file,), one.source) for one in groups)
    attempt = fingerprint.digest(["replay", plan.fingerprint, version])
    parts, made_from = plan.parts, plan.fingerprint
    if plan.load is not None and plan.load.before is not None:
        before = plan.load.before
        content = [(one.source, one.sha256) for one in before.files]
        parts = loads.parts_of(plan.load.settings, content, before.replays + 1)
        made_from = fingerprint.digest(parts)
    elif any(
        _last_build(plan).get("parts", {}).get(name) != value
        for name, value in plan.parts.items()
        if name.startswith("source ")
    ):
        made_from = ""  # its files changed, too: the next run builds it
    return replace(
        plan,
        inputs=inputs,
        parts=parts,
        fingerprint=made_from,
        attempt=attempt,
        why=("rejects were read again",),
    )


def _commit(plan: TablePlan, made: Made, groups: Sequence[_Rejects], run: str) -> int:
    key = batch_key(plan)
    read = sum(len(one.rows) for one in groups)
    entry = ledger.Entry(table=plan.name, step=publish.REPLAY, rows_in=-read, rows_out=0, quarantined=-read)
    lineage = publish.lineage_of(plan, made, run=run, others=[entry])
    batches: dict[str, dict[str, str | None]] = {}  # whose other rejects are taken over
    for one in groups:
        batches.setdefault(one.batch, {})[one.noted] = None
    before = plan.load.before if plan.load is not None else None
    files = _files_after(before, made, groups, key) if before is not None else []
    for entry_of in before.files if before is not None else ():
        if entry_of.batch in batches:
            batches[entry_of.batch].setdefault(entry_of.noted, entry_of.path)
    carried = warehouse.carry_rejects(plan.uri, batches, key=key)
    warehouse.commit_rejects(plan.uri, [*made.rejects, *carried], key=key, lineage=lineage)
    settings = {
        "key": key,
        "schema": made.schema,
        "partition_by": plan.spec.partition_by,
        "lineage": lineage,
        "release": list(batches),
        "rows_out": lineage.counts["rows_out"],
    }
    if plan.load is not None and before is not None:
        manifest = replace(
            before,
            number=before.number + 1,
            replays=before.replays + 1,
            settings=plan.load.settings,
            files=tuple(files),
        )
        committed = warehouse.load(
            plan.uri, made.files, manifest, base=plan.load.base, whole=False, operation="replay", **settings
        )
    else:
        committed = _add(plan.uri, made.files, **settings)
    warehouse.tidy(plan.uri, lineage=lineage)
    ledger.record(str(place(plan.uri).parent), plan.name, run=run)
    return committed.version


def _files_after(
    before: warehouse.Manifest, made: Made, groups: Sequence[_Rejects], key: str
) -> list[warehouse.LoadedFile]:
    """The entries of the manifest, with what came back."""
    numbers = {(one.batch, one.noted): number for number, one in enumerate(groups)}
    touched = {one.batch for one in groups}
    by_number = made.by_number()
    files = []
    for entry in before.files:
        number = numbers.get((entry.batch, entry.noted), -1)
        came = by_number.get(number, [])
        after = replace(
            entry,
            kept=entry.kept + sum(receipt["rows"] for receipt in came),
            quarantined=made.set_aside.get(number, 0) if number >= 0 else entry.quarantined,
            files=(*entry.files, *(receipt["path"] for receipt in came)),
        )
        if entry.batch in touched:
            after = replace(after, batch=key, noted=_noted(entry, groups, number))
        files.append(after)
    return files


def _noted(entry: warehouse.LoadedFile, groups: Sequence[_Rejects], number: int) -> str:
    """The path that its rejects have now: of those read again that of their file, of the others that of the manifest."""
    return groups[number].file.path if number >= 0 else entry.path


def _add(
    uri: str,
    files: Sequence[warehouse.Receipt],
    *,
    key: str,
    release: Sequence[str],
    **settings: Any,
) -> warehouse.Committed:
    """Add rows to a table that is built as a whole, and let the batches go whose rejects were read again."""
    lineage = settings.pop("lineage")

    def change(snapshot: warehouse.Snapshot | None) -> Change:
        if snapshot is None or not all(snapshot.holds(batch) for batch in release):
            raise CommitConflict(f"{uri}: another run has built this table meanwhile; run again")
        ids: dict[str, int | None] = dict.fromkeys(release, warehouse.RELEASED)
        return Change(operation="replay", add=files, transactions=ids, **settings)

    return warehouse.commit(uri, key=key, plan=change, lineage=lineage, once=False)


def _no_table(name: str) -> Any:
    raise PipelineError(f"a replay reads no table, and was asked for {name!r}")
