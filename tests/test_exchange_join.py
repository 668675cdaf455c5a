"""Joins where both tables move: the same rows as a broadcast, as pandas, and for any cut, bucket and skew."""

import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import matching, parts
from pipelines.engine import OnDask
from pipelines.errors import InputError, SpecError
from pipelines.hashing import row_hash
from pipelines.integrate import Join
from pipelines.matching import index_of, shown_keys
from pipelines.stage import Side
from pipelines.storage import TableRef
from tests import builds
from tests.strategies import with_origin

PIPELINE = """
name = "joined"
[sources.left]
kind = "csv"
path = "left-*.csv"
part_bytes = {part_bytes}
null = [""]
columns = {{ k = "int64", s = "string", l = {{ type = "int64", nullable = false }} }}
[sources.right]
kind = "csv"
path = "right.csv"
null = [""]
columns = {{ k = "int64", s = "string", r = "int64" }}
[tables.right]
source = "right"
[tables.both]
source = "left"
steps = [{{ do = "join", with = "right", on = ["k", "s"], cardinality = "{cardinality}", how = "{how}", move = "{move}", unmatched = "{unmatched}" }}]
"""


def pipeline(folder, left, right, *, files=2, **given):
    settings = {
        "part_bytes": 1 << 20,
        "cardinality": "m:m",
        "how": "left",
        "move": "exchange",
        "unmatched": "keep",
    } | given
    for number, lines in enumerate([left[start::files] for start in range(files)]):
        builds.csv(folder / f"left-{number}.csv", ("k", "s", "l"), lines)
    builds.csv(folder / "right.csv", ("k", "s", "r"), right)
    return PIPELINE.format(**settings)


def run(folder, left, right, runner=None, **given):
    text = pipeline(folder, left, right, **given)
    made = builds.make(folder, text, runner)
    return builds.rows(folder, "both"), builds.steps(made["both"])["join right"]


def drawn(seed, rows, *, keys=40, hot=0.0, name=""):
    """Keys with repeats, missing ones and, with `hot`, one that a share of the rows has."""
    chance = random.Random(seed)
    lines = []
    for number in range(rows):
        key = 7 if chance.random() < hot else chance.choice([None, *range(keys)])
        lines.append((key, chance.choice(["a", "b", None]) if chance.random() > hot else "a", number))
    return lines


LEFT, RIGHT = drawn(1, 300, keys=60), drawn(2, 90, keys=50)


def with_pandas(left, right, how):
    """The joined rows as sorted tuples (k, s, l, r)."""
    one = pd.DataFrame(left, columns=["k", "s", "l"], dtype=object)
    other = pd.DataFrame(right, columns=["k", "s", "r"], dtype=object)
    found = one.dropna(subset=["k", "s"]).merge(other.dropna(subset=["k", "s"]), on=["k", "s"], how="inner")
    rows = list(found.itertuples(index=False, name=None))
    if how in {"left", "outer"}:
        met = {row[2] for row in rows}
        rows += [(*row, None) for row in left if row[2] not in met]
    if how in {"right", "outer"}:
        met = {row[3] for row in rows}
        rows += [(row[0], row[1], None, row[2]) for row in right if row[2] not in met]
    return sorted(rows, key=str)


@pytest.mark.parametrize("how", ["left", "inner", "right", "outer"])
def test_both_tables_moved_give_what_pandas_gives(tmp_path, how):
    rows, step = run(tmp_path, LEFT, RIGHT, how=how)

    assert sorted(
        (tuple(row[name] for name in ("k", "s", "l", "r")) for row in rows), key=str
    ) == with_pandas(LEFT, RIGHT, how)
    assert step["rows_in"] == len(LEFT)
    assert step["rows_in"] + step["added"] == step["rows_out"] + step.get("filtered", 0)


