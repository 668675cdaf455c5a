"""PostgreSQL: one snapshot for all parts, declared types or a sentence, deadlines, and no password anywhere."""

import datetime as dt
import socket
import urllib.parse

import pyarrow as pa
import pytest
from adbc_driver_postgresql import dbapi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import evolution, sources, warehouse
from pipelines.errors import InputError, PartFailed, SpecError
from pipelines.stage import REJECTS, Rows
from tests import projects
from tests.postgres import PASSWORD
from tests.sources_reading import declared, lines, rejects, values

COLUMNS = {"id": "int32", "name": "string", "x": "float64"}
CUTS = (150, 1 << 24)


@pytest.fixture
def shop(postgres, database):
    """Runs statements in a new database, and reads from it."""
    return Shop(postgres, database)


class Shop:
    def __init__(self, server, database):
        self.server, self.database = server, database
        self.url = server.url(database)

    def run(self, *statements):
        self.server.run(*statements, database=self.database)
        return self

    def source(self, columns=COLUMNS, **more):
        more = more if {"table", "query"} & set(more) else {"table": "people", **more}
        return declared(columns, kind="sql", **{"url": self.url, **more})

    def read(self, columns=COLUMNS, cuts=CUTS, **more):
        """All rows, the same for every cut."""
        made = []
        for size in cuts:
            source = self.source(columns, part_bytes=size, **more)
            [file] = sources.files(source)
            rows = [sources.read(source, part) for part in sources.cut(source, file, 3)]
            kept = [one.kept for one in rows]
            rejected = [one.rejected for one in rows if one.rejected is not None]
            together = pa.concat_tables(kept).combine_chunks()
            assert together.validate(full=True) is None
            assert together.schema.equals(source.schema.with_origin(), check_metadata=True)
            made.append(
                Rows(together, pa.concat_tables(rejected) if rejected else REJECTS.empty_table(), notes={})
            )
        for other in made[1:]:
            assert other.kept.equals(made[0].kept)
            assert other.rejected.equals(made[0].rejected)
        return made[0]


def people(shop, rows=100):
    return shop.run(
        "CREATE TABLE people (id int PRIMARY KEY, name text, x float8)",
        f"INSERT INTO people SELECT i, 'n' || i, i / 2.0 FROM generate_series(1, {rows}) i",
    )


def test_rows_are_read_by_primary_key_for_every_cut(shop):
    people(shop).run("DELETE FROM people WHERE id % 3 = 0")

    rows = shop.read()

    wanted = [i for i in range(1, 101) if i % 3]
    assert values(rows) == [(i, f"n{i}", i / 2) for i in wanted]
    assert lines(rows) == wanted
    source = shop.source(part_bytes=200)
    [file] = sources.files(source)
    assert len(sources.cut(source, file, 0)) > 5


