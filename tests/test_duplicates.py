import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.contradictions import Resolve
from pipelines.duplicates import Deduplicate
from pipelines.errors import SpecError
from pipelines.stage import LINE, SOURCE
from tests.strategies import SCHEMA, bits, data, in_order, run, tables, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema


def rows_of(**columns):
    return with_origin(pa.table(columns))


def lines(rows):
    """Which rows are left, by number from 0."""
    return [
        source * 4 + line - 1
        for source, line in zip(rows[SOURCE].to_pylist(), rows[LINE].to_pylist(), strict=True)
    ]


# ---- deduplicate


@pytest.mark.parametrize(("keep", "which"), [("first", "first"), ("last", "last")])
@settings(max_examples=30, deadline=None)
@given(table=tables())
def test_first_and_last_are_those_of_pandas(keep, which, table):
    frame = table.select(["id", "ok"]).to_pandas(types_mapper=pd.ArrowDtype)
    missing = frame.isna().any(axis=1)
    expected = frame[missing | ~frame.duplicated(["id", "ok"], keep=which)].index.tolist()

    rows = run(Deduplicate(by=("id", "ok"), keep=keep), [table])

    assert lines(rows.kept) == expected
    assert rows.deduplicated == len(frame) - len(expected)


@settings(max_examples=30, deadline=None)
@given(table=tables(cells={"id": [1, 2], "ok": [True], "price": [0.0, 1.5], "city": ["a", "b"]}))
def test_exact_copies_are_those_of_pandas_and_missing_equals_missing(table):
    frame = table.drop_columns(["_source", "_line", "_offset"]).to_pandas(types_mapper=pd.ArrowDtype)
    expected = frame[~frame.duplicated()].index.tolist()

    assert lines(run(Deduplicate(), [table]).kept) == expected


@settings(max_examples=30, deadline=None)
@given(table=tables(cells={"id": [1, 2], "at": [None], "age": [1, 2, 3], "price": [0.5, 1.5]}))
def test_the_latest_is_that_of_pandas(table):
    frame = table.select(["id", "age", "price"]).to_pandas(types_mapper=pd.ArrowDtype)
    ordered = frame.sort_values(["age", "price"], kind="stable", na_position="first")
    expected = sorted(ordered[ordered["id"].isna() | ~ordered.duplicated("id", keep="last")].index)

    assert (
        lines(run(Deduplicate(by=("id",), keep="latest", order_by=("age", "price")), [table]).kept)
        == expected
    )


def test_ties_are_decided_by_origin():
    table = rows_of(k=[1, 1, 1], t=[5, 5, 2])

    kept = {
        keep: lines(run(Deduplicate(by=("k",), keep=keep, order_by=("t",)), [table]).kept)
        for keep in ("latest", "earliest", "best")
    }

    assert kept == {"latest": [1], "earliest": [2], "best": [0]}


def test_a_row_with_a_time_wins_over_one_without():
    table = rows_of(k=[1, 1, 1], t=[None, 5, None])

    for keep in ("latest", "earliest"):
        assert lines(run(Deduplicate(by=("k",), keep=keep, order_by=("t",)), [table]).kept) == [1]


def test_the_best_row_has_the_fewest_missing_values():
    table = rows_of(k=[1, 1, 1, 2], a=[None, "x", "y", None], b=[1, 2, 2, None], t=[9, 1, 2, 1])

    assert lines(run(Deduplicate(by=("k",), keep="best"), [table]).kept) == [1, 3]
    assert lines(run(Deduplicate(by=("k",), keep="best", order_by=("t",)), [table]).kept) == [2, 3]


def test_a_missing_key_is_no_key():
    table = rows_of(k=[None, None, 1, 1], s=["a", "a", None, None])

    assert lines(run(Deduplicate(by=("k",)), [table]).kept) == [0, 1, 2]
    assert lines(run(Deduplicate(by=("k", "s")), [table]).kept) == [0, 1, 2, 3]
    assert lines(run(Deduplicate(), [table]).kept) == [0, 2]


def test_zero_is_zero_whatever_its_sign():
    assert lines(run(Deduplicate(by=("x",)), [rows_of(x=[0.0, -0.0, 1.0])]).kept) == [0, 2]


# ---- resolve


CUSTOMERS = {
    "id": [1, 1, 2, 2, 3, 3, None],
    "region": ["N", "N", "S", "W", None, "E", "X"],
    "at": [1, 2, 3, 4, 6, 5, 7],
}


def test_copies_are_deduplicated_and_contradictions_set_aside_with_both_values():
    rows = run(
        Resolve(by=("id",), columns=("region",), policy="latest", order_by=("at",)), [rows_of(**CUSTOMERS)]
    )

    assert data(rows.kept) == {"id": [1, 2, 3, None], "region": ["N", "W", "E", "X"], "at": [2, 4, 6, 7]}
    assert rows.deduplicated == 2
    assert rows.notes == {"contradictions": 1, "completed region": 1}
    (record,) = rows.rejected.to_pylist()
    assert (record["rule"], record["column"], record["_source"], record["_line"]) == (
        "contradiction",
        "region",
        0,
        3,
    )
    assert record["message"] == "column 'region': 'S' contradicts 'W' in line 4, which was kept"


