"""What was found of every check, in words, and whether it lets a table be committed."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import CheckFailed, PipelineError
from pipelines.quality import KEYED, ROWS, SEEN, Check

__all__ = ["aged", "refuse_failed", "verdicts"]

_WORDS = {
    "not_null": "have no value",
    "range": "are outside",
    "values": "have another value",
    "pattern": "do not match",
    "foreign_key": "have a key that is not there",
}
_OF_KEYS = {
    "unique": "repeat the key of another",
    "apart": "have a key that is in more than one part",
    "k_anonymity": "are of rarer ones",
}


def verdicts(
    checks: Sequence[Check],
    notes: Mapping[str, int],
    *,
    rows: int,
    measured: Mapping[str, Any],
    there: int = 0,
    now: dt.datetime | None = None,
) -> list[dict[str, Any]]:
    """What was found of every check, in words.

    `notes` are those of all parts added, `rows` the rows to be committed, beside those that are `there`; `measured` is what `measures.measure` found, by the name of the check; `now` is for tests.

    Raises: PipelineError if a check was not run on all rows: silence is no proof.
    """
    found = []
    seen = notes.get(SEEN, 0)
    for check in checks:
        for name, column in check.measures:
            more: dict[str, Any] = {}
            if check.check == "row_count":
                least, most = check.min or 0, math.inf if check.max is None else check.max
                passed = least <= there + rows <= most  # type: ignore[operator]
                text = f"{there + rows:,} rows"
            elif name not in measured if check.check not in ROWS else seen < rows:
                raise PipelineError(
                    f"check {name!r} was not run on all of the {rows:,} rows; nothing was committed"
                )
            elif check.check in ROWS:
                count = notes.get(name, 0)
                passed = count == 0
                text = f"{count:,} of {seen:,} rows {_WORDS[check.check]}"
            elif check.check in KEYED:
                passed, text = _of_keys(check, notes.get(name, 0), measured[name], there + rows)
            elif check.check == "freshness":
                more = {"newest": measured[name], "max_hours": check.max_hours}
                passed, text = _fresh(measured[name], float(check.max_hours or 0), now)
            else:
                passed, text = _near(check, measured[name])
            found.append(
                {
                    "name": name,
                    "column": column,
                    "severity": check.severity,
                    "passed": passed,
                    "found": text,
                    "expected": check.expected,
                    **more,
                }
            )
    return found


def _of_keys(check: Check, aside: int, left: int, rows: int) -> tuple[bool, str]:
    """`aside` rows were set aside, and of those that stay `left` break it."""
    if aside:
        return False, f"{aside:,} of {rows + aside:,} rows {_OF_KEYS[check.check]}"
    if check.check == "apart":
        return left == 0, f"{left:,} keys are in more than one part"
    return left == 0, f"{left:,} of {rows:,} rows {_OF_KEYS[check.check]}"


def aged(found: Sequence[Mapping[str, Any]], now: dt.datetime | None = None) -> list[dict[str, Any]]:
    """Verdicts of an earlier build as they are now: what was fresh then may have become old."""
    again = []
    for one in found:
        if "newest" not in one:
            again.append(dict(one))
            continue
        passed, text = _fresh(one["newest"], one["max_hours"], now)
        again.append({**one, "passed": passed, "found": text})
    return again


def _fresh(newest: str | None, max_hours: float, now: dt.datetime | None) -> tuple[bool, str]:
    if newest is None:
        return False, "no time at all"
    now = now or dt.datetime.now(dt.UTC)
    at = dt.datetime.fromisoformat(newest)
    hours = (now - at).total_seconds() / 3600
    return hours <= max_hours, f"the newest is of {at:%Y-%m-%d %H:%M} UTC, {hours:,.1f} hours old"


def _near(check: Check, measured: Mapping[str, Any]) -> tuple[bool, str]:
    if measured["psi"] is None:
        return True, str(measured["against"])
    limits = (("psi", check.max_psi), ("ks", check.max_ks))
    passed = all(limit is None or measured[name] <= limit for name, limit in limits)
    shown = ", ".join(f"{name} {measured[name]:.3g}" for name, _ in limits if measured[name] is not None)
    return passed, f"{shown} against {measured['against']}"


def refuse_failed(table: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Stop a commit.

    Raises: CheckFailed with every failed check of severity block.
    """
    failed = [one for one in found if one["severity"] == "block" and not one["passed"]]
    if not failed:
        return
    lines = [f"  {one['name']}: found {one['found']}, expected {one['expected']}" for one in failed]
    many = "a check" if len(failed) == 1 else f"{len(failed)} checks"
    raise CheckFailed(
        f"table {table!r}: {many} failed, nothing was committed:\n" + "\n".join(lines) + "\n"
        'correct the data or the check; with severity = "quarantine" such rows are set aside, with "warn" the table is committed'
    )
