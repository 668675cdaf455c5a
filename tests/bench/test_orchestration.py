"""What it costs that Prefect is told of a run: the same pipeline by the direct driver and as a flow, with a server that runs.

Pipelines of few and of many tables tell what is due to a run from what is due to a step. Processor time is that of this process,
threads included, and of the server beside it.
"""

import collections
import resource
import statistics
import subprocess
import sys
import time

import psutil
import pytest

from pipelines.engine import InProcess
from tests import projects

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
FEW, MANY, REPEATS = 2, 12, 3
RUN_S, STEP_S = 1.5, 0.15
IMPORT_S = 1.5  # of Prefect itself: beside the start of a cluster it costs less


def project(folder, *, tables=1, files=1, part_bytes=None):
    data = folder / "data"
    data.mkdir(parents=True)
    for number in range(files):
        (data / f"{number:04}.csv").write_text(
            "id,x\n" + "".join(f"{number * 10 + n},1.5\n" for n in range(10))
        )
    lines = ['name = "bench"', "[sources.raw]", 'kind = "csv"', 'path = "data/*.csv"']
    lines += [] if part_bytes is None else [f"part_bytes = {part_bytes}"]
    lines += ["[sources.raw.columns]", 'id = { type = "int64", nullable = false }', 'x = "float64"']
    for number in range(tables):
        lines += [f"[tables.t{number:02}]", 'source = "raw"']
    (folder / "pipeline.toml").write_text("\n".join(lines) + "\n")
    return folder


def measured(folder, prefect):
    server = [one for one in psutil.Process().children(recursive=True) if one.is_running()]
    before = time.perf_counter(), time.process_time(), _spent(server)
    projects.run(folder, prefect=prefect)
    after = time.perf_counter(), time.process_time(), _spent(server)
    return [end - start for start, end in zip(before, after, strict=True)]


def _spent(processes):
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def test_what_a_run_and_a_step_cost_more_as_a_flow(tmp_path, prefect_server, capsys):
    found = collections.defaultdict(list)
    measured(project(tmp_path / "warm"), True)  # imports
    for repeat in range(REPEATS):
        for tables in (FEW, MANY):
            for prefect in (False, True):
                folder = project(tmp_path / f"{repeat}-{tables}-{prefect}", tables=tables)
                found[tables, prefect].append(measured(folder, prefect))
    medians = {
        key: [statistics.median(column) for column in zip(*rows, strict=True)] for key, rows in found.items()
    }
    step, run = [], []
    for few, many in zip(
        (a - b for a, b in zip(medians[FEW, True], medians[FEW, False], strict=True)),
        (a - b for a, b in zip(medians[MANY, True], medians[MANY, False], strict=True)),
        strict=True,
    ):
        step.append((many - few) / (MANY - FEW))
        run.append(few - FEW * step[-1])

    with capsys.disabled():
        print(
            f"\norchestration over the direct driver, medians of {REPEATS}: wall, CPU here, CPU of the server"
        )
        for name, costs, bound in (("per run", run, RUN_S), ("per step", step, STEP_S)):
            print(f"  {name:<10}" + "".join(f"{cost:8.3f} s" for cost in costs) + f"   at most {bound} s")
    assert run[0] < RUN_S
    assert step[0] < STEP_S


def test_what_a_command_costs_more_as_a_flow(tmp_path, prefect_server, capsys):
    """With the start of the process and the import of Prefect, which `dlflow run --workers 0` cannot hide."""
    found = collections.defaultdict(list)
    for repeat in range(REPEATS):
        for option in ("--no-prefect", "--prefect"):
            folder = project(tmp_path / f"{repeat}{option}", tables=FEW)
            command = [sys.executable, "-m", "flows.cli", "run", "--workers", "0", option]
            wall, cpu = time.perf_counter(), _of_children()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            found[option].append((time.perf_counter() - wall, _of_children() - cpu))
    (direct, direct_cpu), (flow, flow_cpu) = (
        [statistics.median(column) for column in zip(*rows, strict=True)] for rows in found.values()
    )

    with capsys.disabled():
        print(f"\ndlflow run of {FEW} tables, medians of {REPEATS}: wall, CPU of the process")
        print(f"  direct     {direct:8.3f} s{direct_cpu:8.3f} s")
        print(f"  as a flow  {flow:8.3f} s{flow_cpu:8.3f} s")
    assert flow - direct < IMPORT_S + RUN_S + FEW * STEP_S


def _of_children():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_a_thousand_parts_are_no_work_for_prefect(tmp_path, prefect_server, monkeypatch, capsys):
    from prefect.client.base import PrefectHttpxSyncClient

    asked, real = [], PrefectHttpxSyncClient.send
    parts, real_answers = [], InProcess._answers

    def send(client, request, *arguments, **options):
        what = request.url.path.partition("/api")[2].split("/")[1]
        # a bar moves by time, not by parts; every new client asks for the server's version
        if b"-progress" not in (request.content or b"") and what != "admin":
            asked.append((request.method, what))
        return real(client, request, *arguments, **options)

    def answers(runner, fn, items, name):
        parts.append(len(items))
        return real_answers(runner, fn, items, name)

    monkeypatch.setattr(PrefectHttpxSyncClient, "send", send)
    monkeypatch.setattr(InProcess, "_answers", answers)
    counts = {}
    for files in (10, 1000):
        folder = project(tmp_path / str(files), files=files, part_bytes=64)  # a part for each file
        asked.clear(), parts.clear()
        record = projects.run(folder, prefect=True)
        assert record["tables"][0]["rows_in"] == 10 * files
        assert max(parts) >= files
        counts[files] = collections.Counter(asked) - collections.Counter({("PATCH", "artifacts"): 10**6})

    with capsys.disabled():
        print("\nrequests to the Prefect API by the number of parts")
        for files, calls in counts.items():
            print(f"  {files:>5} parts  {sum(calls.values()):>3}  {dict(calls)}")
    assert counts[10] == counts[1000]
