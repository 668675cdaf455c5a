"""The final block of a run in the terminal: at most 25 lines that tell the whole mission, from rows to proof."""

from collections.abc import Iterable, Mapping
from typing import Any

from flows.facts import Headline, built, equation, headline, notes, tally
from flows.figures import count, duration, number, plural, rate, short, size

__all__ = ["WIDTH", "line", "summary"]

WIDTH = 100
LABEL = 11
MARK = 82  # column of the mark and the time at the end of a line
MODELS_SHOWN = 4
CLEANED = {  # first words of the notes of cleaning steps, in the order in which they are told
    "filled": "values filled",
    "outliers": "outliers",
    "nulled": "made null",
    "mapped": "mapped",
    "trimmed": "trimmed",
    "rewritten": "rewritten",
}
INTEGRATED = {"contradictions": "contradictions resolved", "unmatched": "unmatched"}


def line(label: str, text: str | Iterable[str], mark: str = "") -> str:
    """One aligned line: label, what happened, and at the right a mark or a time.

    Of a text in parts, as many are shown as have room, most important first.

    >>> line("ledger", ["1,000 = 990 + 10", "nothing added"])
    ' ledger       1,000 = 990 + 10 · nothing added'
    """
    head = f" {label:<{LABEL}}  "
    body = _fit([text] if isinstance(text, str) else text, (MARK if mark else WIDTH) - len(head) - 1)
    return f"{head}{body:<{MARK - len(head)}}{mark}" if mark else (head + body).rstrip()


def summary(record: Mapping[str, Any]) -> list[str]:
    """What the run did, in at most 25 lines of at most 100 columns.

    `record["report"]` (path of the report) and `record["next"]` (commands to try) are shown where they are given.
    """
    tables, models = record.get("tables") or [], record.get("models") or []
    made, trained = built(tables), built(models)
    lines = [_first(record)]
    if not made and not trained:
        kept = [plural(len(items), noun) for items, noun in ((tables, "table"), (models, "model")) if items]
        lines.append(line("nothing to do", f"{' and '.join(kept) or 'no table'} up to date"))
    if made:
        lines += [*_ingest(made), *_clean(made), *_integrate(made), _warehouse(tables, made)]
        lines += _ledger(record.get("ledger") or {}, len(made))
    lines += _quality(record) if made else []
    for model in trained[:MODELS_SHOWN]:
        lines += _model(model, several=len(trained) > 1)
    if len(trained) > MODELS_SHOWN:
        lines.append(line("", f"… and {plural(len(trained) - MODELS_SHOWN, 'more model')} in the report"))
    if record.get("report"):
        lines.append(line("report", str(record["report"])))
    following = record.get("next")
    if following:
        lines.append(line("next", following if isinstance(following, str) else " · ".join(following)))
    return lines


def _first(record: Mapping[str, Any]) -> str:
    parts = [f"dlflow {record.get('pipeline', '')}".strip()]
    if record.get("workers"):
        parts.append(plural(record["workers"], "worker"))
    if record.get("run"):
        parts.append(f"run {short(str(record['run']), 24)}")
    parts.append(duration(record.get("seconds")))
    return _fit(parts, WIDTH)


def _ingest(made: list[Mapping[str, Any]]) -> list[str]:
    """Rows that came from outside the warehouse, and how fast the tables that read them were made."""
    reading = [table for table in made if _inputs(table, "source")]
    if not reading:
        return []
    sources = {item["name"] for table in reading for item in _inputs(table, "source")}
    files = sum(len(_inputs(table, "source")) for table in reading)
    rows = sum(table.get("rows_in") or 0 for table in reading)
    seconds = sum(table.get("seconds") or 0.0 for table in reading)
    parts = [plural(len(sources), "source"), plural(files, "file"), f"{count(rows)} rows"]
    parts += [rate(rows / seconds)] if rows and seconds else []
    return [line("ingest", parts, duration(seconds))]


def _clean(made: list[Mapping[str, Any]]) -> list[str]:
    quarantined = sum(table.get("quarantined") or 0 for table in made)
    rules = {reject.get("rule") for table in made for reject in table.get("rejects") or []}
    duplicates = sum(table.get("deduplicated") or 0 for table in made)
    left_out = sum(table.get("filtered") or 0 for table in made)
    parts = [f"{count(quarantined)} quarantined" + (f" ({plural(len(rules), 'rule')})" if rules else "")]
    parts.append(plural(duplicates, "duplicate"))
    parts += [f"{count(left_out)} left out"] if left_out else []
    found = notes(made)
    parts += [f"{count(found[word])} {told}" for word, told in CLEANED.items() if word in found]
    return [line("clean", parts)]


