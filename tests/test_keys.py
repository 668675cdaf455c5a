"""Rows that stay where they are while their keys meet: what goes on is what goes on when the rows themselves move."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import between, parts
from pipelines.chain import needed
from pipelines.columns import Derive, Drop
from pipelines.duplicates import Deduplicate
from pipelines.fill import Fill
from pipelines.rows import Keep
from pipelines.stage import Map
from tests import builds, cutting
from tests.strategies import in_order, tables


def outcome(folder, text):
    built = builds.make(folder, text)
    return builds.rows(folder, "orders"), builds.steps(built["orders"])


@pytest.mark.parametrize("keep", ['"first"', '"last"', '"latest", order_by = ["price", "month"]'])
def test_the_rows_are_those_that_stay_if_all_of_them_move(tmp_path, monkeypatch, keep):
    text = cutting.cut(monkeypatch, 2000).replace('"last"', keep)
    cutting.sources(tmp_path / "keys")
    cutting.sources(tmp_path / "rows")
    stay = outcome(tmp_path / "keys", text)
    stage = Deduplicate.stage
    monkeypatch.setattr(Deduplicate, "stage", lambda self, schema: replace(stage(self, schema), looks=None))

    assert outcome(tmp_path / "rows", text) == stay


@settings(max_examples=15, deadline=None)
@given(table=tables(), buckets=st.integers(1, 5), alone=st.booleans(), cut=st.integers(0, 12))
def test_an_exchange_leaves_one_file_for_each_task_with_a_batch_for_each_bucket(
    tmp_path_factory, table, buckets, alone, cut
):
    folder, by = tmp_path_factory.mktemp("moved"), ("id", "city")
    halves = [table.slice(0, cut), table.slice(cut)]

    paths = [
        between.write_batches(str(folder), f"t/0/{number}", between.by_bucket(part, by, buckets, alone=alone))
        for number, part in enumerate(halves)
    ]

    assert sorted(map(str, folder.iterdir())) == sorted(paths)
    assert {pa.ipc.open_file(path).num_record_batches for path in paths} == {buckets}
    found = [between.read_bucket(paths, number) for number in range(buckets)]
    assert in_order(pa.concat_tables(found)).equals(in_order(table))
    home = {}
    for number, rows in enumerate(found):
        for key in zip(rows["id"].to_pylist(), rows["city"].to_pylist(), strict=True):
            assert home.setdefault(key, number) == number or (alone and None in key)


def test_rows_are_found_again_by_the_place_of_their_key(tmp_path):
    table = pa.table(
        {"_source": [0, 0, 1], "_line": [1, 2, 1], "_offset": [-1, -1, -1], "a": ["x", None, "z"]}
    )
    keys = between.keys_of(table, ("a",), 70_000)

    gone = between.by_part(np.array(keys[between.PLACE])[[0, 2]], 70_001)

    assert keys.column_names == ["a", "_source", "_line", between.PLACE]
    assert [one.num_rows for one in gone[-2:]] == [0, 2]
    kept = between.write_batches(str(tmp_path), "kept", [table])
    lost = between.write_batches(str(tmp_path), "gone", gone[-2:])
    assert between.read_rows(kept, ["a"], gone=[lost], part=1).to_pydict() == {"a": [None]}
    assert between.read_rows(kept, gone=[lost], part=0).equals(table)


def test_a_sketch_needs_only_the_maps_and_columns_that_make_what_it_looks_at():
    schema = pa.schema([("a", pa.float64()), ("b", pa.float64()), ("c", pa.string())])
    first = Derive(columns={"d": "a + 1", "e": "d * b"}).stage(schema)
    table = first(schema.empty_table()).kept
    other = Derive(columns={"c": "upper(c)"}).stage(table.schema)
    last = Drop(columns=("a",)).stage(table.schema)
    fitted = Fill(columns=("b",), with_="mean").stage(schema).mapped({"all": {}})

    only_d, only_e = (first.narrowed({name}) for name in ("d", "e"))
    assert needed([first, other, last], ["e"]) == ((only_e,), ("a", "b"))
    assert needed([first, fitted, other], ["d"]) == ((only_d,), ("a", "b"))
    assert needed([fitted, first], ["e"]) == ((fitted, only_e), ("a", "b"))
    rows = pa.table({"a": [1.0], "b": [3.0], "c": ["x"]})
    assert only_d(rows).kept.column_names == ["a", "b", "c", "d"]
    assert only_e(rows).kept["e"].equals(first(rows).kept["e"])
    assert needed([other, last], ["b"]) == ((), ("b",))


def test_behind_a_map_that_may_leave_rows_out_a_sketch_reads_all():
    schema = pa.schema([("a", pa.float64())])

    assert needed([Keep(where="a > 1").stage(schema)], ["a"]) is None
    assert needed([Map("python", len)], ["a"]) is None


def test_a_run_that_was_cut_off_between_keys_and_rows_goes_on(tmp_path, monkeypatch):
    text = cutting.cut(monkeypatch, 2000)
    for name in ("whole", "again"):
        cutting.sources(tmp_path / name)
    whole = outcome(tmp_path / "whole", text)
    monkeypatch.setenv("DLFLOW_FAILPOINTS", "part.before_receipt=eio@12;part.before_read=enospc@14")
    with pytest.raises(Exception, match="No space left"):
        outcome(tmp_path / "again", text)
    monkeypatch.delenv("DLFLOW_FAILPOINTS")

    assert outcome(tmp_path / "again", text) == whole
    assert parts.bucket_count(1) == 2
