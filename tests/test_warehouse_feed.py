"""The change feed: what two versions differ in, however the change was made."""

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine import InProcess
from pipelines.errors import SchemaMismatch
from pipelines.warehouse import Snapshot, append, changes, compact, ranges, replace, write_rows
from tests.warehouse_tables import lineage

HERE = InProcess()
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("v", pa.float64())])


def version(uri, rows, number, *, pieces=1):
    """Make a version of the table that holds exactly these rows, {id: (name, value)}."""
    table = pa.table(
        [list(rows), [name for name, _ in rows.values()], [value for _, value in rows.values()]],
        schema=SCHEMA,
    )
    step = max(1, -(-table.num_rows // pieces))
    receipts = [
        receipt
        for part, start in enumerate(range(0, table.num_rows, step))
        for receipt in write_rows(uri, table.slice(start, step), schema=SCHEMA, partition_by=(), part=part)
    ]
    return replace(uri, receipts, key=f"v{number}", schema=SCHEMA, lineage=lineage()).version


def told(uri, since, until=None):
    with changes(uri, since, until, by=["id"], runner=HERE) as feed:
        return feed.counts, [tuple(row.values()) for row in feed.read().to_pylist()]


def test_added_removed_and_updated_rows_come_in_the_order_of_the_key(tmp_path):
    uri = str(tmp_path / "t")
    version(uri, {1: ("a", 1.0), 2: ("b", None), 3: (None, 3.0)}, 0)
    version(uri, {1: ("a", 1.0), 3: ("c", 3.0), 4: ("d", 4.0)}, 1)

    counts, rows = told(uri, 0)

    assert counts == {"added": 1, "removed": 1, "updated": 1}
    assert rows == [
        ("removed", 2, "b", None),
        ("updated_from", 3, None, 3.0),
        ("updated_to", 3, "c", 3.0),
        ("added", 4, "d", 4.0),
    ]
    assert told(uri, 1, 1) == ({"added": 0, "removed": 0, "updated": 0}, [])


ROWS = st.dictionaries(
    st.integers(0, 30),
    st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from([0.0, 1.0, None])),
    max_size=20,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ROWS, second=ROWS, pieces=st.integers(1, 4))
def test_the_feed_turns_the_old_version_into_the_new(tmp_path_factory, first, second, pieces, monkeypatch):
    monkeypatch.setitem(ranges.split_files.__kwdefaults__, "range_rows", 7)
    uri = str(tmp_path_factory.mktemp("law") / "t")
    version(uri, first, 0, pieces=pieces)
    version(uri, second, 1, pieces=pieces)

    counts, rows = told(uri, 0)

    rebuilt = dict(first)
    for what, key, *values in rows:
        if what in {"removed", "updated_from"}:
            assert rebuilt.pop(key) == tuple(values)
        else:
            assert key not in rebuilt
            rebuilt[key] = tuple(values)
    assert rebuilt == second
    both = first.keys() & second.keys()
    assert counts == {
        "added": len(second.keys() - first.keys()),
        "removed": len(first.keys() - second.keys()),
        "updated": sum(first[key] != second[key] for key in both),
    }
    assert told(uri, 1, 0)[0]["added"] == counts["removed"]


def test_a_compaction_is_no_change(tmp_path):
    uri = str(tmp_path / "t")
    version(uri, dict.fromkeys(range(9), ("a", 0.0)), 0, pieces=3)
    compact(uri, lineage=lineage(), runner=HERE)

    assert told(uri, 0) == ({"added": 0, "removed": 0, "updated": 0}, [])
    assert Snapshot.open(uri).version == 1


def test_versions_with_other_columns_and_keys_that_are_none_are_refused(tmp_path):
    uri = str(tmp_path / "t")
    version(uri, {1: ("a", 1.0), 2: ("a", 2.0)}, 0)
    version(uri, {1: ("a", 2.0), 2: ("a", 2.0)}, 1)

    with (
        pytest.raises(SchemaMismatch, match=r"key \{'name': 'a'\} is there twice in one version"),
        changes(uri, 0, by=["name"], runner=HERE),
    ):
        pass
    other = pa.schema([("id", pa.int64())])
    replace(uri, [], key="r", schema=other, lineage=lineage(), schema_change=True)
    with (
        pytest.raises(SchemaMismatch, match="ask for versions with the same columns"),
        changes(uri, 0, by=["id"], runner=HERE),
    ):
        pass
    append(uri, [], key="a", schema=other, lineage=lineage())