def test_types_of_the_server_become_those_declared(shop):
    shop.run(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE TABLE t (s int2, i int4, l int8, r float4, d float8, b bool, n numeric(12, 2), t text, v varchar(9), "
        "c char(3), day date, at timestamptz, local timestamp, u uuid, j jsonb, m mood, e interval, y bytea, a int[])",
        "INSERT INTO t VALUES (1, 2, 9007199254740993, 1.5, 0.1, true, 12.50, 'tè', 'v', 'a', '2024-02-29', "
        "'2024-01-01 01:00:00+01', '2024-07-01 12:00:00.25', '00000000-0000-0000-0000-000000000001', '{\"k\": 1}', 'sad', "
        "'1 day', '\\x00ff', '{1,2}')",
        "INSERT INTO t (s) VALUES (NULL)",
    )
    columns = {"s": "int8", "i": "int64", "l": "int64", "r": "float32", "d": "float64", "b": "bool"}
    columns |= {"n": "float64", "t": "string", "v": "string", "c": "string", "day": "date", "at": "timestamp"}
    columns |= {"local": {"type": "timestamp", "zone": "Europe/Berlin"}}
    columns |= dict.fromkeys(["u", "j", "m", "e", "y", "a"], "string")

    [row, missing] = values(shop.read(columns, table="t"))

    assert [str(value) for value in row] == [
        *("1", "2", "9007199254740993", "1.5", "0.1", "True", "12.5", "tè", "v", "a  ", "2024-02-29"),
        *("2024-01-01 00:00:00+00:00", "2024-07-01 10:00:00.250000+00:00"),
        *("00000000-0000-0000-0000-000000000001", '{"k": 1}', "sad", "1 day", "\\x00ff", "{1,2}"),
    ]
    assert set(missing) == {None}


def test_values_that_do_not_fit_set_their_row_aside(shop):
    shop.run(
        "CREATE TABLE people (id int8 PRIMARY KEY, name text, x float8, n numeric, day date, at timestamptz)",
        "INSERT INTO people VALUES (1, '12', 1, 1, '2024-02-29', now()), (2, 'n/a', 1, 1, NULL, NULL), (3, NULL, 'NaN', 1, NULL, NULL), "
        "(4, '1', 1, 1.5, NULL, NULL), (5, '1', 1, 1, 'infinity', NULL), (6, '1', 1, 1, NULL, '-infinity'), "
        "(5000000000, '1', 1, 1, NULL, NULL), (8, '123456', 1, 1, '0044-03-15 BC', NULL)",
    )
    columns = {"id": "int32", "name": "int16", "x": "float64", "n": "int32", "day": "date", "at": "timestamp"}

    rows = shop.read(columns)

    assert lines(rows) == [1]
    assert rejects(rows) == [
        (2, "type", "name", "column 'name': cannot read 'n/a' as int16"),
        (3, "type", "x", "column 'x': cannot read 'nan' as float64"),
        (4, "type", "n", "column 'n': cannot read '1.5' as int32"),
        (5, "type", "day", "column 'day': cannot read 'infinity' as date"),
        (6, "type", "at", "column 'at': cannot read '-infinity' as timestamp"),
        (
            8,
            "type",
            "name",
            "column 'name': cannot read '123456' as int16 (int16 holds -32768 to 32767)",
        ),
        (
            5000000000,
            "type",
            "id",
            "column 'id': cannot read '5000000000' as int32 (int32 holds -2147483648 to 2147483647)",
        ),
    ]
    assert rows.rejected["raw"].to_pylist()[0] == (
        '{"id": 2, "name": "n/a", "x": 1.0, "n": "1", "day": null, "at": null}'
    )


def test_long_texts_and_forbidden_nulls_set_their_row_aside(shop):
    people(shop, 3).run(
        "UPDATE people SET name = repeat('é', 6) WHERE id = 2", "UPDATE people SET name = NULL WHERE id = 3"
    )

    rows = shop.read({**COLUMNS, "name": {"type": "string", "nullable": False}}, max_field_bytes=10)

    assert rejects(rows) == [
        (2, "field", "name", "column 'name': 12 bytes, more than max_field_bytes = 10"),
        (3, "null", "name", "column 'name': missing, and nullable is false"),
    ]
    with pytest.raises(InputError, match=r"postgresql://127.0.0.1:\d+/\w+#people:3: column 'name': missing"):
        shop.read({**COLUMNS, "name": {"type": "string", "nullable": False, "on_error": "fail"}})


def test_a_column_of_another_type_fails_before_any_row_is_read(shop):
    people(shop)

    with pytest.raises(
        InputError,
        match=r"people: the columns of table 'people' are not those declared \(- declared, \+ on the server\):\n"
        r'  - id date\n  \+ id int4: declare "int64" or "string", or cast it in a query\n'
        r'  - x int32\n  \+ x float8: declare "float64" or "string", or cast it in a query; correct columns, or cast in a query$',
    ):
        shop.read({**COLUMNS, "id": "date", "x": "int32"})


def test_b38_names_are_quoted_and_compared(shop):
    shop.run(
        'CREATE SCHEMA "we.ird"',
        'CREATE TABLE "Sel""ect; DROP" ("from" int, "ctid2" text)',
        'INSERT INTO "Sel""ect; DROP" VALUES (1, \'a\')',
        "CREATE SCHEMA s CREATE TABLE people (id int, name text, x float8)",
    )

    assert values(
        shop.read({"f": {"type": "int8", "name": "from"}, "ctid2": "string"}, table='Sel"ect; DROP')
    ) == [(1, "a")]
    assert values(shop.read(table="s.people")) == []
    with pytest.raises(
        InputError, match=r"#peopl: there is no table 'peopl'; did you mean 's.people'\?; correct table"
    ):
        shop.read(table="peopl")
    with pytest.raises(
        InputError,
        match=r"table 's.people' has 3 names, 1 columns are declared \(- declared, \+ found\):\n  - nam string: is missing, did you mean",
    ):
        shop.read({"nam": "string"}, table="s.people")


def test_tables_views_and_queries_are_cut_by_place_by_key_or_not_at_all(shop):
    shop.run(
        "CREATE TABLE heap (id int, name text)",
        "INSERT INTO heap SELECT i, repeat('n', 100) FROM generate_series(1, 500) i",
        "DELETE FROM heap WHERE id % 7 = 0",
        "CREATE VIEW v AS SELECT * FROM heap WHERE id <= 100",
        "CREATE TABLE parted (id int, name text) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF parted FOR VALUES FROM (0) TO (50)",
        "CREATE TABLE p2 PARTITION OF parted FOR VALUES FROM (50) TO (1000)",
        "INSERT INTO parted SELECT * FROM v",
    )
    columns, wanted = {"id": "int32"}, [i for i in range(1, 501) if i % 7]
    few = [i for i in wanted if i <= 100]

    assert [
        one for (one,) in values(shop.read(columns, table="heap", ignore=("name",), cuts=(300, 9000)))
    ] == wanted
    assert values(shop.read(columns, table="v", ignore=("name",), key="id")) == [(i,) for i in few]
    assert lines(shop.read(columns, table="v", ignore=("name",), cuts=(1 << 20,))) == list(
        range(1, len(few) + 1)
    )
    assert values(shop.read(columns, table="parted", ignore=("name",), key="id")) == [(i,) for i in few]
    asked = "SELECT id FROM heap WHERE id < 10;"
    assert values(shop.read(columns, query=asked, key="id")) == [(i,) for i in few if i < 10]
    with pytest.raises(InputError, match=r"#v: 86 rows with 337 bytes and no key to cut them by; set key"):
        shop.read(columns, table="v", ignore=("name",), cuts=(5,))
    with pytest.raises(
        InputError, match=r"key 'id' has 2 values and 1 nulls in 4 rows, expected a unique integer in each"
    ):
        shop.read(columns, query="SELECT unnest(array[1, 1, 2, NULL]) AS id", key="id")
    with pytest.raises(
        InputError, match=r"key 'name' of table 'v' is text; expected a unique column of integers"
    ):
        shop.read(columns, table="v", ignore=("name",), key="name")
    with pytest.raises(InputError, match=r"\w: syntax error at or near \"heap\"; correct the query"):
        shop.read(columns, query="SELECT id FRO heap")
    with pytest.raises(InputError, match=r"cannot execute nextval\(\) in a read-only transaction"):
        shop.run("CREATE SEQUENCE q").read(columns, query="SELECT nextval('q')::int AS id")


def test_all_parts_are_read_in_the_state_of_the_plan(shop):
    people(shop)
    source = shop.source(part_bytes=200)
    [file] = sources.files(source)
    parts = sources.cut(source, file, 0)
    before = [sources.read(source, part) for part in parts[:2]]

    shop.run("UPDATE people SET x = -1", "DELETE FROM people WHERE id > 50", "VACUUM people")
    rest = [sources.read(source, part) for part in parts[2:]]

    assert [row for one in (*before, *rest) for row in values(one)] == [
        (i, f"n{i}", i / 2) for i in range(1, 101)
    ]
    [after] = sources.files(source)
    assert after.sha256 != file.sha256
    assert sum(sources.read(source, part).kept.num_rows for part in sources.cut(source, after, 0)) == 50


def test_the_digest_is_of_the_rows(shop):
    people(shop)
    [first] = sources.files(shop.source())

    [again] = sources.files(shop.source())
    shop.run("UPDATE people SET name = 'n1' WHERE id = 2")
    [changed] = sources.files(shop.source())

    assert again.sha256 == first.sha256 != changed.sha256
    assert again.path == first.path == f"postgresql://127.0.0.1:{shop.server.port}/{shop.database}#people"


def test_a_snapshot_ends_with_its_plan(shop):
    people(shop)
    source = shop.source()
    [file] = sources.files(source)
    [part] = sources.cut(source, file, 0)
    held = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    assert shop.server.rows(held, shop.database) == [(1,)]

    del file

    assert shop.server.rows(held, shop.database) == [(0,)]
    with pytest.raises(
        PartFailed, match=r"#people: the snapshot of the plan is gone, as its connection was lost; run again"
    ):
        sources.read(source, part)


def test_a_server_that_is_not_there_or_does_not_answer_is_one_sentence(shop):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(PartFailed) as caught:
            shop.read(url=shop.server.url(port=port), connect_s=2)
        assert str(caught.value) == (
            f"postgresql://127.0.0.1:{port}/postgres: cannot be reached within 2 s (connect_s): connection to server at "
            f'"127.0.0.1", port {port} failed: timeout expired; check host and port in url, and that the server runs'
        )
    with pytest.raises(
        PartFailed, match=r"Connection refused; check host and port in url, and that the server runs$"
    ):
        shop.read(url=shop.server.url(port=port))
    with pytest.raises(PartFailed, match=r"could not translate host name \"nowhere.invalid\""):
        shop.read(url="postgresql://u:p@nowhere.invalid/x")


def test_a_query_that_takes_too_long_ends_and_a_lock_is_waited_for_as_long_as_declared(shop):
    people(shop, 3)
    with pytest.raises(
        PartFailed,
        match=r"#?.*: not answered within 1 s \(query_s\): canceling statement due to statement timeout; raise",
    ):
        shop.read({"id": "int32"}, query="SELECT 1 AS id, pg_sleep(5)::text AS s", ignore=("s",), query_s=1)
    with dbapi.connect(shop.url) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE people")
        with pytest.raises(PartFailed, match=r"lock timeout, after waiting 0.2 s \(busy_s\); run again"):
            shop.read(busy_s=0.2)


def test_what_the_server_refuses_is_said_without_the_password(shop):
    people(shop).run("CREATE ROLE nobody LOGIN PASSWORD 'x'")
    for url, what in (
        (
            shop.server.url(password=PASSWORD + "!"),
            'password authentication failed for user "loader"; correct url',
        ),
        (shop.server.url("nix"), 'database "nix" does not exist; correct url'),
        (
            shop.url.replace("loader:", "nobody:").replace(shop.url.split(":")[2].split("@")[0], "x"),
            "permission denied",
        ),
        (f"postgresql://u:{PASSWORD}@127.0.0.1:5/db", "url is not valid: invalid "),
    ):
        with pytest.raises(InputError) as caught:
            shop.read(url=url)
        assert what in str(caught.value)
        assert PASSWORD[:6] not in str(caught.value)
        assert PASSWORD[:6] not in repr(shop.source(url=url))


def test_the_url_of_a_source_is_checked():
    def wrong(**more):
        with pytest.raises(SpecError) as caught:
            declared(COLUMNS, kind="sql", **more)
        return str(caught.value)

    assert (
        wrong(table="t") == 'url is missing; a sql source needs url = "postgresql://..." or "sqlite:///file"'
    )
    assert wrong(table="t", url="postgersql://u:secret@h/d") == (
        "url begins with 'postgersql', which is no database that can be read; did you mean 'postgresql'?"
    )
    assert wrong(table="t", url="mysql://u:secret@h/d") == (
        "url begins with 'mysql', which is no database that can be read; known: postgres, postgresql, sqlite"
    )
    assert wrong(table="t", url="sqlite://a.db").startswith('url of SQLite is "sqlite:///file.db"')
    assert (
        wrong(url="postgresql://h/d")
        == 'a sql source needs either table = "name" or query = "select ...", and not both'
    )
    assert (
        wrong(table="t", url="postgresql://h/d", path="x")
        == "path has no effect on a sql source; leave it out"
    )
    assert wrong(table="t", url="postgresql://h/d", connect_s=0) == "connect_s = 0: expected 1 to 1073741824"


def test_a_sqlite_url_reads_a_table_or_query_of_that_file(tmp_path):
    import sqlite3
    from contextlib import closing

    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE people (id, name, x)")
        connection.executemany("INSERT INTO people VALUES (?, ?, ?)", [(i, f"n{i}", i / 2) for i in range(9)])
    url = f"sqlite:///{path}"

    def read(**more):
        source = declared({"id": "int32"}, kind="sql", url=url, ignore=("name", "x"), part_bytes=20, **more)
        [file] = sources.files(source)
        return [row for part in sources.cut(source, file, 0) for row in values(sources.read(source, part))]

    assert read(table="people") == [(i,) for i in range(9)]
    assert read(query="SELECT * FROM people WHERE id > 5") == [(6,), (7,), (8,)]
    assert read(query="SELECT * FROM people WHERE id > 5;", key="id") == [(6,), (7,), (8,)]


def test_two_workers_read_one_snapshot(shop, local_cluster):
    people(shop, 2000)
    source = shop.source(part_bytes=4000)
    [file] = sources.files(source)
    parts = sources.cut(source, file, 0)
    shop.run("DELETE FROM people")

    rows = local_cluster.gather(local_cluster.map(sources.read, [source] * len(parts), parts, pure=False))

    assert len(parts) > 8
    assert [row for one in rows for row in values(one)] == [(i, f"n{i}", i / 2) for i in range(1, 2001)]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_written_is_what_is_read(shop, rows):
    table = pa.table(
        [
            pa.array(column, kind)
            for column, kind in zip(
                zip(*rows, strict=True), (pa.int64(), pa.string(), pa.float64(), pa.bool_()), strict=True
            )
        ],
        ["i", "t", "x", "b"],
    )
    with dbapi.connect(shop.url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("written", table, mode="replace")

    read = shop.read(
        {"i": "int64", "t": "string", "x": "float64", "b": "bool"}, table="written", cuts=(60, 1 << 20)
    )

    assert values(read) == rows


PIPELINE = """
name = "shop"
[sources.people]
kind = "sql"
url = "postgresql://${SHOP_USER}:${SHOP_PASSWORD}@127.0.0.1:${SHOP_PORT}/{database}"
table = "people"
part_bytes = 1000
[sources.people.columns]
id = "int32"
name = "string"
x = "float64"
[params]
database = "none"
[tables.people]
source = "people"
"""


def test_a_pipeline_reads_a_server_and_its_password_is_nowhere(shop, tmp_path):
    people(shop, 300).run("UPDATE people SET x = 'NaN' WHERE id = 7")
    (tmp_path / "pipeline.toml").write_text(PIPELINE.replace("none", shop.database))
    secrets = {"SHOP_USER": "loader", "SHOP_PASSWORD": PASSWORD, "SHOP_PORT": str(shop.server.port)}

    first = projects.command(tmp_path, "run", "--workers", "0", **secrets)
    again = projects.command(tmp_path, "run", "--workers", "0", **secrets)
    shop.run("INSERT INTO people VALUES (301, 'new', 1)")
    plan = projects.command(tmp_path, "plan", **secrets)
    broken = projects.command(tmp_path, "plan", **{**secrets, "SHOP_PASSWORD": PASSWORD[:-1]})

    assert first.returncode == 0, first.stderr
    table = warehouse.sql(str(tmp_path / "warehouse"), "select count(*) as n, sum(id) as s from people")
    assert table.to_pylist() == [{"n": 299, "s": 300 * 301 // 2 - 7}]
    [reject] = warehouse.read_quarantine(str(tmp_path / "warehouse" / "people")).to_pylist()
    place = f"postgresql://127.0.0.1:{shop.server.port}/{shop.database}#people"
    assert (reject["source"], reject["line"], reject["rule"]) == (place, 7, "type")
    assert "nothing to do" in again.stderr + again.stdout
    assert f"why: source people: changed: {shop.database}#people" in plan.stdout
    assert broken.returncode == 2
    assert "the server refuses the connection" in broken.stderr
    said = "".join(one.stdout + one.stderr for one in (first, again, plan, broken))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (PASSWORD, urllib.parse.quote(PASSWORD, safe=""), PASSWORD[:-1]):
        assert secret not in said
        assert secret.encode() not in kept


def test_sources_of_one_plan_are_read_in_one_snapshot(shop):
    people(shop, 3).run(
        "CREATE TABLE visits (id int PRIMARY KEY, person int)", "INSERT INTO visits VALUES (1, 3)"
    )
    first = shop.source()
    second = shop.source({"id": "int32", "person": "int32"}, table="visits")

    with sources.one_moment():
        [one] = sources.files(first)
        shop.run("DELETE FROM people", "INSERT INTO visits VALUES (2, 4)")
        [two] = sources.files(second)
    [later] = sources.files(second)

    assert one.state == two.state != later.state
    [part] = sources.cut(second, two, 0)
    assert values(sources.read(second, part)) == [(1, 3)]
    held = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    assert shop.server.rows(held, shop.database) == [(2,)]
    del one
    assert values(sources.read(second, part)) == [(1, 3)]
    del two, later
    assert shop.server.rows(held, shop.database) == [(0,)]


def test_a_source_that_fails_while_it_is_listed_leaves_no_transaction_open(shop):
    people(shop)
    held = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle%' AND datname = current_database()"

    with pytest.raises(InputError), sources.one_moment():
        sources.files(shop.source(table="nothing"))

    assert shop.server.rows(held, shop.database) == [(0,)]


def test_a_server_that_ends_the_connection_of_the_plan_is_one_sentence(shop, capfd):
    people(shop)
    source = shop.source()
    [file] = sources.files(source)
    [part] = sources.cut(source, file, 0)
    shop.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")

    with pytest.raises(
        PartFailed, match=r"#people: the snapshot of the plan is gone, as its connection was lost; run again$"
    ):
        sources.read(source, part)
    del file

    assert capfd.readouterr().err == ""


def test_epochs_are_read_from_numbers(shop):
    shop.run(
        "CREATE TABLE t (id int PRIMARY KEY, s int8, m float8)",
        "INSERT INTO t VALUES (1, 86400, 1500.5), (2, NULL, NULL)",
    )
    columns = {
        "s": {"type": "timestamp", "format": "epoch_s"},
        "m": {"type": "timestamp", "format": "epoch_ms"},
    }

    [(s, m), missing] = values(shop.read(columns, table="t", ignore=("id",)))

    assert (str(s), str(m)) == ("1970-01-02 00:00:00+00:00", "1970-01-01 00:00:01.500500+00:00")
    assert missing == (None, None)


def test_with_evolve_a_new_column_is_in_the_digest_and_in_the_rows(shop):
    people(shop, 3)
    source = shop.source({"id": "int32", "name": "string"}, contract="evolve")
    before = sources.files(source)[0].sha256  # what was listed holds its snapshot, and with it the table
    shop.run(
        "ALTER TABLE people ADD COLUMN born date, ADD COLUMN tags text[]",
        "UPDATE people SET born = '2001-02-03'",
    )
    [file] = sources.files(source)

    grown = evolution.grown(source, {}, [(file.path, sources.columns(source, file))])
    rows = [row for part in sources.cut(grown, file, 0) for row in values(sources.read(grown, part))]

    assert before != file.sha256
    assert {column: one.type for column, one in grown.columns.items()} == {
        "id": "int32", "name": "string", "x": "float64", "born": "date", "tags": "string",
    }  # fmt: skip
    assert rows[0] == (1, "n1", 0.5, dt.date(2001, 2, 3), None)
    del file
    shop.run("ALTER TABLE people DROP COLUMN tags")
    [later] = sources.files(grown)
    assert values(sources.read(grown, sources.cut(grown, later, 0)[0]))[0] == rows[0]
