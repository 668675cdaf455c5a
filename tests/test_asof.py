"""The point-in-time join against pandas' merge_asof, whatever the cut, broadcast or exchange."""

import datetime as dt

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.asof import JoinAsOf
from pipelines.errors import InputError, SpecError
from pipelines.hashing import row_hash
from pipelines.publish import file_refs
from pipelines.stage import Exchange, Rows, Side
from pipelines.storage import TableRef, read_table
from pipelines.warehouse import write_file
from tests import builds
from tests.strategies import with_origin

DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder, count = tmp_path_factory.mktemp("asof"), iter(range(10_000))

    def make(table):
        uri = str(folder / str(next(count)))
        receipt = write_file(uri, table, partition={}, schema=table.schema)
        return TableRef("other", uri, 0, tuple(file_refs(uri, [receipt], table.schema)), tuple(table.schema))

    return make


def joined(step, table):
    """The rows in the order of `table`, whichever way they move."""
    stage = step.stage(table.schema)
    table = with_origin(table)
    if not isinstance(stage, Exchange):
        return stage(table)
    theirs = with_origin(read_table(stage.beside.ref, columns=stage.beside.columns))
    sides = [
        [
            one.filter(pa.array(row_hash(one, by) % 3 == number))
            for one, by in ((table, stage.by), (theirs, stage.beside.by))
        ]
        for number in range(3)
    ]
    made = [stage.mapped().beside(Side(right, answers=True))(left).kept for left, right in sides]
    kept = pa.concat_tables(made).sort_by([("_source", "ascending"), ("_line", "ascending")])
    return Rows(kept)


def values(step, table):
    return joined(step, table).kept["price"].to_pylist()


SALES = pa.table({"sku": ["a", "a", "b", "a", None, "c"], "at": [5, 10, 10, 1, 7, None]})
PRICES = pa.table({"sku": ["a", "a", "b", "b", None], "at": [5, 8, 12, 7, 1], "price": [50, 80, 120, 70, 1]})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [50, 80, 70, None, None, None]),
        ({"exact": False}, [None, 80, 70, None, None, None]),
        ({"direction": "forward"}, [50, None, 120, 50, None, None]),
        ({"direction": "nearest"}, [50, 80, 120, 50, None, None]),
        ({"tolerance": 2}, [50, 80, None, None, None, None]),
        ({"direction": "nearest", "tolerance": 2}, [50, 80, 120, None, None, None]),
    ],
)
@pytest.mark.parametrize("move", ["broadcast", "exchange"])
def test_the_row_that_was_known_by_then(other, given, expected, move):
    step = JoinAsOf(with_="other", on="at", by=("sku",), move=move, **given).beside(other(PRICES))

    assert values(step, SALES) == expected


def test_times_dates_and_their_tolerance(other):
    prices = pa.table({"since": [DAY, DAY + dt.timedelta(hours=3)], "price": [1, 2]}).cast(
        pa.schema([("since", pa.timestamp("us", "UTC")), ("price", pa.int64())])
    )
    at = pa.table(
        {"at": pa.array([DAY + dt.timedelta(hours=h) for h in (0, 2, 4, 9)], pa.timestamp("us", "UTC"))}
    )
    days = pa.table({"at": pa.array([dt.date(2024, 1, 5)]), "price": [5]})

    step = JoinAsOf(with_="other", on={"at": "since"}, tolerance="2h").beside(other(prices))
    whole = JoinAsOf(with_="other", on="at", tolerance="7d").beside(other(days))

    assert values(step, at) == [1, 1, 2, None]
    assert values(whole, pa.table({"at": pa.array([dt.date(2024, 1, 12), dt.date(2024, 1, 13)])})) == [
        5,
        None,
    ]


def test_equal_times_are_an_error_or_decided(other):
    twice = other(pa.table({"at": [1, 1], "price": [10, 20]}))

    with pytest.raises(
        InputError, match=r"1 of its rows have the key and the time of another, e\.g\. \{'at': 1\}"
    ):
        values(JoinAsOf(with_="other", on="at").beside(twice), pa.table({"at": [3]}))
    assert values(JoinAsOf(with_="other", on="at", ties="first").beside(twice), pa.table({"at": [3]})) == [10]
    assert values(JoinAsOf(with_="other", on="at", ties="last").beside(twice), pa.table({"at": [3]})) == [20]


