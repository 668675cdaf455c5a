"""Contradictions between sources and within: who is believed, column by column, and what decided."""

import json
from collections import Counter
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.ingest import print_evidence
from pipelines import failpoints, inspection, warehouse
from pipelines.contradictions import Resolve
from pipelines.errors import SpecError
from tests import builds
from tests.strategies import SCHEMA, data, run, tables, with_origin
from tests.test_duplicates import rows_of

FULL = with_origin(SCHEMA.empty_table()).schema
TRUST = {"by": ("id",), "policy": "trust", "source_column": "origin", "order": ("crm", "shop")}
CUSTOMERS = {
    "id": [1, 1, 2, 2, 3, 3, 4, 4],
    "region": ["N", "S", "E", "W", "N", "W", "S", "N"],
    "origin": ["shop", "crm", "shop", "shop", "crm", "shop", None, "web"],
    "at": [9, 1, 1, 2, 5, 6, 1, 2],
}


def test_the_most_trusted_source_is_right_then_the_latest_then_the_first():
    table = rows_of(**CUSTOMERS)

    first = run(Resolve(**TRUST, columns=("region",)), [table])
    latest = run(Resolve(**TRUST, columns=("region",), order_by=("at",)), [table])

    assert data(first.kept)["region"] == ["S", "E", "N", "S"]
    assert data(latest.kept)["region"] == ["S", "W", "N", "N"]
    assert first.notes == {"contradictions": 4, "sources not in order": 2, "ties": 2}
    assert [record["message"] for record in first.rejected.to_pylist()][:2] == [
        "column 'region': 'N' contradicts 'S' in line 2, which was kept",
        "column 'region': 'W' contradicts 'E' in line 3, which was kept",
    ]


def test_a_source_that_is_trusted_less_fills_what_the_trusted_one_does_not_know():
    table = rows_of(id=[1, 1], region=["N", None], tier=["b", "a"], origin=["shop", "crm"])

    rows = run(Resolve(**TRUST), [table])

    assert data(rows.kept) == {"id": [1], "region": ["N"], "tier": ["a"], "origin": ["crm"]}
    assert rows.notes == {"contradictions": 1, "completed region": 1}


def test_each_column_may_have_a_policy_of_its_own():
    table = rows_of(
        id=[1, 1, 1],
        name=["Ann", "Anna", "Anna"],
        tier=["a", "b", "c"],
        region=["N", "N", "N"],
        at=[1, 2, 3],
        origin=["crm", "shop", "shop"],
    )
    policies = {"name": "majority", "tier": "latest"}

    rows = run(Resolve(**TRUST, policies=policies, order_by=("at",)), [table])

    # the row of the trusted source stays, with what the policies of the two columns have put in place of its values
    assert data(rows.kept) == {
        "id": [1],
        "name": ["Anna"],
        "tier": ["c"],
        "region": ["N"],
        "at": [1],
        "origin": ["crm"],
    }
    assert rows.notes == {"contradictions": 1, "overruled name": 1, "overruled tier": 1}
    assert rows.rejected["_line"].to_pylist() == [2]
    assert rows.deduplicated == 1


def test_a_column_that_nothing_may_decide_takes_its_key_to_the_quarantine():
    table = rows_of(
        id=[1, 1, 2, 2], tax=["x", "y", "x", "x"], tier=["a", "a", "a", "b"], origin=["crm", "shop"] * 2
    )

    rows = run(Resolve(**TRUST, policies={"tax": "quarantine"}), [table])

    assert data(rows.kept) == {"id": [2], "tax": ["x"], "tier": ["a"], "origin": ["crm"]}
    assert rows.rejected["message"].to_pylist() == [
        "column 'tax': 'y' contradicts 'x' in line 1, no row of this key was kept",
        "column 'tax': 'y' contradicts 'x' in line 1, no row of this key was kept",
        "column 'tier': 'b' contradicts 'a' in line 3, which was kept",
    ]


