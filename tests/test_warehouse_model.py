"""Whatever is done to a table, in whatever order, with crashes in between: it is what a dict says it is.

Hypothesis plays a driver that appends, replaces, upserts, deletes, compacts and restores, dies at any step of a commit
or gets no answer, runs again, reads old versions and vacuums. The model is a list: the rows and rejects of every version.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipelines import failpoints
from pipelines.engine import InProcess
from pipelines.errors import PartFailed
from pipelines.ledger import Entry, repair
from pipelines.warehouse import (
    Snapshot,
    append,
    commit_rejects,
    compact,
    current_fingerprint_is,
    delete,
    delete_keys,
    read_quarantine,
    replace,
    restore,
    sql,
    tidy,
    upsert,
    vacuum,
    write_rejects,
)
from tests.warehouse_tables import SCHEMA, file, lineage, rejects, rows, stored

PLACES = st.sampled_from(
    [
        "",
        "file.half_written",
        "quarantine.before_commit",
        "quarantine.after_commit",
        "commit.before_log",
        "commit.before_sync",
        "commit.after_log",
        "rewrite.before_write",
        "ledger.before_commit",
        "ledger.after_commit",
    ]
)
NAMES = st.sampled_from("ABC")
WEEK_S = 8 * 24 * 3600


IDS = st.one_of(st.integers(1, 12), st.sampled_from([65, 66, 67, 165, 166, 167]))
DAY = {"partition_by": ["day"]}


def content(uri, version=None):
    """{id: speed}; an id that is there twice is an error."""
    table = Snapshot.open(uri, version).read(["id", "speed"], verify=True)
    found = dict(zip(table["id"].to_pylist(), table["speed"].to_pylist(), strict=True))
    assert len(found) == table.num_rows
    return found


def changed(numbers, value):
    table = rows(numbers).append_column("day", pa.array(["d1"] * len(numbers)))
    return table.set_column(2, SCHEMA.field("speed"), pa.array([value] * len(numbers)))


class Warehouse(RuleBasedStateMachine):
    """A table with its quarantine and ledger, and what they should hold."""

    @initialize()
    def start(self):
        self.root = tempfile.mkdtemp(prefix="warehouse-")
        self.uri = f"{self.root}/trips"
        self.versions = []  # ({id: speed}, {batch: rejected line}) per version
        self.batches = 0
        self.here = {"lineage": lineage(), "runner": InProcess()}
        self.last = None  # fingerprint of the newest content, None after an append

    def now(self):
        return self.versions[-1] if self.versions else ({}, {})

    @rule(name=NAMES, place=PLACES, hit=st.integers(1, 4))
    def build(self, name, place, hit):
        """Replace the content by that of a fingerprint, crash on the way, run again."""
        key, rows = f"build/{name}", [ord(name), ord(name) + 100]

        def work():
            if current_fingerprint_is(self.uri, name):
                return
            self._reject(key, ord(name))
            entry = Entry(table="trips", step="s", rows_in=3, rows_out=2, quarantined=1)
            said = lineage(name, ledger=[entry.record()])
            made = file(self.uri, rows)
            replace(self.uri, [made], key=key, schema=SCHEMA, partition_by=["day"], lineage=said, rows_out=2)

        self._crash_and_rerun(work, place, hit)
        if self.last != name:
            self.versions.append(({row: row / 2 for row in rows}, {key: ord(name)}))
        self.last = name

    @rule(place=PLACES, hit=st.integers(1, 4))
    def add(self, place, hit):
        """Append a batch, crash on the way, run again."""
        self.batches += 1
        number, key = 200 + self.batches, f"batch/{self.batches}"

        def work():
            self._reject(key, number)
            made = file(self.uri, [number])
            append(
                self.uri, [made], key=key, schema=SCHEMA, partition_by=["day"], lineage=lineage(), rows_out=1
            )

        self._crash_and_rerun(work, place, hit)
        there, rejected = self.now()
        self.versions.append((there | {number: number / 2}, rejected | {key: number}))
        self.last = None

    @precondition(lambda self: self.versions)
    @rule(numbers=st.sets(IDS, min_size=1, max_size=4), place=PLACES, hit=st.integers(1, 4))
    def upsert(self, numbers, place, hit):
        """Insert or update by key, crash on the way, run again."""
        self.batches += 1
        key, value = f"upsert/{self.batches}", -float(self.batches)
        table = changed(sorted(numbers), value)
        self._crash_and_rerun(
            lambda: upsert(self.uri, table, key=key, by=["id"], schema=SCHEMA, **DAY, **self.here), place, hit
        )
        rows, rejected = self.now()
        self.versions.append((rows | dict.fromkeys(numbers, value), rejected))
        self.last = None

    @precondition(lambda self: self.versions)
    @rule(limit=IDS, by_key=st.booleans(), place=PLACES, hit=st.integers(1, 4))
    def delete(self, limit, by_key, place, hit):
        """Delete by condition or by key, crash on the way, run again."""
        self.batches += 1
        key = f"delete/{self.batches}"

        def work():
            if by_key:
                delete_keys(self.uri, pa.table({"id": [limit]}), key=key, **self.here)
            else:
                delete(self.uri, f"id < {limit}", key=key, **self.here)

        self._crash_and_rerun(work, place, hit)
        rows, rejected = self.now()
        kept = {row: value for row, value in rows.items() if (row != limit if by_key else row >= limit)}
        self.versions.append((kept, rejected))
        if kept != rows:
            self.last = None

    @precondition(lambda self: self.versions)
    @rule(place=PLACES, hit=st.integers(1, 4))
    def compact(self, place, hit):
        """Pack the files, crash on the way, run again; what was current stays current."""
        packs = len([file for file in Snapshot.open(self.uri).files() if file.rows]) > 1

        self._crash_and_rerun(lambda: compact(self.uri, **self.here), place, hit)
        if packs:
            self.versions.append(self.now())

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), place=PLACES, hit=st.integers(1, 4))
    def restore(self, data, place, hit):
        """Make an old content the newest; rejects that were tidied up meanwhile do not come back."""
        version = data.draw(st.integers(0, len(self.versions) - 1))
        if not self._kept(version):
            return
        self.batches += 1
        key = f"restore/{self.batches}"
        old, now = ({file.path for file in Snapshot.open(self.uri, one).files()} for one in (version, None))
        self._crash_and_rerun(lambda: restore(self.uri, version, key=key, **self.here), place, hit)
        rows, rejected = self.versions[version]
        quarantine = f"{self.uri}__quarantine"
        there = {file.partition["batch"] for file in Snapshot.open(quarantine).files()}
        self.versions.append((rows, {batch: line for batch, line in rejected.items() if batch in there}))
        if old != now:
            self.last = None

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def read_an_old_version(self, data):
        version = data.draw(st.integers(0, len(self.versions) - 1))
        if self._kept(version):
            assert content(self.uri, version) == self.versions[version][0]

    @precondition(lambda self: self.versions)
    @rule()
    def clean_up(self):
        """Remove leftovers after a week in which nothing happened."""
        then = time.time() - WEEK_S
        for path in Path(self.root).rglob("*"):
            os.utime(path, (then, then))
        vacuum(self.uri)
        assert stored(self.uri) == {file.path for file in Snapshot.open(self.uri).files()}

    @precondition(lambda self: self.versions)
    @invariant()
    def holds_what_the_model_holds(self):
        rows, rejected = self.now()
        assert content(self.uri) == rows
        found = read_quarantine(self.uri, columns=["batch", "line"]).to_pylist()
        assert sorted((row["batch"], row["line"]) for row in found) == sorted(rejected.items())
        assert Snapshot.open(self.uri).version == len(self.versions) - 1
        assert self.last is None or current_fingerprint_is(self.uri, self.last)

    @precondition(lambda self: self.versions)
    @invariant()
    def every_version_is_in_the_ledger_once(self):
        recorded = sql(self.root, "select version from dlflow__commits order by version")[
            "version"
        ].to_pylist()
        assert recorded == list(range(len(self.versions)))

    def teardown(self):
        shutil.rmtree(getattr(self, "root", ""), ignore_errors=True)

    def _reject(self, key, line):
        receipt = write_rejects(self.uri, rejects([line]), key=key, run="r", step="s", sources=["a.csv"])
        commit_rejects(self.uri, [receipt], key=key, lineage=lineage())

    def _crash_and_rerun(self, work, place, hit):
        failpoints._arrivals.clear()
        os.environ["DLFLOW_FAILPOINTS"] = f"{place}=eio@{hit}" if place else ""
        try:
            self._run(work)
        except (OSError, PartFailed):
            os.environ["DLFLOW_FAILPOINTS"] = ""
            self._run(work)
        finally:
            del os.environ["DLFLOW_FAILPOINTS"]

    def _run(self, work):
        repair(self.root)
        work()
        tidy(self.uri, lineage=lineage())
        repair(self.root)

    def _kept(self, version):
        return all(Path(file.absolute).exists() for file in Snapshot.open(self.uri, version).files())


Warehouse.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWarehouse = Warehouse.TestCase
