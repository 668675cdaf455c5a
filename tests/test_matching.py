"""Partners by key: integers close together are looked up by place, with the answer of the hash."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.matching import index_of

NEAR = st.none() | st.integers(-20, 60)
FAR = st.none() | st.sampled_from([-(2**63), -1, 0, 7, 2**63 - 1])


def column(values, kind):
    if pa.types.is_date32(kind):
        values = [None if one is None else date(2024, 1, 1) + timedelta(days=one) for one in values]
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.date32()], ids=str)
@given(theirs=st.lists(NEAR, min_size=1, max_size=30), ours=st.lists(NEAR, max_size=30))
def test_keys_close_together_are_looked_up_by_place(kind, theirs, ours):
    index = index_of([column(theirs, kind)])
    found = index.partners([column(ours, kind)])

    by_hash = replace(index, direct=None).partners([column(ours, kind)])

    assert index.direct is not None or not any(one is not None for one in theirs)
    met = by_hash[1] > 0
    assert np.array_equal(found[1], by_hash[1])
    assert np.array_equal(found[0][met], by_hash[0][met])


@given(theirs=st.lists(FAR, min_size=1, max_size=9), ours=st.lists(FAR | NEAR, max_size=9))
def test_keys_far_apart_find_what_equals_them(theirs, ours):
    index = index_of([column(theirs, pa.int64())])

    _, count = index.partners([column(ours, pa.int64())])

    assert count.tolist() == [0 if one is None else theirs.count(one) for one in ours]
