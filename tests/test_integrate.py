import json

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.integrate import Join
from pipelines.publish import file_refs
from pipelines.stage import ORIGIN, Exchange, Side, data_columns
from pipelines.storage import TableRef, read_table
from pipelines.warehouse import write_file


def with_origin(table):
    rows = table.num_rows
    for field, values in zip(ORIGIN, ([0] * rows, range(1, rows + 1), [-1] * rows), strict=True):
        table = table.append_column(field, pa.array(list(values), field.type))
    return table


@pytest.fixture
def other(tmp_path):
    counter = iter(range(1000))

    def make(table, name="other"):
        uri = str(tmp_path / str(next(counter)))
        receipt = write_file(uri, table, partition={}, schema=table.schema)
        return TableRef(name, uri, 0, tuple(file_refs(uri, [receipt], table.schema)), tuple(table.schema))

    return make


LEFT = pa.table({"k": pa.array([1, 2, 3, None, 2], pa.int64()), "v": ["a", "b", "c", "d", "e"]})
RIGHT = pa.table({"k": pa.array([1, 2, 5], pa.int64()), "name": ["one", "two", "five"]})


def joined(join, table=LEFT):
    stage = join.stage(table.schema)
    rows = with_origin(table)
    if isinstance(stage, Exchange):
        side = Side(with_origin(read_table(stage.beside.ref, columns=stage.beside.columns)), answers=True)
        rows = stage.mapped().beside(side)(rows)
    else:
        rows = stage(rows)
    return rows, rows.kept.select(data_columns(rows.kept.schema)).to_pydict()


def test_a_left_join_keeps_every_row_and_counts_those_without_partner(other):
    join = Join(with_="other", on=("k",), cardinality="m:1").beside(other(RIGHT))

    rows, values = joined(join)

    assert values["name"] == ["one", "two", None, None, "two"]
    assert rows.notes == {"unmatched": 2}
    assert rows.kept.schema.names == join.build(with_origin(LEFT).schema).names


def test_an_inner_join_leaves_out_and_counts(other):
    rows, values = joined(Join(with_="other", on=("k",), cardinality="m:1", how="inner").beside(other(RIGHT)))

    assert values["name"] == ["one", "two", "two"]
    assert rows.filtered == 2


def test_unmatched_rows_can_be_set_aside_with_their_key(other):
    join = Join(with_="other", on=("k",), cardinality="m:1", unmatched="quarantine").beside(other(RIGHT))

    rows, values = joined(join)

    assert values["name"] == ["one", "two", "two"]
    assert rows.rejected["message"].to_pylist() == [
        "no row of 'other' has {'k': 3}",
        "no row of 'other' has {'k': None}",
    ]
    assert rows.rejected["_line"].to_pylist() == [3, 4]


def test_semi_and_anti_joins_take_no_columns(other):
    semi, values = joined(Join(with_="other", on=("k",), cardinality="m:1", how="semi").beside(other(RIGHT)))
    anti, rest = joined(Join(with_="other", on=("k",), cardinality="m:1", how="anti").beside(other(RIGHT)))

    assert values == {"k": [1, 2, 2], "v": ["a", "b", "e"]}
    assert rest == {"k": [3, None], "v": ["c", "d"]}
    assert (semi.filtered, anti.filtered) == (2, 3)


def test_a_key_that_is_there_twice_breaks_the_promise_of_m_to_1(other):
    twice = pa.table({"k": pa.array([1, 1], pa.int64()), "name": ["x", "y"]})

    with pytest.raises(
        InputError,
        match=r"declared m:1, but it has 1 surplus rows of equal keys, e\.g\. \{'k': 1\}; deduplicate",
    ):
        joined(Join(with_="other", on=("k",), cardinality="m:1").beside(other(twice)))


def test_a_key_that_this_side_has_twice_breaks_the_promise_of_1_to_1(other):
    join = Join(with_="other", on=("k",), cardinality="1:1").beside(other(RIGHT))

    assert isinstance(join.stage(LEFT.schema), Exchange)
    with pytest.raises(
        InputError, match=r"declared 1:1, but this table has 1 keys more than once, e\.g\. \{'k': 2\}"
    ):
        joined(join)


def test_a_declared_fan_out_is_counted(other):
    many = pa.table({"k": pa.array([2, 1, 2], pa.int64()), "name": ["x", "y", "z"]})

    rows, values = joined(Join(with_="other", on=("k",), cardinality="m:m").beside(other(many)))

    assert values["name"] == ["y", "x", "z", None, None, "x", "z"]
    assert rows.added == 2


