"""A column of text read at once where all of it is plain, else in halves down to pieces that are read value by value.

Reading at once is ten times as fast, and one bad text in a column would cost all of it. The answer is the same.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

__all__ = ["in_halves"]

_LEAF = 128  # texts; 32 to 512 are as fast. A million rows with 0.3 % bad cells: 1.6 s, read by value 2.0 s


def in_halves(
    text: pa.StringArray,
    at_once: Callable[[pa.StringArray], pa.Array | None],
    by_value: Callable[[pa.StringArray], tuple[pa.Array, np.ndarray]],
) -> tuple[pa.Array, np.ndarray]:
    """The values, null where there is none, and the row numbers of the texts that do not fit.

    `at_once` gives the values of a piece, or None if any text of it may not fit; `by_value` reads all such pieces.
    """
    values: list[pa.Array | None] = []
    leaves: list[tuple[int, int]] = []
    waiting = [(0, len(text))]
    while waiting:
        start, stop = waiting.pop()
        found = at_once(text.slice(start, stop - start))
        if found is None and stop - start > _LEAF:
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
            continue
        values.append(found)
        if found is None:
            leaves.append((start, stop))
    if not leaves:
        return _together(values), np.zeros(0, np.int64)
    rows = np.concatenate([np.arange(start, stop) for start, stop in leaves])
    read, bad = by_value(_together([text.slice(start, stop - start) for start, stop in leaves]))
    at = 0
    pieces = iter(leaves)
    for place, found in enumerate(values):
        if found is None:
            start, stop = next(pieces)
            values[place] = read.slice(at, stop - start)
            at += stop - start
    return _together(values), rows[bad]


def _together(pieces: list[pa.Array]) -> pa.Array:
    return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)
