"""Builds that die at a given step, each in a process of its own, forked from one that has imported everything.

    python commit_builds.py FOLDER repartition kill 20

For each failpoint, and each of its arrivals (20 at most) until the build comes through: content A is there, the build of B fails
at that point, what readers see is written down, B is built again, and what they see then. Prints one line of JSON
per case. The parent starts no thread, so that forking it is safe.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import deltalake  # noqa: F401 - imported once, before the forks
import pandas as pd  # noqa: F401 - pyarrow imports it when it sees a list
import pyarrow as pa

from pipelines.ledger import Entry, repair
from pipelines.warehouse import (
    Lineage,
    Snapshot,
    commit_rejects,
    current_fingerprint_is,
    lock,
    preflight,
    read_quarantine,
    replace,
    sql,
    tidy,
    vacuum,
    write_file,
    write_rejects,
)
from tests.warehouse_tables import SCHEMA, rejects, rows

PLACES = (
    "file.half_written",
    "file.before_sync",
    "quarantine.before_commit",
    "quarantine.after_commit",
    "commit.before_log",
    "commit.before_link",
    "commit.before_sync",
    "commit.after_log",
    "ledger.before_commit",
    "ledger.after_commit",
)
CONTENT = {"A": [1, 2], "B": [3, 4, 5]}


def build(root, name, partition_by):
    """What the engine does for one table, without the engine."""
    uri, key, ids = f"{root}/trips", f"build/{name}", CONTENT[name]
    preflight(root)
    with lock(root, "trips"):
        repair(root)
        if not current_fingerprint_is(uri, name):
            set_aside = write_rejects(uri, rejects(ids), key=key, run=name, step="cast", sources=["a.csv"])
            table = rows(ids).append_column("day", pa.array(["d1"] * len(ids)))
            made = write_file(uri, table, partition=dict.fromkeys(partition_by, "d1"), schema=SCHEMA)
            entry = Entry(
                table="trips", step="cast", rows_in=2 * len(ids), rows_out=len(ids), quarantined=len(ids)
            )
            said = Lineage(run=name, fingerprint=name, ledger=[entry.record()])
            commit_rejects(uri, [set_aside], key=key, lineage=said)
            declared = {"schema": SCHEMA, "partition_by": partition_by, "schema_change": True}
            replace(uri, [made], key=key, lineage=said, rows_out=len(ids), **declared)
        tidy(uri, lineage=Lineage(run=name))
        repair(root)


def seen(root):
    """What a reader sees, and what is on the disk."""
    uri = f"{root}/trips"
    snapshot = Snapshot.open(uri)
    return {
        "version": snapshot.version,
        "ids": sorted(snapshot.read(["id"], verify=True)["id"].to_pylist()),
        "rejects": sorted(read_quarantine(uri, columns=["line"])["line"].to_pylist()),
    }


def books(root):
    """The ledger, and whether a vacuum a week later leaves live files alone."""
    query = "select version, rows_in, rows_out, quarantined from dlflow__ledger order by version"
    then = time.time() - 8 * 24 * 3600
    for path in Path(root).rglob("*"):
        os.utime(path, (then, then))
    clean = {}
    for uri in (
        f"{root}/trips",
        f"{root}/trips__quarantine",
        *(f"{root}/_dlflow/{n}" for n in ("ledger", "commits")),
    ):
        vacuum(uri)
        live = {file.path for file in Snapshot.open(uri).files()}
        clean[Path(uri).name] = {str(path.relative_to(uri)) for path in Path(uri, "data").iterdir()} == live
    names = [path.name for path in Path(root, "trips").rglob("*") if not path.name.endswith(".parquet")]
    return {
        "ledger": [list(row.values()) for row in sql(root, query).to_pylist()],
        "commits": sql(root, "select version from dlflow__commits order by version")["version"].to_pylist(),
        "clean": clean,
        "others": sorted(name for name in names if not name.endswith(".json")),
    }


def in_child(work):
    """The exit code of a forked process that does `work`; 0 if it came through, -9 if it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - the child must not return into the parent's code
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def case(folder, before, scenario, setting):
    """One build of B that fails as set, and one that does not."""
    root, answer = f"{folder}/work", Path(folder, "answer.json")
    shutil.copytree(before, root)
    partition_by = ["day"] if scenario == "same" else []
    os.environ["DLFLOW_FAILPOINTS"] = setting
    code = in_child(lambda: build(root, "B", partition_by))
    del os.environ["DLFLOW_FAILPOINTS"]
    said = {"setting": setting, "code": code}

    def rerun():
        between = seen(root)
        build(root, "B", partition_by)
        answer.write_text(json.dumps({"between": between, "after": seen(root), **books(root)}))

    said["rerun"] = in_child(rerun)
    if answer.exists():
        said |= json.loads(answer.read_text())
        answer.unlink()
    shutil.rmtree(root)
    return said


def main(folder, scenario, action, most):
    before = f"{folder}/before"
    if in_child(lambda: build(before, "A", ["day"])):
        sys.exit("the first build failed")
    for place in PLACES:
        for hit in range(1, int(most) + 1):
            said = case(folder, before, scenario, f"{place}={action}@{hit}")
            print(json.dumps(said), flush=True)
            if said["code"] == 0:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
