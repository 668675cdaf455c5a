"""What may be odd in a column of text that is plain elsewhere: found by its bytes, so that the rest can be read at once.

One bad text would else cost the whole column. Here it costs itself, and one look at all bytes of the column.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import numpy_of

__all__ = ["bounds", "has_others", "matching", "odd_numbers", "without"]

_FEW = 64  # texts that Python's expressions read before RE2 is ready
_LONG = 255  # bytes: points of longer texts are not counted


def odd_numbers(text: pa.StringArray, *, digits: int, point: bool) -> np.ndarray:
    """Rows of texts that are not just a minus or none and up to so many digits, with or without a point among them.

    Texts of more than 255 bytes are odd, too.
    """
    starts, stops, codes = bounds(text)
    sizes = stops - starts
    plain = sizes <= _LONG
    signed = (np.take(codes, starts, mode="clip") == ord("-")) & (sizes > 0) if len(codes) else ~plain
    others = _others(codes, point=point)
    others[starts[signed]] = False
    plain[np.searchsorted(stops, np.flatnonzero(others), "right")] = False
    sizes -= signed
    if point:
        counted = np.zeros(len(codes) + 1, np.int8)  # NumPy sums uint8 four times as slowly
        np.cumsum((codes == ord(".")).view(np.int8), dtype=np.int8, out=counted[1:])
        points = (np.take(counted, stops) - np.take(counted, starts)).view(np.uint8)
        plain &= points <= 1
        sizes -= points
    plain &= (sizes > 0) & (sizes <= digits)
    if text.null_count:
        plain |= numpy_of(pc.is_null(text))
    return np.flatnonzero(~plain)


def has_others(text: pa.StringArray, *, point: bool) -> bool:
    """Whether there are letters that the numbers of a type have not: others than digits and minus, for floats points, e and E."""
    codes = bounds(text)[2]
    others = _others(codes, point=point)
    others &= codes != ord("-")
    return bool(codes[others].tobytes().translate(None, b"eE" if point else b""))


def _others(codes: np.ndarray, *, point: bool) -> np.ndarray:
    """Where there are letters that are no digits and no points: some passes over bytes, 16 to 64 of them at once."""
    others: np.ndarray = (codes - np.uint8(ord("0"))) > 9
    if point:
        others &= codes != ord(".")
    return others


def bounds(text: pa.StringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each text starts and ends among the bytes of the column, and these."""
    _, offsets, data = text.buffers()
    if data is None or not len(text):
        return np.zeros(len(text), np.int32), np.zeros(len(text), np.int32), np.zeros(0, np.uint8)
    ends = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    codes = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    ends = ends - ends[0]
    return ends[:-1], ends[1:], codes


def matching(text: pa.StringArray, expression: str) -> pa.BooleanArray:
    """Which texts an expression matches from begin to end; null where there is none."""
    if len(text) > _FEW:
        return pc.match_substring_regex(text, expression)
    found = re.compile(expression, re.ASCII).fullmatch
    return pa.array([None if one is None else found(one) is not None for one in text.to_pylist()], pa.bool_())


def without(text: pa.StringArray, rows: np.ndarray) -> pa.StringArray:
    """The texts, null in these rows; their bytes are not copied."""
    if not len(rows):
        return text
    size = (text.offset + len(text) + 7) // 8
    valid, *others = text.buffers()
    bits = np.full(size, 255, np.uint8) if valid is None else np.frombuffer(valid, np.uint8, size).copy()
    places = rows + text.offset
    np.bitwise_and.at(bits, places >> 3, ~np.left_shift(1, places & 7).astype(np.uint8))
    return pa.Array.from_buffers(text.type, len(text), [pa.py_buffer(bits), *others], offset=text.offset)
