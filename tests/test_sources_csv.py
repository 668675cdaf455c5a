"""CSV: every row of the bad-input matrix gives an exact table or an exact message, however the file is cut."""

import codecs
import gzip

import pyarrow as pa
import pytest

from pipelines.errors import InputError, SpecError
from pipelines.sources import Source, stream
from pipelines.stage import OFFSET
from tests.sources_reading import CUTS, lines, read_all, read_once, rejects, values, write

XY = {"id": "int64", "x": "float64", "y": "string"}
GOOD = b"id,x,y\n1,1.5,a\n2,2.5,b\n3,3.5,c\n"
GOOD_ROWS = [(1, 1.5, "a"), (2, 2.5, "b"), (3, 3.5, "c")]


def read(tmp_path, content, columns=XY, name="in.csv", **settings):
    return read_all(columns, write(tmp_path / name, content), kind="csv", **settings)


def error(tmp_path, content, columns=XY, name="in.csv", **settings):
    path = write(tmp_path / name, content)
    texts = set()
    for size in CUTS:
        with pytest.raises(InputError) as caught:
            read_once(columns, path, kind="csv", part_bytes=size, **settings)
        texts.add(str(caught.value).replace(str(path), name))
    [text] = texts
    return text


def test_a_clean_file_keeps_values_lines_and_offsets(tmp_path):
    rows = read(tmp_path, GOOD)

    assert values(rows) == GOOD_ROWS
    assert lines(rows) == [2, 3, 4]
    assert rows.kept[OFFSET].to_pylist() == [7, 15, 23]
    assert rows.kept["_source"].to_pylist() == [3, 3, 3]
    assert rows.rejected.num_rows == 0


def test_b1_a_short_row_is_set_aside(tmp_path):
    rows = read(tmp_path, b"id,x,y\n1,1.5,a\n2,2.5\n3,3.5,c\n")

    assert values(rows) == [GOOD_ROWS[0], GOOD_ROWS[2]]
    assert rejects(rows) == [(3, "columns", None, "2 fields, expected 3")]
    assert rows.rejected["raw"].to_pylist() == ["2,2.5"]
    assert rows.rejected[OFFSET].to_pylist() == [15]


def test_b2_a_long_row_is_set_aside(tmp_path):
    rows = read(tmp_path, b"id,x,y\n1,1.5,a\n2,2.5,b,EXTRA\n3,3.5,c\n")

    assert values(rows) == [GOOD_ROWS[0], GOOD_ROWS[2]]
    assert rejects(rows) == [(3, "columns", None, "4 fields, expected 3")]


def test_b3_rows_that_are_all_long_by_one_are_no_shift_but_an_error(tmp_path):
    assert error(tmp_path, b"id,x,y\n1,1.5,a,Z\n2,2.5,b,Z\n") == (
        "in.csv:2: header has 3 names, but the rows have 4 fields; correct the file, or columns and delimiter"
    )


def test_b3_one_row_alone_or_rows_that_differ_are_bad_rows(tmp_path):
    assert rejects(read(tmp_path, b"id,x,y\n1,1.5,a,Z\n")) == [(2, "columns", None, "4 fields, expected 3")]
    assert len(rejects(read(tmp_path, b"id,x,y\n1,1.5,a,Z\n2,2.5\n"))) == 2


def test_b4_a_quoted_line_end_belongs_to_the_value(tmp_path):
    rows = read(tmp_path, b'id,x,y\n1,1.5,"a\nb, ""c"""\r\n2,2.5,"\r\n"\n3,3.5,c')

    assert values(rows) == [(1, 1.5, 'a\nb, "c"'), (2, 2.5, "\r\n"), (3, 3.5, "c")]
    assert lines(rows) == [2, 4, 6]


def test_b5_a_quote_that_is_never_closed_is_named_with_its_line(tmp_path):
    told = (
        ": a quote is opened here and never closed; close it, double it if it is part of the text, "
        'or set quote = "" if fields are not quoted'
    )
    assert error(tmp_path, b'id,x,y\n1,1.5,"a\n2,2.5,b\n3,3.5,c\n') == f"in.csv:2{told}"
    assert error(tmp_path, b'id,x,y\n1,1.5,a\n2,2.5,5" disk\n3,3.5,"c"\n4,4.5,"d"\n') == f"in.csv:3{told}"
    assert error(tmp_path, b'id,x,y\n1,1.5,"a\n2,2.5,"b"\n3,3.5,"c"\n') == f"in.csv:2{told}"
    assert (
        error(tmp_path, gzip.compress(b'id,x,y\n1,1.5,a\n2,2.5,"a\n'), name="in.csv.gz")
        == f"in.csv.gz:3{told}"
    )