def test_the_first_or_all_or_none_may_be_right():
    table = rows_of(**CUSTOMERS)

    first = run(Resolve(by=("id",), columns=("region",), policy="first"), [table])
    none = run(Resolve(by=("id",), columns=("region",), policy="quarantine"), [table])

    assert data(first.kept)["region"] == ["N", "S", "E", "X"]
    assert data(none.kept)["region"] == ["N", "E", "X"]
    assert (
        none.rejected["message"].to_pylist()
        == ["column 'region': 'W' contradicts 'S' in line 3, no row of this key was kept"] * 2
    )


def test_the_majority_is_counted_over_all_columns_together_then_the_latest():
    votes = rows_of(id=[1] * 5, a=["x", "y", "y", "x", "z"], b=[1, 2, 2, 1, 1], at=[1, 2, 9, 3, 99])

    first = run(Resolve(by=("id",), columns=("a", "b"), policy="majority"), [votes])
    latest = run(Resolve(by=("id",), columns=("a", "b"), policy="majority", order_by=("at",)), [votes])

    assert data(first.kept)["a"] == ["x"]
    assert data(latest.kept) == {"id": [1], "a": ["y"], "b": [2], "at": [9]}
    assert (latest.deduplicated, latest.rejected.num_rows) == (1, 3)


def test_without_columns_every_other_column_may_disagree():
    rows = run(
        Resolve(by=("id",), policy="latest", order_by=("at",)),
        [rows_of(id=[1, 1], a=[1, 2], b=["x", "x"], at=[1, 2])],
    )

    assert data(rows.kept)["a"] == [2]
    assert rows.rejected["column"].to_pylist() == ["a"]


@settings(max_examples=60, deadline=None)
@given(table=tables(), policy=st.sampled_from(["first", "latest", "majority", "quarantine"]), data_=st.data())
def test_afterwards_no_two_rows_of_a_key_are_left_and_every_contradiction_is_real(table, policy, data_):
    order_by = ("at",) if policy == "latest" or (policy == "majority" and data_.draw(st.booleans())) else ()
    rows = run(Resolve(by=("id",), columns=("city", "ok"), policy=policy, order_by=order_by), [table])

    keys = [key for key in rows.kept["id"].to_pylist() if key is not None]
    assert len(keys) == len(set(keys))
    kept = {row["id"]: row for row in rows.kept.to_pylist()}
    rejected = (
        {}
        if rows.rejected is None
        else {(row["_source"], row["_line"]): row for row in rows.rejected.to_pylist()}
    )
    for row in table.to_pylist():
        aside = rejected.get((row["_source"], row["_line"]))
        if aside is not None and policy != "quarantine":
            column = aside["column"]
            assert row[column] is not None
            assert row[column] != kept[row["id"]][column]
        if aside is None and row["id"] is not None:
            assert all(row[name] is None or row[name] == kept[row["id"]][name] for name in ("city", "ok"))
    groups = {}
    for row in table.to_pylist():
        groups.setdefault(row["id"], []).append(row)
    torn = [
        key
        for key, group in groups.items()
        if key is not None and any(len({row[name] for row in group} - {None}) > 1 for name in ("city", "ok"))
    ]
    assert rows.notes.get("contradictions", 0) == len(torn)
    if policy == "quarantine":
        assert len(rejected) == sum(len(groups[key]) for key in torn)


@settings(max_examples=30, deadline=None)
@given(
    table=tables(),
    other=tables(),
    step=st.sampled_from(
        [
            Deduplicate(by=("id",), keep="best"),
            Resolve(by=("id",), policy="first"),
            Resolve(by=("id",), policy="majority"),
        ]
    ),
)
def test_what_else_is_in_the_bucket_changes_nothing(table, other, step):
    place = other.schema.get_field_index("id")
    strange = other.set_column(place, "id", pa.compute.add(other["id"], 100))
    strange = strange.set_column(
        strange.schema.get_field_index(SOURCE), SOURCE, pa.array([-1] * other.num_rows, pa.int32())
    )
    stage = step.stage(table.schema).mapped()

    alone = run(step, [table], buckets=1)
    beside = stage(in_order(pa.concat_tables([table, strange.cast(table.schema)])))

    ours = pa.compute.greater_equal(beside.kept[SOURCE], 0)
    assert bits(in_order(beside.kept.filter(ours))) == bits(alone.kept)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Deduplicate(by=("id",), keep="latest"), "needs order_by"),
        (
            Deduplicate(by=("id",), keep="first", order_by=("at",)),
            "order_by has no meaning with keep = 'first'",
        ),
        (Deduplicate(by=("idd",)), "did you mean 'id'"),
        (Deduplicate(by=("id",), keep="latest", order_by=("when",)), "no column 'when'"),
        (Resolve(by=(), policy="first"), "by is empty"),
        (Resolve(by=("id",), policy="latest"), "needs order_by"),
        (Resolve(by=("id",), policy="quarantine", order_by=("at",)), "order_by has no meaning"),
        (Resolve(by=("id",), columns=("id",), policy="first"), "'id' is part of the key"),
        (Resolve(by=tuple(SCHEMA.names), policy="first"), "no other column"),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_said_before(step, message):
    with pytest.raises(SpecError, match=message):
        step.stage(FULL)


def test_rows_that_cannot_be_compared_are_refused():
    schema = with_origin(pa.table({"x": [[1]], "y": [1]})).schema

    with pytest.raises(SpecError, match="column 'x' is list"):
        Deduplicate().stage(schema)