def _integrate(made: list[Mapping[str, Any]]) -> list[str]:
    joined = [
        f"{table.get('name')} = {' ⋈ '.join(item['name'] for item in _inputs(table, 'table'))}"
        for table in made
        if len(_inputs(table, "table")) > 1
    ]
    found = notes(made)
    extra = [f"{count(found[word])} {told}" for word, told in INTEGRATED.items() if word in found]
    return [line("integrate", [*joined, *extra])] if joined or extra else []


def _warehouse(tables: list[Mapping[str, Any]], made: list[Mapping[str, Any]]) -> str:
    kept = len(tables) - len(made)
    files = sum(table.get("files") or 0 for table in made)
    written = sum(table.get("bytes") or 0 for table in made)
    text = f"{plural(len(made), 'table')} committed" + (f", {count(kept)} unchanged" if kept else "")
    return line("warehouse", f"{text} · {plural(files, 'file')} · {size(written)}")


def _ledger(ledger: Mapping[str, Any], tables: int) -> list[str]:
    if not ledger:
        return []
    mark = "✔ balanced" if ledger.get("balanced") else "✘ does not balance"
    return [line("ledger", [equation(ledger), f"over {plural(tables, 'table')}"], mark)]


def _quality(record: Mapping[str, Any]) -> list[str]:
    checks = tally(record)
    if not checks.total:
        return []
    mark = "✘" if checks.blocked else "▲" if checks.warned else "✔"
    text = f"{plural(checks.total, 'check')} · {checks.passed} pass · {checks.warned} warn · {checks.blocked} block"
    return [line("quality", text, mark)]


def _model(model: Mapping[str, Any], *, several: bool) -> list[str]:
    named = [str(model.get("name"))] if several else []
    lines = [line("train", [*named, *_training(model)], duration(model.get("seconds")))]
    first = headline(model)
    if first is not None:
        lines.append(line("evaluate", [*named, *_evaluation(model, first)], _evaluation_mark(first)))
    proof = model.get("proof")
    if proof:
        same = bool(proof.get("identical"))
        sides = [
            f"{short(one.get('weights_sha256'), 6)} with {plural(one.get('workers') or 1, 'worker')}"
            for one in (model, proof)
        ]
        text = "weights " + (" = " if same else " ≠ ").join(sides)
        lines.append(line("proof", [*named, text], "✔ identical" if same else "✘ they differ"))
    return lines


def _training(model: Mapping[str, Any]) -> Iterable[str]:
    history = model.get("history") or []
    losses = [entry["loss"] for entry in history if isinstance(entry.get("loss"), (int, float))]
    if losses:
        yield f"loss {number(losses[0], 3)} → {number(losses[-1], 3)}"
    if history:
        yield plural(len(history), "epoch")
    if model.get("workers"):
        yield plural(model["workers"], "worker")
    if model.get("architecture"):
        yield " → ".join(map(str, model["architecture"]))


def _evaluation(model: Mapping[str, Any], first: Headline) -> Iterable[str]:
    yield f"{first.split} {first.name} {number(first.value, 3)}"
    if first.baseline is not None:
        yield f"{first.baseline} {number(first.baseline_value, 3)}"
    metrics = (model.get("metrics") or {}).get(first.split) or {}
    if metrics.get("accuracy") is not None and first.metric != "accuracy":
        yield f"accuracy {number(metrics['accuracy'], 3)}"
    if model.get("verdict"):
        yield str(model["verdict"]).partition(" (")[0]  # the numbers are in the report


def _evaluation_mark(first: Headline) -> str:
    return "" if first.beats_baseline is None else "✔ better" if first.beats_baseline else "▲ no better"


def _inputs(table: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [item for item in table.get("inputs") or [] if item.get("kind") == kind]


def _fit(parts: Iterable[str], room: int) -> str:
    """As many whole parts as fit, at least the first; what comes too early to leave out is cut."""
    text = ""
    for part in parts:
        longer = f"{text} · {part}" if text else part
        if len(longer) > room and text:
            return text if room - len(text) < 16 else longer[: room - 1] + "…"
        text = longer if len(longer) <= room else longer[: room - 1] + "…"
    return text
