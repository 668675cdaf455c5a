"""Reading in halves is reading value by value, whatever stands where."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.halves import in_halves


def at_once(text):
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return None


def by_value(text):
    fine = pc.fill_null(pc.match_substring_regex(text, "^[0-9]+$"), fill_value=False)
    bad = np.flatnonzero([value is not None and not value.isdigit() for value in text.to_pylist()])
    return pc.cast(pc.if_else(fine, text, pa.scalar(None, pa.string())), pa.int64()), bad


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1500),
    st.sets(st.integers(0, 1499), max_size=12),
    st.sets(st.integers(0, 1499), max_size=5),
)
def test_halves_are_the_whole(count, bad, missing):
    values = [None if at in missing else "x" if at in bad else str(at) for at in range(count)]
    text = pa.array(["0", *values], pa.string()).slice(1)

    found, rows = in_halves(text, at_once, by_value)

    assert found.to_pylist() == [None if at in missing | bad else at for at in range(count)]
    assert rows.tolist() == [at for at in sorted(bad - missing) if at < count]


def test_what_is_plain_is_read_in_one_go():
    calls = []

    def counted(text):
        calls.append(len(text))
        return at_once(text)

    in_halves(pa.array([str(at) for at in range(10_000)]), counted, by_value)

    assert calls == [10_000]
