"""The cases of the bad-input matrix that are a file, a declaration, and the exact table or message that must come of them."""

import datetime as dt
import gzip
from dataclasses import dataclass, field

import numpy as np

from tests.test_sources_idx import idx

XY = {"id": "int64", "x": "float64", "y": "string"}
HEAD = b"id,x,y\n"
A, C = (1, 1.5, "a"), (3, 3.5, "c")
NUMBERS = {"i": "int64", "f": "float64"}
UTC = dt.UTC


@dataclass(frozen=True)
class Case:
    """Bytes of a file, how they are declared, and what must come of them: rows and rejects, or a message."""

    id: str
    what: str
    content: bytes
    rows: list = field(default_factory=list)
    rejects: list = field(default_factory=list)  # (line, rule, column, message)
    error: str | None = None
    columns: dict = field(default_factory=lambda: XY)
    kind: str = "csv"
    name: str = "in.csv"
    settings: dict = field(default_factory=dict)


def columns_rule(line, found, expected=3):
    return (line, "columns", None, f"{found} fields, expected {expected}")


def type_rule(line, column, value, kind, why=""):
    return (line, "type", column, f"column {column!r}: cannot read {value!r} as {kind}{why}")


UNCLOSED = ': a quote is opened here and never closed; close it, double it if it is part of the text, or set quote = "" if fields are not quoted'
DECIMAL = ' (for a decimal comma set decimal = ",")'
JSON = {"kind": "jsonl", "name": "in.jsonl", "columns": {"a": "int64", "b": "string"}}
DAY = {"d": {"type": "date", "range": ["1900-01-01", "2100-01-01"]}}
PARIS = {"t": {"type": "timestamp", "zone": "Europe/Paris"}}
LONG = b"x" * 200

