"""SQLite: cells of the declared types become rows, others set their row aside with its rowid; one state of the database only."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import sources
from pipelines.errors import InputError, PartFailed, SourceChanged
from tests.sources_reading import declared, lines, read_all, read_once, rejects, values

COLUMNS = {"id": "int32", "name": "string", "x": "float64"}
CUTS = (1, 50, 1 << 24)


def database(path, *statements, rows=()):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
        for statement, values_ in rows:
            connection.executemany(statement, values_)
    return path


def people(path, rows):
    return database(
        path, "CREATE TABLE people (id, name, x)", rows=[("INSERT INTO people VALUES (?, ?, ?)", rows)]
    )


def read(path, columns=COLUMNS, table="people", **settings):
    return read_all(columns, path, cuts=CUTS, kind="sqlite", table=table, **settings)


def test_rows_are_read_by_rowid_for_every_cut(tmp_path):
    path = people(tmp_path / "a.db", [(i, f"n{i}", i / 2) for i in range(100)])
    database(path, "DELETE FROM people WHERE rowid % 3 = 0")

    rows = read(path)

    assert values(rows) == [(i, f"n{i}", i / 2) for i in range(100) if (i + 1) % 3]
    assert lines(rows) == [i + 1 for i in range(100) if (i + 1) % 3]
    source = declared(COLUMNS, kind="sqlite", path=str(path), table="people", part_bytes=50)
    assert len(sources.cut(source, sources.files(source)[0], 0)) > 10


def test_b32_cells_of_another_type_set_their_row_aside(tmp_path):
    content = [
        (1, "a", 1),
        ("oops", "b", 1.5),
        (2.5, None, -0.5),
        (2**40, "c", None),
        (5, b"\x01\x02", 1),
        (6, 7, 1),
        (7, "d", "1"),
        (None, "e", 9e999),
    ]
    path = people(tmp_path / "a.db", content)

    rows = read(path)

    assert values(rows) == [(1, "a", 1.0)]
    assert rejects(rows) == [
        (2, "type", "id", "column 'id': text 'oops' found, int32 expected"),
        (3, "type", "id", "column 'id': real 2.5 found, int32 expected"),
        (
            4,
            "type",
            "id",
            "column 'id': cannot read '1099511627776' as int32 (int32 holds -2147483648 to 2147483647)",
        ),
        (5, "type", "name", "column 'name': blob of 2 bytes found, string expected"),
        (6, "type", "name", "column 'name': integer 7 found, string expected"),
        (7, "type", "x", "column 'x': text '1' found, float64 expected"),
        (8, "type", "x", "column 'x': cannot read 'inf' as float64"),
    ]
    assert rows.rejected["raw"].to_pylist()[3] == '{"id": 5, "name": "0x0102", "x": 1}'


def test_broken_and_long_texts_set_their_row_aside(tmp_path):
    path = people(tmp_path / "a.db", [(1, "a", 1), (3, "x" * 11, 1), (4, "a\0b", 1), (5, "é", 1)])
    database(path, "INSERT INTO people VALUES (9, CAST(x'61ff' AS TEXT), 1)")

    rows = read(path, max_field_bytes=10)

    assert values(rows) == [(1, "a", 1.0), (5, "é", 1.0)]
    assert rejects(rows) == [
        (2, "field", "name", "column 'name': 11 bytes, more than max_field_bytes = 10"),
        (3, "type", "name", "column 'name': cannot read 'a\\x00b' as string (it holds a NUL character)"),
        (5, "encoding", "name", "column 'name': byte 0xFF of a text is not UTF-8"),
    ]


def test_bools_and_dates_are_integers_and_texts(tmp_path):
    path = database(
        tmp_path / "a.db",
        "CREATE TABLE t (ok, d)",
        rows=[("INSERT INTO t VALUES (?, ?)", [(1, "2024-02-29"), (2, None), (0, "2023-02-29")])],
    )

    rows = read(path, {"ok": "bool", "d": "date"}, "t")

    assert [(ok, str(day)) for ok, day in values(rows)] == [(True, "2024-02-29")]
    assert [row[3] for row in rejects(rows)] == [
        "column 'ok': cannot read '2' as bool",
        "column 'd': cannot read '2023-02-29' as date (no such day)",
    ]


def test_views_and_tables_without_rowid_are_read_whole_or_by_a_key(tmp_path):
    path = people(tmp_path / "a.db", [(i * 10, f"n{i}", i) for i in range(5)])
    database(
        path,
        "CREATE VIEW v AS SELECT id, name FROM people WHERE x > 1 ORDER BY id",
        "CREATE TABLE w (id INTEGER PRIMARY KEY, name) WITHOUT ROWID",
        "INSERT INTO w SELECT id, name FROM people",
    )
    columns = {"id": "int32", "name": "string"}

    assert lines(read(path, columns, "v")) == [1, 2, 3]
    assert lines(read(path, columns, "v", key="id")) == [20, 30, 40]
    assert lines(read(path, columns, "w")) == [1, 2, 3, 4, 5]
    assert values(read(path, columns, "w", key="id")) == [(i * 10, f"n{i}") for i in range(5)]
    database(path, "UPDATE people SET x = x + 0.5")
    with pytest.raises(
        InputError,
        match=r"key 'x' of table 'people' has 5 values and 0 integers in 5 rows, expected a unique integer",
    ):
        read(path, key="x")


def test_names_are_quoted_and_compared(tmp_path):
    odd = 'we"ird; DROP TABLE people; --'
    path = database(
        tmp_path / "a.db",
        f'CREATE TABLE "{odd.replace(chr(34), chr(34) * 2)}" ("select" INTEGER, "rowid" TEXT)',
        f"INSERT INTO \"{odd.replace(chr(34), chr(34) * 2)}\" VALUES (1, 'a'), (2, 'b')",
    )

    assert values(read(path, {"n": {"type": "int8", "name": "select"}, "rowid": "string"}, odd)) == [
        (1, "a"),
        (2, "b"),
    ]
    with pytest.raises(InputError, match="there is no table 'people'; known: we"):
        read(path)
    with pytest.raises(
        InputError,
        match=r"has 2 names, 1 columns are declared \(- declared, \+ found\):\n  - selec int8: is missing, did you mean 'select'\?\n  \+ select: is not",
    ):
        read(path, {"selec": "int8"}, odd)


def test_an_empty_table_has_no_rows(tmp_path):
    assert values(read(people(tmp_path / "a.db", []))) == []


def test_b32_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(b"id,x\n1,2\n" * 200)

    with pytest.raises(InputError, match=r"a.db: no SQLite database: file is not a database; check path"):
        read(path)


def test_b32_a_damaged_database_is_named(tmp_path):
    path = people(tmp_path / "a.db", [(i, "n" * 100, i) for i in range(2000)])
    content = bytearray(path.read_bytes())
    for page in range(2, 20):
        content[4096 * page : 4096 * page + 16] = b"\xff" * 16
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"a\.db: (damaged database|cannot be read by SQLite): "):
        read(path)


def test_b32_a_locked_database_is_said_to_be_so(tmp_path):
    path = people(tmp_path / "a.db", [(1, "a", 1)])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(
            PartFailed, match=r"a.db: database is locked, after waiting 0 s \(busy_s\); run again"
        ):
            read_once(COLUMNS, path, kind="sqlite", table="people", busy_s=0)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_b32_two_parts_never_come_from_two_states(tmp_path, mode):
    path = people(tmp_path / "a.db", [(i, "a", 1) for i in range(10)])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode = {mode}")
        writer.execute("INSERT INTO people VALUES (10, 'in the log', 1)")
        source = declared(COLUMNS, kind="sqlite", path=str(path), table="people", part_bytes=1)
        [file] = sources.files(source)
        parts = sources.cut(source, file, 0)
        assert sources.read(source, parts[-1]).kept["name"].to_pylist() == ["in the log"]

        writer.execute("INSERT INTO people VALUES (11, 'new', 1)")

        with pytest.raises(SourceChanged, match=r"a.db: changed since the run was planned"):
            sources.read(source, parts[0])


cells = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=4)
    | st.binary(max_size=3)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=10))
def test_no_row_of_any_cells_is_lost_or_changed(tmp_path_factory, content):
    path = people(tmp_path_factory.mktemp("sqlite") / "a.db", content)

    rows = read(path, {**COLUMNS, "id": "int64"})

    good = {
        i + 1: (
            number,
            text,
            real if real is None else float(real),
        )  # an integer beyond 2**53 is the nearest float
        for i, (number, text, real) in enumerate(content)
        if _fits((number, text, real))
    }
    assert dict(zip(lines(rows), values(rows), strict=True)) == good
    assert lines(rows) == list(good)
    assert rows.rejected["_line"].to_pylist() == [i + 1 for i in range(len(content)) if i + 1 not in good]


def _fits(row):
    number, text, real = row
    return (
        (number is None or type(number) is int)
        and (text is None or (type(text) is str and "\0" not in text))
        and (real is None or type(real) is int or (type(real) is float and abs(real) != float("inf")))
    )
