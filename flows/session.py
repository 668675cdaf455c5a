"""One run of a pipeline: what it works with (workers, terminal, log) and what it has found so far (the record).

The direct driver and the Prefect driver make the same session and take the same steps (flows.steps): the driver
decides only who is told that a step began and ended.
"""

import contextlib
import contextvars
import datetime as dt
import logging
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import journal
from flows.cluster_kind import Kind, Scaling
from flows.environment import Environment
from flows.failures import keep_traceback
from flows.notification import notify
from flows.project import Project
from flows.terminal import Terminal
from pipelines import warehouse
from pipelines.engine import InProcess, OnDask, Runner
from pipelines.inspection import build_state, outline
from pipelines.plan import Plan, make
from pipelines.storage import TableRef, reference

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Options", "Session", "client_of", "open_session", "plan_of", "runner_of"]


@dataclass(frozen=True)
class Options:
    """How to run, as the command line says it."""

    workers: int | Scaling | None = None  # None: sized to the machine; 0: this process
    scheduler: str | None = None  # address of a running Dask cluster
    tls: tuple[str, str, str] | None = None  # CA, certificate, key: files, for tls:// addresses
    cluster: Kind | None = None  # started for the run, on other machines
    prove: bool = False  # train again on one worker, and compare the weights
    kill_worker: bool = False  # kill -9 one worker during training, to show that nothing changes
    report: Path | None = None  # where the report goes; None: beside the pipeline file

    def within(self, environment: Environment) -> "Options":
        """With what the environment says of what is not said here."""
        if self.scheduler or self.workers is not None:
            return self
        return replace(
            self,
            workers=environment.workers,
            scheduler=environment.scheduler,
            tls=self.tls or environment.tls,
            cluster=environment.cluster,
        )


@dataclass
class Session:
    """What the steps of one run share."""

    project: Project
    plan: Plan
    options: Options
    terminal: Terminal
    run: str
    driver: str
    log: Path
    entry: Path  # in the journal of runs
    record: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _cluster: "Future[Client | None] | None" = None
    made: dict[str, int] = field(default_factory=dict)  # versions of tables that this run has committed
    _versions: dict[str, int] = field(default_factory=dict)

    @property
    def client(self) -> "Client | None":
        """The client of the cluster, as soon as it is there; None without a cluster."""
        kind = self.options.cluster
        wait_s = 180 + (kind.start_s if kind else 0)
        return None if self._cluster is None else self._cluster.result(timeout=wait_s)

    @property
    def runner(self) -> Runner:
        """Where tasks run."""
        client = self.client
        return InProcess() if client is None else OnDask(client, outlives=self.options.scheduler is not None)

    @property
    def workers(self) -> int:
        """Worker processes; 1 without a cluster."""
        client = self.client
        return 1 if client is None else len(client.nthreads())

    def reference(self, name: str) -> TableRef:
        """The version of a table that this run reads: the newest, once and for the whole run."""
        snapshot = warehouse.Snapshot.open(
            str(self.project.pipeline.warehouse / name), self._versions.get(name)
        )
        self._versions[name] = snapshot.version
        root = str(self.project.pipeline.warehouse)
        warehouse.pin(
            root,
            name,
            snapshot.version,
            holder=f"run:{self.run}",
            why="a run reads it",
            lease_s=warehouse.LEASE_S,
            check=False,
        )
        return reference(name, snapshot)

    def committed(self, name: str, version: int) -> None:
        """This run has committed a table: later steps read this version."""
        self._versions[name] = self.made[name] = version


def plan_of(project: Project) -> Plan:
    """What the warehouse lacks."""
    return make(
        project.pipeline,
        project.checked,
        state=build_state,
        digests=project.state / "digests.json",
        outline=outline,
    )


@contextlib.contextmanager
def open_session(
    project: Project, plan: Plan, options: Options, terminal: Terminal, *, driver: str
) -> Iterator[Session]:
    """A session whose cluster starts at once, in the background, and is gone afterwards.

    Raises: PipelineError before any work if the warehouse cannot be written.
    """
    pipeline = project.pipeline
    warehouse.preflight(str(pipeline.warehouse))
    run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    log = project.state / "logs" / f"{run}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_logging_to(log))
        stack.callback(warehouse.unpin, str(pipeline.warehouse), f"run:{run}")
        entry = journal.begin(
            project.state, run=run, pipeline=pipeline.name, file=pipeline.file, driver=driver
        )
        session = Session(project, plan, options, terminal, run, driver, log, entry)
        if options.workers != 0 or options.scheduler:
            session._cluster = _start_cluster(stack, options, log)  # noqa: SLF001 - this is its constructor
        try:
            yield session
        except BaseException as error:
            keep_traceback(error, log)
            _ended(session, error)
            raise
        _ended(session, None)


def _ended(session: Session, error: BaseException | None) -> None:
    journal.end(session.entry, error, session.made)
    if session.project.environment.notify is not None:
        notify(session.project.environment.notify, session.entry, session.record)


@contextlib.contextmanager
def client_of(options: Options) -> Iterator["Client | None"]:
    """The client of a cluster that is of no session; None, this process, with `workers=0`."""
    if options.workers == 0 and not options.scheduler:
        yield None
        return
    from flows.cluster import cluster  # noqa: PLC0415 - 0.8 s of imports

    with cluster(workers=options.workers, scheduler=options.scheduler, tls=options.tls) as client:
        yield client


@contextlib.contextmanager
def runner_of(options: Options) -> Iterator[Runner]:
    """Where tasks run that are of no session."""
    with client_of(options) as client:
        yield InProcess() if client is None else OnDask(client, outlives=options.scheduler is not None)


def _start_cluster(stack: contextlib.ExitStack, options: Options, log: Path) -> "Future[Client | None]":
    from flows.cluster import cluster  # noqa: PLC0415 - 0.8 s of imports that a run without a cluster does not pay

    resources = contextlib.ExitStack()
    pool = ThreadPoolExecutor(1, "dlflow-cluster")
    context = contextvars.copy_context()  # a client leaves in the context in which it came

    def start() -> "Client":
        return resources.enter_context(
            cluster(
                workers=options.workers,
                scheduler=options.scheduler,
                tls=options.tls,
                kind=options.cluster,
                log=log,
            )
        )

    future: Future[Client | None] = pool.submit(context.run, start)

    def stop() -> None:
        pool.submit(context.run, resources.close).result(
            timeout=180
        )  # the pool's one thread has ended `start` by then
        pool.shutdown()

    stack.callback(stop)
    return future


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Everything that is logged goes to the run's file; the terminal stays calm."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    handler = logging.StreamHandler(os.fdopen(descriptor, "a", encoding="utf-8"))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Prefect's client: a line per request
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.stream.close()
