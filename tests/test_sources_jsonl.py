"""JSON lines: a line is an object with the declared keys and types, or it is set aside with its text, however the file is cut."""

import gzip

import pytest

from pipelines.errors import InputError, SpecError
from tests.sources_reading import declared, lines, read_all, read_once, rejects, values, write

AB = {"a": "int64", "b": "string"}


def read(tmp_path, content, columns=AB, name="in.jsonl", **settings):
    return read_all(columns, write(tmp_path / name, content), kind="jsonl", **settings)


def test_objects_become_rows_and_missing_keys_null(tmp_path):
    rows = read(tmp_path, b'{"a":1,"b":"x"}\r\n\n{"b":"","a":-2}\n   \n{"b":null}')

    assert values(rows) == [(1, "x"), (-2, ""), (None, None)]
    assert lines(rows) == [1, 3, 5]
    assert rows.kept["_offset"].to_pylist() == [0, 18, 38]


def test_b26_lines_that_are_cut_or_garbage_are_set_aside_with_their_line(tmp_path):
    rows = read(tmp_path, b'{"a":1}\nnot json\n{"a":2}\n[1]\n7\n{"a":2,"b":')

    assert values(rows) == [(1, None), (2, None)]
    assert rejects(rows) == [
        (2, "json", None, "not JSON: Expecting value at character 0"),
        (4, "json", None, "a list found, one object per line expected"),
        (5, "json", None, "number 7 found, one object per line expected"),
        (6, "json", None, "not JSON: Expecting value at character 11"),
    ]
    assert rows.rejected["raw"].to_pylist() == ["not json", "[1]", "7", '{"a":2,"b":']


def test_b27_values_of_another_type_are_set_aside(tmp_path):
    content = b'{"a":"7"}\n{"a":2.7}\n{"a":2.0}\n{"a":true}\n{"b":7}\n{"b":["x"]}\n{"b":{"c":1}}\n{"a":9007199254740993}\n{"a":1e2}\n'

    rows = read(tmp_path, content)

    assert values(rows) == [(9007199254740993, None)]
    assert rejects(rows) == [
        (1, "type", "a", "column 'a': text '7' found, int64 expected"),
        (2, "type", "a", "column 'a': cannot read '2.7' as int64"),
        (3, "type", "a", "column 'a': cannot read '2.0' as int64"),
        (4, "type", "a", "column 'a': true found, int64 expected"),
        (5, "type", "b", "column 'b': number 7 found, string expected"),
        (6, "type", "b", "column 'b': a list found, string expected"),
        (7, "type", "b", "column 'b': an object found, string expected"),
        (9, "type", "a", "column 'a': cannot read '1e2' as int64"),
    ]


def test_b27_what_is_no_json_number_is_refused(tmp_path):
    rows = read(
        tmp_path,
        b'{"x":NaN}\n{"x":-Infinity}\n{"x":1e309}\n{"x":+1}\n{"x":1e5}\n{"x":-0.5}\n',
        {"x": "float64"},
    )

    assert values(rows) == [(100000.0,), (-0.5,)]
    assert [row[3] for row in rejects(rows)] == [
        "NaN is not JSON; null is how a missing number is written",
        "-Infinity is not JSON; null is how a missing number is written",
        "column 'x': cannot read '1e309' as float64 (more than float64 can hold)",
        "not JSON: Expecting value at character 5",
    ]


def test_b27_keys_twice_or_not_declared_are_set_aside(tmp_path):
    content = b'{"a":1,"a":2}\n{"a":1,"bb":"x"}\n{"a":3}\n'

    assert rejects(read(tmp_path, content)) == [
        (1, "keys", None, "key 'a' is there twice"),
        (2, "keys", None, "key 'bb' is not declared; did you mean 'b'?"),
    ]
    assert values(read(tmp_path, content, ignore=("bb",))) == [(1, None), (3, None)]
    assert values(read(tmp_path, content, extra="ignore")) == [(1, None), (3, None)]


def test_b27_deep_nesting_is_refused_and_brackets_in_texts_are_not_nesting(tmp_path):
    deep = b'{"b":' * 2000 + b"1" + b"}" * 2000
    text = b'{"b":"' + b'\\"[{' * 100 + b'"}'

    rows = read(
        tmp_path,
        deep + b"\n" + text + b"\n" + b'{"b":"x","c":' + b"[" * 64 + b"]" * 64 + b"}",
        extra="ignore",
    )

    assert values(rows) == [(None, '"[{' * 100)]
    assert [row[3] for row in rejects(rows)] == ["more than 64 levels of objects and lists"] * 2


