"""The command that writes a table elsewhere: `dlflow export`."""

import json
import uuid
from dataclasses import asdict

import click

from flows.options import JSON, WAREHOUSE, failures, warehouse_of
from pipelines.places import Place

__all__ = ["export"]


@click.command()
@click.argument("table")
@click.option(
    "--to",
    required=True,
    metavar="TARGET",
    help="postgresql://user:${PASSWORD}@host/db, sqlite:///file.db, or a file: .csv, .jsonl (with .gz or .zst), .parquet.",
)
@click.option("--table", "name", help="Table of the database (default: of the same name).")
@click.option(
    "--key",
    metavar="COLUMN[,COLUMN]",
    help="Update rows with the same key, insert the others; without it the table's rows are replaced.",
)
@click.option("--columns", metavar="COLUMN[,COLUMN]", help="Only these columns.")
@click.option(
    "--at",
    "--version",
    "when",
    metavar="WHEN",
    help="A version (17), a time (2026-01-05, 2026-01-05T12:00Z) or a release (default: the newest version).",
)
@WAREHOUSE
@JSON
def export(
    table: str,
    to: str,
    name: str | None,
    key: str | None,
    columns: str | None,
    when: str | None,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Write a table to a database or a file; all of it or nothing.

    Rows that are there already are left alone: doing it again changes nothing. ${NAME} in TARGET comes from the
    environment; put TARGET in single quotes, so that the shell leaves it alone.

    \b
    Examples:
      dlflow export sales --to sales.parquet
      dlflow export customers --to sqlite:///shop.db --key customer_id
      dlflow export sales --to 'postgresql://loader:${PASSWORD}@db/shop' --key order_id --at spring
    """
    from pipelines import export as exports  # noqa: PLC0415 - a command pays only for what it uses
    from pipelines import references  # noqa: PLC0415
    from pipelines import warehouse as tables  # noqa: PLC0415

    with failures():
        root = str(warehouse_of(warehouse))
        snapshot = tables.open_at(root, table, when)
        with tables.held(
            root, table, snapshot.version, holder=f"export:{uuid.uuid4().hex}", why=f"export of {table}"
        ):
            done = exports.export(
                snapshot,
                references.of_environment(to),
                table=name or table,
                key=tuple(key.split(",")) if key else (),
                columns=tuple(columns.split(",")) if columns else (),
            )
        if as_json:
            click.echo(json.dumps({"table": table, "version": snapshot.version, **asdict(done)}))
            return
        what = (
            ""
            if done.new is None
            else f": {done.new:,} new, {done.changed:,} changed, {done.same:,} the same"
        )
        click.echo(f"{table} version {snapshot.version}, {done.rows:,} rows -> {done.to}{what}")
