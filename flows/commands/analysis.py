"""The command that looks for what columns have to do with each other: `dlflow analyse`."""

import click

from flows.options import JSON, WAREHOUSE, failures, warehouse_of
from pipelines.places import Place

__all__ = ["analyse"]


@click.command()
@click.argument("table")
@WAREHOUSE
@click.option(
    "--column", "columns", multiple=True, help="A column of numbers (default: all); may be repeated."
)
@click.option("--clusters", type=int, help="Group the rows into so many clusters (k-means) by these columns.")
@click.option("--pair", "pairs", multiple=True, help="A column whose values are counted in pairs; repeat it.")
@JSON
def analyse(
    table: str,
    warehouse: Place | None,
    columns: tuple[str, ...],
    clusters: int | None,
    pairs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Correlations, clusters and frequent pairs of a table.

    \b
    Examples:
      dlflow analyse orders
      dlflow analyse orders --column price --column quantity --clusters 4
      dlflow analyse orders --pair channel --pair returned
    """
    from flows.analysis import print_analysis  # noqa: PLC0415

    with failures():
        print_analysis(
            warehouse_of(warehouse), table, columns=columns, clusters=clusters, pairs=pairs, as_json=as_json
        )