def test_nested_values_are_read_by_their_path(tmp_path):
    columns = {"id": "int8", "tier": "string", "score": "float32"}
    flatten = {"tier": "attributes.tier", "score": "attributes.more.score"}
    content = (
        b'{"id":1,"attributes":{"tier":"gold","more":{"score":0.5}}}\n{"id":2,"attributes":null}\n{"id":3}\n'
        b'{"id":4,"attributes":{"teir":"x"}}\n{"id":5,"attributes":"x"}\n{"id":6,"attributes":{"more":{"x":1}}}\n'
    )

    rows = read(tmp_path, content, columns, flatten=flatten)

    assert values(rows) == [(1, "gold", 0.5), (2, None, None), (3, None, None)]
    assert rejects(rows) == [
        (4, "keys", None, "key 'attributes.teir' is not declared; did you mean 'tier'?"),
        (5, "type", "tier", "column 'tier': text 'x' in place of an object found, string expected"),
        (6, "keys", None, "key 'attributes.more.x' is not declared; known: score"),
    ]
    assert values(
        read(tmp_path, content, columns, flatten=flatten, ignore=("attributes.teir", "attributes.more.x"))
    ) == [
        (1, "gold", 0.5),
        (2, None, None),
        (3, None, None),
        (4, None, None),
        (6, None, None),
    ]
    with pytest.raises(SpecError, match="one is read from inside the other"):
        declared({"a": "int8", "b": "int8"}, kind="jsonl", path="x", flatten={"b": "a.b"})


def test_bools_and_times_have_their_own_types(tmp_path):
    columns = {"ok": "bool", "t": "timestamp", "d": "date"}
    content = b'{"ok":true,"t":"2024-02-29T12:00:00Z","d":"2024-02-29"}\n{"ok":1}\n{"ok":"true"}\n{"d":20240229}\n{"d":"2023-02-29"}\n'

    rows = read(tmp_path, content, columns)

    assert [(ok, str(t), str(d)) for ok, t, d in values(rows)] == [
        (True, "2024-02-29 12:00:00+00:00", "2024-02-29")
    ]
    assert [row[3] for row in rejects(rows)] == [
        "column 'ok': number 1 found, bool expected",
        "column 'ok': text 'true' found, bool expected",
        "column 'd': number 20240229 found, date expected",
        "column 'd': cannot read '2023-02-29' as date (no such day)",
    ]


def test_texts_that_are_no_text_are_set_aside(tmp_path):
    rows = read(
        tmp_path,
        b'{"b":"\\ud800"}\n{"b":"\\ud83d\\ude00"}\n{"b":"\xff"}\n{"b":"a\\u0000"}\n{"b":"a\tb"}\n{"\\ud800":1}\n',
    )

    assert values(rows) == [(None, "😀")]
    assert [row[1] for row in rejects(rows)] == ["encoding", "encoding", "type", "json", "encoding"]
    assert rows.rejected["raw"].to_pylist()[1] == '{"b":"\\xff"}'


def test_values_over_the_limit_are_set_aside(tmp_path):
    rows = read(tmp_path, b'{"b":"' + b"x" * 101 + b'"}\n{"b":"' + b"x" * 100 + b'"}\n', max_field_bytes=100)

    assert len(values(rows)) == 1
    assert rejects(rows) == [(1, "field", None, "key 'b' has 101 bytes, more than max_field_bytes = 100")]


def test_the_limit_counts_bytes_not_characters(tmp_path):
    rows = read(tmp_path, b'{"b":"' + "é".encode() * 60 + b'"}\n', max_field_bytes=100)

    assert rejects(rows) == [(1, "field", None, "key 'b' has 120 bytes, more than max_field_bytes = 100")]


def test_empty_packed_and_transcoded_files(tmp_path):
    with pytest.raises(InputError, match="empty file, expected at least one row"):
        read(tmp_path, b"\n\n")
    assert values(read(tmp_path, b"", allow_empty=True)) == []
    assert values(read(tmp_path, gzip.compress(b'{"a":1}\n', mtime=0), name="in.jsonl.gz")) == [(1, None)]
    assert values(read(tmp_path, '{"b":"数"}\n'.encode("utf-16"), encoding="utf-16")) == [(None, "数")]
    assert values(read(tmp_path, b"\xef\xbb\xbf" + b'{"a":1}\n')) == [(1, None)]


def test_a_failing_column_ends_the_run(tmp_path):
    path = write(tmp_path / "in.jsonl", b'{"a":1}\n{"a":"x"}\n')

    with pytest.raises(
        InputError, match=r"in.jsonl:2: column 'a': text 'x' found, int8 expected; correct the file"
    ):
        read_once({"a": {"type": "int8", "on_error": "fail"}}, path, kind="jsonl")
