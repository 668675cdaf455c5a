"""Times in text of one width, as `%Y-%m-%d %H:%M:%S`: read from their bytes, all at once.

A regular expression costs 0.5 us a text, this 0.05. It decides nothing of its own: what is not digit for digit as the
format says is left to the reader that knows all formats.
"""

import functools
import re

import numpy as np
import pyarrow as pa

__all__ = ["Layout", "layout", "local_times"]

_WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_DAY_US = 86_400_000_000


class Layout:
    """Where the digits of each part of a time lie, and what lies between them."""

    def __init__(self, places: dict[str, int], between: dict[int, int], width: int) -> None:
        self.places, self.between, self.width = places, between, width


@functools.cache
def layout(pattern: str) -> Layout | None:
    """The layout of a format; None if its texts have no fixed width or do not say a whole day."""
    places: dict[str, int] = {}
    between: dict[int, int] = {}
    width = 0
    for match in re.finditer(r"%(.)|(.)", pattern, re.DOTALL):
        letter, literal = match.groups()
        if letter is None:
            if not literal.isascii():
                return None
            between[width] = ord(literal)
            width += 1
        elif letter in _WIDTHS and letter not in places:
            places[letter] = width
            width += _WIDTHS[letter]
        else:
            return None
    return Layout(places, between, width) if {"Y", "m", "d"} <= places.keys() else None


def local_times(text: pa.StringArray, shape: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since 1970 by the clock that is meant, and which texts are read. Shapes: (n,) each."""
    count = len(text)
    _, offsets, data = text.buffers()
    if data is None or not count:
        return np.zeros(count, np.int64), np.zeros(count, bool)
    bounds = np.frombuffer(offsets, np.int32)[text.offset : text.offset + count + 1]
    fits = np.diff(bounds) == shape.width
    if text.null_count:
        fits &= text.is_valid().to_numpy(zero_copy_only=False)
    letters = np.frombuffer(data, np.uint8)
    if fits.all():
        cells = letters[bounds[0] : bounds[0] + count * shape.width].reshape(count, shape.width)
    else:
        starts = np.where(fits, bounds[:-1], 0)
        fits &= starts + shape.width <= len(letters)
        starts = np.where(fits, starts, 0)
        if len(letters) < shape.width:
            return np.zeros(count, np.int64), np.zeros(count, bool)
        cells = letters[starts[:, None] + np.arange(shape.width)]
    cells = np.ascontiguousarray(cells.T)  # one row for each position: each is read from end to end
    for place, letter in shape.between.items():
        fits &= cells[place] == letter
    parts = {letter: _number(cells, place, _WIDTHS[letter], fits) for letter, place in shape.places.items()}
    zero = np.zeros(count, np.int64)
    year, month, day = parts["Y"], parts["m"], parts["d"]
    hour, minute, second = (parts.get(letter, zero) for letter in "HMS")
    fits &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    fits &= (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(fits, (year - 1970) * 12 + month - 1, 0)
    first = months.min(initial=0)
    starts_of = np.arange(first, months.max(initial=0) + 2).astype("datetime64[M]").astype("datetime64[D]")
    days_of = starts_of.astype(np.int64)
    place = months - first
    fits &= day <= (days_of[1:] - days_of[:-1])[place]
    days = days_of[place] + day - 1
    return np.where(fits, days * _DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000, 0), fits


def _number(cells: np.ndarray, place: int, width: int, fits: np.ndarray) -> np.ndarray:
    """The number in some positions; texts with anything else there are taken out of `fits`."""
    total = np.zeros(cells.shape[1], np.int64)
    for position in range(place, place + width):
        digits = cells[position] - np.uint8(48)
        fits &= digits <= 9
        total = total * 10 + digits
    return total
