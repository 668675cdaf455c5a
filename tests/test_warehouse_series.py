"""Time series: gaps, coarser steps and what was known when are what pandas says, for any cut of the rows into files."""

import datetime as dt

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine import InProcess, OnDask
from pipelines.errors import SpecError
from pipelines.warehouse import Snapshot, append, as_of, compact, gaps, periods, ranges, resample, write_rows
from pipelines.warehouse.columns import UTC
from tests.warehouse_tables import lineage

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
SCHEMA = pa.schema([("sensor", pa.string()), ("at", UTC), ("v", pa.float64()), ("day", pa.date32())])
HERE = InProcess()


def load(uri, rows, *, key="k", part=0):
    """Rows given as (sensor, minute, value)."""
    at = pa.array([START + dt.timedelta(minutes=row[1]) for row in rows], UTC)
    columns = [
        pa.array([row[0] for row in rows], pa.string()),
        at,
        pa.array([row[2] for row in rows], pa.float64()),
    ]
    table = pa.table([*columns, periods(at, "day")], schema=SCHEMA)
    receipts = write_rows(uri, table, schema=SCHEMA, partition_by=["day"], part=part)
    append(uri, receipts, key=key, schema=SCHEMA, partition_by=["day"], lineage=lineage())


def split(uri, rows, pieces):
    step = max(1, -(-len(rows) // pieces))
    for part, start in enumerate(range(0, max(1, len(rows)), step)):
        load(uri, rows[start : start + step], key=f"k{part}", part=part)
    return Snapshot.open(uri)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 60 * 30),
        st.one_of(st.none(), st.floats(-1e6, 1e6, allow_subnormal=False)),
    ),
    max_size=30,
)
LAW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@LAW
@given(rows=ROWS, pieces=st.integers(1, 4))
def test_coarser_steps_are_those_of_pandas_and_do_not_depend_on_the_files(
    tmp_path_factory, rows, pieces, monkeypatch
):
    monkeypatch.setitem(ranges.split_files.__kwdefaults__, "range_rows", 6)
    wanted = {"v": ["count", "sum", "mean", "min", "max"]}
    one, many = (
        split(str(tmp_path_factory.mktemp("law") / "t"), given_rows, cut)
        for given_rows, cut in ((rows, 1), (rows[::-1], pieces))
    )

    first, second = (
        resample(each, "at", every=HOUR, by=["sensor"], values=wanted, runner=HERE) for each in (one, many)
    )

    assert first.equals(second)
    frame = one.read().to_pandas()
    frame["at"] = frame["at"].dt.floor("h")
    peer = frame.groupby(["sensor", "at"])["v"].agg(["count", "sum", "mean", "min", "max"]).reset_index()
    assert first["sensor"].to_pylist() == peer["sensor"].tolist()
    assert first["at"].to_pylist() == [at.to_pydatetime() for at in peer["at"]]
    for name in wanted["v"]:
        ours, theirs = first[f"v_{name}"].to_pandas(), peer[name]
        if name == "sum":
            ours = ours.fillna(0.0)  # of nothing pandas says 0, SQL and we say null
        pd.testing.assert_series_equal(
            ours, theirs, check_names=False, check_dtype=False, rtol=1e-9, atol=1e-6
        )