def test_b5_stray_quotes_set_the_row_aside_with_all_lines_they_swallow(tmp_path):
    rows = read(tmp_path, b'id,x,y\n1,1.5,a"b"\n2,2.5,"b"c\n3,3.5,5" disk\n4,4.5,3" disk\n5,5.5,"ok"\n')

    assert values(rows) == [(5, 5.5, "ok")]
    assert rejects(rows) == [
        (2, "quoting", None, "quote at byte 7 of the row, inside a field that is not quoted"),
        (3, "quoting", None, "quote at byte 8 of the row, followed by text"),
        (
            4,
            "quoting",
            None,
            "quote at byte 7 of the row, inside a field that is not quoted; the row runs over 2 lines",
        ),
    ]
    assert rows.rejected["raw"].to_pylist()[2] == '3,3.5,5" disk\n4,4.5,3" disk'


def test_without_quoting_a_quote_is_a_character(tmp_path):
    rows = read(tmp_path, b'id,x,y\n1,1.5,5" disk\n2,2.5,"b"\n', quote="")

    assert values(rows) == [(1, 1.5, '5" disk'), (2, 2.5, '"b"')]


def test_b6_a_nul_sets_the_row_aside(tmp_path):
    rows = read(tmp_path, b"id,x,y\n1,1.5,a\x00b\n2,2.5,b\n")

    assert values(rows) == [(2, 2.5, "b")]
    assert rejects(rows) == [(2, "nul", None, "the row holds a NUL character")]
    assert rows.rejected["raw"].to_pylist() == ["1,1.5,a\0b"]


def test_b10_another_delimiter_is_guessed_in_the_message_only(tmp_path):
    content = GOOD.replace(b",", b";")

    assert error(tmp_path, content) == "in.csv:1: 1 column found, 3 expected; is the delimiter ';'?"
    assert (
        error(tmp_path, content, header=False)
        == "in.csv:1: 1 column found, 3 expected; is the delimiter ';'?"
    )
    assert values(read(tmp_path, content, delimiter=";")) == GOOD_ROWS


def test_b11_a_decimal_comma_has_to_be_declared(tmp_path):
    content = b"id;x;y\n1;1,5;a\n2;2.5;b\n"

    rows = read(tmp_path, content, delimiter=";")
    assert values(rows) == [(2, 2.5, "b")]
    assert rejects(rows) == [
        (2, "type", "x", "column 'x': cannot read '1,5' as float64 (for a decimal comma set decimal = \",\")")
    ]

    rows = read(tmp_path, content, delimiter=";", decimal=",")
    assert values(rows) == [(1, 1.5, "a")]
    assert rejects(rows) == [(3, "type", "x", "column 'x': cannot read '2.5' as float64")]


def test_b12_a_text_late_in_a_number_column_costs_one_row(tmp_path):
    content = b"id,x,y\n" + b"".join(b"%d,%d,a\n" % (i, i) for i in range(30000)) + b"30000,oops,a\n"

    rows = read_all(XY, write(tmp_path / "in.csv", content), cuts=(4096, 1 << 24), kind="csv")

    assert rows.kept.num_rows == 30000
    assert rejects(rows) == [(30002, "type", "x", "column 'x': cannot read 'oops' as float64")]


def test_b13_b23_names_are_compared_with_the_declaration(tmp_path):
    assert error(tmp_path, b"id,x,x\n1,1.5,2.5\n").split("\n  ") == [
        "in.csv:1: header has 3 names, 3 columns are declared (- declared, + found):",
        "- y string: is missing",
        "+ x: is there 2 times; correct the declaration or the data",
    ]
    assert error(tmp_path, b"1,1.5,a\n2,2.5,b\n").split("\n  ") == [
        "in.csv:1: header has 3 names, 3 columns are declared (- declared, + found):",
        "- id int64: is missing",
        "- x float64: is missing",
        "- y string: is missing",
        "+ 1: is not declared",
        "+ 1.5: is not declared",
        (
            "+ a: is not declared; correct the declaration or the data, leave new columns out by ignore = "
            '["1", "1.5", "a"], or take them in by contract = "evolve", or set header = false if there is no header'
        ),
    ]
    assert error(tmp_path, b"id,Price\n1,2\n", {"id": "int8", "price": "int8"}).split("\n  ")[1:] == [
        "- price int8: is missing, did you mean 'Price'?",
        (
            '+ Price: is not declared; correct the declaration or the data, leave new columns out by ignore = ["Price"], or take them in '
            'by contract = "evolve"'
        ),
    ]


