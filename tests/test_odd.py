"""What is odd in a column of text is found whatever stands around it, and the column reads as its texts do one by one."""

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import literals
from pipelines.odd import matching, odd_numbers

texts = (
    st.text("0123456789.-", max_size=6)
    | st.sampled_from(
        ["NA", "1e5", "12.3.4", "--5", "5-", "1-2", ".", "-", "-.", "", "\u0665", "1\n", "9" * 2000]
    )
    | st.none()
)


@settings(max_examples=300)
@given(st.lists(texts, max_size=12), st.integers(0, 3), st.booleans())
def test_odd_are_those_that_are_not_plain_numbers(values, skipped, point):
    column = pa.array(["x", "7", "-"][:skipped] + values, pa.string()).slice(min(skipped, 3))
    plain = re.compile(r"-?[0-9]*\.?[0-9]*" if point else r"-?[0-9]*", re.ASCII)

    def is_plain(text):
        return text is None or (plain.fullmatch(text) and 0 < sum(map(str.isdigit, text)) <= 4)

    assert odd_numbers(column, digits=4, point=point).tolist() == [
        row for row, text in enumerate(values) if not is_plain(text)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 49), texts), max_size=40),
    st.sampled_from(["int8", "int64", "float32", "float64"]),
)
def test_a_column_reads_as_its_texts_do_alone(damage, kind):
    column = [str(row % 100) for row in range(50)]
    for row, text in damage:
        column[row] = text
    read = literals.reader(kind)

    values, bad = read(pa.array(column, pa.string()))

    alone = [read(pa.array([text], pa.string())) for text in column]
    assert values.to_pylist() == [found[0].as_py() for found, _ in alone]
    assert bad.tolist() == [row for row, (_, wrong) in enumerate(alone) if len(wrong)]


@pytest.mark.parametrize("expression", [literals._INT, literals._SMALL_INT, literals._FLOAT])
@given(st.lists(texts | st.text(max_size=4), max_size=8))
def test_few_texts_are_matched_as_many_are(expression, values):
    column = pa.array(values, pa.string())

    assert matching(column, expression).equals(pc.match_substring_regex(column, expression))
