"""What keeps a warehouse, told to people: changes, restore, releases, pins, maintenance; and the pins of the models."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dlflow import registry
from flows.figures import size
from flows.session import Options, runner_of
from flows.tables import print_answer, print_json, print_result, print_rows
from pipelines import warehouse
from pipelines.engine import InProcess, Runner
from pipelines.places import Place, state_folder
from pipelines.warehouse.lineage import who
from pipelines.warehouse.names import SYSTEM

__all__ = [
    "drop_release",
    "keep_up",
    "maintain_tables",
    "make_release",
    "pin_models",
    "print_changes",
    "print_pins",
    "print_releases",
    "restore_table",
]

_MODEL = "model:"


def print_changes(
    root: Place,
    table: str,
    *,
    by: Sequence[str],
    since: str,
    until: str | None,
    form: str,
    limit: int,
    workers: int,
) -> None:
    """The changed rows, and on stderr how many."""
    uri = warehouse.open_at(str(root), table).uri
    first, last = (warehouse.version_at(uri, when) for when in (since, until))
    with (
        runner_of(Options(workers=workers)) as runner,
        warehouse.changes(uri, first or 0, last, by=by, runner=runner) as feed,
    ):
        print_answer(feed.read(), form=form, limit=limit)
    counted = ", ".join(f"{number:,} {what}" for what, number in feed.counts.items())
    click.echo(f"{table}, version {feed.since} to {feed.until}: {counted}", err=True)


def restore_table(root: Place, table: str, when: str, *, as_json: bool = False) -> None:
    """An old version as the newest; one line says which."""
    uri = warehouse.open_at(str(root), table).uri
    version = warehouse.version_at(uri, when)
    run = _run("restore")
    with warehouse.lock(str(root), table, run=run):
        lineage = warehouse.Lineage(run=run, why=[f"restore {when}"])
        made = warehouse.restore(uri, version or 0, key=run, lineage=lineage, runner=InProcess())
    print_result(
        {"table": table, "version": made.version, "content_of": version},
        f"{table}: version {made.version} has the content of version {version}",
        as_json=as_json,
    )


def make_release(
    root: Place, name: str, tables: Sequence[str], *, note: str, stale: bool, as_json: bool = False
) -> None:
    """One line with the versions."""
    made = warehouse.make_release(str(root), name, tables, note=note, run=_run("release"), stale=stale)
    print_result(asdict(made), f"release {name}: {_versions(made.tables)}", as_json=as_json)


def drop_release(root: Place, name: str, *, as_json: bool = False) -> None:
    """One line."""
    warehouse.drop_release(str(root), name, run=_run("release"))
    said = f"release {name} is dropped; its versions are kept no longer"
    print_result({"release": name, "dropped": True}, said, as_json=as_json)


def print_releases(root: Place, *, as_json: bool) -> None:
    """One line per release."""
    found = [asdict(one) for one in warehouse.releases(str(root))]
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"{root}: no releases yet; dlflow release NAME makes one", err=True)
    else:
        shown = [{**one, "tables": _versions(one["tables"])} for one in found]
        print_rows(list(shown[0]), [list(one.values()) for one in shown])


def print_pins(root: Place, *, as_json: bool) -> None:
    """One line per pinned version and holder."""
    pin_models(root)
    pins = [asdict(one) for one in warehouse.pins(str(root))]
    pins += [
        {"table": table, "version": version, "holder": f"release:{one.name}", "why": one.note, "who": one.who}
        | {"since": one.time, "until": None}
        for one in warehouse.releases(str(root))
        for table, version in one.tables.items()
    ]
    if as_json:
        print_json(pins)
    elif not pins:
        click.echo(f"{root}: nothing is pinned", err=True)
    else:
        print_rows(list(pins[0]), [list(one.values()) for one in pins])


def maintain_tables(
    root: Place,
    tables: Sequence[str],
    *,
    sort: Mapping[str, Sequence[str]],
    older_than_h: float,
    dry_run: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Upkeep of the tables; one line each."""
    with runner_of(Options(workers=workers)) as runner:
        done = keep_up(root, tables, runner, sort=sort, older_than_h=older_than_h, dry_run=dry_run)
    if as_json:
        print_json([asdict(one) for one in done])
        return
    rows = [
        [
            one.table,
            f"{one.before.files:,} -> {one.after.files:,}",
            size(one.after.bytes),
            size(one.after.median),
            one.checkpoint,
            one.removed,
            ", ".join(f"{version}: {' '.join(holders)}" for version, holders in one.kept_for.items()),
            one.skipped,
        ]
        for one in done
    ]
    names = ["table", "files", "bytes", "median file", "checkpoint", "removed", "pinned versions", "skipped"]
    print_rows(names, rows)


def keep_up(
    root: Place,
    tables: Sequence[str],
    runner: Runner,
    *,
    sort: Mapping[str, Sequence[str]],
    older_than_h: float,
    dry_run: bool = False,
) -> list[Any]:
    """Pin what models need, then compact, checkpoint and vacuum; what was done with each table."""
    pin_models(root)
    return warehouse.maintain(
        str(root),
        tables,
        runner=runner,
        sort=sort,
        older_than_h=older_than_h,
        dry_run=dry_run,
        run=_run("maintain"),
    )


def pin_models(root: Place) -> None:
    """Pin the version that each registered model was trained on, and unpin those of models that are gone.

    The models are those that runs have registered beside the tables.
    """
    trained: dict[str, tuple[str, int]] = {}
    models = state_folder(root, SYSTEM) / "models"
    for home in sorted(models.iterdir()) if models.is_dir() else ():
        for number in registry.versions(models, home.name):
            lineage = _lineage(home / str(number) / "model.json")
            if lineage:
                trained[f"{_MODEL}{home.name}/{number}"] = (lineage["table"], lineage["version"])
    here = isinstance(root, Path)  # else other machines have models of their own
    held = {
        one.holder
        for one in warehouse.pins(str(root))
        if one.holder.startswith(_MODEL) and (here or one.who == who())
    }
    for holder in held - trained.keys():
        warehouse.unpin(str(root), holder)
    for holder in trained.keys() - held:
        table, version = trained[holder]
        warehouse.pin(
            str(root), table, version, holder=holder, why="a registered model was trained on it", check=False
        )


def _lineage(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))["metadata"].get("lineage")
    except (OSError, ValueError, KeyError):  # no model of ours: loading it says so
        return None
    return found if isinstance(found, dict) and {"table", "version"} <= found.keys() else None


def _run(what: str) -> str:
    return f"{what}-{secrets.token_hex(6)}"


def _versions(tables: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tables.items())
