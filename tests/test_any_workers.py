"""One plan, the same bytes: in this process and on 1, 3 and 4 workers, of one thread and of two, for every way rows move.

Under another cut the files differ; the rows of each partition do not, nor their order, nor a count.
"""

import random
import subprocess
import sys

import pyarrow.compute as pc
import pytest

from flows.cluster import cluster
from pipelines import parts, warehouse
from pipelines.engine import InProcess, OnDask
from tests import builds
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PEERS = REPOSITORY.parent / "shared" / "peers" / "data"
WORKERS = [(1, 2), (3, 1), (4, 2)]  # processes, threads of each
CUTS = [(64, 3_000, 50), (1 << 20, 1 << 24, 1 << 15)]  # bytes of text, at least and at most; rows of a table

JOINS = {
    "inner": 'how = "inner"',
    "left": 'how = "left", unmatched = "keep"',
    "right": 'how = "right"',
    "outer": 'how = "outer"',
    "semi": 'how = "semi"',
    "anti": 'how = "anti"',
}
STEPS = {
    **{
        how: f'{{ do = "join", with = "other", on = ["k"], cardinality = "m:1", {said}, move = "exchange" }}'
        for how, said in JOINS.items()
    },
    "fanned": '{ do = "join", with = "many", on = ["k"], cardinality = "m:m", how = "left", prefix = "other_", move = "exchange" }',
    "asof": '{ do = "join_asof", with = "many", on = "at", by = ["k"], direction = "nearest", ties = "first", move = "exchange" }',
    "copies": '{ do = "deduplicate" }',
    "best": '{ do = "deduplicate", by = ["k"], keep = "best" }',
    "latest": '{ do = "deduplicate", by = ["id"], keep = "latest", order_by = ["at"] }',
    "trusted": '{ do = "resolve", by = ["k"], policy = "trust", source_column = "city", order = ["Ulm", "Bonn"], policies = { x = "majority" }, order_by = ["at"] }',
    "set_aside": '{ do = "resolve", by = ["k"], columns = ["city"], policy = "quarantine" }',
    "forward": '{ do = "fill", columns = ["x", "city"], with = "forward", by = ["k"], order_by = ["at"] }',
    "between": '{ do = "fill", columns = ["x"], with = "interpolate", order_by = ["at"] }',
    "windows": '{ do = "window", by = ["k"], order_by = ["at"], columns = { before = "lag(x, 1)", week = "mean(x, 7d)" } }',
    "by_group": """{ do = "deduplicate", by = ["id"] },
      { do = "split", by = ["id"], test = 0.3, stratify = ["city"] },
      { do = "fill", columns = ["x"], with = "median", by = ["city"], fit_on = "train" },
      { do = "clip", columns = ["x"], method = "zscore", factor = 1, by = ["city"], fit_on = "train" },
      { do = "features", label = "late", key = ["id"], columns = { x = "standard", city = { encode = "target", smoothing = 3 } } }""",
}
CHECKS = {
    "copies": 'checks = [{ check = "unique", columns = ["id"], severity = "quarantine" }]',
    "latest": 'checks = [{ check = "k_anonymity", columns = ["city", "late"], k = 40, severity = "quarantine" }]\npartition_by = ["city"]',
    "best": 'checks = [{ check = "foreign_key", columns = ["k"], table = "other", severity = "quarantine" }]',
}
COLUMNS = (
    'columns = { id = "int64", k = "int64", at = "timestamp", x = "float64", city = "string", late = "bool" }'
)


def every_exchange(folder):
    """A pipeline with a table for each way rows move, and its sources: copies, missing values, a hot key, equal times."""
    chance = random.Random(3)

    def lines(count, keys):
        return [
            (
                chance.randrange(count),
                1 if chance.random() < 0.3 else chance.choice([None, *range(keys)]),
                f"2026-01-{chance.randrange(1, 29):02d} 0{chance.randrange(10)}:00:00",
                chance.choice([None, 1e16, *[round(chance.gauss(20, 9), 3)] * 9]),
                chance.choice(["Ulm", "Bonn", "Kiel", ""]),
                chance.choice(["true", "false"]),
            )
            for _ in range(count)
        ]

    header = ("id", "k", "at", "x", "city", "late")
    orders = lines(1500, 60)
    for number in range(3):
        builds.csv(folder / f"orders-{number}.csv", header, [*orders[number::3], *orders[:20]])
    builds.csv(folder / "other.csv", ("k", "name"), [(number, f"n{number}") for number in range(0, 90, 2)])
    builds.csv(
        folder / "many.csv", ("k", "at", "rate"), [(k, at, rate) for rate, k, at, *_ in lines(300, 60)]
    )
    text = f"""
[sources.orders]
kind = "csv"
path = "orders-*.csv"
null = [""]
{COLUMNS}
[sources.other]
kind = "csv"
path = "other.csv"
columns = {{ k = "int64", name = "string" }}
[sources.many]
kind = "csv"
path = "many.csv"
null = [""]
columns = {{ k = "int64", at = "timestamp", rate = "int64" }}
[tables.other]
source = "other"
[tables.many]
source = "many"
[tables.orders]
source = "orders"
"""
    for name, step in STEPS.items():
        text += f'[tables.{name}]\ntable = "orders"\nsteps = [{step}]\n{CHECKS.get(name, "")}\n'
    return text