@pytest.mark.parametrize("how", ["left", "inner", "semi", "anti"])
def test_moved_or_broadcast_the_rows_and_counts_are_the_same(tmp_path, how):
    moved, step = run(tmp_path / "exchange", LEFT, RIGHT, how=how)
    stayed, same = run(tmp_path / "broadcast", LEFT, RIGHT, how=how, move="broadcast")

    assert sorted(map(str, moved)) == sorted(map(str, stayed))
    assert step == same


@pytest.mark.parametrize(("how", "cardinality"), [("left", "m:m"), ("outer", "m:m"), ("right", "m:m")])
def test_neither_the_cut_nor_a_hot_key_nor_the_workers_change_a_row_or_its_place(
    tmp_path, monkeypatch, local_cluster, how, cardinality
):
    left = drawn(3, 2000, hot=0.6)
    right = drawn(4, 30, keys=60)
    whole, counts = run(tmp_path / "whole", left, right, how=how, cardinality=cardinality)
    monkeypatch.setattr(parts, "SKEWED_ROWS", 100)
    monkeypatch.setattr(parts, "SKEWED_TIMES", 1)
    monkeypatch.setattr(parts, "PART_BYTES", (256, 1024))

    cut, same = run(tmp_path / "cut", left, right, how=how, cardinality=cardinality, part_bytes=700)
    workers, again = run(
        tmp_path / "workers",
        left,
        right,
        OnDask(local_cluster),
        how=how,
        cardinality=cardinality,
        part_bytes=300,
    )

    assert cut == whole == workers
    assert counts == same == again


def test_a_bucket_with_a_hot_key_is_given_to_several_tasks():
    assert parts.slices([10, 10, 10], usual=8, row_size=100) == [(0, 3)]
    assert parts.slices([200_000, 50_000, 150_000, 10, 200_000], usual=1000, row_size=100) == [
        (0, 2),
        (2, 4),
        (4, 5),
    ]
    assert parts.slices([900_000], usual=1000, row_size=100) == [(0, 1)]


def test_a_bucket_of_wide_rows_is_cut_into_what_a_task_can_hold():
    wide, narrow = {"usual": 130_000, "row_size": 500}, {"usual": 130_000, "row_size": 100}

    assert parts.slices([100_000] * 2, **wide) == [(0, 2)]
    assert parts.slices([100_000] * 3, **wide) == [(0, 1), (1, 2), (2, 3)]
    assert parts.slices([100_000] * 3, **narrow) == [(0, 3)]


def test_unmatched_rows_are_set_aside_and_the_other_ones_added(tmp_path):
    rows, step = run(
        tmp_path,
        [(1, "a", 0), (2, "a", 1), (None, "a", 2)],
        [(1, "a", 10), (3, "b", 30), (None, "b", 40)],
        how="right",
        unmatched="quarantine",
        cardinality="m:1",
    )

    expected = [
        {"k": 1, "s": "a", "l": 0, "r": 10},
        {"k": 3, "s": "b", "l": None, "r": 30},
        {"k": None, "s": "b", "l": None, "r": 40},
    ]
    assert sorted(map(str, rows)) == sorted(map(str, expected))
    assert step == {
        "rows_in": 3,
        "added": 2,
        "rows_out": 3,
        "quarantined": 2,
        "unmatched": 2,
        "unmatched of right": 2,
    }


@pytest.mark.parametrize(
    ("cardinality", "left", "right", "message"),
    [
        ("m:1", [(1, "a", 0)], [(1, "a", 1), (1, "a", 2)], r"declared m:1, but it has 1 surplus rows"),
        (
            "1:m",
            [(1, "a", 0), (1, "a", 5)],
            [(1, "a", 1)],
            r"declared 1:m, but this table has 1 keys more than once",
        ),
        (
            "1:1",
            [(1, "a", 0), (1, "a", 5)],
            [(1, "a", 1)],
            r"declared 1:1, but this table .* \{'k': 1, 's': 'a'\}",
        ),
    ],
)
def test_a_broken_promise_is_found_where_the_rows_meet(tmp_path, cardinality, left, right, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, left, right, cardinality=cardinality)


