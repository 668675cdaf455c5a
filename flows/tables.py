"""What is in a warehouse, for people and for programs: its tables, the history of one, answers to SQL."""

import contextlib
import csv
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from flows.figures import size
from pipelines import warehouse
from pipelines.places import Place

__all__ = [
    "print_answer",
    "print_checks",
    "print_history",
    "print_json",
    "print_query",
    "print_result",
    "print_rows",
    "print_tables",
]


_CHECK = ("passed", "severity", "name", "found", "expected")


def print_tables(root: Place, *, as_json: bool) -> None:
    """One line per table."""
    found = [asdict(table) for table in warehouse.tables(str(root))]
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"{root}: no tables yet; dlflow run makes them", err=True)
    else:
        shown = [{**table, "bytes": size(table["bytes"])} for table in found]
        print_rows(list(shown[0]), [list(table.values()) for table in shown])


def print_history(root: Place, table: str, *, as_json: bool) -> None:
    """One line per version, newest first."""
    events = warehouse.history(str(warehouse.Snapshot.open(str(root / table)).uri))
    found = [
        {key: value for key, value in asdict(event).items() if key != "record" or as_json} for event in events
    ]
    if as_json:
        print_json(found)
        return
    shown = [
        {**version, "why": "; ".join(reason.partition("\n")[0].rstrip(":") for reason in event.why)}
        for version, event in zip(found, events, strict=True)
    ]
    print_rows(list(shown[0]), [list(version.values()) for version in shown])
    for event in events:
        for reason in event.why:
            if "\n" in reason:
                click.echo(f"version {event.version}: {reason}")


def print_checks(root: Place, table: str | None, *, every: bool, as_json: bool) -> None:
    """What was found of the checks of one table or of all: of the newest version, or of every one."""
    names = [one.name for one in warehouse.tables(str(root))] if table is None else [table]
    found = []
    for name in names:
        events = warehouse.history(str(warehouse.Snapshot.open(str(root / name)).uri))
        checked = [event for event in events if event.record.get("checks")]
        for event in checked if every else checked[:1]:
            head = {"table": name, "version": event.version, "time": event.time}
            found += [{**head, **{key: one.get(key) for key in _CHECK}} for one in event.record["checks"]]
    if as_json:
        print_json(found)
    elif not found:
        where = f"table {table!r}" if table else str(root)
        click.echo(f"{where}: no checks yet; write checks = [...] in the pipeline file", err=True)
    else:
        print_rows(list(found[0]), [list(one.values()) for one in found])


def print_query(
    root: Place,
    query: str,
    *,
    at: str | None = None,
    versions: Mapping[str, int] | None = None,
    form: str = "table",
    output: Path | None = None,
    limit: int = 100,
) -> None:
    """The answer to a query over the newest versions, or those of a time, a release, or by number."""
    answer = warehouse.sql(str(root), query, at=at, versions=versions)
    if output is None:
        print_answer(answer, form=form, limit=limit)
        return
    if form == "parquet":
        pq.write_table(answer, output, compression="zstd")
    else:
        with output.open("w", encoding="utf-8", newline="") as file, contextlib.redirect_stdout(file):
            print_answer(answer, form=form, limit=answer.num_rows)
    click.echo(f"{output}: {answer.num_rows:,} rows", err=True)


def print_answer(answer: pa.Table, *, form: str, limit: int) -> None:
    """Rows as a table for people (`limit` of them), or all as CSV or JSON."""
    if form == "json":
        print_json(answer.to_pylist())
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(answer.column_names)
        for batch in answer.to_batches():
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    else:
        print_rows(answer.column_names, [list(row.values()) for row in answer.slice(0, limit).to_pylist()])
        if answer.num_rows > limit:
            click.echo(
                f"... {answer.num_rows - limit:,} more rows; --limit or --format csv shows them", err=True
            )


def print_json(value: Any) -> None:
    """A value for programs."""
    click.echo(json.dumps(value, indent=1, default=str, ensure_ascii=False))


def print_result(value: Any, text: str, *, as_json: bool) -> None:
    """What a command has done: one line for people, or the value for programs."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows for people, in columns; numbers are flush right."""
    cells = [[_shown(value) for value in row] for row in rows]
    right = [
        all(isinstance(row[place], int | float) or row[place] is None for row in rows)
        for place in range(len(names))
    ]
    widths = [
        max(len(name), *(len(row[place]) for row in cells), 0) if cells else len(name)
        for place, name in enumerate(names)
    ]
    for row in [list(names), *cells]:
        line = "  ".join(
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        )
        click.echo(line.rstrip())


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case dt.datetime():
            return value.isoformat(sep=" ", timespec="seconds")
        case dict() if not value:
            return ""
        case Mapping() | list() | tuple():
            return json.dumps(value, default=str, ensure_ascii=False)
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= 80 else text[:77] + "..."