CASES = [
    Case("B1", "a short row", HEAD + b"1,1.5,a\n2,2.5\n3,3.5,c\n", [A, C], [columns_rule(3, 2)]),
    Case("B2", "a long row", HEAD + b"1,1.5,a\n2,2.5,b,Z\n3,3.5,c\n", [A, C], [columns_rule(3, 4)]),
    Case(
        "B3", "all rows long by one", HEAD + b"1,1.5,a,Z\n2,2.5,b,Z\n",
        error="in.csv:2: header has 3 names, but the rows have 4 fields; correct the file, or columns and delimiter",
    ),
    Case("B4", "a quoted line end", HEAD + b'1,1.5,"a\nb"\r\n3,3.5,c', [(1, 1.5, "a\nb"), C]),
    Case("B5", "an unclosed quote", HEAD + b'1,1.5,"a\n2,2.5,b\n3,3.5,c\n', error=f"in.csv:2{UNCLOSED}"),
    Case("B5", "an unclosed quote late", HEAD + b'1,1.5,a\n2,2.5,5" disk\n3,3.5,"c"\n', error=f"in.csv:3{UNCLOSED}"),
    Case(
        "B6", "a NUL", HEAD + b"1,1.5,a\0\n3,3.5,c\n", [C],
        [(2, "nul", None, "the row holds a NUL character")],
    ),
    Case("B6", "a NUL, removed by declaration", HEAD + b"1,1.5,a\0\n3,3.5,c\n", [A, C], settings={"nul": "remove"}),
    Case("B7", "a byte order mark", b"\xef\xbb\xbf" + HEAD + b"1,1.5,a\n", [A]),
    Case(
        "B8", "UTF-16 not declared", (HEAD + b"1,1.5,a\n").decode().encode("utf-16"),
        error='in.csv: starts with a UTF-16 mark; set encoding = "utf-16"',
    ),
    Case("B8", "UTF-16 declared", (HEAD + b"1,1.5,a\n").decode().encode("utf-16"), [A], settings={"encoding": "utf-16"}),
    Case(
        "B9", "GBK not declared", HEAD + "1,1.5,中\n3,3.5,c\n".encode("gbk"), [C],
        [(2, "encoding", None, "byte 0xD6 at 6 of the row is not utf-8; set encoding (gb18030, cp1252, ...?)")],
    ),
    Case("B9", "GB18030 declared", HEAD + "1,1.5,中文\n".encode("gb18030"), [(1, 1.5, "中文")], settings={"encoding": "gb18030"}),
    Case("B9", "Latin-1 declared", HEAD + "1,1.5,é\n".encode("latin-1"), [(1, 1.5, "é")], settings={"encoding": "latin-1"}),
    Case(
        "B9", "Latin-1 in the header", "id,x,é\n1,1.5,a\n".encode("latin-1"),
        error="in.csv:1: byte 0xE9 at 5 of the header is not utf-8; set encoding (gb18030, cp1252, ...?)",
    ),
    Case(
        "B10", "another delimiter", b"id;x;y\n1;1.5;a\n",
        error="in.csv:1: 1 column found, 3 expected; is the delimiter ';'?",
    ),
    Case(
        "B11", "a decimal comma not declared", b"i;f\n1;1,5\n2;2.5\n", [(2, 2.5)],
        [type_rule(2, "f", "1,5", "float64", DECIMAL)], columns=NUMBERS, settings={"delimiter": ";"},
    ),
    Case("B11", "a decimal comma declared", b"i;f\n1;1,5\n", [(1, 1.5)], columns=NUMBERS, settings={"delimiter": ";", "decimal": ","}),
    Case(
        "B12", "a text late in a number column", HEAD + b"1,1.5,a\n" * 300 + b"oops,2.5,b\n", [A] * 300,
        [type_rule(302, "id", "oops", "int64")],
    ),
    Case(
        "B13", "a name twice", b"x,x\n1,2\n", columns={"x": "int64"},
        error="in.csv:1: header has 2 names, 1 columns are declared (- declared, + found):\n  + x: is there 2 times; "
        "correct the declaration or the data",
    ),
    Case("B14", "an empty file", b"", error="in.csv: empty file, expected a header; set allow_empty = true if that may be"),
    Case("B14", "an empty file that may be", b"", settings={"allow_empty": True}),
    Case("B15", "a header alone", HEAD),
    Case(
        "B16", "a float beyond the type", b"i,f\n1,1e309\n2,2.5\n", [(2, 2.5)],
        [type_rule(2, "f", "1e309", "float64", " (more than float64 can hold)")], columns=NUMBERS,
    ),
    Case(
        "B17", "an integer beyond the type", b"i,f\n9223372036854775808,1\n9223372036854775807,1\n", [(2**63 - 1, 1.0)],
        [type_rule(2, "i", "9223372036854775808", "int64", " (int64 holds -9223372036854775808 to 9223372036854775807)")],
        columns=NUMBERS,
    ),
    Case("B18", "a missing integer", b"i,f\n9007199254740993,1\n,\n", [(2**53 + 1, 1.0), (None, None)], columns=NUMBERS),
    Case("B19", "leading zeros", b"s,i\n007,007\n", [("007", 7)], columns={"s": "string", "i": "int64"}),
    Case("B20", "NA as a text", b"s\nNA\nNone\nnull\n\n", [("NA",), ("None",), ("null",), (None,)], columns={"s": "string"}),
    Case("B20", "NA declared missing", b"s\nNA\nNone\n", [(None,), ("None",)], columns={"s": "string"}, settings={"null": ("NA",)}),
    Case(
        "B21", "a huge field", HEAD + b"1,1.5," + LONG + b"\n3,3.5,c\n", [C],
        [(2, "field", None, "field 3 has 200 bytes, more than max_field_bytes = 100")], settings={"max_field_bytes": 100},
    ),
    Case("B22", "CR line ends", b"id,x,y\r1,1.5,a\r3,3.5,c\r", [A, C]),
    Case("B22", "no line end at the end", HEAD + b"1,1.5,a", [A]),
    Case("B22", "a cut last line", HEAD + b"1,1.5,a\n2,2.", [A], [columns_rule(3, 2)]),
    Case(
        "B23", "no header", b"1,1.5,a\n2,2.5,b\n",
        error="in.csv:1: header has 3 names, 3 columns are declared (- declared, + found):\n  - id int64: is missing\n  - x float64: is missing\n"
        '  - y string: is missing\n  + 1: is not declared\n  + 1.5: is not declared\n  + a: is not declared; correct the declaration or the data, leave new columns '
        'out by ignore = ["1", "1.5", "a"], or take them in by contract = "evolve", or set header = false if there is no header',
    ),
    Case("B23", "no header, declared", b"1,1.5,a\n3,3.5,c\n", [A, C], settings={"header": False}),
    Case(
        "B24", "days that are none", b"d\n2024-02-30\n0001-01-01\n2024-02-29\n", [(dt.date(2024, 2, 29),)],
        [
            type_rule(2, "d", "2024-02-30", "date", " (no such day)"),
            (3, "range", "d", "column 'd': '0001-01-01' is outside [1900-01-01, 2100-01-01]"),
        ],
        columns=DAY,
    ),
    Case(
        "B24", "day and month are never guessed", b"d\n01/02/2024\n13/02/2024\n02/13/2024\n",
        [(dt.date(2024, 2, 1),), (dt.date(2024, 2, 13),)],
        [type_rule(4, "d", "02/13/2024", "date", " (no such day)")], columns={"d": {"type": "date", "format": "%d/%m/%Y"}},
    ),
    Case(
        "B25", "hours that clocks skip or repeat", b"t\n2024-03-31 02:30\n2024-10-27 02:30\n2024-10-27 02:30+01:00\n",
        [(dt.datetime(2024, 10, 27, 1, 30, tzinfo=UTC),)],
        [
            type_rule(2, "t", "2024-03-31 02:30", "timestamp", " (this time does not exist, clocks go forward in Europe/Paris; write the offset)"),
            type_rule(3, "t", "2024-10-27 02:30", "timestamp", " (this time comes twice, clocks go back in Europe/Paris; write the offset)"),
        ],
        columns=PARIS,
    ),
    Case(
        "B26", "lines that are cut or garbage", b'{"a": 1, "b": "x"}\n{"a": 2, "b": \ngarbage\n[1]\n{"a": 3}', [(1, "x"), (3, None)],
        [
            (2, "json", None, "not JSON: Expecting value at character 15"),
            (3, "json", None, "not JSON: Expecting value at character 0"),
            (4, "json", None, "a list found, one object per line expected"),
        ],
        **JSON,
    ),
    Case(
        "B27", "mixed types, keys twice, NaN, depth",
        b'{"a": "1"}\n{"a": 1, "a": 2}\n{"a": NaN}\n{"b": ' + b"[" * 2000 + b"]" * 2000 + b'}\n{"a": 2.7}\n{"a": 5}\n', [(5, None)],
        [
            (1, "type", "a", "column 'a': text '1' found, int64 expected"),
            (2, "keys", None, "key 'a' is there twice"),
            (3, "json", None, "NaN is not JSON; null is how a missing number is written"),
            (4, "json", None, "more than 64 levels of objects and lists"),
            type_rule(5, "a", "2.7", "int64"),
        ],
        **JSON,
    ),
    Case("B28", "Parquet, empty", b"", kind="parquet", name="in.parquet",
         error="in.parquet: no Parquet file (0 bytes): it begins with b'', expected b'PAR1'; check path and kind"),
    Case("B28", "a CSV inside", HEAD + b"1,1.5,a\n", kind="parquet", name="in.parquet",
         error="in.parquet: no Parquet file (15 bytes): it begins with b'id,x', expected b'PAR1'; check path and kind"),
    Case("B32", "no database", b"id,x,y\n" * 200, kind="sqlite", name="in.db", settings={"table": "t"},
         error="in.db: no SQLite database: file is not a database; check path, or restore the file from a copy"),
    Case("B33", "IDX of another magic", b"\x00\x00\x0f\x01\x00\x00\x00\x01\x05", kind="idx", name="in.idx",
         columns={"image": {"type": "tensor", "dtype": "uint8", "shape": []}},
         error="in.idx: no IDX file: it begins with 00 00 0f 01, expected 00 00, a type of 08 to 0e and 1 to 8 dimensions"),
    Case("B33", "IDX with huge dimensions", b"\x00\x00\x08\x02" + b"\x7f\xff\xff\xff" * 2, kind="idx", name="in.idx",
         columns={"image": {"type": "tensor", "dtype": "uint8", "shape": [4]}},
         error="in.idx: a sample of shape [2147483647] has 2,147,483,647 bytes, at most 67,108,864 are read"),
    Case("B33", "IDX that is cut", idx(np.zeros((3, 4), np.uint8))[:-1], kind="idx", name="in.idx",
         columns={"image": {"type": "tensor", "dtype": "uint8", "shape": [4]}},
         error="in.idx: 23 bytes, 24 bytes expected for 3 samples of shape [4]; restore it from a copy"),
    Case("B41", "gz that is cut", gzip.compress(HEAD + b"1,1.5,a\n" * 99, mtime=0)[:-9], name="in.csv.gz",
         error="in.csv.gz: gzip data cannot be unpacked after"),
]  # fmt: skip
