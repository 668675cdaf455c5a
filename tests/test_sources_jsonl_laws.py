"""JSON lines laws: what is written is what is read; lines read at once are those read one by one; no line is lost."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import jsonl
from pipelines.sources.inputs import Part
from pipelines.sources.records import Block
from pipelines.sources.rows import Piece
from tests.sources_reading import declared, read_all, read_once, rejects, values, write

AB = {"a": "int64", "b": "string"}


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
objects = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-(2**63), 2**63 - 1),
        "x": st.floats(allow_nan=False, allow_infinity=False),
        "s": texts,
        "b": st.booleans() | st.none(),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(objects, min_size=1, max_size=12), st.booleans())
def test_what_is_written_is_what_is_read_for_every_cut(tmp_path_factory, rows, ascii_only):
    content = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()
    path = write(tmp_path_factory.mktemp("jsonl") / "in.jsonl", content)

    found = read_all(
        {"i": "int64", "x": "float64", "s": "string", "b": "bool"}, path, cuts=(1, 7, 1 << 24), kind="jsonl"
    )

    assert values(found) == [tuple(row.get(key) for key in "ixsb") for row in rows]


pieces = st.lists(
    st.sampled_from(
        [
            b"{",
            b"}",
            b'"a"',
            b":",
            b",",
            b"1",
            b"\n",
            b'"',
            b"\\ud800",
            b"NaN",
            b"[",
            b"]",
            b"\xff",
            b'{"a":1}\n',
            b"2.5",
            b"null",
            b"\r\n",
        ]
    ),
    max_size=40,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(pieces)
def test_any_bytes_end_in_rows_and_no_line_is_lost(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("jsonl") / "in.jsonl", content)

    rows = read_all({"a": "float64"}, path, cuts=(1, 7, 1 << 24), kind="jsonl", allow_empty=True)

    assert rows.kept.num_rows + rows.rejected.num_rows == sum(
        not line.isspace() for line in content.split(b"\n") if line
    )
    assert all(value is None or math.isfinite(value) for (value,) in values(rows))


SCALARS = [
    *[
        "1",
        "-0",
        "2.0",
        "1e2",
        "1e309",
        "-1e39",
        "0.1",
        "127",
        "128",
        "-129",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e+5",
        "NaN",
        "-Infinity",
    ],
    *[
        "9007199254740993",
        "9223372036854775808",
        "null",
        "true",
        "false",
        "True",
        "0x1",
        "1_0",
        "tru",
        "1 2",
        "1,",
        "",
        "/**/1",
        "\t1",
    ],
    *[
        '""',
        '"x"',
        '"7"',
        r'"\u0041"',
        r'"\u0000"',
        r'"\ud800"',
        r'"\ud83d\ude00"',
        r'"\udc00"',
        r'"\x"',
        '"a\tb"',
        '"é"',
        '"]}"',
        r'"\""',
    ],
    *[
        '"2024-02-29"',
        '"2023-02-29"',
        "'x'",
        "{}",
        "[]",
        "[1]",
        '{"c":1}',
        '{"c":"x"}',
        '{"c":null}',
        '{"c":"x","c":"y"}',
    ],
    *['{"d":1}', '{"e":5,"c":null}', "{" * 70, '{"c":"x",}', '{"c":"x"}}'],
]
KEYS = ['"a"', '"b"', '"d"', '"o"', '"ok"', '"s"', r'"\u0061"', '"z"', '"a "', "a", '"A"', '"o.c"', '""']
WHOLE = [
    '{"a":1}{"a":2}',
    '{"a":1',
    '"b":"x"}',
    "",
    "  ",
    "1",
    "[{}]",
    '{"a":1} x',
    ' {"a":1}',
    '{"a":1}\r',
    '{"o":{"c":1}',
    "}",
    "{",
    '{"a":\r1}',
    "{,}",
]
members = st.tuples(st.sampled_from(KEYS), st.sampled_from(SCALARS)).map(":".join)
json_lines = st.lists(members, max_size=3).map(lambda some: "{" + ",".join(some) + "}") | st.sampled_from(
    WHOLE
)
COLUMNS = {
    "a": {"type": "int8", "range": [-5, 127]},
    "b": "float32",
    "d": "date",
    "x": "string",
    "y": "int16",
    "ok": "bool",
    "s": "string",
}
PATHS = {"x": "o.c", "y": "o.e"}
ONCE = declared(COLUMNS, kind="jsonl", path="in.jsonl", flatten=PATHS)
LOOSE = [
    declared(COLUMNS, kind="jsonl", path="in.jsonl", flatten=PATHS, **settings)
    for settings in ({"extra": "ignore"}, {"ignore": ("z", "a ", "o.d"), "extra": "error"})
]
MISSING = declared(
    {
        name: {**(one if isinstance(one, dict) else {"type": one}), "trim": True}
        for name, one in COLUMNS.items()
    },
    kind="jsonl",
    path="in.jsonl",
    flatten=PATHS,
    null=("x", "", "null"),
)


def once_and_one_by_one(written, source=ONCE):
    data = [f"{line}\n".encode() for line in written]
    block = Block(b"".join(data), np.cumsum([len(line) for line in data]), np.arange(1, len(data) + 2), 0)
    piece = Piece(source, Part(0, "in.jsonl", 0, 1, 1, 1, 1), block, "utf-8")
    return jsonl._at_once(piece, 0, len(data)), jsonl._one_by_one(piece, 0, len(data))


def check_at_once(written, source=ONCE):
    once, one_by_one = once_and_one_by_one(written, source)
    if once is not None:
        assert once.kept.equals(one_by_one.kept)
        assert one_by_one.rejected is None
        assert once.notes == one_by_one.notes
    return once is not None


@pytest.mark.parametrize("source", [ONCE, MISSING])
def test_any_value_of_any_key_is_read_at_once_as_it_is_alone(source):
    taken = sum(check_at_once(['{"a":1}', f"{{{key}:{value}}}"], source) for key in KEYS for value in SCALARS)

    assert 40 < taken < 100  # of 800: pyarrow is asked only where all is well


@settings(max_examples=400, deadline=None)
@given(st.lists(json_lines, min_size=1, max_size=4))
def test_lines_read_at_once_are_those_read_one_by_one(written):
    check_at_once(written)


@pytest.mark.parametrize("source", LOOSE)
def test_keys_that_are_ignored_are_read_at_once_as_they_are_alone(source):
    taken = sum(
        check_at_once(['{"a":1,"o":{"d":"x"}}', f"{{{key}:{value},{again}}}"], source)
        for key in ('"z"', '"o"')
        for value in SCALARS
        for again in ('"a":2', '"z":3', r'"\u007a":{}', '"o":{"d":1,"c":"x"}', '"o":{"d":1,"d":2}')
    )

    assert 20 < taken < 300  # of 550: pyarrow is asked only where all is well


@settings(max_examples=200, deadline=None)
@given(st.lists(json_lines, min_size=1, max_size=4), st.sampled_from([*LOOSE, MISSING]))
def test_lines_with_ignored_keys_read_at_once_are_those_read_one_by_one(written, source):
    check_at_once(written, source)


@pytest.mark.parametrize("source", LOOSE)
def test_an_ignored_value_of_a_million_levels_ends_no_process(source):
    once, one_by_one = once_and_one_by_one(['{"a":1}', '{"z":' + "[" * 500_000 + "]" * 500_000 + "}"], source)

    assert once is None
    assert one_by_one.rejected["message"].to_pylist() == ["more than 64 levels of objects and lists"]


@pytest.mark.parametrize(("null", "kind"), [("7", "int8"), ("-0.5", "float32"), ("True", "bool")])
def test_numbers_that_mean_missing_are_left_to_the_reader_of_lines(null, kind):
    source = declared({"a": kind}, kind="jsonl", path="in.jsonl", null=(null,))
    once, one_by_one = once_and_one_by_one([f'{{"a":{null.lower()}}}'], source)

    assert once is None
    assert one_by_one.kept["a"].to_pylist() == [None]


def test_good_lines_beside_bad_ones_are_read_at_once(tmp_path, monkeypatch):
    good = [f'{{"a":{i},"b":"n{i}"}}\n' for i in range(3000)]
    good[1234] = "garbage\n"
    one_by_one = []
    slow = jsonl._one_by_one
    monkeypatch.setattr(
        jsonl,
        "_one_by_one",
        lambda piece, first, stop: one_by_one.append((first, stop)) or slow(piece, first, stop),
    )

    rows = read_once(AB, write(tmp_path / "in.jsonl", "".join(good)), kind="jsonl")

    assert rows.kept["a"].to_pylist() == [i for i in range(3000) if i != 1234]
    assert [row[0] for row in rejects(rows)] == [1235]
    [(first, stop)] = [(first, stop) for first, stop in one_by_one if first <= 1234 < stop]
    assert stop - first <= 32
    assert sum(stop - first for first, stop in one_by_one) < 200