def test_b14_an_empty_file_is_an_error_unless_it_may_be(tmp_path):
    for content in (b"", b"\n\n\n", b"\r\n", codecs.BOM_UTF8):
        assert (
            error(tmp_path, content)
            == "in.csv: empty file, expected a header; set allow_empty = true if that may be"
        )
        rows = read(tmp_path, content, allow_empty=True)
        assert values(rows) == []
        assert rows.notes == {"files without a row": 1}


def test_b15_a_header_alone_gives_no_rows_of_the_declared_types(tmp_path):
    for content in (b"id,x,y\n", b"id,x,y", b"\n\nid,x,y\r\n"):
        rows = read(tmp_path, content)
        assert values(rows) == []
        assert rows.kept.schema.field("x").type == pa.float64()
        assert rows.notes == {"files without a row": 1}


def test_b16_b17_numbers_that_do_not_fit_are_set_aside(tmp_path):
    rows = read(
        tmp_path,
        b"id,x,y\n1,1e309,a\n2,-1e999,b\n9223372036854775808,1,a\n9223372036854775807,1,b\n300,inf,c\n1.0,1,d\n",
    )

    assert values(rows) == [(9223372036854775807, 1.0, "b")]
    assert [message for *_, message in rejects(rows)] == [
        "column 'x': cannot read '1e309' as float64 (more than float64 can hold)",
        "column 'x': cannot read '-1e999' as float64 (more than float64 can hold)",
        "column 'id': cannot read '9223372036854775808' as int64 (int64 holds -9223372036854775808 to 9223372036854775807)",
        "column 'x': cannot read 'inf' as float64",
        "column 'id': cannot read '1.0' as int64",
    ]


def test_b18_b19_missing_integers_and_leading_zeros_lose_nothing(tmp_path):
    rows = read(tmp_path, b"id,zip\n9007199254740993,00123\n,00124\n", {"id": "int64", "zip": "string"})

    assert values(rows) == [(9007199254740993, "00123"), (None, "00124")]


def test_b20_only_declared_texts_are_missing(tmp_path):
    content = b'id,country\n1,NA\n2,null\n3,None\n4,\n5,""\n'
    columns = {"id": "int8", "country": "string"}

    assert [row[1] for row in values(read(tmp_path, content, columns))] == ["NA", "null", "None", None, None]
    assert [row[1] for row in values(read(tmp_path, content, columns, null=("null",)))] == [
        "NA",
        None,
        "None",
        "",
        "",
    ]
    own = {"id": "int8", "country": {"type": "string", "null": ["None"]}}
    assert [row[1] for row in values(read(tmp_path, content, own))] == ["NA", "null", None, "", ""]


def test_b21_a_field_over_the_limit_is_set_aside(tmp_path):
    long = b"a" * 3000
    content = b"id,x,y\n1,1.5," + long + b"\n2,2.5,b\n" + b"3,3.5,'a\nb'\n".replace(b"'", b'"')

    rows = read(tmp_path, content, max_field_bytes=2000)

    assert values(rows) == [(2, 2.5, "b"), (3, 3.5, "a\nb")]
    assert lines(rows) == [3, 4]
    assert rejects(rows) == [(2, "field", None, "field 3 has 3,000 bytes, more than max_field_bytes = 2000")]


@pytest.mark.parametrize("chunk", [64, 1000, 1 << 20])
def test_b21_a_row_over_the_limit_is_set_aside_in_bounded_memory(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(stream, "CHUNK", chunk)
    row = b'2,2.5,"' + b"a\n" * 2000 + b'"\n'
    content = b"id,x,y\n1,1.5,a\n" + row + b'3,3.5,"c"\n' + row

    rows = read(tmp_path, content, max_field_bytes=100)

    assert values(rows) == [(1, 1.5, "a"), (3, 3.5, "c")]
    assert lines(rows) == [2, 2004]
    message = (
        "row of 4,009 bytes and 2,001 lines, at most 309 bytes expected; is a quote or a line not closed, "
        "or max_field_bytes = 100 too small?"
    )
    assert rejects(rows) == [(3, "field", None, message), (2005, "field", None, message)]
    assert rows.rejected["raw"][0].as_py() == row.decode()[:-1]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [True, False])
