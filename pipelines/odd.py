"""What may be odd in a column of text that is plain elsewhere: found by its bytes, so that the rest can be read at once.

One bad text would else cost the whole column. Here it costs itself, and one look at all bytes of the column.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import numpy_of

__all__ = ["bounds", "matching", "odd_numbers", "without"]

_FEW = 64  # texts that Python's expressions read before RE2 is ready
_POINT, _MINUS, _OTHER = 1, 1 << 10, 1 << 20  # so many of each in a text of less than 1,024 bytes, in one sum
_WEIGHTS = np.full(256, _OTHER, np.uint32)
_WEIGHTS[ord("0") : ord("9") + 1] = 0
_WEIGHTS[ord(".")], _WEIGHTS[ord("-")] = _POINT, _MINUS


def odd_numbers(text: pa.StringArray, *, digits: int, point: bool) -> np.ndarray:
    """Rows of texts that are not just a minus or none and up to so many digits, with or without a point among them."""
    starts, stops, codes = bounds(text)
    sums = np.empty(len(codes) + 1, np.uint32)
    sums[0] = 0
    np.cumsum(np.take(_WEIGHTS, codes), out=sums[1:])
    found = (sums[stops] - sums[starts]).view(np.int32)
    minus = found >= _MINUS
    plain = (found & ~(_MINUS | _POINT if point else _MINUS)) == 0
    sizes = stops - starts
    sizes -= minus
    sizes -= found & _POINT
    plain &= (sizes > 0) & (sizes <= digits)
    if minus.any():
        plain &= ~minus | (codes[np.minimum(starts, len(codes) - 1)] == ord("-"))
    if text.null_count:
        plain |= numpy_of(pc.is_null(text))
    return np.flatnonzero(~plain)


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
    """The texts, null in these rows."""
    mask = np.zeros(len(text), bool)
    mask[rows] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, text.type), text)
