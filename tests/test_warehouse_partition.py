"""Partition values: whatever they are, they come back; what the log cannot tell from null is refused."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.errors import SchemaMismatch
from pipelines.warehouse import Snapshot, append, write_file, write_rows
from pipelines.warehouse.partition import decode, encode
from tests.warehouse_tables import lineage, put

KINDS = {
    pa.string(): st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.date32(): st.dates(),
}
VALUES = st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), st.none() | KINDS[kind]))
NASTY = [
    "a/b",
    "..",
    "/etc/x",
    "ü €",
    "名前",
    "x" * 300,
    "a=b",
    "%2F",
    " ",
    "__HIVE_DEFAULT_PARTITION__",
    "null",
    "a\nb",
    "'\"",
    "001",
    "1",
]


@given(VALUES)
@example((pa.string(), "001"))
def test_a_value_comes_back_from_its_text(drawn):
    kind, value = drawn
    column = pa.field("p", kind)

    assert decode(column, encode(column, value)) == value


def test_nasty_values_are_kept_by_the_log_and_make_no_path(tmp_path):
    uri = str(tmp_path / "t")
    schema = pa.schema([("id", pa.int64()), ("p", pa.string())])
    files = [
        write_file(uri, pa.table({"id": [i]}), partition={"p": value}, schema=schema, part=i)
        for i, value in enumerate([*NASTY, None])
    ]

    append(uri, files, key="k", schema=schema, partition_by=["p"], lineage=lineage())

    snapshot = Snapshot.open(uri)
    assert snapshot.read()["p"].to_pylist() == [*NASTY, None]
    assert all(
        snapshot.read(where_partition={"p": v})["id"].to_pylist() == [i] for i, v in enumerate([*NASTY, None])
    )
    assert {path.name for path in Path(tmp_path).iterdir()} == {"t"}
    assert {path.name for path in Path(uri).iterdir()} == {"data", "_delta_log"}


@given(values=st.lists(VALUES.filter(lambda drawn: drawn[0] != pa.string()), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_all_kinds_of_columns_come_back_with_their_types(tmp_path_factory, values):
    uri = str(tmp_path_factory.mktemp("w") / "t")
    schema = pa.schema([("id", pa.int64()), *((f"p{i}", kind) for i, (kind, _) in enumerate(values))])
    partition = {f"p{i}": value for i, (_, value) in enumerate(values)}

    written = write_file(uri, pa.table({"id": [7]}), partition=partition, schema=schema)
    append(uri, [written], key="k", schema=schema, partition_by=list(partition), lineage=lineage())

    snapshot = Snapshot.open(uri)
    assert snapshot.schema.equals(schema)
    assert snapshot.read().to_pylist() == [{"id": 7, **partition}]
    assert len(snapshot.files(partition)) == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.string(), ""),
        (pa.string(), "a\0b"),
        (pa.string(), "x" * 1025),
        (pa.string(), 1),
        (pa.int8(), 128),
        (pa.int64(), True),
        (pa.date32(), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    ],
)
def test_a_value_that_would_change_is_refused(kind, value):
    with pytest.raises(SchemaMismatch, match="partition column 'p'"):
        encode(pa.field("p", kind), value)


def test_null_is_refused_where_it_is_forbidden():
    with pytest.raises(SchemaMismatch, match="expected NOT NULL; fill or reject"):
        encode(pa.field("p", pa.string(), nullable=False), None)


@pytest.mark.parametrize("kind", [pa.float64(), pa.timestamp("us", "UTC"), pa.binary(4)])
def test_a_column_whose_values_have_no_one_text_cannot_partition(tmp_path, kind):
    schema = pa.schema([("id", pa.int64()), ("p", kind)])

    with pytest.raises(SchemaMismatch, match="expected string, integer, date or bool"):
        write_file(str(tmp_path), pa.table({"id": [1]}), partition={"p": None}, schema=schema)


def test_a_partition_explosion_is_refused_with_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.warehouse.split.MOST_PARTITIONS", 3)
    uri = str(tmp_path / "t")
    for number in range(3):
        put(uri, [number], f"k{number}", day=f"d{number}")
    put(uri, [9], "again", day="d2")

    with pytest.raises(SchemaMismatch, match=r"4 partitions by \['day'\], expected at most 3"):
        put(uri, [4], "k4", day="d4")
    rows = pa.table({"id": range(5), "day": [f"d{n}" for n in range(5)]})
    with pytest.raises(SchemaMismatch, match=r"5 partitions by \['day'\], expected at most 3"):
        write_rows(uri, rows, schema=rows.schema, partition_by=["day"])

    assert Snapshot.open(uri).version == 3
