"""Formats of dates and timestamps, as for strptime: which are known, and the expression that finds their parts in a text."""

import functools
import re

from pipelines import epochs
from pipelines.errors import SpecError

__all__ = ["MONTHS", "check_format", "regex"]

_ISO_DATE = r"^(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})$"
_OFFSET = r"(?P<z>Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
_ISO_TIMESTAMP = (
    _ISO_DATE[:-1]
    + r"[ T](?P<H>[0-9]{2}):(?P<M>[0-9]{2})(?::(?P<S>[0-9]{2})(?:\.(?P<f>[0-9]{1,6})0*)?)?"
    + _OFFSET
    + "?$"
)
MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_NUMBERS = "YymdjHIMSf"
_GROUPS = {
    "Y": r"(?P<Y>[0-9]{4})",
    "y": r"(?P<y>[0-9]{2})",
    "b": f"(?P<b>(?i:{'|'.join(month[:3] for month in MONTHS)}))",
    "B": f"(?P<B>(?i:{'|'.join(MONTHS)}))",
    "p": "(?P<p>(?i:am|pm))",
    "j": r"(?P<j>[0-9]{1,3})",
    "f": r"(?P<f>[0-9]{1,6})",
    "z": _OFFSET,
    **{letter: f"(?P<{letter}>[0-9]{{1,2}})" for letter in "mdHIMS"},
}


def check_format(text: str, *, date: bool) -> None:
    """Raises: SpecError if the format has a directive that is not known, twice or missing, or says the time of a date."""
    if text in epochs.FORMATS:
        if date:
            raise SpecError(f"format {text!r}: is of a timestamp, and the type is date")
        return
    letters = re.findall(r"%(.?)", text, re.DOTALL)
    known = [*_GROUPS, "%"]
    problem = None
    for letter in letters:
        if letter not in known:
            problem = f"%{letter} is not known; known: {' '.join('%' + one for one in known)}"
        elif letter != "%" and letters.count(letter) > 1:
            problem = f"%{letter} is there twice"
        elif date and letter in "HIpMSfz":
            problem = f"%{letter} is of a time, and the type is date"
    for one_of in ("Yy", "j") if "j" in letters else ("Yy", "mbB", "d"):
        if sum(letter in one_of for letter in letters if letter) != 1:
            problem = problem or f"needs exactly one of {' '.join('%' + letter for letter in one_of)}"
    if "j" in letters and set(letters) & set("mbBd"):
        problem = problem or "%j is the day of the year, without a month or a day"
    if ("I" in letters) != ("p" in letters) or ("I" in letters and "H" in letters):
        problem = problem or "%I and %p belong together, in the place of %H"
    if problem:
        raise SpecError(f"format {text!r}: {problem}")


@functools.cache
def regex(pattern: str | None, *, date: bool) -> str:
    """The expression of a format (None: ISO 8601), with a group for each part, named by its letter."""
    if pattern is None:
        return _ISO_DATE if date else _ISO_TIMESTAMP
    pieces = re.findall(r"%.|[^%]+", pattern, re.DOTALL)
    numbers = [piece[0] == "%" and piece[1] in _NUMBERS for piece in pieces]
    expression = ""
    for i, piece in enumerate(pieces):
        if piece[0] != "%" or piece == "%%":
            expression += re.escape("%" if piece == "%%" else piece)
            continue
        touches = any(numbers[i] and numbers[near] for near in (i - 1, i + 1) if 0 <= near < len(pieces))
        group = _GROUPS[piece[1]]
        expression += group.replace("{1,2}", "{2}").replace("{1,3}", "{3}") if touches else group
    return f"^{expression}$"
