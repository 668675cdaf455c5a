"""Tables of a warehouse, their history, and SQL over them."""

import json

import pyarrow as pa
import pytest

from pipelines.errors import SpecError
from pipelines.warehouse import commit_rejects, history, log, replace, sql, tables, write_rejects
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rejects


@pytest.fixture
def root(tmp_path):
    root = str(tmp_path)
    put(f"{root}/trips", [1, 2, 3], "k1")
    put(f"{root}/trips", [4], "k2", day=None)
    put(f"{root}/Zones", [7], "k")
    (tmp_path / "notes").mkdir()
    return root


def test_tables_are_listed_with_their_size(root):
    listed = {listing.name: listing for listing in tables(root)}

    assert set(listed) == {"trips", "Zones"}
    assert (listed["trips"].rows, listed["trips"].files, listed["trips"].version) == (4, 2, 1)
    assert listed["trips"].bytes > 0
    assert listed["trips"].updated.tzinfo is not None
    assert tables(f"{root}/nothing") == []


def test_history_says_who_did_what_and_why(root):
    said = lineage("F", run="run7", why=["in/a.csv is new"])
    replace(
        f"{root}/trips",
        [file(f"{root}/trips", [9])],
        key="r",
        schema=SCHEMA,
        partition_by=["day"],
        lineage=said,
    )

    newest, *older = history(f"{root}/trips")

    assert (newest.version, newest.operation, newest.rows, newest.run) == (2, "replace", 1, "run7")
    assert newest.why == ("in/a.csv is new",)
    assert newest.who == said.who
    assert [event.version for event in older] == [1, 0]
    assert [event.version for event in history(f"{root}/trips", since=2)] == [2]


def test_history_is_in_the_order_of_versions_even_if_the_clock_was_set_back(root):
    entry = log.entry_path(f"{root}/trips", 1)
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["timestamp"] -= 3_600_000
    entry.write_text("\n".join(json.dumps(line) for line in lines))

    events = history(f"{root}/trips")

    assert [event.version for event in events] == [1, 0]
    assert events[0].time == events[1].time


def test_commits_of_other_programs_are_in_the_history(root):
    log.handle(f"{root}/trips").delete("id = 1")

    assert (history(f"{root}/trips")[0].operation, history(f"{root}/trips")[0].rows) == ("delete", None)
    assert ids(f"{root}/trips") == [2, 3, 4]


def test_sql_answers_over_all_tables(root):
    answer = sql(root, "select t.id, t.day, z.id as zone from trips t cross join Zones z order by t.id")

    assert answer.to_pylist() == [{"id": i, "day": "d1" if i < 4 else None, "zone": 7} for i in (1, 2, 3, 4)]
    assert answer.schema.field("day").type == pa.string()


def test_sql_reads_vectors_and_their_files(root):
    answer = sql(root, "select id, x from trips where id = 1")

    assert answer.to_pylist() == [{"id": 1, "x": (1).to_bytes(8, "little")}]
    assert answer.schema.field("x").type == pa.binary()


def test_sql_sees_quarantines(root):
    uri = f"{root}/trips"
    receipts = [write_rejects(uri, rejects([3]), key="k1", run="r", step="cast", sources=["a.csv"])]
    commit_rejects(uri, receipts, key="k1", lineage=lineage())

    assert sql(root, "select source, line from trips__quarantine").to_pylist() == [
        {"source": "a.csv", "line": 3}
    ]


@pytest.mark.parametrize(
    "query",
    [
        "select 1;",
        "-- hello; there\nSELECT 1",
        "with a as (select 1) select * from a",
        "describe trips",
        "explain select 1",
        "select 'insert into; drop'",
    ],
)
def test_what_reads_is_allowed(root, query):
    assert sql(root, query).num_rows >= 1


@pytest.mark.parametrize(
    "query",
    [
        "copy trips to '/tmp/out.csv'",
        "insert into trips select * from trips",
        "create external table a stored as csv location '/etc/passwd'",
        "drop table trips",
        "delete from trips",
        "select 1; select 2",
        "explain analyze copy trips to '/tmp/out.csv'",
        "with a as (select 1) insert into trips select * from a",
        "/* select */ copy trips to '/tmp/out.csv'",
        "set datafusion.execution.batch_size = 1",
        "",
    ],
)
def test_what_writes_is_refused(root, query):
    with pytest.raises(SpecError, match="expected"):
        sql(root, query)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("select * from trip", r"no table 'trip'.*did you mean 'trips'\?"),
        ("select * from zones", r"did you mean 'Zones'\?"),
        ("select nope from trips", "No field named nope"),
        ("select )", "Expected.*correct the query"),
    ],
)
def test_a_query_that_cannot_be_answered_says_what_to_do(root, query, problem):
    with pytest.raises(SpecError, match=problem):
        sql(root, query)