@settings(max_examples=60, deadline=None)
@given(table=tables(cells={"id": [1, 2], "note": ["a", "b", "c"], "age": [1, 2], "city": ["x", "y"]}))
def test_every_value_is_that_of_the_most_trusted_row_that_has_one(table):
    step = Resolve(
        by=("id",),
        policy="trust",
        source_column="note",
        order=("b", "a"),
        order_by=("age",),
        columns=("city",),
    )
    rank = {"b": 0, "a": 1}
    groups = {}
    for place, row in enumerate(table.to_pylist()):
        age = -(row["age"] or 0)  # the latest first, a row without a time last
        groups.setdefault(row["id"], []).append(((rank.get(row["note"], 2), age, place), row["city"]))
    expected = {
        key: next((city for _, city in sorted(rows) if city is not None), None)
        for key, rows in groups.items()
        if key is not None
    }

    kept = run(step, [table]).kept.to_pylist()

    assert {row["id"]: row["city"] for row in kept if row["id"] is not None} == expected


def best_first(group, policy, timed):
    """Rows of one key in the order in which the policy prefers them, as the documents say it."""
    votes = Counter((row["city"], row["age"]) for row in group)
    last = len(group)

    def rank(place):
        row = group[place]
        time = [row["day"] is None, -(row["day"] or date.min).toordinal()] if timed else []
        if policy == "first":
            return [place]
        return (
            [*time, last - place] if policy == "latest" else [-votes[row["city"], row["age"]], *time, place]
        )

    return [group[place] for place in sorted(range(len(group)), key=rank)]


@pytest.mark.parametrize(
    ("policy", "timed"), [("first", False), ("latest", True), ("majority", True), ("majority", False)]
)
@settings(max_examples=15, deadline=None)
@given(
    table=tables(
        cells={
            "id": [1, 2],
            "age": [1, 2],
            "city": ["x", "y"],
            "ok": [True, False],
            "day": [date(2026, 1, 1), date(2026, 1, 2)],
        }
    )
)
def test_the_row_that_wins_is_the_one_that_its_policy_prefers(table, policy, timed):
    step = Resolve(by=("id",), policy=policy, columns=("city", "age"), order_by=("day",) if timed else ())
    groups = {}
    for row in table.to_pylist():
        groups.setdefault(row["id"], []).append(row)
    expected = {}
    for key, group in groups.items():
        rows = best_first(group, policy, timed)
        values = {
            name: next((row[name] for row in rows if row[name] is not None), None) for name in ("city", "age")
        }
        expected[key] = {
            **rows[0],
            **values,
        }  # what the best does not know comes from the next best that does

    kept = run(step, [table]).kept.to_pylist()

    assert {row["id"]: row for row in kept if row["id"] is not None} == {
        key: row for key, row in expected.items() if key is not None
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "trust"}, 'policy = "trust" needs the column that says where a row is from'),
        ({"policy": "trust", "order": ("a",)}, "needs the column that says"),
        ({"policy": "trust", "source_column": "note"}, "needs the column that says"),
        ({"policy": "first", "order": ("a",)}, "order has no meaning without"),
        ({"policy": "trust", "source_column": "noet", "order": ("a",)}, "did you mean 'note'"),
        ({"policy": "trust", "source_column": "age", "order": ("a",)}, "'age' is int32, expected string"),
        ({"policy": "trust", "source_column": "note", "order": ("a", "b", "a")}, "order names 'a' twice"),
        (
            {"policy": "trust", "source_column": "note", "order": ("a",), "columns": ("note",)},
            "leave it out of columns",
        ),
        ({"policy": "first", "policies": {"cty": "majority"}}, "did you mean 'city'"),
        ({"policy": "first", "policies": {"city": "latest"}}, "'latest' needs order_by"),
        (
            {"policy": "first", "policies": {"city": "quarantine"}, "order_by": ("at",)},
            "order_by has no meaning",
        ),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_said_before(settings, message):
    with pytest.raises(SpecError, match=message):
        Resolve(by=("id",), **settings).stage(FULL)


