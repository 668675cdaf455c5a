"""The commit of a load: files that come in and go, the rejects of both, the ledger, and the manifest that lists them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines import cursor, ledger, warehouse
from pipelines.loads import Load
from pipelines.made import Made, batch_key
from pipelines.plan import TablePlan

__all__ = ["UNLOAD", "commit_load", "unloaded"]

UNLOAD = "unload"  # the ledger's entry for rows that are taken out


def commit_load(plan: TablePlan, made: Made, lineage: warehouse.Lineage) -> warehouse.Committed:
    """Commit the files of a load, and what else it changes, with the manifest that says so."""
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
        cursors=_cursors(plan, load, made),
        evolved=load.evolved,
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
        transactions=made.source_ids(),
        rows_out=lineage.counts["rows_out"],
        evolve=bool(load.evolved),
    )
    warehouse.prune_manifests(plan.uri)
    return committed


def _cursors(plan: TablePlan, load: Load, made: Made) -> dict[str, Any]:
    """Where each source with a cursor is after this load."""
    used = {one.name: one.source for one in plan.inputs if one.source is not None}
    states = {
        name: cursor.merged(load.cursor(name), parts, cursor.lag_of(used[name]))
        for name, parts in made.cursors.items()
    }
    return {**(load.before.cursors if load.before and not load.whole else {}), **states}


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


def unloaded(table: str, files: Sequence[warehouse.LoadedFile]) -> list[ledger.Entry]:
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


def _ids_of(files: Sequence[warehouse.LoadedFile]) -> list[str]:
    return warehouse.source_transactions(
        (path, one.sha256) for one in files for path in {one.path, one.noted}
    )
