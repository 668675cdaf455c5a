"""Writers of a table in an object store that race, are killed, or get no answer; stores that do not keep the condition."""

import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import access, conditional, warehouse
from pipelines.errors import PipelineError
from pipelines.failpoints import NAMES
from pipelines.places import place
from pipelines.warehouse import Snapshot, append, log, write_file
from tests.between import Between
from tests.warehouse_tables import SCHEMA, ids, lineage, put, rows


@pytest.fixture
def uri(store, bucket):
    """A table of a warehouse in a bucket of its own."""
    url = f"s3://{bucket}/tables"
    access.mount(url, store.storage)
    yield f"{url}/t"
    access._mounted.pop(url)


@pytest.fixture
def between(store, bucket):
    """A warehouse behind a server that may cut the connection after a put, or lose its condition."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    server.store, server.cut, server.drop = store.endpoint.removeprefix("http://"), "", False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.root = f"s3://{bucket}/behind"
    storage = access.Storage(
        endpoint=f"http://127.0.0.1:{server.server_port}",
        key=store.storage.key,
        secret=store.storage.secret,
        region="us-east-1",
    )
    access.mount(server.root, storage)
    yield server
    access._mounted.pop(server.root)
    server.shutdown()
    server.server_close()
    thread.join()


WRITER = """
import sys
from pipelines.warehouse import Lineage, append
from tests.warehouse_tables import SCHEMA, file
uri, me = sys.argv[1], int(sys.argv[2])
for number in range(int(sys.argv[3])):
    for key, one in ((f"both-{number}", number), (f"mine-{me}-{number}", 100 * me + number)):
        append(uri, [file(uri, [one])], key=key, schema=SCHEMA, partition_by=["day"], lineage=Lineage(run=str(me)))
"""


@pytest.mark.parametrize(
    ("writers", "batches"), [(2, 3), pytest.param(4, 15, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])]
)
def test_several_processes_lose_and_double_nothing_without_a_lock(uri, store, writers, batches):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, uri, str(me), str(batches)],
            env={**os.environ, **store.environment},
            cwd=Path(__file__).parents[1],
        )
        for me in range(1, writers + 1)
    ]
    assert [process.wait(800) for process in processes] == [0] * writers

    mine = [100 * me + number for me in range(1, writers + 1) for number in range(batches)]
    assert ids(uri) == sorted([*range(batches), *mine])
    assert Snapshot.open(uri).version == batches + len(mine) - 1


@pytest.mark.parametrize("change", ["rows", "columns"])
def test_an_answer_that_was_cut_off_is_settled_by_the_log(between, change):
    """deltalake asks again by itself and is told that the entry is there; the entry of other columns is asked for once."""
    uri = f"{between.root}/t"
    put(uri, [1], "a")
    schema = SCHEMA if change == "rows" else SCHEMA.append(pa.field("note", pa.string()))
    table = rows([2]) if change == "rows" else rows([2]).append_column("note", pa.array(["x"]))
    receipt = write_file(uri, table, partition={"day": "d1"}, schema=schema)
    between.cut = "00000000000000000001.json"

    made = append(
        uri, [receipt], key="b", schema=schema, partition_by=["day"], lineage=lineage(), evolve=True
    )

    assert between.cut == ""
    assert (made.version, ids(uri), Snapshot.open(uri).version) == (1, [1, 2], 1)


def test_a_store_that_loses_the_condition_is_refused_before_the_first_commit(between):
    uri = f"{between.root}/t"
    between.drop = True

    with pytest.raises(
        PipelineError, match="put an object a second time when asked to put one only if there is none"
    ):
        put(uri, [1], "a")
    with pytest.raises(PipelineError, match="use a store that knows it"):
        warehouse.preflight(between.root)
    assert not log.exists(uri)

    between.drop = False
    put(uri, [1], "a")
    assert ids(uri) == [1]


def test_two_conditional_puts_of_one_name_are_one(uri):
    url = f"{uri}/_delta_log/x"
    conditional.put_if_absent(url, b"first")

    with pytest.raises(FileExistsError):
        conditional.put_if_absent(url, b"second")
    assert place(url).read_bytes() == b"first"


KILLED = """
import sys
from tests.warehouse_tables import put
put(sys.argv[1], [2], "k")
"""


@pytest.mark.parametrize(
    "where",
    [
        "commit.before_log",
        "commit.after_log",
        *(pytest.param(one, marks=pytest.mark.chaos) for one in ("file.half_written", "file.before_sync")),
    ],
)
def test_a_writer_killed_on_either_side_of_its_commit_is_made_good_by_the_next(uri, store, where):
    assert where in NAMES
    put(uri, [1], "a")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, uri],
        env={**os.environ, **store.environment, "DLFLOW_FAILPOINTS": f"{where}=kill"},
        cwd=Path(__file__).parents[1],
        timeout=100,
        check=False,
    )
    assert killed.returncode == -9

    assert ids(uri) == ([1, 2] if where == "commit.after_log" else [1])
    put(uri, [2], "k")
    assert ids(uri) == [1, 2]
