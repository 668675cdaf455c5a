"""Numbers as a person reads them: thousands separators, sensible digits, humane durations, sizes and rates."""

import math
import re
from typing import Any

__all__ = ["count", "duration", "number", "percent", "plural", "rate", "score", "short", "size"]

NOTHING = "—"
TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?:\+00:00|Z)?")


def count(value: float | None) -> str:
    """A whole number with thousands separators.

    >>> count(1234567)
    '1,234,567'
    """
    return NOTHING if not _finite(value) else f"{round(value or 0):,}"


def number(value: Any, digits: int = 4) -> str:
    """Any value of a profile or metric: numbers with that many significant digits, the rest as text.

    >>> number(0.0312345), number(1234567.8), number(2.0), number(1.5e-9), number("2025-01-01T08:30:00+00:00")
    ('0.03123', '1,234,568', '2', '1.5e-09', '2025-01-01 08:30:00')
    """
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        moment = TIME.fullmatch(str(value))
        return f"{moment[1]} {moment[2]}" if moment else str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) < 1e-4 or abs(value) >= 1e15:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def score(value: Any) -> str:
    """A metric with three decimals, so that a column of them lines up.

    >>> score(0.75), score(0.0004), score(12345.6), score("high")
    ('0.750', '< 0.001', '12,346', 'high')
    """
    if isinstance(value, float) and 0 < value < 0.0005:
        return "< 0.001"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3f}"
    return number(value)


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one as a percentage; what is not nothing never reads as 0 %.

    >>> percent(0.1234), percent(0.00001), percent(1.0)
    ('12.3 %', '< 0.1 %', '100 %')
    """
    if not _finite(share) or share is None:
        return NOTHING
    smallest = 10.0**-digits
    if 0 < share * 100 < smallest / 2:
        return f"< {smallest:g} %"
    text = f"{share * 100:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def duration(seconds: float | None) -> str:
    """A time span with two or three digits.

    >>> duration(0.0123), duration(4.21), duration(42.1), duration(185), duration(7630)
    ('0.01 s', '4.2 s', '42 s', '3 min 05 s', '2 h 07 min')
    """
    if not _finite(seconds) or seconds is None:
        return NOTHING
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(byte_count: float | None) -> str:
    """Bytes in units of 1000.

    >>> size(812), size(3_400_000), size(56_000_000_000)
    ('812 B', '3.4 MB', '56 GB')
    """
    if not _finite(byte_count) or byte_count is None:
        return NOTHING
    amount, unit = float(byte_count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if amount >= 9.95 or unit == "B" else f"{amount:.1f} {unit}"


def rate(per_second: float | None, unit: str = "rows") -> str:
    """How fast, in thousands or millions where there are as many.

    >>> rate(54_321), rate(1_230_000, "samples"), rate(512)
    ('54 k rows/s', '1.2 M samples/s', '512 rows/s')
    """
    if not _finite(per_second) or per_second is None:
        return NOTHING
    for limit, letter in ((999_500, "M"), (999.5, "k")):
        if per_second >= limit:
            amount = per_second / (1e6 if letter == "M" else 1e3)
            return f"{amount:.0f} {letter} {unit}/s" if amount >= 9.95 else f"{amount:.1f} {letter} {unit}/s"
    return f"{per_second:.0f} {unit}/s"


def plural(amount: int, noun: str, nouns: str | None = None) -> str:
    """An amount with its noun.

    >>> plural(1, "table"), plural(1200, "duplicate"), plural(2, "weight is", "weights are")
    ('1 table', '1,200 duplicates', '2 weights are')
    """
    return f"{count(amount)} {noun if amount == 1 else nouns or noun + 's'}"


def short(digest: str | None, length: int = 8) -> str:
    """The first characters of a digest.

    >>> short("9c1e55d0aa42ff")
    '9c1e55d0…'
    """
    if not digest:
        return NOTHING
    return digest if len(digest) <= length else digest[:length] + "…"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
