"""Dimensions with history: what was true when, with late changes, ends and corrections; versions never overlap."""

import datetime as dt
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.engine import InProcess, OnDask
from pipelines.errors import SchemaMismatch
from pipelines.warehouse import Snapshot, history_schema, record_changes
from pipelines.warehouse.columns import UTC
from tests.warehouse_tables import lineage

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CHANGES = pa.schema(
    [("id", pa.int64()), ("name", pa.string()), ("level", pa.float64()), ("at", UTC), ("gone", pa.bool_())]
)
HERE = InProcess()


def day(number):
    return None if number is None else START + dt.timedelta(days=number)


def record(uri, rows, *, key, runner=HERE, partition_by=()):
    """Changes given as (id, name, day) or (id, None, day) for an end."""
    table = pa.table(
        [
            [row[0] for row in rows],
            [row[1] for row in rows],
            [1.0 if row[1] else None for row in rows],
            [day(row[2]) for row in rows],
            [row[1] is None for row in rows],
        ],
        schema=CHANGES,
    )
    return record_changes(
        uri,
        table,
        columns=CHANGES,
        key=key,
        by=["id"],
        at="at",
        deleted="gone",
        partition_by=partition_by,
        lineage=lineage(),
        runner=runner,
    )


def versions(uri):
    """(id, name, from, to) in order; the current flag is checked on the way."""
    found = []
    for row in Snapshot.open(uri).read(verify=True).to_pylist():
        assert row["is_current"] == (row["valid_to"] is None)
        to = row["valid_to"]
        found.append((row["id"], row["name"], (row["valid_from"] - START).days, to and (to - START).days))
    return sorted(found, key=lambda version: version[::2])


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "customers")


def test_a_change_closes_the_version_before_and_opens_one(uri):
    first = record(uri, [(1, "a", 0), (2, "b", 0), (3, "c", 0)], key="k0")
    made = record(uri, [(2, "B", 31), (3, "c", 31), (4, "d", 31)], key="k1")

    assert first.counts == {"opened": 3, "closed": 0, "corrected": 0, "unchanged": 0}
    assert made.counts == {"opened": 2, "closed": 1, "corrected": 0, "unchanged": 1}
    assert versions(uri) == [
        (1, "a", 0, None),
        (2, "b", 0, 31),
        (2, "B", 31, None),
        (3, "c", 0, None),
        (4, "d", 31, None),
    ]


def test_a_late_change_splits_the_version_it_falls_into(uri):
    record(uri, [(1, "a", 0), (1, "c", 20)], key="k0")

    made = record(uri, [(1, "b", 10)], key="late")

    assert versions(uri) == [(1, "a", 0, 10), (1, "b", 10, 20), (1, "c", 20, None)]
    assert made.counts == {"opened": 1, "closed": 0, "corrected": 0, "unchanged": 0}


def test_an_end_leaves_a_gap_and_a_second_statement_of_a_time_corrects_the_first(uri):
    record(uri, [(1, "a", 0), (1, None, 5), (1, "b", 9)], key="k0")

    made = record(uri, [(1, "B", 9)], key="k1")

    assert versions(uri) == [(1, "a", 0, 5), (1, "B", 9, None)]
    assert made.counts == {"opened": 0, "closed": 0, "corrected": 1, "unchanged": 0}


def test_saying_the_same_again_changes_nothing(uri):
    rows = [(1, "a", 0), (1, "b", 3), (2, None, 1), (3, "z", 0), (3, None, 4)]
    record(uri, rows, key="k0")
    before = versions(uri)

    again = record(uri, rows, key="k1")

    assert versions(uri) == before == [(1, "a", 0, 3), (1, "b", 3, None), (3, "z", 0, 4)]
    assert (again.counts["opened"], again.counts["closed"], again.counts["corrected"]) == (0, 0, 0)


