"""Rows that wait beside those of their partition become the same files as rows that move once more."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines import between, layout, leaves, parts
from pipelines.chain import foreseen
from pipelines.columns import Derive, Drop, Rename
from pipelines.engine import InProcess, OnDask
from pipelines.errors import PartFailed
from pipelines.passes import Passes
from pipelines.rows import Keep
from pipelines.task import KeysTo, LayOut, WriteTo
from tests import builds, laying


class Watched(InProcess):
    """What the passes of `orders` leave."""

    def __init__(self):
        super().__init__()
        self.left = []

    def run(self, fn, items, *, name, progress):
        if name.startswith("orders-") and hasattr(items[0], "then"):
            self.left.append(type(items[0].then))
        return super().run(fn, items, name=name, progress=progress)


def by_partition(found):
    """The same without what follows from which partitions share a task: the order of their files."""
    files, rows, steps = found
    return sorted(files), sorted(rows, key=lambda row: (row["month"], str(row["region"]))), steps


@pytest.fixture
def moved(monkeypatch):
    """The outcome by the other road: rows wait as they come, and move once more."""

    def of(folder, text):
        with monkeypatch.context() as patched:
            patched.setattr(Passes, "_layout", lambda *_: None)
            runner = Watched()
            found = laying.outcome(folder, text, runner)
        assert runner.left == [KeysTo, runner.left[1], LayOut, WriteTo]
        return found

    return of


@pytest.mark.parametrize("how", ["left", "inner"])
def test_rows_that_wait_by_partition_become_the_same_files(tmp_path, moved, local_cluster, how):
    """Partitions without a value and without a partner, rows left out on the way, in a table that never moves."""
    text = laying.PIPELINE.format(how=how, steps=laying.CITY)
    runner = Watched()

    here = laying.outcome(tmp_path / "here", text, runner)
    there = laying.outcome(tmp_path / "there", text, OnDask(local_cluster))

    assert here == there
    assert by_partition(here) == by_partition(moved(tmp_path / "moved", text))
    assert runner.left[0] == KeysTo
    assert runner.left[2:] == [WriteTo]
    assert any(row["region"] is None for row in here[1])
    assert len(here[0]) == len({(row["month"], row["region"]) for row in here[1]})


def test_a_partition_that_is_too_large_for_one_task_is_cut_and_keeps_its_order(tmp_path, moved, monkeypatch):
    text = laying.PIPELINE.format(how="left", steps="")
    whole = laying.outcome(tmp_path / "whole", text)
    monkeypatch.setattr(parts, "BUCKET_BYTES", (1024, 2048))

    cut = laying.outcome(tmp_path / "cut", text)

    assert by_partition(cut)[1:] == by_partition(whole)[1:]
    assert len(cut[0]) > len(whole[0])
    assert by_partition(moved(tmp_path / "moved", text))[1:] == by_partition(whole)[1:]


def test_a_partition_that_a_later_step_decides_is_not_known_before(tmp_path, moved):
    text = laying.PIPELINE.format(how="left", steps=laying.REGION)
    runner = Watched()

    found = laying.outcome(tmp_path / "here", text, runner)

    assert runner.left[2:] == [LayOut, WriteTo]
    assert found == moved(tmp_path / "moved", text)  # the same road
    assert "exchange by month, region" in plan_text(tmp_path / "here", text + "\n")


def test_the_plan_says_that_the_rows_do_not_move_again(tmp_path):
    laying.sources(tmp_path)

    text = plan_text(tmp_path, laying.PIPELINE.format(how="left", steps=""))

    assert "the rows wait beside those of their month, region, which is known already" in text
    assert "exchange by" not in text
    assert text.count("pass ") == 5
    assert "-> quarantine dear -> checks -> write" in text


def plan_text(folder, text):
    from flows.project import open_project
    from flows.session import plan_of

    (folder / "pipeline.toml").write_text(text.replace('name = "laid"', 'name = "other"'), "utf-8")
    (folder / "other").mkdir()
    for path in folder.glob("*.csv"):
        (folder / "other" / path.name).write_bytes(path.read_bytes())
    (folder / "other" / "pipeline.toml").write_text(text, "utf-8")
    return plan_of(open_project(folder / "other" / "pipeline.toml")).text()


def test_what_waits_by_partition_is_not_done_again_after_a_crash(tmp_path, monkeypatch):
    text = laying.PIPELINE.format(how="left", steps="")
    whole = laying.outcome(tmp_path / "whole", text)
    monkeypatch.setenv("DLFLOW_FAILPOINTS", "part.before_write:orders/2/=enospc@2")
    with pytest.raises(PartFailed, match="No space left on device"):
        laying.outcome(tmp_path / "again", text, InProcess(threads=1))
    (work,) = (tmp_path / "again" / "warehouse" / "_dlflow" / "work").glob("orders-*")
    waiting = {path.name for path in work.glob("orders-0-*.arrow")}
    monkeypatch.setenv("DLFLOW_FAILPOINTS", "part.before_read:orders/0/=eio")  # nobody comes there

    again = laying.outcome(tmp_path / "again", text)

    assert again == whole
    assert len(waiting) > 8


@pytest.mark.slow
def test_thousands_of_partitions_lie_in_few_buckets_and_become_a_file_each(tmp_path):
    text = """
