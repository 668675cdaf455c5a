"""Data files: what is written is what is read, by us and by everybody else; what does not fit is refused."""

import datetime as dt
import json
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, PartFailed, SchemaMismatch
from pipelines.warehouse import LiveFile, Receipt, Snapshot, append, read_file, row_groups, write_file
from tests.warehouse_tables import SCHEMA, file, lineage, rows, stored

EVERY = pa.schema(
    [
        pa.field("flag", pa.bool_()),
        pa.field("tiny", pa.int8()),
        pa.field("big", pa.int64()),
        pa.field("half", pa.float32()),
        pa.field("real", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("bytes", pa.binary()),
        pa.field("vector", pa.binary(3)),
        pa.field("day", pa.date32()),
        pa.field("time", pa.timestamp("us", "UTC")),
        pa.field("price", pa.decimal128(9, 2)),
    ]
)
TIMES = st.datetimes(timezones=st.just(dt.UTC))
CELLS = {
    "flag": st.booleans(),
    "tiny": st.integers(-128, 127),
    "big": st.integers(-(2**63), 2**63 - 1),
    "half": st.floats(width=32, allow_nan=False),
    "real": st.floats(allow_nan=False),
    "text": st.text(st.characters(codec="utf-8"), max_size=9) | st.text("yz", min_size=30, max_size=35),
    "bytes": st.binary(max_size=20),
    "vector": st.binary(min_size=3, max_size=3),
    "day": st.dates(),
    "time": TIMES,
    "price": st.decimals(-999, 999, places=2, allow_nan=False),
}
RECORDS = st.lists(
    st.fixed_dictionaries({name: st.none() | cells for name, cells in CELLS.items()}), max_size=6
)


def live(uri: str, receipt: Receipt) -> LiveFile:
    return LiveFile(
        path=receipt["path"],
        absolute=str(Path(uri, receipt["path"])),
        rows=receipt["rows"],
        bytes=receipt["bytes"],
        partition={},
        modified_ms=0,
    )


@given(records=RECORDS)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_what_is_read(tmp_path_factory, records):
    uri = str(tmp_path_factory.mktemp("table"))
    table = pa.Table.from_pylist(records, EVERY)

    receipt = json.loads(json.dumps(write_file(uri, table, partition={}, schema=EVERY)))

    assert read_file(live(uri, receipt), EVERY, verify=True).equals(table, check_metadata=True)
    assert (receipt["rows"], sum(receipt["row_groups"])) == (len(records), len(records))


@given(records=RECORDS, chance=st.randoms())
@settings(max_examples=20, deadline=None)
def test_rows_to_be_kept_are_those_that_a_filter_keeps(tmp_path_factory, records, chance):
    uri = str(tmp_path_factory.mktemp("t"))
    receipt = write_file(uri, pa.Table.from_pylist(records, schema=EVERY), partition={}, schema=EVERY)
    keep = pa.array([chance.random() < 0.5 for _ in records], pa.bool_())

    found = read_file(live(uri, receipt), EVERY, keep=keep)

    assert found.equals(read_file(live(uri, receipt), EVERY).filter(keep))


@given(records=RECORDS)
@settings(max_examples=40, deadline=None)
def test_no_value_lies_outside_the_bounds(tmp_path_factory, records):
    uri = str(tmp_path_factory.mktemp("table"))

    stats = json.loads(
        write_file(uri, pa.Table.from_pylist(records, EVERY), partition={}, schema=EVERY)["stats"]
    )

    for name in ("tiny", "big", "half", "real", "text"):
        values = [record[name] for record in records if record[name] is not None]
        assert all(
            stats["minValues"].get(name, value) <= value <= stats["maxValues"].get(name, value)
            for value in values
        )
    for name in ("day", "time"):
        values = [record[name] for record in records if record[name] is not None]
        assert all(
            _time(stats["minValues"], name, v) <= v <= _time(stats["maxValues"], name, v) for v in values
        )
    assert all(
        stats["nullCount"][n] == sum(r[n] is None for r in records)
        for n in ("tiny", "text", "time")
        if records
    )
    json.dumps(stats, allow_nan=False)


def _time(bounds, name, value):
    return type(value).fromisoformat(bounds[name]) if name in bounds else value


def test_long_text_has_a_short_lower_bound_and_no_upper_one(tmp_path):
    table = pa.table({"text": ["y" * 100, "z" * 33]})

    stats = json.loads(write_file(str(tmp_path), table, partition={}, schema=table.schema)["stats"])

    assert (stats["minValues"], stats["maxValues"]) == ({"text": "y" * 32}, {})


def test_rows_are_cut_into_row_groups_of_one_size(tmp_path):
    table = pa.table({"n": pa.array(range(150_000), pa.int64())})

    receipt = write_file(str(tmp_path), table, partition={}, schema=table.schema)

    assert receipt["row_groups"] == [65_536, 65_536, 18_928]
    assert row_groups(live(str(tmp_path), receipt)) == (65_536, 65_536, 18_928)


def test_the_same_rows_make_the_same_bytes_under_another_name(tmp_path):
    one, other = file(str(tmp_path), range(9)), file(str(tmp_path), range(9))

    assert one["sha256"] == other["sha256"]
    assert one["path"] != other["path"]
    assert one["sha256"] in one["path"]


BAD = {
    "nan": (
        rows([1]).set_column(2, SCHEMA.field("speed"), pa.array([float("nan")])),
        r"'speed' has nan, the first in row 0",
    ),
    "type": (
        rows([1]).set_column(0, "id", pa.array([1], pa.int32())),
        r"'id' is int32, expected int64; add a cast",
    ),
    "missing": (rows([1]).drop_columns(["x"]), r"columns \['x'\] are missing"),
    "extra": (rows([1]).append_column("_line", pa.array([1])), r"columns \['_line'\] are not in the table"),
    "null": (
        rows([1]).set_column(0, "id", pa.array([None], pa.int64())),
        r"'id' has 1 nulls, the first in row 0",
    ),
    "partition": (
        rows([1]).append_column("day", pa.array(["d2"])),
        r"'day' has values other than 'd1'; split",
    ),
    "twice": (rows([1]).append_column("id", pa.array([1], pa.int64())), "there twice"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_rows_that_do_not_fit_are_refused_and_leave_no_file(tmp_path, wrong):
    table, message = BAD[wrong]

    with pytest.raises(SchemaMismatch, match=message):
        write_file(str(tmp_path), table, partition={"day": "d1"}, schema=SCHEMA)

    assert not stored(str(tmp_path))


@pytest.mark.parametrize(
    "kind",
    [
        pa.uint32(),
        pa.float16(),
        pa.timestamp("ns"),
        pa.timestamp("us"),
        pa.list_(pa.int8()),
        pa.large_string(),
    ],
)
def test_types_that_delta_would_change_in_silence_are_refused(tmp_path, kind):
    schema = pa.schema([("a", kind)])

    with pytest.raises(SchemaMismatch, match="expected a type that every reader of Delta knows; cast it to"):
        write_file(str(tmp_path), schema.empty_table(), partition={}, schema=schema)


def test_infinite_numbers_are_kept_and_have_no_bound(tmp_path):
    table = pa.table({"v": [1.0, float("inf"), float("-inf")]})

    receipt = write_file(str(tmp_path), table, partition={}, schema=table.schema)

    stats = json.loads(receipt["stats"])
    assert stats["minValues"] == stats["maxValues"] == {}


def test_every_flipped_byte_is_found_by_the_digest(tmp_path):
    uri = str(tmp_path)
    target = live(uri, file(uri, range(3)))
    whole = Path(target.absolute).read_bytes()

    for i in range(len(whole)):
        Path(target.absolute).write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
        with pytest.raises(InputError, match="damaged"):
            read_file(target, SCHEMA, names=["id"], verify=True)


def test_no_flipped_byte_of_the_data_is_read_as_other_data_without_the_digest(tmp_path):
    uri = str(tmp_path)
    target = live(uri, file(uri, range(60)))
    good = read_file(target, SCHEMA, names=["id", "speed"])
    chunk = pq.read_metadata(target.absolute).row_group(0).column(2)
    whole = Path(target.absolute).read_bytes()
    found = 0

    for i in range(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size):
        Path(target.absolute).write_bytes(whole[:i] + bytes([whole[i] ^ 0x04]) + whole[i + 1 :])
        try:
            assert read_file(target, SCHEMA, names=["id", "speed"]).equals(good)
        except InputError:
            found += 1

    assert found > chunk.total_compressed_size / 2


def test_a_lost_file_is_named(tmp_path):
    uri = str(tmp_path)
    target = live(uri, file(uri, range(3)))
    Path(target.absolute).unlink()

    with pytest.raises(PartFailed, match="the file is gone"):
        read_file(target, SCHEMA)
    with pytest.raises(PartFailed, match="the file is gone"):
        read_file(target, SCHEMA, verify=True)


def test_a_file_that_the_disk_refuses_leaves_nothing_behind(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            PartFailed, match=r"cannot write [\d,]+ bytes \([\d,]+ bytes free\): File too large"
        ):
            file(str(tmp_path), range(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not stored(str(tmp_path))


@pytest.mark.parametrize("action", ["enospc", "eio"])
@pytest.mark.parametrize("place", ["file.half_written", "file.before_sync"])
def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch, place, action):
    monkeypatch.setattr("pipelines.failpoints._arrivals", {})
    monkeypatch.setenv("DLFLOW_FAILPOINTS", f"{place}={action}")

    with pytest.raises(PartFailed, match="nothing was committed, free space"):
        file(str(tmp_path), range(5))

    assert not stored(str(tmp_path))


def test_a_table_in_the_place_of_a_file_is_refused(tmp_path):
    Path(tmp_path, "table").write_text("I am a file")

    with pytest.raises(PartFailed, match="Not a directory"):
        file(str(tmp_path / "table"), range(5))


def test_duckdb_polars_and_pandas_read_our_files(tmp_path):
    duckdb, polars, pandas = (pytest.importorskip(name) for name in ("duckdb", "polars", "pandas"))
    uri = str(tmp_path / "t")
    append(uri, [file(uri, range(5))], key="k", schema=SCHEMA, partition_by=["day"], lineage=lineage())
    snapshot = Snapshot.open(uri)
    place = snapshot.files()[0].absolute
    expected = snapshot.read(["id", "x", "speed"]).to_pylist()

    by_duckdb = duckdb.sql(f"select id, x, speed from read_parquet('{place}') order by id").fetchall()
    by_polars = polars.read_parquet(place).to_dicts()
    by_pandas = pandas.read_parquet(place).astype(object)

    assert [tuple(row.values()) for row in expected] == by_duckdb
    assert by_polars == expected
    assert by_pandas.where(by_pandas.notna(), None).to_dict("records") == expected


def test_a_worker_needs_no_deltalake(tmp_path):
    script = (
        "import sys, pyarrow as pa\n"
        "from pipelines.warehouse import write_file, read_file, Snapshot\n"
        f"write_file({str(tmp_path)!r}, pa.table({{'a': [1]}}), partition={{}}, schema=pa.schema([('a', pa.int64())]))\n"
        "assert not [m for m in sys.modules if m.startswith(('deltalake', 'dask', 'distributed'))]\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_column_of_few_values_is_stored_as_a_dictionary_and_one_of_many_is_not(tmp_path):
    rows = 5000
    table = pa.table(
        {"few": [row % 7 for row in range(rows)], "many": list(range(rows)), "text": ["a", "b"] * (rows // 2)}
    )

    receipt = write_file(str(tmp_path), table, partition={}, schema=table.schema)

    group = pq.read_metadata(tmp_path / receipt["path"]).row_group(0)
    assert [group.column(place).has_dictionary_page for place in range(3)] == [True, False, True]