def test_a_promise_is_broken_even_where_a_bucket_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SKEWED_ROWS", 1)
    monkeypatch.setattr(parts, "SKEWED_TIMES", 0)

    with pytest.raises(InputError, match="declared 1:1, but this table has 1 keys more than once"):
        run(tmp_path, [(1, "a", 0), (1, "a", 5)], [(1, "a", 1)], cardinality="1:1")


@pytest.mark.parametrize("move", ["exchange", "broadcast"])
def test_a_key_with_more_partners_than_a_task_can_make_is_told_with_its_counts(tmp_path, monkeypatch, move):
    monkeypatch.setattr(matching, "TASK_BYTES", 1 << 20)
    hot = [(7, "a", number) for number in range(300)]

    with pytest.raises(InputError) as caught:
        run(tmp_path, [*LEFT, *hot], [*RIGHT, *hot[:200]], move=move)

    text = str(caught.value)
    here, there = (sum(row[:2] == (7, "a") for row in rows) for rows in ([*LEFT, *hot], [*RIGHT, *hot[:200]]))
    assert f"{{'k': 7, 's': 'a'}} is there {here} times here and {there} times in 'right'" in text
    assert "deduplicate or summarise one of them" in text
    assert run(tmp_path / "less", LEFT, [*RIGHT, *hot[:200]], move=move)


def test_a_hot_key_of_the_other_table_is_told_before_its_rows_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(matching, "TASK_BYTES", 1 << 13)
    hot = [(7, "a", number) for number in range(500)]

    with pytest.raises(InputError, match=r"join with 'right': 5\d\d of its 590 rows would meet in one task"):
        run(tmp_path, LEFT[:5], [*RIGHT, *hot], how="semi")


def test_a_hot_key_of_the_other_table_joins_the_other_way_round_in_the_same_memory(tmp_path, monkeypatch):
    """What the message says: the first table's rows of one key go to several tasks."""
    monkeypatch.setattr(matching, "TASK_BYTES", 1 << 13)
    monkeypatch.setattr(parts, "PART_BYTES", (64, 600))
    monkeypatch.setattr(parts, "SKEWED_ROWS", 100)
    monkeypatch.setattr(parts, "SKEWED_TIMES", 0)
    one, hot = [(7, "a", 1), (8, "b", 2)], [*RIGHT, *((7, "a", 1000 + number) for number in range(500))]
    with pytest.raises(InputError, match="begin with 'right' and join this table to it"):
        run(tmp_path / "one", one, hot, how="inner", cardinality="1:m")

    rows, _ = run(tmp_path / "other", hot, one, how="inner", cardinality="m:1", part_bytes=600)

    swapped = sorted(((row["k"], row["s"], row["r"], row["l"]) for row in rows), key=str)
    assert swapped == with_pandas(one, hot, "inner")
    assert len(rows) == 500
    assert len(builds.digests(tmp_path / "other", "both")) > parts.bucket_count(1)  # tasks


def test_private_keys_are_not_told():
    schema = pa.schema(
        [pa.field("k", pa.string(), metadata={"privacy": "direct"}), pa.field("n", pa.int64())]
    )

    assert shown_keys(pa.table({"k": ["ann"], "n": [1]}, schema=schema), ["k", "n"], 0) == {
        "k": "a private value",
        "n": 1,
    }


