"""The one-file HTML report of a run: what was made, whether to trust it, and from what.

The page needs nothing but itself: no script, no font, no picture from elsewhere, and a content policy that forbids
them. Every value of the record is escaped by the template; only the drawings of this package are trusted markup.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import charts, drawing
from flows.facts import HIGHER_IS_BETTER, NAMES, built, equation, tally, verdicts
from flows.figures import count, duration, number, percent, plural, rate, score, short, size
from flows.passes import passes
from flows.record import COUNTS, complete
from flows.svg import anchor

__all__ = ["render", "write"]

TEMPLATES = Path(__file__).parent / "templates"
COMPACT_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)")
FILES_SHOWN = 40  # of one table; the record has all of them
FEW = 12  # distinct values of a column whose frequencies say more than a histogram
PARTS = ("rows_out", "quarantined", "deduplicated", "filtered")  # what becomes of rows_in + added


def write(record: Mapping[str, Any], path: Path | str) -> Path:
    """Write the report of a run record; readers see the old file or the whole new one.

    Raises: OSError if the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(render(record), encoding="utf-8", errors="backslashreplace")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def render(record: Mapping[str, Any]) -> str:
    """The report as one HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - a run with nothing to do needs none

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count,
        duration=duration,
        figure=number,
        percent=percent,
        plural=plural,
        rate=rate,
        score=score,
        short=short,
        size=size,
    )
    environment.tests["in_any"] = lambda part, steps: any(step[part] for step in steps)
    style = (TEMPLATES / "report.css").read_text("utf-8")
    whole = complete(record)
    moved = built(whole["tables"]) or whole["tables"]
    return environment.get_template("report.html.j2").render(
        record=whole,
        style=style,
        # The policy names the one style sheet by its digest: markup that came in with a value could not style anything.
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        subtitle=_subtitle(whole),
        verdicts=verdicts(whole),
        checks=tally(whole),
        drawing=drawing.pipeline(whole),
        ledger_rows=[_ledger_row(table) for table in moved],
        ledger_sum=_ledger_row({"name": "all tables", **{key: sum(t[key] for t in moved) for key in COUNTS}}),
        parts=PARTS,
        files_shown=FILES_SHOWN,
        equation=equation,
        lineage=list(_lineage(whole)),
        models=[_model(model) for model in whole["models"]],
        columns={
            table["name"]: [_column(name, column) for name, column in table["profile"].items()]
            for table in whole["tables"]
        },
        anchor=anchor,
        passes=passes,
        histories={table["name"]: _history(table["check_history"]) for table in whole["tables"]},
        charts=charts,
    )


def _history(versions: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """Each check with what it found in every version; None: that version did not have it."""
    found = [{check["name"]: check for check in one["checks"]} for one in versions]
    names = dict.fromkeys(name for checks in found for name in checks)
    return [(name, [checks.get(name) for checks in found]) for name in names]


def _subtitle(record: Mapping[str, Any]) -> str:
    started = str(record["started"])
    compact = COMPACT_TIME.fullmatch(started)
    moment = (
        "{}-{}-{} {}:{}:{} UTC".format(*compact.groups()) if compact else number(started) if started else ""
    )
    said = [f"run {record['run']}" if record["run"] else "", moment]
    said += [] if record["seconds"] is None else [duration(record["seconds"])]
    said += [] if record["workers"] is None else [plural(record["workers"], "worker")]
    return " · ".join(part for part in said if part)


def _ledger_row(table: Mapping[str, Any]) -> dict[str, Any]:
    balanced = table["rows_in"] + table["added"] == sum(table[part] for part in PARTS)
    return {**{key: table[key] for key in COUNTS}, "name": table["name"], "balanced": balanced}


def _column(name: str, column: Mapping[str, Any]) -> dict[str, Any]:
    """A column of the profile with its picture: a histogram, or the most frequent values, or neither."""
    shape, top = column["histogram"] or {}, [(value, n) for value, n in column["top"]]
    values = sum(n for value, n in top if value is not None)
    if shape and 1 < len(top) <= FEW and values == column["rows"] - column["nulls"]:
        shape, top = {}, sorted(top, key=lambda pair: (pair[0] is None, pair[0]))
    picture = charts.histogram(
        shape.get("edges") or [], shape.get("counts") or [], title=f"Distribution of {name}"
    )
    if not picture and any(n > 1 for _, n in top):
        named = [("(missing)" if value is None else number(value), n) for value, n in top[:FEW]]
        picture = charts.bars(named, title=f"Most frequent values of {name}", total=column["rows"] or None)
    return {"name": name, **column, "picture": picture}


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model with its pictures and one table of all metrics: the splits, then the baselines."""
    history = [entry for entry in model["history"] if entry.get("epoch") is not None]
    first = min((entry["epoch"] for entry in history), default=1)
    curves = {
        name: [(entry["epoch"] + (first == 0), entry[key]) for entry in history if entry.get(key) is not None]
        for name, key in (("train", "loss"), ("validation", "val_loss"))
    }
    splits = [(split, metrics) for split, metrics in model["metrics"].items() if metrics]
    rivals = [(str(rival.get("name")), rival.get("metrics") or {}) for rival in model["baselines"]]
    metrics = list(
        dict.fromkeys(metric for _, found in (*splits, *rivals) for metric in found if metric != "rows")
    )
    return {
        **model,
        "learning": charts.lines(
            curves, title=f"Learning curve of {model['name']}", x_label="epoch", y_label="loss"
        ),
        "roc_curve": charts.roc(
            model["roc"], title=f"ROC of {model['name']}", auc=(model["metrics"].get("test") or {}).get("auc")
        ),
        "calibration_curve": charts.calibration(
            model["calibration"], title=f"Calibration of {model['name']}"
        ),
        "matrix": charts.confusion(model["confusion"] or [], model["classes"]),
        "metric_heads": [*(split for split, _ in splits), *(name for name, _ in rivals)],
        "rival_count": len(rivals),
        "slice_tables": [_slice(column, lines) for column, lines in model["slices"].items() if lines],
        "metric_rows": [
            (
                NAMES.get(metric, metric.replace("_", " ")),
                [found.get(metric) for _, found in (*splits, *rivals)],
            )
            for metric in sorted(
                metrics, key=lambda metric: (metric not in HIGHER_IS_BETTER, metrics.index(metric))
            )
        ],
    }