def test_columns_that_both_tables_have_need_a_prefix(other):
    clash = other(pa.table({"k": pa.array([1], pa.int64()), "v": ["x"]}))
    join = Join(with_="other", on=("k",), cardinality="m:1").beside(clash)

    with pytest.raises(SpecError, match=r"both tables have \['v'\]; set prefix = \"other_\""):
        join.build(LEFT.schema)
    fixed = Join(with_="other", on=("k",), cardinality="m:1", prefix="other_").beside(clash)
    assert fixed.build(LEFT.schema).names == ["k", "v", "other_v"]


@pytest.mark.parametrize(
    ("join", "message"),
    [
        ({"on": ("kk",)}, "no column 'kk'; did you mean 'k'"),
        ({"on": {"k": "nme"}}, "table 'other' has no column 'nme'; did you mean 'name'"),
        ({"on": {"v": "k"}}, "'v' is string, other.k is int64; declare the same type"),
        ({"on": ("k",), "columns": ("nam",)}, "table 'other' has no column 'nam'; did you mean 'name'"),
        ({"on": ("k",), "how": "semi", "unmatched": "quarantine"}, "has no meaning"),
    ],
)
def test_a_join_that_cannot_work_says_so_before_it_runs(other, join, message):
    with pytest.raises(SpecError, match=message):
        Join(with_="other", cardinality="m:1", **join).beside(other(RIGHT)).build(LEFT.schema)


keys = st.lists(
    st.tuples(st.integers(0, 4) | st.none(), st.sampled_from(["a", "b"]) | st.none()), max_size=12
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(keys, keys)
def test_a_join_is_what_pandas_makes_of_it(other, left_keys, right_keys):
    def table(pairs, name):
        return pa.table(
            {
                "k": pa.array([k for k, _ in pairs], pa.int64()),
                "s": pa.array([s for _, s in pairs], pa.string()),
                name: pa.array(range(len(pairs)), pa.int64()),
            }
        )

    left, right = table(left_keys, "l"), table(right_keys, "r")
    rows, values = joined(Join(with_="other", on=("k", "s"), cardinality="m:m").beside(other(right)), left)

    known = right.to_pandas(types_mapper=pd.ArrowDtype).dropna(subset=["k", "s"])
    expected = left.to_pandas(types_mapper=pd.ArrowDtype).merge(known, on=["k", "s"], how="left")
    found = [(a, None if b is None else b) for a, b in zip(values["l"], values["r"], strict=True)]
    wanted = [
        (int(a), None if pd.isna(b) else int(b)) for a, b in zip(expected["l"], expected["r"], strict=True)
    ]
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert rows.kept.num_rows == left.num_rows + rows.added


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(
    left=keys,
    right=keys,
    how=st.sampled_from(["left", "inner"]),
    unmatched=st.sampled_from(["keep", "quarantine"]),
)
def test_rows_without_partner_are_counted_and_kept_left_out_or_set_aside_as_declared(
    other, left, right, how, unmatched
):
    def table(pairs, name):
        columns = [[k for k, _ in pairs], [s for _, s in pairs], list(range(len(pairs)))]
        schema = pa.schema([("k", pa.int64()), ("s", pa.string()), (name, pa.int64())])
        return pa.table(
            [pa.array(one, field.type) for one, field in zip(columns, schema, strict=True)], schema=schema
        )

    join = Join(with_="other", on=("k", "s"), cardinality="m:m", how=how, unmatched=unmatched)
    rows, values = joined(join.beside(other(table(right, "r"))), table(left, "l"))

    there = {key for key in right if None not in key}
    lonely = [number for number, key in enumerate(left) if key not in there]
    assert rows.notes.get("unmatched", 0) == len(lonely)
    aside = (
        [] if rows.rejected is None else [json.loads(raw)["l"] for raw in rows.rejected["raw"].to_pylist()]
    )
    assert sorted(aside) == (lonely if unmatched == "quarantine" else [])
    alone = sorted(
        number for number, partner in zip(values["l"], values["r"], strict=True) if partner is None
    )
    assert alone == (lonely if (how, unmatched) == ("left", "keep") else [])
    assert rows.filtered == (len(lonely) if (how, unmatched) == ("inner", "keep") else 0)


def test_keys_of_different_units_are_no_keys(other):
    metres, feet = (
        pa.schema([pa.field("k", pa.int64(), metadata={"unit": unit}), ("v", pa.string())])
        for unit in ("m", "ft")
    )
    join = Join(with_="other", on=("k",), cardinality="m:1", prefix="o_").beside(other(feet.empty_table()))

    with pytest.raises(SpecError, match=r"'k' is in m, other\.k in ft; make them alike with a units step"):
        join.build(metres)