name = "many"
[sources.sales]
kind = "csv"
path = "sales.csv"
part_bytes = 20000
columns = { id = "int64", shop = "int64" }
[tables.sales]
source = "sales"
steps = [{ do = "deduplicate", by = ["id"] }]
partition_by = ["shop"]
"""
    shops = [(number, number * 7 % 3000) for number in range(6000)]
    builds.csv(tmp_path / "sales.csv", ("id", "shop"), shops)

    builds.make(tmp_path, text)

    found = builds.rows(tmp_path, "sales")
    assert len(builds.digests(tmp_path, "sales")) == 3000
    assert sorted((row["id"], row["shop"]) for row in found) == shops


def test_of_a_part_that_has_lost_no_row_there_is_no_file_of_those_that_are_gone(tmp_path):
    gone = between.write_batches(str(tmp_path), "keys", between.by_part(np.array([0, 5, 3]), 2))

    settled = [
        leaves.settle(leaves.Gone(f"orders/{part}", str(tmp_path), (gone,), part, (4, 4))) for part in (0, 1)
    ]

    assert settled[1] is None
    assert between.read_rows(settled[0])["row"].to_pylist() == [0, 3, 5]


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [
        ([{0: 5, 3: 5}, {0: 5}], 100, [[(0, 0, 2)], [(3, 0, 2)]]),  # two tasks of ten rows and of five
        ([{0: 1, 1: 1, 2: 8}], 100, [[(0, 0, 1), (1, 0, 1)], [(2, 0, 1)]]),
        ([{0: 0}], 0, [[(0, 0, 1)]]),  # no rows, and one task all the same
    ],
)
def test_small_buckets_share_a_task(rows, size, expected):
    assert layout._packed(rows, size) == expected


def test_columns_are_foreseen_through_names_that_are_exchanged():
    """What the maps that are needed make of the columns that they read is what all maps make of all columns."""
    table = pa.table({"a": [1, 2], "b": [3, 4], "c": [5, 6], "d": [7, 8]})
    steps = [
        Derive(columns={"e": "b + 1"}),
        Drop(columns=("b",)),
        Rename(columns={"a": "b", "c": "d", "d": "c"}),
        Derive(columns={"f": "b + c", "unused": "d"}),
        Keep(where="f > 0"),
    ]
    stages, schema = [], table.schema
    for step in steps:
        stages.append(step.stage(schema))
        schema = step.build(schema)

    maps, columns = foreseen(stages, ["f", "e", "b"])

    whole, few = table, table.select(list(columns))
    for one in stages:
        whole = one(whole).kept
    for one in maps:
        few = one(few).kept
    assert len(maps) == 3
    assert "unused" not in few.column_names
    assert few.select(["f", "e", "b"]) == whole.select(["f", "e", "b"])