def _slice(column: str, lines: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of the rows with each value of a column."""
    shown = [name for name in lines[0] if name not in {"value", "rows"}]
    return {
        "column": column,
        "heads": [NAMES.get(name, name.replace("_", " ")) for name in shown],
        "lines": [
            {"value": line["value"], "rows": line["rows"], "metrics": [line[name] for name in shown]}
            for line in lines
        ],
    }


def _lineage(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Trees from what was made last back to the files: every table is told in full once."""
    tables = {table["name"]: table for table in record["tables"]}
    told: set[str] = set()

    def node(name: str, version: int | None, rows: int | None) -> dict[str, Any]:
        table = tables.get(name)
        first = table is not None and name not in told
        told.add(name)
        inputs = table["inputs"] if table is not None and first else []
        return {
            "name": name,
            "version": table["version"] if version is None and table else version,
            "rows": table["rows_out"] if rows is None and table else rows,
            "again": not first and table is not None,
            "tables": [
                node(item["name"], item["version"], item["rows"])
                for item in inputs
                if item["kind"] != "source"
            ],
            "files": [item for item in inputs if item["kind"] == "source"][:FILES_SHOWN],
            "more": max(sum(item["kind"] == "source" for item in inputs) - FILES_SHOWN, 0),
        }

    for model in record["models"]:
        yield {
            "model": model,
            "tree": node(model["table"], model["version"], None) if model["table"] else None,
        }
    read = {
        item["name"] for table in record["tables"] for item in table["inputs"] if item["kind"] != "source"
    }
    for name in tables:
        if name not in told and name not in read:
            yield {"model": None, "tree": node(name, None, None)}