PIPELINE = """
name = "people"
[sources.crm]
kind = "csv"
path = "crm.csv"
columns = { id = "int64", region = "string", at = "date" }
[sources.shop]
kind = "csv"
path = "shop.csv"
columns = { id = "int64", region = "string", at = "date" }
[tables.people]
source = ["crm", "shop"]
union = { source_column = "origin" }
steps = [
  { do = "resolve", by = ["id"], policy = "trust", source_column = "origin", order = ["crm", "shop"] },
]
"""


def people(folder):
    builds.csv(folder / "crm.csv", ["id", "region", "at"], [[1, "N", "2026-01-01"], [2, None, "2026-01-01"]])
    builds.csv(folder / "shop.csv", ["id", "region", "at"], [[1, "S", "2026-02-02"], [2, "W", "2026-01-01"]])
    return builds.make(folder, PIPELINE)["people"]


def test_two_sources_of_a_union_are_trusted_in_a_declared_order(tmp_path):
    people(tmp_path)

    found = sorted((row["id"], row["region"], row["origin"]) for row in builds.rows(tmp_path, "people"))
    assert found == [(1, "N", "crm"), (2, "W", "crm")]


# ---- evidence


def told(rows, *names):
    """Columns of the evidence, row by row."""
    return [tuple(row[name] for name in names) for row in rows.evidence.to_pylist()]


def test_every_value_in_dispute_is_told_with_what_decided_against_it():
    table = rows_of(**CUSTOMERS)

    rows = run(Resolve(**TRUST, columns=("region",), order_by=("at",)), [table])

    names = ("key", "value", "chosen", "decided", "origin", "time")
    assert told(rows, *names) == [
        ("1", "N", "S", "trust", "shop", "9"),
        ("1", "S", "S", None, "crm", "1"),
        ("2", "E", "W", "latest", "shop", "1"),
        ("2", "W", "W", None, "shop", "2"),
        ("3", "N", "N", None, "crm", "5"),
        ("3", "W", "N", "trust", "shop", "6"),
        ("4", "S", "N", "latest", None, "1"),
        ("4", "N", "N", None, "web", "2"),
    ]
    assert rows.notes["ties"] == 2
    assert told(rows, "_line", "first_line")[:2] == [(1, 1), (2, 1)]


def test_where_nothing_was_kept_nothing_was_chosen():
    rows = run(
        Resolve(by=("id",), policy="quarantine"), [rows_of(id=[1, 1, 1], a=["x", "y", None], b=[1, 1, 1])]
    )

    assert told(rows, "column", "value", "chosen", "policy", "decided") == [
        ("a", "x", None, "quarantine", None),
        ("a", "y", None, "quarantine", None),
    ]
    assert "ties" not in rows.notes


def test_a_private_value_is_not_told_and_a_key_of_several_columns_is_a_list():
    table = rows_of(id=[1, 1], place=["a", "a"], mail=["x@a", "x@b"])
    place = table.schema.get_field_index("mail")
    private = pa.field("mail", pa.string(), metadata={"privacy": "direct"})

    rows = run(Resolve(by=("id", "place"), policy="first"), [table.cast(table.schema.set(place, private))])

    assert told(rows, "key", "value", "chosen", "decided") == [
        ('["1", "a"]', "***", "***", None),
        ('["1", "a"]', "***", "***", "first"),
    ]


