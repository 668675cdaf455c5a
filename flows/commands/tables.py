"""The commands that read the warehouse: `dlflow tables`, `history`, `checks`, `sql`."""

from pathlib import Path

import click

from flows.options import JSON, WAREHOUSE, failures, settings_of, warehouse_of
from pipelines.places import Place

__all__ = ["checks", "history", "sql", "tables"]


@click.command()
@WAREHOUSE
@JSON
def tables(warehouse: Place | None, as_json: bool) -> None:
    """The tables of the warehouse.

    \b
    Examples:
      dlflow tables
      dlflow tables --json
    """
    from flows.tables import print_tables  # noqa: PLC0415

    with failures():
        print_tables(warehouse_of(warehouse), as_json=as_json)


@click.command()
@click.argument("table")
@WAREHOUSE
@JSON
def history(table: str, warehouse: Place | None, as_json: bool) -> None:
    """The versions of a table: when, who, why.

    The versions of a table: when, who, why, rows written and changed.

    \b
    Examples:
      dlflow history orders
      dlflow history orders --json                 with all that each commit recorded
    """
    from flows.tables import print_history  # noqa: PLC0415

    with failures():
        print_history(warehouse_of(warehouse), table, as_json=as_json)


@click.command()
@click.argument("table", required=False)
@WAREHOUSE
@click.option("--all", "every", is_flag=True, help="Of every version, not only of the newest.")
@JSON
def checks(table: str | None, warehouse: Place | None, every: bool, as_json: bool) -> None:
    """What the quality checks of tables found.

    What the quality checks of a table have found; of all tables without TABLE.

    \b
    Examples:
      dlflow checks
      dlflow checks orders --all
    """
    from flows.tables import print_checks  # noqa: PLC0415

    with failures():
        print_checks(warehouse_of(warehouse), table, every=every, as_json=as_json)


@click.command()
@click.argument("query")
@WAREHOUSE
@click.option(
    "--at", metavar="WHEN", help="Tables as they were: a time (2026-01-05, 2026-01-05T12:00Z) or a release."
)
@click.option(
    "--version",
    "versions",
    multiple=True,
    metavar="TABLE=NUMBER",
    help="A version of one table; may be repeated.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="File for the answer (default: the terminal)."
)
@click.option(
    "--limit", default=100, show_default=True, help="Rows shown as a table; the other formats give all."
)
@JSON
def sql(
    query: str,
    warehouse: Place | None,
    at: str | None,
    versions: tuple[str, ...],
    form: str,
    output: Path | None,
    limit: int,
    as_json: bool,
) -> None:
    """Ask the tables in SQL; reads only.

    \b
    Examples:
      dlflow sql "select month, count(*) from sales group by month order by month"
      dlflow sql "select count(*) from orders" --at 2026-01-05
      dlflow sql "select * from orders join customers using (customer_id)" --at spring --format parquet --output o.parquet
      dlflow sql "select rule, count(*) from orders__quarantine group by rule" --format json
    """
    from flows.tables import print_query  # noqa: PLC0415

    form = "json" if as_json else form
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs a file; add --output FILE")
    with failures():
        chosen = {
            name: number_of(name, number) for name, number in settings_of(versions, "--version").items()
        }
        print_query(
            warehouse_of(warehouse), query, at=at, versions=chosen, form=form, output=output, limit=limit
        )


def number_of(name: str, text: str) -> int:
    """The number of a version."""
    if not (text.isascii() and text.isdigit()):
        raise click.UsageError(
            f"--version {name}={text}: expected a whole number; `dlflow history {name}` lists them"
        )
    return int(text)
