"""What a column of texts may be, with the evidence: the types are tried by the very readers that a run uses.

Nothing here is used by a run. `dlflow infer` writes the guess down, with a comment for the one who decides.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.literals import reader

__all__ = ["NULLS", "Guess", "column"]

NULLS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "-", "?")
_DATES = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y")
_TIMES = ("%H:%M:%S", "%H:%M")
_LEADING_ZERO = re.compile(r"[+-]?0\d+")
_FIT = 0.95  # share of the values that must fit a type for it to be proposed


@dataclass(frozen=True)
class Guess:
    """A proposed column."""

    type: str
    format: str | None = None
    null: tuple[str, ...] = ()  # texts that seem to mean missing
    evidence: tuple[str, ...] = ()


def column(texts: Sequence[str | None], *, decimal: str = ".", text: bool = False) -> Guess:
    """The narrowest type that reads nearly all of the texts (None: missing); of `text` no number and no bool."""
    given = [text for text in texts if text is not None]
    counts = Counter(text for text in given if text in NULLS)
    values = [text for text in given if text not in NULLS]
    missing = len(texts) - len(values)
    said = [f"{missing / max(len(texts), 1):.1%} missing" if missing else "none missing"]
    if not values:
        return Guess(
            "string", null=tuple(counts), evidence=(*said, "no value in the sample, so the type is not known")
        )
    array = pa.array(values, pa.string())
    zeros = next((text for text in values if _LEADING_ZERO.fullmatch(text)), None)
    if zeros is None:
        digits = set(values) <= {"0", "1"}
        numbers = ("int64", "float64") if digits else ("bool", "int64", "float64")
        kinds = ("date", "timestamp") if text else (*numbers, "date", "timestamp")
        tried = [(kind, _tried(array, kind, None, decimal)) for kind in kinds]
        tried.sort(key=lambda one: any("do not fit" in said for said in one[1]))  # what reads all goes first
        for kind, found in tried:
            if found:
                more = ["0 and 1 alone: bool would read them too"] if digits else []
                return Guess(kind, null=tuple(counts), evidence=(*said, *found, *more))
    fitting = _formats(array)
    if len(fitting) > 1:
        names = " and ".join(repr(pattern) for _, pattern, _ in fitting[:3])
        return Guess(
            "string",
            null=_nulls_of_text(counts),
            evidence=(
                *said,
                f"AMBIGUOUS dates: {names} read all of them, such as {values[0]!r}; set type and format",
            ),
        )
    if fitting:
        kind, pattern, found = fitting[0]
        return Guess(kind, pattern, tuple(counts), (*said, *found))
    distinct = len(set(values))
    said.append(
        f"{distinct:,} distinct" if distinct > 5 else f"values {', '.join(map(repr, sorted(set(values))))}"
    )
    if zeros is not None:
        said.append(f"leading zeros ({zeros!r}), so no number")
    said += [f"{text!r} {count:,} times, taken as text" for text, count in counts.items() if text]
    longest = max(map(len, values))
    return Guess(
        "string",
        null=_nulls_of_text(counts),
        evidence=(*said, f"up to {longest:,} character{'s' * (longest != 1)}"),
    )


def _nulls_of_text(counts: Counter[str]) -> tuple[str, ...]:
    """In a text nobody knows whether NA is Namibia: only the empty text is taken for missing."""
    return ("",) if "" in counts else ()


def _formats(array: pa.StringArray) -> list[tuple[str, str, tuple[str, ...]]]:
    """Formats of dates, else of times, that read the texts: type, format, evidence."""
    for kind, patterns in (
        ("date", _DATES),
        ("timestamp", tuple(f"{date} {time}" for date in _DATES for time in _TIMES)),
    ):
        tried = [(pattern, _tried(array, kind, pattern, ".")) for pattern in patterns]
        if fitting := [(kind, pattern, found) for pattern, found in tried if found]:
            whole = [one for one in fitting if not any("do not fit" in text for text in one[2])]
            return whole or fitting
    return []


def _tried(array: pa.StringArray, kind: str, pattern: str | None, decimal: str) -> tuple[str, ...]:
    """The evidence for a type; empty if it does not fit."""
    values, bad = reader(kind, pattern=pattern, decimal=decimal)(array)
    if len(bad) > (1 - _FIT) * len(array):
        return ()
    found = pc.min_max(values.cast(pa.int8()) if kind == "bool" else values)
    least, most = found["min"].as_py(), found["max"].as_py()
    said = [] if kind == "bool" or least is None else [f"{_shown(least)} to {_shown(most)}"]
    if pattern is not None:
        said.append(f"format {pattern!r} was the only one that fits")
    if len(bad):
        some = ", ".join(repr(array[row].as_py()[:30]) for row in bad[:3].tolist())
        said.append(f"{len(bad):,} of {len(array):,} values do not fit and would be set aside: {some}")
    return tuple(said) or ("all values fit",)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