def test_b22_every_line_end_is_one_and_the_last_may_be_missing(tmp_path, end, last):
    content = GOOD.replace(b"\n", end)

    rows = read(tmp_path, content if last else content.removesuffix(end))

    assert values(rows) == GOOD_ROWS
    assert lines(rows) == [2, 3, 4]


def test_b22_a_last_line_that_is_cut_is_set_aside(tmp_path):
    rows = read(tmp_path, GOOD[:-3])

    assert values(rows) == GOOD_ROWS[:2]
    assert rejects(rows) == [(4, "columns", None, "2 fields, expected 3")]


def test_b23_columns_go_by_position_without_a_header(tmp_path):
    rows = read(tmp_path, GOOD[7:], header=False)

    assert values(rows) == GOOD_ROWS
    assert lines(rows) == [1, 2, 3]


def test_b24_days_that_do_not_exist_are_set_aside(tmp_path):
    rows = read(
        tmp_path,
        b"id,d\n1,0001-01-01\n2,9999-12-31\n3,2024-02-30\n4,01/02/2024\n",
        {"id": "int8", "d": "date"},
    )

    assert [str(day) for _, day in values(rows)] == ["0001-01-01", "9999-12-31"]
    assert rejects(rows) == [
        (4, "type", "d", "column 'd': cannot read '2024-02-30' as date (no such day)"),
        (5, "type", "d", "column 'd': cannot read '01/02/2024' as date"),
    ]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    rows = read(tmp_path, b"\nid,x,y\n\n1,1.5,a\r\n\r\n\n2,2.5,b\n   \n\n")

    assert values(rows) == GOOD_ROWS[:2]
    assert lines(rows) == [4, 7]
    assert rejects(rows) == [(8, "columns", None, "1 field, expected 3")]


def test_in_a_file_of_one_column_a_blank_line_is_a_missing_value(tmp_path):
    assert values(read(tmp_path, b"id\n1\n\n3\n", {"id": "int8"})) == [(1,), (None,), (3,)]

    rows = read(tmp_path, b"id\n1\n\n3\n", {"id": {"type": "int8", "nullable": False}})
    assert rejects(rows) == [(3, "null", "id", "column 'id': missing, and nullable is false")]


def test_a_line_end_of_cr_is_not_joined_with_the_blank_line_behind_a_bad_row(tmp_path):
    rows = read(tmp_path, b"id\n1\r\x00\n\n3\n", {"id": "int8"})

    assert values(rows) == [(1,), (None,), (3,)]
    assert rejects(rows) == [(3, "nul", None, "the row holds a NUL character")]


def test_columns_are_found_by_name_and_others_only_left_out_by_declaration(tmp_path):
    content = b"y,secret,id,x\na,s,1,1.5\n"

    assert "+ secret: is not declared" in error(tmp_path, content)
    for setting in ({"ignore": ("secret",)}, {"extra": "ignore"}):
        assert values(read(tmp_path, content, **setting)) == [(1, 1.5, "a")]
    renamed = {"a": {"type": "float64", "name": "CO(GT)"}}
    assert values(read(tmp_path, b'"CO(GT)"\n2.5\n', renamed)) == [(2.5,)]


def test_rows_are_counted_by_the_rule_of_the_column(tmp_path):
    columns = {"id": "int64", "x": {"type": "float64", "on_error": "null", "range": [0, 2]}, "y": "string"}

    rows = read(tmp_path, b"id,x,y\n1,oops,a\n2,3.5,b\n3,1.5,c\nbad,oops,d\n", columns)

    assert values(rows) == [(1, None, "a"), (2, None, "b"), (3, 1.5, "c")]
    assert rows.notes == {"nulled x": 2}
    columns["x"] = {"type": "float64", "on_error": "fail"}
    assert error(tmp_path, b"id,x,y\n1,1.5,a\n2,oops,b\n", columns) == (
        "in.csv:3: column 'x': cannot read 'oops' as float64; correct the file, or set on_error = \"quarantine\" to set such rows aside"
    )


def test_settings_without_effect_and_contradictions_are_refused():
    columns = {"id": "int8"}
    with pytest.raises(SpecError) as caught:
        Source(kind="csv", path="", columns={}, delimiter=";;", table="t", encoding="utf-9", part_bytes=0)
    assert len(caught.value.problems) == 6
    with pytest.raises(SpecError, match="kind 'cvs' is not known; did you mean 'csv'"):
        Source(kind="cvs", path="a", columns=columns)
