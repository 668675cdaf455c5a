"""The commands about what comes in: `dlflow quarantine`, `replay`."""

from pathlib import Path

import click

from flows.options import FILE, JSON, SET, WAREHOUSE, failures, settings_of, warehouse_of

__all__ = ["quarantine", "replay"]


@click.command()
@click.argument("table")
@WAREHOUSE
@JSON
def quarantine(table: str, warehouse: Path | None, as_json: bool) -> None:
    """The rows of a table that were set aside.

    Counts by rule and column, the most frequent first, with samples: source, line, reason, text.
    """
    from flows.ingest import print_quarantine  # noqa: PLC0415

    with failures():
        print_quarantine(warehouse_of(warehouse), table, as_json=as_json)


@click.command()
@click.argument("table")
@FILE
@SET
@JSON
def replay(table: str, file: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Read rows again that were set aside.

    After a rule or a declared column was mended: those that fit now go into TABLE, in one commit; the others stay, with
    the reason of now. Rows that are in the table stay as they are.
    """
    from flows.ingest import replay_table  # noqa: PLC0415

    with failures():
        replay_table(file, settings_of(settings), table, as_json=as_json)
