"""Times of one width are read as the reader of all formats reads them, text by text."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import timestamps
from pipelines.digits import layout, local_times

PATTERNS = ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y", "%Y%m%dT%H%M", "%H:%M %d/%m/%Y"]
ZONES = ["UTC", "Europe/Berlin"]


def written(pattern):
    times = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9998, 1, 1)).map(  # noqa: DTZ001
        lambda time: time.strftime(pattern).zfill(4)
    )
    damaged = st.tuples(times, st.integers(0, 12), st.sampled_from("0123456789 :-x\u0663")).map(
        lambda given: given[0][: given[1]] + given[2] + given[0][given[1] + 1 :]
    )
    return (
        times
        | damaged
        | st.none()
        | st.sampled_from(["", "2024-02-30 00:00:00", "2023-02-29 00:00:00", " 1.01.2024"])
    )


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("zone", ZONES)
@given(data=st.data())
def test_every_text_is_read_as_by_the_reader_of_all_formats(pattern, zone, data):
    text = pa.array([None, *data.draw(st.lists(written(pattern), max_size=12))], pa.string())[1:]

    values, misfits = timestamps.timestamps(text, pattern, zone)
    slow, others = timestamps._by_value(
        text, lambda distinct: timestamps._timestamps(distinct, pattern, zone)
    )

    assert values.equals(slow)
    assert misfits.tolist() == others.tolist()


def test_what_is_read_is_what_python_reads():
    texts = ["2024-02-29 23:59:59", "1969-12-31 00:00:01", "2000-01-01 12:00:00"]

    local, read = local_times(pa.array(texts), layout("%Y-%m-%d %H:%M:%S"))

    expected = [int(datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp()) * 1_000_000 for one in texts]
    assert local.tolist() == expected
    assert read.all()


@pytest.mark.parametrize(
    "pattern", ["%y-%m-%d", "%d %b %Y", "%Y-%j", "%H:%M", "%Y-%m-%d %z", "%Y/%Y-%m-%d", "%m\u2013%d %Y"]
)
def test_a_format_without_one_width_is_left_alone(pattern):
    assert layout(pattern) is None


def test_no_text_and_short_texts_are_no_trouble():
    shape = layout("%Y-%m-%d %H:%M:%S")

    for texts in ([], [""], ["x", None], [None]):
        local, read = local_times(pa.array(texts, pa.string()), shape)
        assert local.dtype == np.int64
        assert not read.any()