def test_the_way_follows_from_the_size_and_the_plan_says_so(tmp_path, monkeypatch):
    from flows.project import open_project
    from flows.session import plan_of

    text = pipeline(tmp_path, LEFT, RIGHT, move="auto", cardinality="m:m")
    builds.make(tmp_path, text, only=("right",))
    project = open_project(tmp_path / "pipeline.toml")

    small = plan_of(project).text()
    monkeypatch.setattr("pipelines.integrate.BROADCAST_BYTES", 1 << 10)
    large = plan_of(project).text()

    assert "pass 1: read -> join right -> write" in small
    assert "join right: map, 'right' takes about 0.0 MiB, a broadcast may have 128" in small
    assert "pass 1: read [exchange for join right]" in large
    assert "join right: exchange, 'right' takes about 0.0 MiB, a broadcast may have 0" in large
    chosen = builds.make(tmp_path, text)["both"]
    assert builds.steps(chosen)["join right"]["rows_in"] == len(LEFT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"how": "outer", "unmatched": "quarantine"}, 'how = "outer" keeps the rows without partner'),
        (
            {"how": "right", "move": "broadcast"},
            'move = "broadcast" cannot be: how = "right" must know all keys',
        ),
        ({"cardinality": "1:1", "move": "broadcast"}, "1:1 must see all rows of a key"),
        ({"on": ()}, "on is empty"),
    ],
)
def test_what_cannot_be_is_said_before_it_runs(given, message):
    with pytest.raises(SpecError, match=message):
        Join(**{"with_": "right", "on": ("k",), "cardinality": "m:m"} | given)


def in_buckets(step, left, right, buckets, cut):
    """What the engine makes of an exchange of two tables, without files: each bucket of `left` is cut at `cut` rows."""
    stage = step.stage(left.schema)
    found = []
    for number in range(buckets):
        mine, theirs = (
            table.filter(pa.array(row_hash(table, by) % buckets == number))
            for table, by in ((left, stage.by), (right, stage.beside.by))
        )
        pieces = [mine.slice(0, cut), mine.slice(cut)]
        for piece, rest in ((pieces[0], None), (pieces[1], pieces[0].select(list(stage.by)))):
            side = Side(theirs, rest is not None, rest)
            found.append(stage.mapped().beside(side)(piece).kept)
    return pa.concat_tables(found)


cells = st.tuples(st.sampled_from([None, 0, 1, 2, 3]), st.sampled_from([None, "a", "b"]))


@given(
    left=st.lists(cells, max_size=14),
    right=st.lists(cells, max_size=10),
    how=st.sampled_from(["right", "outer", "left", "inner"]),
    buckets=st.integers(1, 4),
    cut=st.integers(0, 5),
)
def test_any_rows_join_as_in_pandas(left, right, how, buckets, cut):
    left = [(*key, number) for number, key in enumerate(left)]
    right = [(*key, number) for number, key in enumerate(right)]

    def table(lines, name):
        schema = pa.schema([("k", pa.int64()), ("s", pa.string()), (name, pa.int64())])
        return with_origin(
            pa.table(
                [pa.array([line[i] for line in lines], one.type) for i, one in enumerate(schema)], schema
            )
        )

    mine, theirs = table(left, "l"), table(right, "r")
    join = Join(with_="right", on=("k", "s"), cardinality="m:m", how=how, move="exchange")
    step = join.beside(TableRef("right", "", 0, (), tuple(theirs.schema)[:3]))

    made = in_buckets(step, mine, theirs, buckets, cut)

    assert made.schema.equals(step.build(mine.schema))
    found = zip(*(made[name].to_pylist() for name in ("k", "s", "l", "r")), strict=True)
    assert sorted(found, key=str) == with_pandas(left, right, how)


def test_many_key_columns_do_not_leave_the_range_of_a_number():
    columns = [
        pa.chunked_array([pa.array(np.random.default_rng(seed).permutation(5000))]) for seed in range(7)
    ]
    index = index_of(columns)
    first, count = index.partners(columns)

    assert (count == 1).all()
    assert (index.order[first] == np.arange(5000)).all()
    shifted = [*columns[:-1], pa.chunked_array([pa.array(np.roll(columns[-1].to_numpy(), 1))])]
    assert index.partners(shifted)[1].sum() == 0
