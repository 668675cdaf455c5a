"""What a run depends on, looked at one thing after the other: machine, packages, storage, clocks, Prefect, cluster.

Each finding is "ok", a "note" (slow or risky) or "bad" (will not work), with what to do. Every look has a deadline.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import psutil

from flows.cluster_kind import Kind
from flows.figures import size
from flows.project import Project, open_project
from flows.server import ServerError, check_api, configured_api
from flows.tables import print_json
from pipelines import warehouse
from pipelines.errors import PipelineError, SpecError
from pipelines.places import Place

__all__ = ["Finding", "examine", "print_findings"]

Verdict = Literal["ok", "note", "bad"]
MARKS = {"ok": "✔", "note": "▲", "bad": "✘"}
MEMORY_PER_CORE = 1 << 30
DISK_FREE = 5 << 30
FILES = 1024
SKEW_S = 2.0
BROKEN = {  # versions that are known to fail, and how: see pyproject.toml
    "fastapi": (lambda version: version >= (0, 155), "every Prefect flow run crashes"),
    "sqlalchemy": (lambda version: version >= (2, 1), "Prefect's schedules silently never fire"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(
    file: Path, *, env: str | None, scheduler: str | None, tls: tuple[str, str, str] | None
) -> list[Finding]:
    """Look at everything; a pipeline file that is not there is left out."""
    project: Project | None = None
    found = [*_machine(), *_packages()]
    if file.exists():
        try:
            project = open_project(file, {}, env)
            found.append(Finding("pipeline file", "ok", f"{file}: {len(project.pipeline.tables)} tables"))
        except SpecError as error:
            found.append(
                Finding(
                    "pipeline file",
                    "bad",
                    f"{len(error.problems)} problems: {error.problems[0]}",
                    "dlflow check",
                )
            )
    folder = project.pipeline.warehouse if project else Path.cwd()
    found += _storage(folder)
    found.append(_prefect())
    if project is not None and scheduler is None:
        scheduler, tls = project.environment.scheduler, tls or project.environment.tls
    if scheduler is not None:
        found += _cluster(scheduler, tls)
    elif project is not None and project.environment.cluster is not None:
        found.append(_kind(project.environment.cluster))
    return found


def print_findings(found: list[Finding], *, as_json: bool) -> None:
    """One line each, and below it what to do."""
    if as_json:
        print_json([asdict(one) for one in found])
        return
    width = max(len(one.what) for one in found)
    for one in found:
        click.echo(f"{MARKS[one.verdict]} {one.what:<{width}}  {one.found}")
        if one.advice:
            click.echo(f"  {'':<{width}}  → {one.advice}")


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory().total
    each = memory // cores
    few = each < MEMORY_PER_CORE
    yield Finding(
        "machine",
        "note" if few else "ok",
        f"{platform.system()} {platform.machine()}, {cores} cores, {size(memory)} of memory",
        f"{size(each)} for each core is little: run with fewer --workers" if few else "",
    )
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        few = 0 <= limit < FILES
        advice = f"ulimit -n {4 * FILES}: a cluster of many workers opens more" if few else ""
        yield Finding("open files", "note" if few else "ok", f"{limit} at once", advice)
    from dlflow.training.numerics import numerics  # noqa: PLC0415 - NumPy

    facts = numerics()
    forced = os.environ.get("OPENBLAS_CORETYPE")
    several = int(facts["blas_threads"]) > 1
    yield Finding(
        "BLAS",
        "note" if several or forced else "ok",
        f"{facts['blas']}, {facts['blas_threads']} thread{'s' if several else ''}, NumPy {facts['numpy']}",
        f"OPENBLAS_CORETYPE={forced} is exported: the processor may have a faster kernel" if forced else "",
    )


def _packages() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()}  {sys.executable}")
    names = ("dlflow", "prefect", "dask", "distributed", "pyarrow", "deltalake", "numpy")
    yield Finding("packages", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
    for name, (broken, how) in BROKEN.items():
        version = importlib.metadata.version(name)
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if broken(numbers):
            advice = f"install the {name} of requirements.lock"
            yield Finding(
                name, "bad", f"{version}: with Prefect {importlib.metadata.version('prefect')} {how}", advice
            )


def _storage(folder: Place) -> Iterator[Finding]:
    if not isinstance(folder, Path):
        yield _writable(folder, "and puts an object only where there is none, as a commit needs it")
        return
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    little = free < DISK_FREE
    yield Finding(
        "disk",
        "note" if little else "ok",
        f"{size(free)} free at {there}",
        "make room: tables are written aside before they replace the old ones" if little else "",
    )
    found = _writable(folder, "and links files as a commit needs it")
    yield found
    if found.verdict != "ok":
        return
    began = time.time()
    with tempfile.NamedTemporaryFile(dir=there) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        skew = os.fstat(file.fileno()).st_mtime - began
    yield _skew("clock of the storage", skew)


def _writable(folder: Place, how: str) -> Finding:
    try:
        warehouse.preflight(str(folder))
    except (PipelineError, OSError) as error:
        sentence, _, fix = str(error).rpartition("; ")
        return Finding("warehouse", "bad", sentence or str(error), fix if sentence else "")
    return Finding("warehouse", "ok", f"{folder} can be written, {how}")


def _skew(what: str, seconds: float) -> Finding:
    off = abs(seconds) > SKEW_S
    return Finding(
        what,
        "note" if off else "ok",
        f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine"
        if off
        else "agrees with this machine",
        "synchronise the clocks (NTP): times in histories, leases and schedules go by them" if off else "",
    )


def _prefect() -> Finding:
    api = configured_api()
    if api is None:
        return Finding(
            "Prefect",
            "ok",
            "no API is configured: runs are direct",
            "for schedules: PREFECT_API_URL, or dlflow serve",
        )
    try:
        check_api(api)
    except ServerError as error:
        return Finding("Prefect", "bad", f"{api} does not answer", str(error).rpartition("; ")[2])
    return Finding("Prefect", "ok", f"{api} answers")


def _cluster(address: str, tls: tuple[str, str, str] | None, deadline_s: float = 5.0) -> Iterator[Finding]:
    import warnings  # noqa: PLC0415

    from flows.cluster import ClusterError, cluster, worker_pids  # noqa: PLC0415 - 0.8 s of Dask

    began = time.monotonic()
    try:
        with (
            warnings.catch_warnings(record=True) as told,
            cluster(scheduler=address, tls=tls, deadline_s=deadline_s) as client,
        ):
            warnings.simplefilter("always")
            seconds, workers = time.monotonic() - began, worker_pids(client)
            yield Finding(
                "cluster",
                "ok",
                f"{address}: {len(workers)} workers, our versions, connected in {seconds:.1f} s",
            )
            yield from _workers(client)
        for one in {str(each.message) for each in told}:
            sentence, _, fix = one.rpartition("; ")
            yield Finding("cluster", "note", sentence or one, fix if sentence else "")
    except ClusterError as error:
        sentence, _, fix = str(error).rpartition("; ")
        yield Finding("cluster", "bad", sentence or str(error), fix if sentence else "")


def _kind(kind: Kind) -> Finding:
    """A cluster that each run starts is not started to look at it."""
    from flows.remote_cluster import missing  # noqa: PLC0415

    lacking, _, advice = missing(kind).rpartition("; ")
    return Finding(
        "cluster", "bad" if lacking else "ok", lacking or f"kind {kind.name}: each run starts one", advice
    )


def _workers(client: Any) -> Iterator[Finding]:
    from dlflow.training.numerics import numerics  # noqa: PLC0415

    kernels = {str(facts["blas"]) for facts in client.run(numerics).values()}
    mixed = len(kernels) > 1
    yield Finding(
        "kernels",
        "bad" if mixed else "ok",
        ", ".join(sorted(kernels)),
        "set OPENBLAS_CORETYPE to one kernel on all workers: training promises the same bits"
        if mixed
        else "",
    )
    clock: Callable[[], float] = time.time
    ours = time.time()
    offsets = [theirs - ours for theirs in client.run(clock).values()]
    yield _skew("clocks of the workers", max(offsets, key=abs, default=0.0))