@LAW
@given(rows=ROWS, pieces=st.integers(1, 4), edges=st.booleans())
def test_gaps_are_the_steps_without_rows(tmp_path_factory, rows, pieces, edges):
    snapshot = split(str(tmp_path_factory.mktemp("law") / "t"), rows, pieces)
    span = {"since": START + 3 * HOUR, "until": START + 20 * HOUR} if edges else {}

    found = gaps(snapshot, "at", every=HOUR, by=["sensor"], runner=HERE, **span)

    there = {}
    for sensor, minute, _ in rows:
        if not edges or 180 <= minute < 1200:
            there.setdefault(sensor, set()).add(minute // 60)
    expected = set()
    for sensor, hours in there.items():
        low, high = (3, 20) if edges else (min(hours), max(hours) + 1)
        expected |= {(sensor, hour) for hour in range(low, high) if hour not in hours}
    told = [
        (row["sensor"], (row["from"] - START) // HOUR + step)
        for row in found.to_pylist()
        for step in range(row["missing"])
    ]
    assert (len(told), set(told)) == (len(expected), expected)
    assert all(row["to"] - row["from"] == row["missing"] * HOUR for row in found.to_pylist())


@LAW
@given(rows=ROWS, minute=st.integers(0, 60 * 30), pieces=st.integers(1, 4))
def test_what_was_known_is_the_last_row_of_each_key(tmp_path_factory, rows, minute, pieces):
    rows = list({row[:2]: row for row in rows}.values())  # a key at a time has one value
    snapshot = split(str(tmp_path_factory.mktemp("law") / "t"), rows, pieces)

    found = as_of(
        snapshot,
        "at",
        START + dt.timedelta(minutes=minute),
        by=["sensor"],
        columns=["sensor", "v"],
        runner=HERE,
    )

    expected = {row[0]: row[2] for row in sorted(rows, key=lambda row: row[1]) if row[1] <= minute}
    assert [tuple(row.values()) for row in found.to_pylist()] == sorted(expected.items())


def test_late_rows_go_into_the_partition_of_their_time_and_files_of_other_times_are_not_read(
    tmp_path, monkeypatch
):
    uri = str(tmp_path / "t")
    load(uri, [("a", 60, 1.0), ("a", 60 * 24 * 5, 2.0)], key="k0")
    load(uri, [("a", 120, 3.0)], key="late", part=1)
    snapshot = Snapshot.open(uri)
    opened = []
    read = resample.__globals__["read_file"]
    monkeypatch.setattr(
        "pipelines.warehouse.series.read_file",
        lambda file, *rest: opened.append(file.rows) or read(file, *rest),
    )

    found = gaps(snapshot, "at", every=HOUR, until=START + dt.timedelta(days=1), runner=HERE)

    assert sorted(file.partition["day"].day for file in snapshot.files()) == [1, 1, 6]
    assert len(opened) == 2
    assert found.to_pylist() == [{"from": START + 3 * HOUR, "to": START + 24 * HOUR, "missing": 21}]


def test_steps_are_the_same_after_a_compaction_and_on_two_workers(tmp_path, local_cluster):
    uri = str(tmp_path / "t")
    snapshot = split(uri, [("abc"[i % 3], i * 7, i / 7) for i in range(500)], 5)
    wanted = {"by": ["sensor"], "values": {"v": ["sum", "first", "last"]}, "every": HOUR}
    before = resample(snapshot, "at", runner=HERE, **wanted)
    compact(uri, by=["v"], lineage=lineage(), runner=HERE)

    after = resample(Snapshot.open(uri), "at", runner=OnDask(local_cluster), **wanted)

    assert after.equals(before)
    assert after.num_rows == len({(i % 3, i * 7 // 60) for i in range(500)})


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s: gaps(s, "v", every=HOUR, runner=HERE), "column 'v' is double, expected timestamp"),
        (lambda s: gaps(s, "att", every=HOUR, runner=HERE), "did you mean 'at'"),
        (lambda s: gaps(s, "at", every=0 * HOUR, runner=HERE), "expected a positive one"),
        (lambda s: resample(s, "at", every=HOUR, values={"v": ["men"]}, runner=HERE), "did you mean 'mean'"),
        (lambda s: periods(s.read(["at"])["at"], "week"), "expected 'hour', 'day' or 'month'"),
    ],
)
def test_what_cannot_be_asked_is_said(tmp_path, ask, said):
    snapshot = split(str(tmp_path / "t"), [("a", 0, 1.0)], 1)

    with pytest.raises(SpecError, match=said):
        ask(snapshot)


def test_periods_are_those_of_utc():
    times = pa.array([START - dt.timedelta(microseconds=1), START + 13 * HOUR], UTC)

    assert periods(times, "day").to_pylist() == [dt.date(2025, 12, 31), dt.date(2026, 1, 1)]
    assert periods(times, "hour").to_pylist() == ["2025-12-31T23", "2026-01-01T13"]
    assert periods(times, "month").to_pylist() == ["2025-12", "2026-01"]