def test_only_files_of_keys_with_news_are_rewritten(uri):
    record(uri, [(i, "a", 0) for i in range(10)], key="k0")
    record(uri, [(i, "a", 0) for i in range(10, 20)], key="k1")
    record(uri, [(i, "a", 0) for i in range(20, 30)], key="k2")
    before = {file.path for file in Snapshot.open(uri).files()}

    every = [(i, "b" if i == 15 else "a", 9) for i in range(30)]
    made = record(uri, every, key="k3")
    after = {file.path for file in Snapshot.open(uri).files()}

    assert made.counts == {"opened": 1, "closed": 1, "corrected": 0, "unchanged": 29}
    assert (made.files_removed, len(before - after), len(after - before)) == (1, 1, 2)
    again = record(uri, every, key="k4")
    assert again.counts == {"opened": 0, "closed": 0, "corrected": 0, "unchanged": 30}
    assert (again.files_removed, again.files_added) == (0, 0)
    late = record(uri, [(15, "a", 5), (3, "c", 9)], key="k5")
    assert late.counts == {"opened": 1, "closed": 1, "corrected": 0, "unchanged": 1}
    assert [one for one in versions(uri) if one[0] in {3, 15}] == [
        (3, "a", 0, 9),
        (3, "c", 9, None),
        (15, "a", 0, 9),
        (15, "b", 9, None),
    ]


def apply(model, rows):
    """The definition, for a dict of sorted [from, to, name]: the times of a key are those of its versions, and where one ended
    without a next; a batch states some of them anew; what is stated holds until the next time, and a new one that says nothing new is none.
    """
    for key in {key for key, _, _ in rows}:
        spans = model.setdefault(key, [])
        stated = {end: None for _, end, _ in spans if end is not None}
        stated |= {start: name for start, _, name in spans}
        new = {at: name for other, name, at in rows if other == key and stated.get(at, "") != name}
        stated |= new
        spans.clear()
        for at in sorted(stated):
            last = spans[-1] if spans and spans[-1][1] is None else None
            if last and at in new and last[2] == stated[at]:
                continue
            if last:
                last[1] = at
            if stated[at] is not None:
                spans.append([at, None, stated[at]])


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", None]), st.integers(0, 9)),
    max_size=8,
    unique_by=lambda event: (event[0], event[2]),
)


@example(batches=[[(0, "a", 0), (0, None, 2)], [(0, "a", 1), (0, None, 0)]])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(EVENTS.filter(len), min_size=1, max_size=4))
def test_batches_in_any_order_do_what_the_definition_says_and_versions_never_overlap(
    tmp_path_factory, batches
):
    uri = str(tmp_path_factory.mktemp("law") / "t")
    model = {}
    for number, rows in enumerate(batches):
        record(uri, rows, key=f"k{number}")
        apply(model, rows)
        found = versions(uri)
        assert found == sorted(
            ((key, s[2], s[0], s[1]) for key, spans in model.items() for s in spans),
            key=lambda version: version[::2],
        )
        for one, other in pairwise(found):
            assert one[0] != other[0] or (one[3] is not None and one[3] <= other[2])


def test_closed_versions_in_a_partition_of_their_own_and_two_workers(uri, local_cluster):
    record(uri, [(i, "a", 0) for i in range(200)], key="k0", partition_by=["is_current"])
    made = record(
        uri,
        [(i, "b", 3) for i in range(0, 400, 2)],
        key="k1",
        partition_by=["is_current"],
        runner=OnDask(local_cluster),
    )

    assert made.counts == {"opened": 200, "closed": 100, "corrected": 0, "unchanged": 0}
    assert len(versions(uri)) == 400
    assert {f.partition["is_current"] for f in Snapshot.open(uri).files()} == {True, False}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (CHANGES.set(3, pa.field("at", pa.date32())), "column 'at' is date32"),
        (CHANGES.remove(4), "column 'gone' is not there"),
        (CHANGES.append(pa.field("valid_to", UTC)), r"columns \['valid_to'\] are those of the history"),
    ],
)
def test_columns_that_cannot_be_a_history_are_refused(schema, said):
    with pytest.raises(SchemaMismatch, match=said):
        history_schema(schema, at="at", deleted="gone")


def test_two_changes_of_a_key_at_one_time_are_refused(uri):
    with pytest.raises(SchemaMismatch, match="is there twice, expected once"):
        record(uri, [(1, "a", 0), (1, "b", 0)], key="k")
