"""Text: every line or file is a document, whatever is in it; labels stand before, behind, or in the name of the folder."""

import codecs
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.stage import OFFSET
from tests.sources_reading import declared, lines, read_all, rejects, values, write

TEXT = {"text": "string"}
LABELLED = {"text": "string", "label": "int8"}


def read(tmp_path, content, columns=TEXT, name="in.txt", **settings):
    return read_all(columns, write(tmp_path / name, content), kind="text", **settings)


def test_a_line_is_a_document_with_quotes_tabs_and_all(tmp_path):
    rows = read(tmp_path, 'one "quote\ntwo\ttabs, commas\r\n\nü\x85\u2028 is one line \nlast')

    assert values(rows) == [('one "quote',), ("two\ttabs, commas",), ("ü\x85\u2028 is one line ",), ("last",)]
    assert lines(rows) == [1, 2, 4, 5]
    assert rows.kept[OFFSET].to_pylist() == [0, 11, 30, 51]


def test_labels_stand_behind_or_before_the_text(tmp_path):
    behind = read(tmp_path, "a\tb\t1\nno label\n\t0\nx\tone\n", LABELLED, label="last")
    before = read(
        tmp_path,
        "__no__ a b\n__yes__ c\n",
        {"text": "string", "label": "string"},
        label="first",
        delimiter=" ",
    )

    assert values(behind) == [("a\tb", 1), ("", 0)]
    assert rejects(behind) == [
        (2, "label", None, "no label: there is no '\\t' in the line"),
        (4, "type", "label", "column 'label': cannot read 'one' as int8"),
    ]
    assert behind.rejected["raw"].to_pylist() == ["no label", "x\tone"]
    assert values(before) == [("a b", "__no__"), ("c", "__yes__")]


def test_columns_may_be_left_out_and_have_other_names(tmp_path):
    rows = read(tmp_path, "a\t1\n", {"review": {"type": "string", "name": "text"}}, label="last")

    assert values(rows) == [("a",)]


def test_encodings_marks_and_packed_files_are_read(tmp_path):
    assert values(read(tmp_path, "中文\n文\n".encode("gb18030"), encoding="gb18030")) == [("中文",), ("文",)]
    assert values(read(tmp_path, codecs.BOM_UTF8 + b"a\n")) == [("a",)]
    assert values(read(tmp_path, "é\n".encode("utf-16"), encoding="utf-16")) == [("é",)]
    assert values(read(tmp_path, gzip.compress(b"a\nb\n"), name="in.txt.gz")) == [("a",), ("b",)]
    rows = read(tmp_path, b"ok\n\xff\xfe\n")
    assert values(rows) == [("ok",)]
    assert rejects(rows)[0][:2] == (2, "encoding")


def test_nul_and_long_lines_are_set_aside(tmp_path):
    content = b"a\0b\nshort\n" + b"x" * 30 + b"\n"

    rows = read(tmp_path, content, max_field_bytes=20)
    removed = read(tmp_path, content, max_field_bytes=20, nul="remove")

    assert values(rows) == [("short",)]
    assert rejects(rows) == [
        (1, "nul", None, "the row holds a NUL character"),
        (3, "field", None, "text has 30 bytes, more than max_field_bytes = 20"),
    ]
    assert values(removed) == [("ab",), ("short",)]
    assert removed.notes == {"NUL characters removed": 1}


def test_an_empty_file_is_an_error_unless_it_may_be(tmp_path):
    with pytest.raises(InputError, match="empty file, expected at least one row"):
        read(tmp_path, b"")
    assert values(read(tmp_path, b"", allow_empty=True)) == []


def test_a_document_a_file_has_its_folder_as_label(tmp_path):
    for name, content in {
        "pos/1.txt": b"good\nfilm\n",
        "neg/2.txt": b"bad",
        "neg/3.txt": b"\xff",
        "neg/x.md": b"x",
        "neg/4.txt": b"x" * 30,
    }.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "in" / name, content)

    rows = read_all(
        {"text": "string", "label": "string", "file": "string"},
        tmp_path / "in",
        kind="text",
        documents=True,
        max_field_bytes=20,
    )

    assert values(rows) == [("bad", "neg", "neg/2.txt"), ("good\nfilm\n", "pos", "pos/1.txt")]
    assert rejects(rows) == [
        (
            2,
            "encoding",
            None,
            "byte 0xFF at 0 of the file is not utf-8; set encoding (gb18030, cp1252, ...?)",
        ),
        (3, "field", None, "more than max_field_bytes = 20"),
    ]
    assert rows.rejected["raw"].to_pylist() == ["neg/3.txt", "neg/4.txt"]


def test_settings_that_contradict_each_other_are_refused():
    def problems(columns=TEXT, **settings):
        with pytest.raises(SpecError) as caught:
            declared(columns, kind="text", path="a", **settings)
        return list(caught.value.problems)

    assert problems(LABELLED) == ["column 'label' reads 'label'; here a source of kind text has 'text'"]
    assert problems(delimiter=";") == [
        'delimiter has no effect on a text without a label; set label = "first" or "last"'
    ]
    assert problems(documents=True, label="last") == [
        "label has no effect where documents = true: the folder of a document is its label"
    ]
    assert problems(label="middle") == ["label = 'middle': expected 'first' or 'last'"]
    assert problems(quote="'") == ["quote has no effect on a text source; leave it out"]


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=8)))
def test_what_is_written_is_what_is_read(tmp_path_factory, texts):
    path = write(tmp_path_factory.mktemp("in") / "in.txt", "".join(f"{text}\n" for text in texts))

    rows = read_all(TEXT, path, cuts=(1, 5, 1 << 20), kind="text", allow_empty=True)

    kept = [
        text.removeprefix("\ufeff" if at == 0 else "").removesuffix("\r") for at, text in enumerate(texts)
    ]
    assert values(rows) == [(text,) for text in kept if text]
