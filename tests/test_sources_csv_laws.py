"""CSV laws: what is written is what is read, for every cut and every chunk; any bytes end in rows or an InputError."""

import csv
import io
import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.sources import records, rows
from tests.sources_reading import read_all, read_once, values, write

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
    ['"', ",", "\n", "\r\n", '""', "a\rb", " "]
)


@st.composite
def tables(draw):
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.tuples(*[texts] * width), min_size=1, max_size=12))
    ends = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return width, rows, ends, draw(st.sampled_from(",;\t|")), draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(tables())
def test_what_is_written_is_what_is_read_for_every_cut(tmp_path_factory, drawn):
    width, rows, end, delimiter, always = drawn
    names = [f"c{i}" for i in range(width)]
    always |= any(
        end in text for row in rows for text in row for end in "\r\n"
    )  # csv.writer quotes its own line end only
    quoting = csv.QUOTE_ALL if always else csv.QUOTE_MINIMAL
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([names, *rows])
    path = write(tmp_path_factory.mktemp("csv") / "in.csv", out.getvalue().encode())

    found = read_all(
        dict.fromkeys(names, "string"), path, cuts=(1, 7, 1 << 24), kind="csv", delimiter=delimiter, null=()
    )

    assert values(found) == rows
    assert found.rejected.num_rows == 0


csv_bytes = st.lists(
    st.sampled_from(
        [
            b'"',
            b",",
            b"\n",
            b"\r",
            b"\r\n",
            b"1",
            b"2.5",
            b"a",
            b"\0",
            b"\xff",
            "é".encode(),
            b"-",
            b" ",
            b'""',
            b'"x"',
        ]
    )
    | st.binary(min_size=1, max_size=2),
    max_size=60,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(
    csv_bytes,
    st.sampled_from(['"', ""]),
    st.sampled_from(["utf-8", "latin-1", "gb18030", "utf-16-le"]),
    st.sampled_from([3, 1 << 20]),
)
def test_any_bytes_end_in_rows_or_an_input_error_and_no_record_is_lost(
    tmp_path_factory, content, quote, encoding, limit
):
    path = write(tmp_path_factory.mktemp("csv") / "in.csv", b"a,b\n".decode().encode(encoding) + content)
    settings = {"kind": "csv", "quote": quote, "encoding": encoding, "max_field_bytes": limit}
    outcomes = []
    for size in (1, 7, 1 << 24):
        try:
            rows = read_once({"a": "float64", "b": "string"}, path, part_bytes=size, **settings)
        except InputError as error:
            outcomes.append(str(error))
            continue
        outcomes.append((rows.kept.to_pylist(), rows.rejected.to_pylist()))
        if encoding != "utf-16-le":
            assert rows.kept.num_rows + rows.rejected.num_rows == _records(content, quote)
        assert not any(
            isinstance(value, float) and math.isnan(value) for row in values(rows) for value in row
        )
    assert outcomes[0] == outcomes[1] == outcomes[2]


def _records(content, quote):
    """Records by the rule of framing, letter by letter."""
    count, odd, begin = 0, False, True
    data = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for letter in data:
        if quote and letter == 34:
            odd = not odd
        if letter == 10 and not odd:
            count += not begin
            begin = True
        else:
            begin = False
    return count + (not begin)


@settings(max_examples=100, deadline=None)
@given(csv_bytes, st.integers(1, 20))
@example(b"a\n" + b"b\r" * 20, 1)
def test_blocks_give_the_same_records_for_every_size_of_chunk(content, size):
    framing = records.Framing("in.csv", 34, 44, True, 25)

    def all_records(chunks):
        found = []
        try:
            for one in records.blocks(chunks, framing, line=1, offset=0):
                if isinstance(one, records.Long):
                    found.append((one.head, one.line, one.offset, one.lines))
                    continue
                start = 0
                for end, line in zip(one.ends.tolist(), one.lines.tolist(), strict=False):
                    found.append((one.data[start:end], line, one.offset + start))
                    start = end
        except InputError as error:
            found.append(str(error))
        return found

    pieces = [content[i : i + size] for i in range(0, len(content), size)]

    assert all_records(pieces) == all_records([content])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([b"a\n", b"\r\n", b"\n", b"b\r", b"\xff\n", "é\r\n".encode(), b""]), max_size=8),
    st.sets(st.integers(0, 7)),
    st.sampled_from(["utf-8", "latin-1"]),
)
def test_the_text_of_many_records_is_that_of_each(found, chosen, encoding):
    chosen = np.array(sorted(at for at in chosen if at < len(found)), np.int64)
    ends = np.cumsum([len(one) for one in found], dtype=np.int64)
    piece = rows.Piece(None, None, records.Block(b"".join(found), ends, ends, 0), encoding)

    texts = piece.raw(chosen)

    assert texts.to_pylist() == [rows.shown(found[at], encoding) for at in chosen.tolist()]