def test_rows_that_find_nothing_are_left_out_or_set_aside(other):
    prices = other(PRICES)
    inner = joined(JoinAsOf(with_="other", on="at", by=("sku",), how="inner").beside(prices), SALES)
    aside = joined(
        JoinAsOf(with_="other", on="at", by=("sku",), unmatched="quarantine").beside(prices), SALES
    )

    assert (inner.kept.num_rows, inner.filtered) == (3, 3)
    assert aside.rejected["message"].to_pylist()[0] == "no row of 'other' has {'sku': 'a', 'at': 1}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on": "att"}, "no column 'att'; did you mean 'at'"),
        ({"on": "sku", "columns": ("price",)}, "'sku' is string, expected integer"),
        ({"on": "at", "tolerance": "2h"}, "expected a number"),
        ({"on": {"at": "at", "sku": "sku"}}, "on names one column"),
        ({"on": "at", "by": (), "move": "exchange"}, "needs by"),
    ],
)
def test_what_cannot_be_is_said_before_it_runs(other, given, message):
    with pytest.raises(SpecError, match=message):
        JoinAsOf(**{"with_": "other", "by": ("sku",) if given["on"] != "sku" else ()} | given).beside(
            other(PRICES)
        ).build(SALES.schema)


numbers = st.integers(0, 12) | st.none()
keys = st.sampled_from(["a", "b", None])


@settings(max_examples=40, deadline=None)
@given(
    left=st.lists(st.tuples(keys, numbers), max_size=12),
    right=st.lists(st.tuples(keys, numbers), max_size=10, unique=True),
    direction=st.sampled_from(["backward", "forward"]),
    exact=st.booleans(),
    tolerance=st.sampled_from([None, 0, 3]),
)
def test_any_rows_join_as_in_pandas(other, left, right, direction, exact, tolerance):
    mine = pa.table(
        {"sku": pa.array([k for k, _ in left], pa.string()), "at": pa.array([t for _, t in left], pa.int64())}
    )
    theirs = pa.table(
        {
            "sku": pa.array([k for k, _ in right], pa.string()),
            "at": pa.array([t for _, t in right], pa.int64()),
            "price": pa.array(range(len(right)), pa.int64()),
        }
    )
    given = {
        "direction": direction,
        "exact": exact,
        "tolerance": tolerance,
        "with_": "other",
        "on": "at",
        "by": ("sku",),
    }

    found = [
        values(JoinAsOf(move=move, **given).beside(other(theirs)), mine) for move in ("broadcast", "exchange")
    ]

    frame = pd.DataFrame(
        [(k, t, n) for n, (k, t) in enumerate(left) if k and t is not None], columns=["sku", "at", "n"]
    )
    prices = pd.DataFrame(
        [(k, t, n) for n, (k, t) in enumerate(right) if k and t is not None], columns=["sku", "at", "price"]
    )
    kinds = {"sku": str, "at": "int64"}
    expected = [None] * len(left)
    if len(frame):
        made = pd.merge_asof(
            frame.astype(kinds).sort_values("at"),
            prices.astype(kinds | {"price": "int64"}).sort_values("at"),
            on="at",
            by="sku",
            direction=direction,
            allow_exact_matches=exact,
            tolerance=tolerance,
        )
        for n, price in zip(made["n"], made["price"], strict=True):
            expected[n] = None if pd.isna(price) else int(price)
    assert found == [expected, expected]


def test_it_is_a_step_of_a_pipeline_file(tmp_path):
    builds.csv(tmp_path / "sales.csv", ("sku", "at"), [("a", 5), ("b", 1), ("a", 9)])
    builds.csv(tmp_path / "prices.csv", ("sku", "since", "price"), [("a", 1, 10), ("a", 6, 20), ("b", 2, 30)])
    text = """
name = "asof"
[sources.sales]
kind = "csv"
path = "sales.csv"
columns = { sku = "string", at = "int64" }
[sources.prices]
kind = "csv"
path = "prices.csv"
columns = { sku = "string", since = "int64", price = "int64" }
[tables.prices]
source = "prices"
[tables.priced]
source = "sales"
steps = [{ do = "join_asof", with = "prices", on = { at = "since" }, by = ["sku"], move = "exchange" }]
"""
    built = builds.make(tmp_path, text)["priced"]

    found = {(row["sku"], row["at"]): row["price"] for row in builds.rows(tmp_path, "priced")}
    assert found == {("a", 5): 10, ("b", 1): None, ("a", 9): 20}
    assert builds.steps(built)["join_asof prices"] == {"rows_in": 3, "rows_out": 3, "unmatched": 1}
