"""Compaction: fewer files, the same rows; nobody who reads, writes or asks what is current sees a difference."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine import InProcess
from pipelines.errors import SchemaMismatch
from pipelines.warehouse import Snapshot, append, compact, current_fingerprint_is, history, log, replace
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}
HERE = InProcess()


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def pack(uri, **settings):
    return compact(uri, lineage=lineage(), runner=HERE, **settings)


def test_small_files_of_a_partition_become_one_and_the_rows_keep_their_order(uri):
    for part, day in enumerate(["d1", "d2"] * 3):
        append(uri, [file(uri, [part], day=day, part=part)], key=f"k{part}", lineage=lineage(), **COLUMNS)

    made = pack(uri)

    assert (made.version, made.files_removed, made.files_added) == (6, 6, 2)
    assert [f.partition["day"] for f in Snapshot.open(uri).files()] == ["d1", "d2"]
    assert Snapshot.open(uri).read(["id"], verify=True)["id"].to_pylist() == [0, 2, 4, 1, 3, 5]
    assert history(uri)[0].operation == "compact"
    assert pack(uri) is None
    assert Snapshot.open(uri).version == 6


def test_large_files_stay_and_small_ones_fill_up_to_the_size(uri):
    append(uri, [file(uri, range(10), part=0)], key="large", lineage=lineage(), **COLUMNS)
    for part in range(1, 6):
        append(uri, [file(uri, [100 + part], part=part)], key=f"k{part}", lineage=lineage(), **COLUMNS)
    large = Snapshot.open(uri).files()[0].path

    pack(uri, file_rows=2)

    assert [f.rows for f in Snapshot.open(uri).files()] == [
        10,
        2,
        2,
        1,
    ]  # what is half full at most is packed
    pack(uri, file_rows=4)
    assert [f.rows for f in Snapshot.open(uri).files()] == [10, 4, 1]
    assert Snapshot.open(uri).files()[0].path == large


def test_a_build_stays_current_and_the_log_says_that_no_row_changed(uri):
    replace(uri, [file(uri, [i], part=i) for i in range(3)], key="k", lineage=lineage("A"), **COLUMNS)

    pack(uri)

    assert current_fingerprint_is(uri, "A")
    assert {a["dataChange"] for kind, a in log.actions(uri, 1) if kind in {"add", "remove"}} == {False}


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    files=st.lists(
        st.tuples(st.sampled_from(["d1", None]), st.lists(st.integers(0, 50), min_size=1, max_size=12)),
        min_size=1,
        max_size=6,
    ),
    file_rows=st.integers(1, 12),
)
def test_sorting_keeps_every_row_and_orders_each_partition(tmp_path_factory, files, file_rows):
    uri = str(tmp_path_factory.mktemp("law") / "t")
    for part, (day, numbers) in enumerate(files):
        append(uri, [file(uri, numbers, day=day, part=part)], key=f"k{part}", lineage=lineage(), **COLUMNS)

    pack(uri, by=["id"], file_rows=file_rows)

    assert ids(uri) == sorted(n for _, numbers in files for n in numbers)
    for day in {day for day, _ in files}:
        found = [f for f in Snapshot.open(uri).files() if f.partition["day"] == day]
        bounds = [(f.stats["min.id"], f.stats["max.id"]) for f in found]
        assert all(one[1] <= other[0] for one, other in pairwise(bounds))
    assert pack(uri, by=["id"], file_rows=file_rows) is None
    put(uri, [7], "more")
    assert pack(uri, by=["id"], file_rows=file_rows) is not None


def test_a_column_to_sort_by_must_be_there(uri):
    put(uri, [1], "k")

    with pytest.raises(SchemaMismatch, match="key column 'idd' is not in the table; did you mean 'id'"):
        pack(uri, by=["idd"])


def test_two_compactions_that_race_do_it_once(uri, monkeypatch):
    """What deltalake's own compaction gets wrong: every row twice (tests/test_warehouse_canaries.py)."""
    for part in range(4):
        append(uri, [file(uri, [part], part=part)], key=f"k{part}", lineage=lineage(), **COLUMNS)
    write, raced = log.write, []

    def write_after_another(*args):
        if not raced:
            raced.append(True)
            pack(uri)
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)

    pack(uri)

    assert ids(uri) == [0, 1, 2, 3]
    assert len(Snapshot.open(uri).files()) == 1
