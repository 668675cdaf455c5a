"""Encodings and packed files: text is read as declared, and what is something else is named."""

import codecs
import gzip

import pyarrow as pa
import pytest

from pipelines import sources
from pipelines.errors import InputError
from pipelines.sources import head, records, stream
from pipelines.stage import OFFSET
from tests.sources_reading import CUTS, declared, lines, read_all, read_once, rejects, values, write

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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_b7_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, encoding):
    rows = read(tmp_path, codecs.BOM_UTF8 + GOOD, encoding=encoding)

    assert values(rows) == GOOD_ROWS
    assert rows.kept[OFFSET].to_pylist() == [10, 18, 26]


def test_b8_utf_16_is_named_and_read_where_it_is_declared(tmp_path):
    content = GOOD.decode().encode("utf-16")

    assert error(tmp_path, content) == 'in.csv: starts with a UTF-16 mark; set encoding = "utf-16"'
    assert values(read(tmp_path, content, encoding="utf-16")) == GOOD_ROWS
    assert values(read(tmp_path, GOOD.decode().encode("utf-16-be"), encoding="utf-16-be")) == GOOD_ROWS


def test_b9_a_row_of_another_encoding_is_set_aside_with_its_bytes(tmp_path):
    rows = read(tmp_path, "id,x,y\n1,1.5,数\n2,2.5,é\n".encode()[:-2] + b"\xe9\n")

    assert values(rows) == [(1, 1.5, "数")]
    assert rejects(rows) == [
        (3, "encoding", None, "byte 0xC3 at 6 of the row is not utf-8; set encoding (gb18030, cp1252, ...?)")
    ]
    assert rows.rejected["raw"].to_pylist() == ["2,2.5,\\xc3\\xe9"]


@pytest.mark.parametrize(
    "encoding", ["gb18030", "gbk", "utf-16", "utf-32-le", "utf-8", "shift_jis", "iso2022_jp"]
)
def test_b9_texts_of_declared_encodings_are_read(tmp_path, encoding):
    rows = read(
        tmp_path, 'id,x,y\n1,1.5,日本\n2,2.5,"本,\n日"\n3,3.5,|a\n'.encode(encoding), encoding=encoding
    )

    assert values(rows) == [(1, 1.5, "日本"), (2, 2.5, "本,\n日"), (3, 3.5, "|a")]
    assert lines(rows) == [2, 3, 5]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso-8859-15", "mac-roman"])
def test_b9_single_byte_encodings_are_read_and_cut(tmp_path, encoding):
    rows = read(tmp_path, "id,x,y\n1,1.5,é\n2,2.5,àé\n3,3.5,c\n".encode(encoding), encoding=encoding)

    assert values(rows) == [(1, 1.5, "é"), (2, 2.5, "àé"), (3, 3.5, "c")]
    assert rows.kept[OFFSET].to_pylist() == [7, 15, 24]


def test_b9_bytes_that_the_declared_encoding_does_not_have_set_the_row_aside(tmp_path):
    rows = read(tmp_path, b"id,x,y\n1,1.5,\x81\x30\n2,2.5,\xca\xfd\n", encoding="gb18030")

    assert values(rows) == [(2, 2.5, "数")]
    assert rejects(rows) == [(2, "encoding", None, "byte 0x81 at 6 of the row is not gb18030")]


def test_b9_a_header_of_another_encoding_is_an_error(tmp_path):
    assert error(tmp_path, "id,x,é\n1,1,a\n".encode("latin-1")) == (
        "in.csv:1: byte 0xE9 at 5 of the header is not utf-8; set encoding (gb18030, cp1252, ...?)"
    )


def test_packed_files_are_read_and_damaged_ones_named(tmp_path):
    packed = gzip.compress(GOOD, mtime=0)
    zstd = pa.compress(GOOD, codec="zstd", asbytes=True)

    assert values(read(tmp_path, packed, name="in.csv.gz")) == GOOD_ROWS
    assert values(read(tmp_path, packed + packed[:0], name="in.csv.gz", encoding="latin-1")) == GOOD_ROWS
    assert values(read(tmp_path, zstd, name="in.csv.zst")) == GOOD_ROWS
    assert "gzip data cannot be unpacked after" in error(tmp_path, packed[:-6], name="in.csv.gz")
    assert "zstd data cannot be unpacked after" in error(tmp_path, zstd[:-6], name="in.csv.zst")
    assert error(tmp_path, packed) == "in.csv: starts like a gzip file; its name must end in .gz"
    assert (
        error(tmp_path, b"PK\x03\x04....")
        == "in.csv: starts like a zip or Excel file; unpack it or save it as text first"
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl", "text"])
@pytest.mark.parametrize("name", ["in.gz", "in.zst", "in.utf-16"])
def test_a_large_packed_file_is_many_parts_with_the_same_rows(tmp_path, monkeypatch, kind, name):
    line = {"csv": '{0},"a\n{0}"\n', "jsonl": '{{"id": {0}, "s": "é"}}\n', "text": "{0} é\n"}[kind]
    text = ("id,s\n" if kind == "csv" else "") + "".join(line.format(at) for at in range(500))
    content = text.encode("utf-16" if name.endswith("16") else "utf-8")
    pack = {"in.gz": lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:]), "in.utf-16": bytes}
    content = pack.get(name, lambda data: pa.compress(data, codec="zstd", asbytes=True))(content)
    settings = {"kind": kind, "encoding": "utf-16" if name.endswith("16") else "utf-8"}
    columns = {"text": "string"} if kind == "text" else {"id": "int64", "s": "string"}
    path = write(tmp_path / name, content)
    whole = read_once(columns, path, **settings)

    monkeypatch.setattr(head, "SMALL", 0)
    for size in (1, 100, 1000):
        monkeypatch.setattr(head, "STREAM_PART", (size, 4 * size))
        monkeypatch.setattr(records, "STREAM_PART", (size, 4 * size))
        source = declared(columns, path=str(path), **settings)
        [file] = sources.files(source)
        parts = sources.cut(source, file, 3)
        made = read_once(columns, path, **settings)
        assert len(parts) > 1
        assert made.kept.equals(whole.kept)
        assert made.kept.num_rows == 500


def test_a_quote_that_is_never_closed_in_a_large_packed_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(head, "SMALL", 0)
    content = b"id,x,y\n" + b"1,1.5,a\n" * 100 + b'2,2.5,"a\n' + b"1,1.5,a\n" * 100

    assert error(tmp_path, gzip.compress(content), name="in.csv.gz").startswith(
        "in.csv.gz:102: a quote is opened"
    )


def test_b41_a_packed_file_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_FREE_BYTES", 1 << 20)
    bomb = gzip.compress(b"id,x,y\n" + b"1,1.5,a\n" * 1_000_000, 9, mtime=0)

    text = error(tmp_path, bomb, name="in.csv.gz")

    assert "over 200 to 1; if that is meant, unpack it before" in text
