"""Export: what is written is what is read; a key updates, its absence replaces; again changes nothing; all or nothing."""

import datetime as dt
import gzip
import json
import signal
import sqlite3
import threading
import uuid
from contextlib import closing

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import sources, warehouse
from pipelines.errors import InputError, PartFailed, SpecError
from pipelines.export import export
from tests import projects
from tests.postgres import PASSWORD
from tests.sources_reading import declared, values
from tests.warehouse_tables import lineage

UTC = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "small": pa.int8(),
        "i": pa.int32(),
        "f": pa.float32(),
        "x": pa.float64(),
        "ok": pa.bool_(),
        "name": pa.string(),
        "day": pa.date32(),
        "at": UTC,
        "v": pa.binary(2),
    }
)
READ = {"id": "int64", "small": "int8", "i": "int32", "f": "float32", "x": "float64", "ok": "bool"}
READ |= {"name": "string", "day": "date", "at": "timestamp"}
MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=dt.UTC)
ROWS = [
    (1, -128, 2**31 - 1, 1.5, 0.1, True, 'é"\n', dt.date(2024, 2, 29), MOMENT, b"\x00\xff"),
    (2**63 - 1, 1, -1, -0.5, 1e300, False, "", dt.date(1, 1, 1), MOMENT.replace(year=1904), b"ab"),
    (3, *[None] * 9),
]


