"""The commands that read the warehouse: `dlflow tables`, `history`, `checks`, `sql`."""

from pathlib import Path

import click

from flows.options import JSON, WAREHOUSE, failures, warehouse_of

__all__ = ["checks", "history", "sql", "tables"]


@click.command()
@WAREHOUSE
@JSON
def tables(warehouse: Path | None, as_json: bool) -> None:
    """The tables of the warehouse."""
    from flows.tables import print_tables  # noqa: PLC0415

    with failures():
        print_tables(warehouse_of(warehouse), as_json=as_json)


@click.command()
@click.argument("table")
@WAREHOUSE
@JSON
def history(table: str, warehouse: Path | None, as_json: bool) -> None:
    """The versions of a table: when, who, rows, why."""
    from flows.tables import print_history  # noqa: PLC0415

    with failures():
        print_history(warehouse_of(warehouse), table, as_json=as_json)


@click.command()
@click.argument("table", required=False)
@WAREHOUSE
@click.option("--all", "every", is_flag=True, help="Of every version, not only of the newest.")
@JSON
def checks(table: str | None, warehouse: Path | None, every: bool, as_json: bool) -> None:
    """What the quality checks of a table have found; of all tables without TABLE."""
    from flows.tables import print_checks  # noqa: PLC0415

    with failures():
        print_checks(warehouse_of(warehouse), table, every=every, as_json=as_json)


@click.command()
@click.argument("query")
@WAREHOUSE
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@click.option("--limit", default=100, show_default=True, help="Rows shown as a table; csv and json give all.")
def sql(query: str, warehouse: Path | None, form: str, limit: int) -> None:
    """Ask the tables in SQL; reads only.

    \b
    Examples:
      dlflow sql "select month, count(*) from sales group by month order by month"
      dlflow sql "select rule, count(*) from orders__quarantine group by rule" --format json
    """
    from flows.tables import print_query  # noqa: PLC0415

    with failures():
        print_query(warehouse_of(warehouse), query, form=form, limit=limit)
