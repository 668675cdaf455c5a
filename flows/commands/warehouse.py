"""The commands that keep a warehouse: `dlflow changes`, `restore`, `release`, `releases`, `pins`, `maintain`."""

import click

from flows.options import JSON, WAREHOUSE, WORKERS, failures, settings_of, warehouse_of
from pipelines.places import Place

__all__ = ["changes", "maintain", "pins", "release", "releases", "restore"]

WHEN = "a version (17), a time (2026-01-05, 2026-01-05T12:00Z) or a release"


@click.command()
@click.argument("table")
@click.option(
    "--by", required=True, metavar="COLUMN[,COLUMN]", help="The key: what tells one row from another."
)
@click.option("--since", required=True, metavar="WHEN", help=f"From {WHEN}.")
@click.option("--until", metavar="WHEN", help="To that (default: the newest version).")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@click.option("--limit", default=100, show_default=True, help="Rows shown as a table; csv and json give all.")
@WORKERS
@WAREHOUSE
@JSON
def changes(
    table: str,
    by: str,
    since: str,
    until: str | None,
    form: str,
    limit: int,
    workers: int,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Rows that differ between two versions.

    The rows of a table that were added, removed or updated between two versions.

    \b
    Examples:
      dlflow changes orders --by order_id --since 3
      dlflow changes orders --by order_id --since spring --until summer --format csv
    """
    from flows.upkeep import print_changes  # noqa: PLC0415 - a command pays only for what it uses

    with failures():
        print_changes(
            warehouse_of(warehouse),
            table,
            by=by.split(","),
            since=since,
            until=until,
            form="json" if as_json else form,
            limit=limit,
            workers=workers,
        )


@click.command()
@click.argument("table")
@click.argument("when")
@WAREHOUSE
@JSON
def restore(table: str, when: str, warehouse: Place | None, as_json: bool) -> None:
    """Make an old version of a table the newest one.

    WHEN is a version (17), a time (2026-01-05, 2026-01-05T12:00Z) or a release. The versions in between stay, and what
    they had loaded can be loaded again.

    \b
    Examples:
      dlflow restore orders 17
      dlflow restore orders 2026-01-05
    """
    from flows.upkeep import restore_table  # noqa: PLC0415

    with failures():
        restore_table(warehouse_of(warehouse), table, when, as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--note", default="", help="What it is for.")
@click.option(
    "--stale", is_flag=True, help="Also if a table was built from other versions than those released."
)
@click.option("--drop", is_flag=True, help="Forget the release: its versions are kept no longer.")
@WAREHOUSE
@JSON
def release(
    name: str,
    tables: tuple[str, ...],
    note: str,
    stale: bool,
    drop: bool,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Name versions of tables that belong together.

    Name the newest versions of tables that belong together (all tables by default).

    Readers by release see all of them or none: dlflow sql "..." --at NAME. Its versions are kept until it is dropped.

    \b
    Examples:
      dlflow release spring
      dlflow release spring orders customers --note "for the audit"
      dlflow release spring --drop
    """
    from flows.upkeep import drop_release, make_release  # noqa: PLC0415

    if drop and (tables or note or stale):
        raise click.UsageError("--drop takes the name of a release alone")
    with failures():
        root = warehouse_of(warehouse)
        if drop:
            drop_release(root, name, as_json=as_json)
        else:
            make_release(root, name, tables, note=note, stale=stale, as_json=as_json)


@click.command()
@WAREHOUSE
@JSON
def releases(warehouse: Place | None, as_json: bool) -> None:
    """The releases: when, who, which versions.

    \b
    Examples:
      dlflow releases
      dlflow releases --json
    """
    from flows.upkeep import print_releases  # noqa: PLC0415

    with failures():
        print_releases(warehouse_of(warehouse), as_json=as_json)


@click.command()
@WAREHOUSE
@JSON
def pins(warehouse: Place | None, as_json: bool) -> None:
    """Versions that models, releases and jobs keep.

    The versions that models, releases and running jobs keep from being removed.

    \b
    Examples:
      dlflow pins
      dlflow pins --json
    """
    from flows.upkeep import print_pins  # noqa: PLC0415

    with failures():
        print_pins(warehouse_of(warehouse), as_json=as_json)


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option(
    "--sort",
    multiple=True,
    metavar="TABLE=COLUMN[,COLUMN]",
    help="Sort the rows of a table within each partition; may be repeated.",
)
@click.option(
    "--older-than",
    type=float,
    default=168.0,
    show_default=True,
    metavar="HOURS",
    help="Remove files that nobody can need, none younger than this.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be removed.")
@WORKERS
@WAREHOUSE
@JSON
def maintain(
    tables: tuple[str, ...],
    sort: tuple[str, ...],
    older_than: float,
    dry_run: bool,
    workers: int,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Keep tables fast and small.

    Keep tables fast and small: few large files, a checkpoint, no old files.

    Safe beside readers and runs. What models, releases and running jobs need stays.

    \b
    Examples:
      dlflow maintain
      dlflow maintain events --sort events=customer_id,at --workers 2
    """
    from flows.upkeep import maintain_tables  # noqa: PLC0415

    with failures():
        maintain_tables(
            warehouse_of(warehouse),
            tables,
            sort={name: columns.split(",") for name, columns in settings_of(sort, "--sort").items()},
            older_than_h=older_than,
            dry_run=dry_run,
            workers=workers,
            as_json=as_json,
        )