def data_job(folder):
    """The benchmark's pipeline on 60,000 rows of its generator."""
    if not PEERS.is_dir():
        pytest.skip(f"no peers at {PEERS}")
    subprocess.run(
        [sys.executable, PEERS / "gen.py", folder / "data", "60000", "--files", "4"],
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )
    from tests.bench.data_job import PIPELINE

    numbers = range(1, 7)
    return PIPELINE.format(
        data=folder / "data",
        numbers="\n".join(f'v{i} = "float64"' for i in numbers),
        copies=", ".join(f'w{i} = "v{i}"' for i in numbers),
        together=", ".join(f'v{i} = "coalesce(v{i}, w{i})"' for i in numbers),
    )


def flights(folder):
    """The tables of the example of real flights."""
    data = REPOSITORY.parent / "shared" / "data" / "nycflights13"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}")
    del folder
    text = (REPOSITORY / "flows" / "gallery" / "flights" / "pipeline.toml").read_text("utf-8")
    text = text[: text.index("[models.")]
    return text.replace('data = "${DLFLOW_DATA:-../../../../shared/data}/nycflights13"', f'data = "{data}"')


PIPELINES = {"every_exchange": every_exchange, "data_job": data_job, "flights": flights}


@pytest.fixture(scope="module", params=PIPELINES)
def made(request, tmp_path_factory):
    """Builds a pipeline in a folder of its own; what came of it."""
    sources = tmp_path_factory.mktemp(request.param)
    text = PIPELINES[request.param](sources)

    def make(name, runner, cut):
        folder = tmp_path_factory.mktemp(name)
        for path in sources.glob("*.csv"):
            (folder / path.name).symlink_to(path)
        with pytest.MonkeyPatch.context() as patch:
            least, most, rows = cut
            patch.setattr(parts, "PART_BYTES", (least, most))
            patch.setattr(parts, "PART_ROWS", (rows, max(rows, 1 << 10)))
            built = builds.make(folder, text, runner)
        return folder, {name: builds.steps(one) for name, one in built.items()}

    make.reference = {cut: make("here", InProcess(threads=1), cut) for cut in cuts_of(request.param)}
    make.name = request.param
    return make


def cuts_of(name):
    """The small cut is for the small pipeline."""
    small, usual = CUTS
    return {"every_exchange": [small, usual], "data_job": [(1 << 16, 1 << 18, 1 << 12), usual]}.get(
        name, [usual, (1 << 20, 3 << 20, 1 << 14)]
    )


def rows(folder, name):
    """The rows of a table, partition by partition, in their order."""
    snapshot = warehouse.Snapshot.open(str(folder / "warehouse" / name))
    table = snapshot.read()
    return (
        table.take(pc.sort_indices(table, [(name, "ascending") for name in snapshot.partition_by]))
        if snapshot.partition_by
        else table
    )


def beside(folder, name):
    """What was set aside and what was in dispute."""
    uri = str(folder / "warehouse" / name)
    kept = []
    for read in (warehouse.read_quarantine, warehouse.read_evidence):
        table = read(uri)
        gone = [one for one in ("run", "batch", "source", "about") if one in table.column_names]
        kept.append(sorted(map(str, table.drop_columns(gone).to_pylist())))
    return kept


def test_threads_and_cuts_change_no_row_no_place_and_no_count(made):
    (first, counts), *others = made.reference.values()
    for cut in made.reference:
        others.append(made("threads", InProcess(threads=4), cut))

    for folder, found in others:
        assert found == counts
        for name in counts:
            assert rows(folder, name).equals(rows(first, name)), name
            assert beside(folder, name) == beside(first, name), name
    if made.name == "every_exchange":
        empty = [name for name, steps in counts.items() if not rows(first, name).num_rows]
        assert not empty
        assert pc.sum(pc.is_null(rows(first, "outer")["id"])).as_py() > 0


@pytest.mark.parametrize(("workers", "threads"), WORKERS)
def test_workers_make_every_byte_that_this_process_makes(made, tmp_path, workers, threads):
    with cluster(workers=workers, threads=threads, log=tmp_path / "log") as client:
        assert sorted(client.nthreads().values()) == [threads] * workers
        for cut, (here, counts) in made.reference.items():
            there, found = made("there", OnDask(client), cut)

            assert found == counts
            for name in counts:
                assert builds.digests(there, name) == builds.digests(here, name), name
                assert beside(there, name) == beside(here, name), name
