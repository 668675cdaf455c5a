"""What a run record says, as the few facts that the terminal and the report both tell.

A run record is the plain dict of `record.json`. Any part of it may be missing: a run without models, without
anything to rebuild, or one that stopped early still has something to say.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.figures import count, number, plural, short

__all__ = [
    "HIGHER_IS_BETTER",
    "NAMES",
    "Headline",
    "Tally",
    "Verdict",
    "built",
    "equation",
    "headline",
    "notes",
    "tally",
    "verdicts",
]

HIGHER_IS_BETTER = ("auc", "accuracy", "r2", "f1", "precision", "recall")
LOWER_IS_BETTER = ("rmse", "mae", "mse", "log_loss", "loss", "brier")
NAMES = {
    "auc": "AUC",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "mse": "MSE",
    "log_loss": "log loss",
    "f1": "F1",
    "brier": "Brier score",
}

State = Literal["good", "warn", "bad", "plain"]


@dataclass(frozen=True)
class Verdict:
    """One thing that a reader wants to know first: is it good, and the evidence in a line."""

    label: str
    state: State
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Tally:
    """How the quality checks ended; a failed check is `warned` or `blocked` by its severity."""

    passed: int
    warned: int
    blocked: int

    @property
    def total(self) -> int:
        """All checks."""
        return self.passed + self.warned + self.blocked


@dataclass(frozen=True)
class Headline:
    """The one metric that tells how good a model is, and the best of the baselines on the same metric."""

    metric: str
    value: float
    split: str
    baseline: str | None = None
    baseline_value: float | None = None

    @property
    def name(self) -> str:
        """The metric as it is usually written."""
        return NAMES.get(self.metric, self.metric.replace("_", " "))

    @property
    def beats_baseline(self) -> bool | None:
        """Whether the model is better than the best baseline; None without one."""
        if self.baseline_value is None:
            return None
        if self.metric in HIGHER_IS_BETTER:
            return self.value > self.baseline_value
        return self.value < self.baseline_value


def built(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tables or models that this run made anew."""
    return [item for item in items if item.get("status") != "unchanged"]


def equation(ledger: Mapping[str, Any]) -> str:
    """Where every row went, as a sum; what is zero is left out.

    >>> equation({"rows_in": 1000, "rows_out": 950, "quarantined": 30, "deduplicated": 20})
    '1,000 = 950 + 30 + 20'
    """
    left = [ledger.get("rows_in", 0), ledger.get("added", 0)]
    right = [ledger.get(part, 0) for part in ("rows_out", "quarantined", "deduplicated", "filtered")]
    sides = [" + ".join(count(n) for at, n in enumerate(side) if n or at == 0) for side in (left, right)]
    return " = ".join(sides)


def tally(record: Mapping[str, Any]) -> Tally:
    """The quality checks of all tables."""
    checks = [check for table in record.get("tables") or [] for check in table.get("checks") or []]
    failed = [check for check in checks if not check.get("passed")]
    blocked = sum(check.get("severity", "block") == "block" for check in failed)
    return Tally(passed=len(checks) - len(failed), warned=len(failed) - blocked, blocked=blocked)


def notes(tables: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What the steps noted, summed by the first word: `{"filled age": 12, "filled city": 3}` is `{"filled": 15}`."""
    sums: Counter[str] = Counter()
    for table in tables:
        for step in table.get("steps") or []:
            for note, amount in (step.get("notes") or {}).items():
                sums[note.split(" ", 1)[0]] += amount
    return {word: amount for word, amount in sums.items() if amount}


def headline(model: Mapping[str, Any]) -> Headline | None:
    """The metric to show first: of the test rows where there are some, else of the validation rows."""
    splits = model.get("metrics") or {}
    for split in ("test", "validation", "train"):
        metrics = splits.get(split) or {}
        for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
            if isinstance(metrics.get(metric), (int, float)):
                rivals = _rivals(model, metric)
                best = max if metric in HIGHER_IS_BETTER else min
                rival = best(rivals, key=lambda pair: pair[1]) if rivals else (None, None)
                return Headline(metric, metrics[metric], split, *rival)
    return None


def verdicts(record: Mapping[str, Any]) -> list[Verdict]:
    """The run at a glance, most important first."""
    found = [_work(record)]
    ledger = record.get("ledger") or {}
    if ledger and built(record.get("tables") or []):
        balanced = bool(ledger.get("balanced"))
        text = "balanced" if balanced else "does not balance"
        found.append(Verdict("Ledger", "good" if balanced else "bad", text, equation(ledger)))
    checks = tally(record)
    if checks.total:
        state: State = "bad" if checks.blocked else "warn" if checks.warned else "good"
        text = "all passed" if checks.passed == checks.total else f"{checks.passed} of {checks.total} passed"
        found.append(
            Verdict("Quality checks", state, text, f"{plural(checks.total, 'check')}: {_failures(checks)}")
        )
    models = record.get("models") or []
    for model in models:
        found.extend(_of_model(model, several=len(models) > 1))
    return found


def _work(record: Mapping[str, Any]) -> Verdict:
    tables, models = record.get("tables") or [], record.get("models") or []
    made, trained = built(tables), built(models)
    if not made and not trained:
        kept = " and ".join(
            plural(len(items), noun) for items, noun in ((tables, "table"), (models, "model")) if items
        )
        return Verdict("Built", "plain", "nothing to do", f"{kept or 'no table'} up to date")
    parts = [plural(len(made), "table")] if made else []
    parts += [plural(len(trained), "model")] if trained else []
    kept_count = len(tables) + len(models) - len(made) - len(trained)
    return Verdict(
        "Built", "plain", " and ".join(parts), f"{count(kept_count)} unchanged" if kept_count else "all new"
    )


def _failures(checks: Tally) -> str:
    if checks.passed == checks.total:
        return "none failed"
    return ", ".join(
        text
        for n, text in (
            (checks.blocked, f"{checks.blocked} blocked"),
            (checks.warned, f"{checks.warned} warned"),
        )
        if n
    )


def _of_model(model: Mapping[str, Any], *, several: bool) -> list[Verdict]:
    name = f"Model {model.get('name', '')}" if several else "Model"
    found = []
    first = headline(model)
    if first is not None:
        beats = first.beats_baseline
        state: State = "plain" if beats is None else "good" if beats else "warn"
        against = [] if first.baseline is None else [f"{first.baseline} {number(first.baseline_value, 3)}"]
        base_rate = ((model.get("metrics") or {}).get(first.split) or {}).get("base_rate")
        against += [] if base_rate is None else [f"base rate {number(base_rate, 3)}"]
        text = f"{first.split} {first.name} {number(first.value, 3)}"
        found.append(Verdict(name, state, text, "against " + ", ".join(against) if against else ""))
    proof = model.get("proof")
    if proof:
        same = bool(proof.get("identical"))
        sides = [
            f"{short(one.get('weights_sha256'), 6)} on {plural(one.get('workers') or 1, 'worker')}"
            for one in (model, proof)
        ]
        text = "identical bits" if same else "weights differ"
        label = f"{name}: same weights"
        found.append(Verdict(label, "good" if same else "bad", text, ", ".join(sides)))
    return found


def _rivals(model: Mapping[str, Any], metric: str) -> list[tuple[str, float]]:
    return [
        (str(rival.get("name")), rival["metrics"][metric])
        for rival in model.get("baselines") or []
        if isinstance((rival.get("metrics") or {}).get(metric), (int, float))
    ]