@settings(max_examples=60, deadline=None)
@given(table=tables(), policy=st.sampled_from(["first", "latest", "majority", "quarantine"]))
def test_the_evidence_holds_every_value_of_every_column_in_dispute_and_no_other(table, policy):
    order_by = ("at",) if policy == "latest" else ()
    rows = run(Resolve(by=("id",), columns=("age", "ok"), policy=policy, order_by=order_by), [table])

    groups = {}
    for row in table.to_pylist():
        groups.setdefault(row["id"], []).append(row)
    expected = sorted(
        (row["_source"], row["_line"], name)
        for key, group in groups.items()
        for name in ("age", "ok")
        if key is not None and len({row[name] for row in group} - {None}) > 1
        for row in group
        if row[name] is not None
    )
    found = rows.evidence.to_pylist() if rows.evidence is not None else []
    assert sorted((one["_source"], one["_line"], one["column"]) for one in found) == expected
    kept = {str(row["id"]): row for row in rows.kept.to_pylist()}
    for one in found:
        if policy == "quarantine":
            assert one["chosen"] is None
            continue
        value = kept[one["key"]][one["column"]]
        assert one["chosen"] == (str(value).lower() if one["column"] == "ok" else str(value))
        assert (one["decided"] is None) == (one["value"] == one["chosen"])


NAMES = ["about", "key", "column", "value", "chosen", "policy", "decided", "origin", "source", "line"]


def evidence(folder):
    """What readers see of the evidence, paths without their folder."""
    rows = warehouse.read_evidence(str(folder / "warehouse" / "people"), columns=NAMES).to_pylist()
    text = json.dumps([tuple(row.values()) for row in rows]).replace(f"{folder}/", "")
    return [tuple(row) for row in json.loads(text)]


EXPECTED = [
    ("crm.csv:2", "1", "region", "N", "N", "trust", None, "crm", "crm.csv", 2),
    ("crm.csv:2", "1", "region", "S", "N", "trust", "trust", "shop", "shop.csv", 2),
    ("crm.csv:2", "1", "at", "2026-01-01", "2026-01-01", "trust", None, "crm", "crm.csv", 2),
    ("crm.csv:2", "1", "at", "2026-02-02", "2026-01-01", "trust", "trust", "shop", "shop.csv", 2),
]


def test_the_evidence_is_a_table_that_can_be_asked_and_shown(tmp_path, capsys):
    people(tmp_path)

    assert sorted(evidence(tmp_path)) == sorted(EXPECTED)
    asked = warehouse.sql(
        str(tmp_path / "warehouse"),
        "select value, chosen from people__evidence where origin = 'shop' and \"column\" = 'region'",
    )
    assert asked.to_pylist() == [{"value": "S", "chosen": "N"}]
    print_evidence(tmp_path / "warehouse", "people", as_json=False)
    assert capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()[:5] == [
        "people: 2 contradictions",
        "  1 x region, policy trust (1 by trust)",
        "    key 1: N was chosen",
        "        N  crm.csv:2 (crm)",
        "        S  shop.csv:2 (shop); lost by trust",
    ]
    print_evidence(tmp_path / "warehouse", "people", as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["contradictions"], said["columns"][0]["decided"]) == (2, {"trust": 1})


@pytest.mark.parametrize(
    "place", ["evidence.before_commit", "evidence.after_commit", "quarantine.after_commit"]
)
def test_an_interrupted_build_shows_no_evidence_and_one_that_runs_again_doubles_none(
    tmp_path, monkeypatch, place
):
    monkeypatch.setattr(failpoints, "_arrivals", {})
    monkeypatch.setenv("DLFLOW_FAILPOINTS", f"{place}=eio")
    with pytest.raises(OSError, match="failpoint"):
        people(tmp_path)
    assert evidence(tmp_path) == []

    people(tmp_path)

    assert sorted(evidence(tmp_path)) == sorted(EXPECTED)


def test_evidence_goes_with_the_rows_that_it_is_about(tmp_path):
    people(tmp_path)
    uri = str(tmp_path / "warehouse" / "people")

    (tmp_path / "shop.csv").write_text("id,region,at\n1,N,2026-01-01\n", "utf-8")
    builds.make(tmp_path, PIPELINE)

    assert evidence(tmp_path) == []
    assert inspection.evidence_summary(uri) == []
    assert warehouse.Snapshot.open(warehouse.evidence_uri(uri)).read().num_rows == 0
