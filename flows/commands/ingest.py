"""The commands about what comes in: `dlflow infer`, `quarantine`, `evidence`, `replay`."""

from pathlib import Path

import click

from flows.options import FILE, JSON, PIPELINE, SET, WAREHOUSE, failures, settings_of, warehouse_of
from pipelines.places import Place

__all__ = ["evidence", "infer", "quarantine", "replay"]


@click.command()
@click.argument("table")
@WAREHOUSE
@JSON
def quarantine(table: str, warehouse: Place | None, as_json: bool) -> None:
    """The rows of a table that were set aside.

    Counts by rule and column, the most frequent first, with samples: source, line, reason, text.

    \b
    Examples:
      dlflow quarantine orders
      dlflow quarantine orders --json
    """
    from flows.ingest import print_quarantine  # noqa: PLC0415

    with failures():
        print_quarantine(warehouse_of(warehouse), table, as_json=as_json)


@click.command()
@click.argument("table")
@WAREHOUSE
@JSON
def evidence(table: str, warehouse: Place | None, as_json: bool) -> None:
    """The contradictions that were found in a table.

    Counts by column and policy, the most frequent first, with samples: every value with who says so, the one that was
    chosen, and what decided.

    \b
    Examples:
      dlflow evidence customers
      dlflow evidence customers --json
    """
    from flows.ingest import print_evidence  # noqa: PLC0415

    with failures():
        print_evidence(warehouse_of(warehouse), table, as_json=as_json)


@click.command()
@click.argument("table")
@FILE
@SET
@JSON
def replay(table: str, file: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Read rows again that were set aside.

    After a rule or a declared column was mended: those that fit now go into TABLE, in one commit; the others stay, with
    the reason of now. Rows that are in the table stay as they are.

    \b
    Examples:
      dlflow replay orders
      dlflow replay orders --set data=/mnt/raw --json
    """
    from flows.ingest import replay_table  # noqa: PLC0415

    with failures():
        replay_table(file, settings_of(settings), table, as_json=as_json)


@click.command()
@click.argument("source")
@click.option("--rows", default=50_000, show_default=True, help="Rows to look at, in all files together.")
@click.option("--name", help="Name of the source (default: that of the file or folder).")
@click.option("--table", help="Of a database: its table or view.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A new file to write to (default: the terminal)."
)
def infer(source: str, rows: int, name: str | None, table: str | None, output: Path | None) -> None:
    """Propose the declaration of a source.

    SOURCE is a file, folder, glob or URL: CSV, texts, JSON lines, Parquet, Arrow, IDX, images, SQLite, PostgreSQL, objects of
    a store. The proposal is TOML for the pipeline file, with what was seen as comments: check every line. A run never infers.

    \b
    Examples:
      dlflow infer data/orders.csv
      dlflow infer 'data/orders-*.csv' --name orders --output orders.toml
      dlflow infer shop.sqlite --table customers
      dlflow infer 'postgresql://reader:${PASSWORD}@db/shop' --table orders
      dlflow infer 's3://bucket/orders/*.parquet'
    """
    from pipelines.infer import infer as propose  # noqa: PLC0415

    with failures():
        text = propose(source, rows=rows, name=name, table=table)
        if output is None:
            click.echo(text, nl=False)
            return
        if output.exists():
            raise click.UsageError(f"{output} is there; give a new file, or append with >> {output}")
        output.write_text(text, "utf-8")
        click.echo(
            f"wrote {output}; check every line, and put it into {PIPELINE} with a table that reads it: "
            '[tables.NAME] source = "..."'
        )