def put(root, rows, *, name="t", schema=SCHEMA, files=2):
    """A new version of a table with these rows, in some files."""
    uri = warehouse.table_uri(str(root), name)
    table = pa.table(
        [list(column) for column in zip(*rows, strict=True)] or [[]] * len(schema), schema=schema
    )
    size = max(1, -(-len(rows) // files))
    made = [
        warehouse.write_file(uri, table.slice(at, size), partition={}, schema=schema, part=at)
        for at in range(0, len(rows), size)
    ]
    said = lineage(fingerprint=f"{rows!r}{uuid.uuid4()}")
    warehouse.replace(
        uri, made, key=said.fingerprint, schema=schema, partition_by=[], lineage=said, rows_out=len(rows)
    )
    return warehouse.Snapshot.open(uri)


class Target:
    """A database to export to, and how it is looked at without the code that is tested."""

    def __init__(self, url, ask, run, integer):
        self.url, self.ask, self.run, self.integer = url, ask, run, integer

    def read(self, columns, table="t"):
        source = declared(
            columns, kind="sql", url=self.url, query=f'SELECT * FROM "{table}" ORDER BY id', ignore=("v",)
        )
        [file] = sources.files(source)
        return [row for part in sources.cut(source, file, 0) for row in values(sources.read(source, part))]


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request, tmp_path):
    if request.param == "sqlite":
        path = tmp_path / "out.db"

        def ask(query):
            with closing(sqlite3.connect(path)) as database, database:
                return database.execute(query).fetchall()

        return Target(f"sqlite:///{path}", ask, lambda *all_: [ask(one) for one in all_], "INTEGER")
    server, name = request.getfixturevalue("postgres"), request.getfixturevalue("database")
    return Target(
        server.url(name),
        lambda query: server.rows(query, name),
        lambda *statements: server.run(*statements, database=name),
        "int4",
    )


def small(*rows):
    return list(rows), pa.schema({"id": pa.int64(), "name": pa.string()})


def counts(done):
    return done.rows, done.new, done.changed, done.same


def write(tmp_path, target, rows, **more):
    content, schema = small(*rows)
    return counts(export(put(tmp_path / "w", content, schema=schema), target.url, **{"table": "t", **more}))


def test_a_database_gives_back_what_was_written(tmp_path, target):
    snapshot = put(tmp_path / "w", ROWS)

    done = export(snapshot, target.url, table="t", key=("id",))

    assert counts(done) == (3, 3, 0, 0)
    assert PASSWORD not in done.to
    assert target.read(READ) == sorted(row[:-1] for row in ROWS)
    assert [bytes(v) if v else v for (v,) in target.ask('SELECT "v" FROM t ORDER BY id')] == [
        b"\x00\xff",
        None,
        b"ab",
    ]


def test_a_key_updates_and_inserts_and_leaves_the_rest(tmp_path, target):
    assert write(tmp_path, target, [(1, "a"), (2, None), (3, "c")], key=("id",)) == (3, 3, 0, 0)
    target.run(
        "ALTER TABLE t ADD COLUMN note text",
        "UPDATE t SET note = 'mine'",
        "INSERT INTO t VALUES (9, 'z', 'old')",
    )

    assert write(tmp_path, target, [(1, "a"), (2, "b"), (4, "d")], key=("id",)) == (3, 1, 1, 1)

    assert target.ask("SELECT id, name, note FROM t ORDER BY id") == [
        (1, "a", "mine"),
        (2, "b", "mine"),
        (3, "c", "mine"),
        (4, "d", None),
        (9, "z", "old"),
    ]


def test_without_a_key_the_rows_are_replaced_if_they_are_others(tmp_path, target):
    assert write(tmp_path, target, [(1, "a"), (1, "a"), (2, "b")]) == (3, 3, 0, 0)
    assert write(tmp_path, target, [(2, "b"), (1, "a"), (1, "a")]) == (3, 0, 0, 3)
    assert write(tmp_path, target, [(1, "a"), (2, "b"), (2, "b")]) == (3, 3, 0, 0)
    assert target.ask("SELECT id, name FROM t ORDER BY id") == [(1, "a"), (2, "b"), (2, "b")]
    assert write(tmp_path, target, []) == (0, 0, 0, 0)
    assert target.ask("SELECT count(*) FROM t") == [(0,)]


@pytest.mark.parametrize("key", [(), ("id",), ("id", "name")])
def test_again_touches_no_row(tmp_path, target, key):
    content, schema = small(*((i, f"n{i}" if i % 3 or key[1:] else None) for i in range(100)))
    snapshot = put(tmp_path / "w", content, schema=schema)
    place = "xmin::text || ctid::text" if "postgres" in target.url else "rowid"
    export(snapshot, target.url, table="t", key=key)
    before = target.ask(f"SELECT {place}, id FROM t ORDER BY id")

    done = export(snapshot, target.url, table="t", key=key)

    assert counts(done) == (100, 0, 0, 100)
    assert target.ask(f"SELECT {place}, id FROM t ORDER BY id") == before


def test_a_key_that_is_none_writes_nothing(tmp_path, target):
    with pytest.raises(
        InputError,
        match=r"^--key id: \(2,\) is there 3 times, expected each once; nothing was written. Deduplicate",
    ):
        write(tmp_path, target, [(2, "a"), (2, "b"), (1, "c"), (2, "c")], key=("id",))
    with pytest.raises(
        InputError, match=r"^--key name: is missing in 2 rows, expected each once; nothing was written"
    ):
        write(tmp_path, target, [(2, None), (1, None)], key=("name",))
    with pytest.raises(SpecError, match=r"^--key: there is no column 'nam'; did you mean 'name'\?$"):
        write(tmp_path, target, [(2, None)], key=("nam",))
    tables = "sqlite_schema" if "sqlite" in target.url else "pg_tables WHERE tablename"
    assert target.ask(f"SELECT count(*) FROM {tables}" + (" = 't'" if "pg" in tables else "")) == [(0,)]


def test_a_table_that_does_not_fit_is_left_alone(tmp_path, target):
    target.run(
        "CREATE TABLE t (id text, nam text)",
        "CREATE VIEW seen AS SELECT * FROM t",
        "INSERT INTO t VALUES ('x', 'y')",
    )
    declared_as = "BIGINT" if "postgres" in target.url else "INTEGER"

    with pytest.raises(InputError) as caught:
        write(tmp_path, target, [(1, "a")])
    with pytest.raises(InputError, match="'seen' is no table that rows can be written to; choose another"):
        write(tmp_path, target, [(1, "a")], table="seen")

    assert (
        f"table 't' does not fit: column 'id' is text, {declared_as} expected; column 'name' is not in it; did you mean"
        in str(caught.value).replace("bigint", "BIGINT").replace("TEXT", "text")
    )
    assert target.ask("SELECT * FROM t") == [("x", "y")]


def test_narrower_columns_are_refused_and_wider_ones_taken(tmp_path, target):
    target.run("CREATE TABLE wide (id bigint, name varchar(9))")
    assert write(tmp_path, target, [(1, "a")], table="wide") == (1, 1, 0, 0)
    if "postgres" in target.url:
        target.run("CREATE TABLE narrow (id int, name text)")
        with pytest.raises(InputError, match="column 'id' is int4, bigint expected"):
            write(tmp_path, target, [(1, "a")], table="narrow")


def test_a_failure_on_the_way_leaves_what_was_there(tmp_path, target):
    write(tmp_path, target, [(1, "a")])
    target.run("CREATE TABLE other (id bigint, name text CHECK (name <> 'bad'))")
    content, schema = small(*((i, "x") for i in range(10)))
    snapshot = put(tmp_path / "w", content, schema=schema)
    with open(snapshot.files()[-1].absolute, "r+b") as file:  # noqa: PTH123
        file.truncate(40)

    with pytest.raises(InputError, match=r"cannot be read .*; restore the file, or build the table again$"):
        export(snapshot, target.url, table="t")
    with pytest.raises(InputError, match=r"(?i)check constraint"):
        write(tmp_path, target, [(1, "a"), (2, "bad")], table="other")

    assert target.ask("SELECT id, name FROM t") == [(1, "a")]
    assert target.ask("SELECT count(*) FROM other") == [(0,)]


def test_two_exports_at_once_come_one_after_the_other(tmp_path, target):
    write(tmp_path, target, [(0, "a")], key=("id",))
    content, schema = small(*((i, "x") for i in range(500)))
    snapshot = put(tmp_path / "w", content, schema=schema)
    done = []
    threads = [
        threading.Thread(
            target=lambda: done.append(counts(export(snapshot, target.url, table="t", key=("id",))))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(done) == [(500, 0, 0, 500), (500, 0, 0, 500), (500, 499, 1, 0)]
    assert target.ask("SELECT count(*) FROM t") == [(500,)]


def test_a_locked_or_foreign_file_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.export.sqlite._BUSY_S", 0.1)
    path = tmp_path / "out.db"
    target = Target(f"sqlite:///{path}", None, None, "")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            PartFailed, match=r"out.db: database is locked, after waiting 0.1 s; nothing was written"
        ):
            write(tmp_path, target, [(1, "a")])
    path.write_bytes(b"id,name\n" * 999)
    with pytest.raises(
        InputError, match=r"out.db: no SQLite database: file is not a database; nothing was written"
    ):
        write(tmp_path, target, [(1, "a")])
    with pytest.raises(PartFailed, match=r"unable to open database file; nothing was written, check folder"):
        write(tmp_path, Target(f"sqlite:///{tmp_path}/no/out.db", None, None, ""), [(1, "a")])


def test_files_give_back_what_was_written(tmp_path):
    snapshot = put(tmp_path / "w", ROWS)
    columns = tuple(SCHEMA.names[:-1])

    for name in ("a.parquet", "a.csv", "b.csv.gz", "a.jsonl", "b.jsonl.zst"):
        done = export(snapshot, str(tmp_path / name), table="t", columns=columns)
        first = (tmp_path / name).read_bytes()
        export(snapshot, str(tmp_path / name), table="t", columns=columns)
        assert done.rows == 3
        assert (tmp_path / name).read_bytes() == first

    assert list(zip(*pq.read_table(tmp_path / "a.parquet").to_pydict().values(), strict=True)) == [
        row[:-1] for row in ROWS
    ]
    assert gzip.decompress((tmp_path / "b.csv.gz").read_bytes()) == (tmp_path / "a.csv").read_bytes()
    for kind, name, null in (("csv", "a.csv", None), ("jsonl", "a.jsonl", ""), ("jsonl", "b.jsonl.zst", "")):
        source = declared(READ, kind=kind, path=str(tmp_path / name))
        [file] = sources.files(source)
        [part] = sources.cut(source, file, 0)
        read = [
            tuple(null if one is None and null == "x" else one for one in row)
            for row in values(sources.read(source, part))
        ]
        wanted = [row[:-1] for row in ROWS]
        if kind == "csv":  # an empty text is a missing one there
            wanted[1] = (*wanted[1][:6], None, *wanted[1][7:])
        assert read == wanted
    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "w") == [
        *("a.csv", "a.jsonl", "a.parquet", "b.csv.gz", "b.jsonl.zst")
    ]


def test_a_file_that_fails_on_the_way_leaves_the_old_one(tmp_path):
    content, schema = small(*((i, "x") for i in range(10)))
    snapshot = put(tmp_path / "w", content, schema=schema)
    export(snapshot, str(tmp_path / "a.csv"), table="t")
    before = (tmp_path / "a.csv").read_bytes()
    with open(snapshot.files()[-1].absolute, "r+b") as file:  # noqa: PTH123
        file.truncate(40)

    with pytest.raises(InputError, match="cannot be read"):
        export(snapshot, str(tmp_path / "a.csv"), table="t")

    assert (tmp_path / "a.csv").read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.csv", "w"]
    assert arrow_csv.read_csv(tmp_path / "a.csv").num_rows == 10


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (
            "a.cvs",
            "--to a.cvs: no kind of file is known by this name; did you mean '.csv'?; expected one that ends in .csv,",
        ),
        ("a.csv", "csv has no form for columns v; leave them out with --columns, or write a .parquet file"),
        (
            "mysql://u:secret@h/d",
            "--to begins with mysql://, which nothing is written to; known: postgres, postgresql, sqlite; or name a file that ends in .csv",
        ),
        ("postgre://u:secret@h/d", "which nothing is written to; did you mean 'postgres'?"),
        ("sqlite://a.db", '--to sqlite://a.db: expected "sqlite:///file.db"'),
    ],
)
def test_a_target_that_cannot_be_is_told_before_anything_is_read(tmp_path, to, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshot = put(tmp_path / "w", ROWS)

    with pytest.raises(SpecError) as caught:
        export(snapshot, to, table="t")

    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["w"]


def test_a_type_that_a_database_does_not_have_is_named(tmp_path, target):
    table = pa.table({"id": [1], "l": [[1]]})  # another program's
    write_deltalake(tmp_path / "w" / "t", table)
    snapshot = warehouse.Snapshot.open(str(tmp_path / "w" / "t"))

    with pytest.raises(
        SpecError, match=r"has no type for columns l \(list<.*int64>\); leave them out with --columns$"
    ):
        export(snapshot, target.url, table="t")
    assert counts(export(snapshot, target.url, table="t", columns=("id",))) == (1, 1, 0, 0)


def test_the_command_writes_a_version_and_hides_the_password(tmp_path, postgres, database):
    content, schema = small((1, "a"), (2, "b"))
    put(tmp_path / "warehouse", content, schema=schema, name="people")
    put(tmp_path / "warehouse", [(1, "z")], schema=schema, name="people")
    url = f"postgresql://loader:${{PW}}@127.0.0.1:{postgres.port}/{database}"

    newest = projects.command(tmp_path, "export", "people", "--to", url, "--key", "id", PW=PASSWORD)
    older = projects.command(
        tmp_path,
        "export",
        "people",
        "--to",
        url,
        "--key",
        "id",
        "--version",
        "0",
        "--table",
        "p",
        "--json",
        PW=PASSWORD,
    )
    unset = projects.command(tmp_path, "export", "people", "--to", url)

    place = f"postgresql://127.0.0.1:{postgres.port}/{database}"
    assert (
        newest.stdout == f"people version 1, 1 rows -> {place}, table people: 1 new, 0 changed, 0 the same\n"
    )
    assert json.loads(older.stdout) == {
        "table": "people",
        "version": 0,
        "to": f"{place}, table p",
        "rows": 2,
        "new": 2,
        "changed": 0,
        "same": 0,
    }
    assert unset.returncode == 2
    assert "environment variable PW is not set" in unset.stderr
    assert postgres.rows("SELECT * FROM people", database) == [(1, "z")]
    assert warehouse.pins(str(tmp_path / "warehouse"), expired=True) == []


CELLS = st.tuples(
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.dates(),
    st.none() | st.datetimes(timezones=st.just(dt.UTC)),
    st.none() | st.booleans(),
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(CELLS, max_size=6), later=st.lists(CELLS, max_size=3))
def test_a_table_is_what_its_exports_say_whatever_the_rows(tmp_path, target, rows, later):
    schema = pa.schema(
        {
            "id": pa.int64(),
            "n": pa.int64(),
            "t": pa.string(),
            "x": pa.float64(),
            "d": pa.date32(),
            "at": UTC,
            "ok": pa.bool_(),
        }
    )
    columns = {
        "id": "int64",
        "n": "int64",
        "t": "string",
        "x": "float64",
        "d": "date",
        "at": "timestamp",
        "ok": "bool",
    }
    before = dict(enumerate(rows))
    after = {i + 2: row for i, row in enumerate(later)}

    first = put(tmp_path / "w", [(i, *row) for i, row in before.items()], schema=schema)
    export(first, target.url, table="t", columns=tuple(schema.names))
    second = put(tmp_path / "w", [(i, *row) for i, row in after.items()], schema=schema)
    done = export(second, target.url, table="t", key=("id",))

    assert target.read(columns) == [(i, *row) for i, row in sorted((before | after).items())]
    assert done.new == len(after.keys() - before.keys())
    assert done.changed == sum(before[i] != after[i] for i in after.keys() & before.keys())


@pytest.mark.parametrize("place", ["before_commit", "after_commit"])
def test_an_export_killed_on_either_side_of_its_commit_is_whole_or_not_there(tmp_path, target, place):
    write(tmp_path, target, [(1, "old")], key=("id",))
    content, schema = small((1, "new"), (2, "b"))
    put(tmp_path / "warehouse", content, schema=schema)
    arguments = ("export", "t", "--to", target.url, "--key", "id")

    killed = projects.command(tmp_path, *arguments, DLFLOW_FAILPOINTS=f"export.{place}=kill")
    there = target.ask("SELECT id, name FROM t ORDER BY id")
    again = projects.command(tmp_path, *arguments)

    assert killed.returncode == -signal.SIGKILL
    assert there == ([(1, "old")] if place == "before_commit" else [(1, "new"), (2, "b")])
    assert again.stdout.endswith(
        "1 new, 1 changed, 0 the same\n" if place == "before_commit" else "0 new, 0 changed, 2 the same\n"
    )
    assert target.ask("SELECT id, name FROM t ORDER BY id") == [(1, "new"), (2, "b")]


def test_b38_a_table_name_is_a_name_whatever_is_in_it(tmp_path, target):
    odd = "t\"; DROP TABLE t; --'"
    write(tmp_path, target, [(1, "a")])

    assert write(tmp_path, target, [(1, "'; DROP TABLE t; --")], table=odd, key=("id",)) == (1, 1, 0, 0)

    quoted = '"' + odd.replace('"', '""') + '"'
    assert target.ask(f"SELECT id, name FROM {quoted}") == [(1, "'; DROP TABLE t; --")]
    assert target.ask("SELECT count(*) FROM t") == [(1,)]
