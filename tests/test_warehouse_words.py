"""The four words that a warehouse must live up to: large, integrated, historical, time series."""

import datetime as dt

import numpy as np
import pyarrow as pa

from pipelines.engine import OnDask
from pipelines.warehouse import (
    Lineage,
    Snapshot,
    append,
    changes,
    compact,
    gaps,
    history,
    make_release,
    open_at,
    prune,
    read,
    record_changes,
    resample,
    restore,
    sql,
    table_uri,
    upsert,
    write_rows,
)
from pipelines.warehouse.columns import UTC

EVENTS = pa.schema(
    [("id", pa.int64()), ("user", pa.int64()), ("at", UTC), ("value", pa.float64()), ("day", pa.date32())]
)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FILES, ROWS = 64, 5_000


def events(part):
    """Rows of one part: ids rise, times go through the days."""
    ids = np.arange(part * ROWS, (part + 1) * ROWS)
    seconds = ids * 3
    at = pa.array(int(START.timestamp() * 1e6) + seconds * 1_000_000).cast(UTC)
    days = at.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    return pa.table([ids, ids % 1000, at, ids / 2, days], schema=EVENTS)


def write_part(asked):
    uri, part = asked
    return write_rows(uri, events(part), schema=EVENTS, partition_by=["day"], part=part)


def load(root, runner):
    uri = table_uri(root, "events")
    written = runner.run(
        write_part, [(uri, part) for part in range(FILES)], name="load", progress=lambda *_: None
    )
    files = [receipt for receipts in written for receipt in receipts]
    append(
        uri,
        files,
        key="load",
        schema=EVENTS,
        partition_by=["day"],
        lineage=Lineage(run="load"),
        rows_out=FILES * ROWS,
    )
    return uri


def test_large(tmp_path, local_cluster):
    """Workers write and rewrite, the driver holds receipts alone; readers open only the files that they need."""
    runner = OnDask(local_cluster)
    uri = load(str(tmp_path), runner)
    source = events(0).slice(0, 0)
    picked = np.arange(0, FILES * ROWS + 1000, 997)
    source = pa.concat_tables(
        [
            events(part).filter(np.isin(np.arange(part * ROWS, (part + 1) * ROWS), picked))
            for part in range(FILES + 1)
        ]
    )
    source = source.set_column(3, EVENTS.field("value"), pa.array(np.full(source.num_rows, -1.0)))

    made = upsert(
        uri,
        source,
        key="u",
        by=["id"],
        schema=EVENTS,
        partition_by=["day"],
        lineage=Lineage(run="u"),
        runner=runner,
    )
    compact(uri, by=["id"], lineage=Lineage(run="c"), runner=runner)

    snapshot = Snapshot.open(uri)
    assert made.counts["updated"] == len([one for one in picked if one < FILES * ROWS])
    assert snapshot.rows == FILES * ROWS + made.counts["inserted"]
    assert (
        np.sort(read(snapshot, ["id"], where="value == -1")["id"].to_numpy()) == picked[: source.num_rows]
    ).all()
    assert len(prune.files(snapshot, "id == 123456")) == 1
    assert read(snapshot, ["value"], where="id == 123456", verify=True).num_rows == 1


def test_integrated(tmp_path, local_cluster):
    """Tables that were made from each other are joined as they were together, and say where they are from."""
    root, runner = str(tmp_path), OnDask(local_cluster)
    uri = load(root, runner)
    users = pa.table(
        [range(1000), [f"u{i % 7}" for i in range(1000)]],
        schema=pa.schema([("user", pa.int64()), ("name", pa.string())]),
    )
    place = table_uri(root, "users")
    said = Lineage(run="users", sources=[{"kind": "table", "name": "events", "version": 0, "rows": 1000}])
    upsert(place, users, key="u", by=["user"], schema=users.schema, lineage=said, runner=runner)
    make_release(root, "together")
    upsert(
        place,
        users.slice(0, 1).set_column(1, users.field(1), pa.array(["x"])),
        key="v",
        by=["user"],
        schema=users.schema,
        lineage=Lineage(run="v"),
        runner=runner,
    )

    query = "select name, count(*) as n from events join users using (user) group by name order by name"

    assert sql(root, query, at="together")["n"].to_pylist() == [
        sum(1 for i in range(1000) if i % 7 == name) * FILES * ROWS // 1000 for name in range(7)
    ]
    assert sql(root, query)["name"].to_pylist()[-1] == "x"
    assert history(place)[1].record["sources"][0]["name"] == "events"
    assert history(uri)[0].rows == FILES * ROWS


def test_historical(tmp_path, local_cluster):
    """What was true when, what was in the table when, what changed in between, and back again."""
    root, runner = str(tmp_path), OnDask(local_cluster)
    columns = pa.schema([("id", pa.int64()), ("city", pa.string()), ("at", UTC)])
    uri = table_uri(root, "people")
    said = {"columns": columns, "by": ["id"], "at": "at", "lineage": Lineage(run="t"), "runner": runner}

    def moved(ids, city, day):
        times = [START + dt.timedelta(days=day)] * len(ids)
        return pa.table([ids, [city] * len(ids), times], schema=columns)

    record_changes(uri, moved(range(100), "Bern", 0), key="1", **said)
    first = history(uri)[0].time
    record_changes(uri, moved(range(0, 100, 2), "Oslo", 20), key="2", **said)
    record_changes(uri, moved([0], "Rome", 10), key="late", **said)

    zero = "select city from people where id = 0 order by valid_from"
    assert sql(root, zero)["city"].to_pylist() == ["Bern", "Rome", "Oslo"]
    assert sql(root, zero, at=first)["city"].to_pylist() == ["Bern"]
    with changes(uri, 0, 1, by=["id", "valid_from"], runner=runner) as feed:
        assert feed.counts == {"added": 50, "removed": 0, "updated": 50}
    restore(uri, 0, key="back", lineage=Lineage(run="t"), runner=runner)
    assert open_at(root, "people").rows == 100
    assert open_at(root, "people", 2).rows == 151


def test_time_series(tmp_path, local_cluster):
    """Partitions by day, late rows among them, what is missing, and coarser steps."""
    runner = OnDask(local_cluster)
    uri = load(str(tmp_path), runner)
    late = events(0).slice(0, 1).set_column(0, EVENTS.field("id"), pa.array([-1]))
    append(
        uri,
        write_rows(uri, late, schema=EVENTS, partition_by=["day"], part=99),
        key="late",
        schema=EVENTS,
        partition_by=["day"],
        lineage=Lineage(run="late"),
    )
    snapshot = Snapshot.open(uri)

    daily = resample(snapshot, "at", every=dt.timedelta(days=1), values={"value": ["count"]}, runner=runner)
    missing = gaps(
        snapshot,
        "at",
        every=dt.timedelta(seconds=1),
        since=START,
        until=START + dt.timedelta(minutes=1),
        runner=runner,
    )

    assert daily["value_count"].to_pylist()[:2] == [86400 // 3 + 1, 86400 // 3]
    assert sum(daily["value_count"].to_pylist()) == FILES * ROWS + 1
    assert missing["missing"].to_pylist() == [2] * 20
    assert len({file.partition["day"] for file in snapshot.files()}) == daily.num_rows
