"""A Dask client that is ready to work: of a cluster of this machine, or of one that is reached by its address.

Whichever it is: every worker has our code in our versions, BLAS runs one thread on it (the weights' bits depend on
nothing but the data, and n ranks on n cores do not fight), and every wait has an end. What is not so is said before the
first task in one sentence, where Dask alone would hang: a function that a worker cannot import never answers.
"""

import importlib
import importlib.metadata
import logging
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import remote_cluster
from flows.cluster_kind import Kind, Kubernetes, Scaling, Slurm, Ssh
from flows.lifeline import NoAnswerError
from flows.local_cluster import SETTINGS, starting

if TYPE_CHECKING:
    from distributed import Client, Security, WorkerPlugin

__all__ = ["ClusterError", "ClusterWarning", "blas_threads", "cluster", "worker_pids"]

_CODE = ("pipelines", "dlflow", "flows")
_SAME = ("dask", "distributed", "cloudpickle", "numpy", "pyarrow", "dlflow")
_SCHEDULER_SETTINGS = tuple(name for name in SETTINGS if name.startswith("distributed.scheduler."))
_LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.gc",
    "tornado",
    "tornado.application",
)  # it prints by these
_START_S = 60.0  # for a cluster of our own, on a machine that has other work too


class ClusterError(Exception):
    """The cluster cannot be used: not reached, without our code, other versions. Correct what the message names."""

    exit_code = 3


class ClusterWarning(UserWarning):
    """The cluster works, but not as it should. Correct what the message names when there is time."""


@contextmanager
def cluster(
    *,
    workers: int | Scaling | None = None,
    scheduler: str | None = None,
    tls: tuple[str, str, str] | None = None,
    kind: Kind | None = None,
    threads: int = 1,
    memory_limit: int | str | None = None,
    log: Path | None = None,
    deadline_s: float = 15.0,
) -> Iterator["Client"]:
    """The client of the cluster at `scheduler`, else of one of our own that ends with the block: of this machine, or of a `kind`.

    `workers` processes of `threads` threads (default: one for each core that this process may use) with `memory_limit`
    bytes each (default: an equal part of nine tenths of the memory) and the messages in `log` describe our own.
    `tls` holds the files of authority, certificate and key for a scheduler at tls://...; without it Dask's
    configuration has them. `deadline_s` is how long such a scheduler may take to answer.

    Raises: ClusterError if it cannot be reached, lacks our code or has it in other versions.
    """
    if scheduler:
        with _configured(), _connected(scheduler, tls, deadline_s) as client:
            yield client
        return
    if kind is not None:
        if not workers or (isinstance(workers, Scaling) and not isinstance(kind, Slurm)):
            raise ValueError(
                f"workers is {workers!r}; expected how many worker processes the cluster of kind {kind.name!r} shall have"
            )
        with _remote(kind, workers, tls, log, deadline_s) as client:
            yield client
        return
    if isinstance(workers, Scaling):
        raise TypeError(
            f"workers is {workers!r}; expected a number: the cluster of this machine does not grow"
        )
    with (
        starting(workers=workers, threads=threads, memory_limit=memory_limit, log=log) as host,
        _configured(),
    ):
        from distributed import Client, Security  # noqa: PLC0415  while the cluster starts

        try:
            answer = host.answer(_START_S)
        except NoAnswerError as error:
            raise ClusterError(
                f"the local cluster did not start: {error}; expected worker processes on this machine; "
                "look at its memory and processes, or run without workers"
            ) from error
        security = Security(require_encryption=True, **answer["security"])
        with Client(answer["address"], security=security, name="dlflow") as client:
            _limit_blas(client)
            yield client


@contextmanager
def _remote(
    kind: Kind, workers: int | Scaling, tls: tuple[str, str, str] | None, log: Path | None, deadline_s: float
) -> Iterator["Client"]:
    """The client of a cluster on other machines that ends with the block."""
    if problem := remote_cluster.missing(kind):
        raise ClusterError(problem)
    with remote_cluster.starting(kind, workers, log=log) as host, _configured():
        from distributed import Client, Security  # noqa: PLC0415  while the cluster starts

        try:
            answer = host.answer(_START_S + kind.start_s)
        except NoAnswerError as error:
            raise ClusterError(
                f"the cluster of kind {kind.name!r} did not start: {error}; expected its machines within {kind.start_s:g} s; "
                "correct `cluster` in the pipeline file, and look at the log of the run"
            ) from error
        if isinstance(kind, Kubernetes):
            with _connected(kind.scheduler, tls, deadline_s, answer["workers"], kind.start_s) as client:
                yield client
            return
        security = Security(require_encryption=True, **answer["security"])
        with Client(answer["address"], security=security, name="dlflow") as client:
            try:
                client.wait_for_workers(1, timeout=kind.start_s)
            except TimeoutError as error:
                raise ClusterError(
                    f"the cluster of kind {kind.name!r} has no worker after {kind.start_s:g} s: {host.last_words()}; expected "
                    "one at least; look at the queue and at the log of the run, or give it more time: cluster = { start_s = ... }"
                ) from error
            _check(client, answer["address"], kind.start_s)
            if isinstance(kind, Ssh):
                from flows.widowed import Widowed  # noqa: PLC0415

                client.register_plugin(Widowed())
            _limit_blas(client)
            yield client


@contextmanager
def _configured() -> Iterator[None]:
    """Our settings; what distributed has to say goes where the program's own logging goes, and is a warning at least."""
    import dask  # noqa: PLC0415  not needed where a run has nothing to do
    import distributed  # noqa: F401, PLC0415  before the settings: it adds its defaults to them

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.handlers, logger.propagate) for logger in loggers]
    with dask.config.set(dict(SETTINGS)):
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.WARNING))
            logger.handlers, logger.propagate = [], True
        try:
            yield
        finally:
            for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
                logger.setLevel(level)
                logger.handlers, logger.propagate = handlers, propagate


def worker_pids(client: "Client") -> dict[str, int]:
    """Process id of every worker by its address."""
    return client.run(os.getpid)


def blas_threads() -> int:
    """The most threads that a BLAS of this process uses; NumPy is imported for it."""
    importlib.import_module("numpy")
    from threadpoolctl import threadpool_info  # noqa: PLC0415

    return max(
        (library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1
    )


@contextmanager
def _connected(
    address: str,
    tls: tuple[str, str, str] | None,
    deadline_s: float,
    workers: int = 1,
    workers_s: float | None = None,
) -> Iterator["Client"]:
    from distributed import Client  # noqa: PLC0415

    security = _security(address, tls)
    try:
        client = Client(address, security=security, timeout=deadline_s, name="dlflow")
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ClusterError(
            f"scheduler {address!r} did not answer within {deadline_s:g} s: {_first_line(error)}; expected a Dask scheduler "
            f"that speaks {address.partition('://')[0]!r}; check the address, that it runs, and the TLS files if it wants them"
        ) from error
    with client:
        _check(client, address, workers_s or deadline_s, workers)
        _limit_blas(client)
        yield client


def _security(address: str, tls: tuple[str, str, str] | None) -> "Security":
    from distributed import Security  # noqa: PLC0415

    if not address.startswith(("tcp://", "tls://")):
        raise ClusterError(
            f"scheduler is {address!r}; expected tcp://host:port or tls://host:port; write it so"
        )
    if tls is None:
        security = Security()
    else:
        for path in tls:
            if not Path(path).is_file():
                raise ClusterError(f"TLS file {path!r} is not there; expected a PEM file; correct the path")
        authority, certificate, key = tls
        security = Security(
            tls_ca_file=authority, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
        )
    if address.startswith("tls://") and not security.tls_client_cert:
        raise ClusterError(
            f"scheduler {address!r} wants a certificate and none is configured; expected the files of authority, "
            "certificate and key; give them, or set distributed.comm.tls in Dask's configuration"
        )
    return security


def _check(client: "Client", address: str, deadline_s: float, workers: int = 1) -> None:
    """Our code is on the scheduler and every worker, in our versions; the settings are ours.

    Only functions of the standard library are sent before we know: another that cannot be imported hangs the client.
    """
    try:
        client.wait_for_workers(workers, timeout=deadline_s)
    except TimeoutError as error:
        found = len(client.nthreads())
        raise ClusterError(
            f"scheduler {address!r} has {found or 'no'} worker{'s' * (found > 1)} after {deadline_s:g} s; expected {workers} at least; "
            "start workers there"
        ) from error
    for name in _CODE:
        for place, found in _everywhere(client, importlib.import_module, name).items():
            if isinstance(found, BaseException):
                raise ClusterError(
                    f"{place}: cannot import {name!r} ({_first_line(found)}); expected the dlflow package on the scheduler "
                    "and every worker; install it there, best as one image for all"
                )
    _compare(_everywhere(client, platform.python_version), "python", platform.python_version(), _minor)
    for name in _SAME:
        ours = _installed(name)
        if ours is not None:
            _compare(_everywhere(client, importlib.metadata.version, name), name, ours, str)
    _compare_settings(client, address)


def _everywhere(client: "Client", function: Any, *arguments: Any) -> dict[str, Any]:
    """What the function gives, or the exception that it raises, on the scheduler and on every worker."""
    found = client.run(function, *arguments, on_error="return")
    answers = {f"worker {address}": answer for address, answer in found.items()}
    try:
        answers["the scheduler"] = client.run_on_scheduler(function, *arguments)
    except Exception as error:  # noqa: BLE001  whatever it raised there is the answer
        answers["the scheduler"] = error
    return answers


def _compare(found: Mapping[str, Any], name: str, ours: str, part: Any) -> None:
    for place, theirs in found.items():
        if isinstance(theirs, BaseException) or part(theirs) != part(ours):
            shown = "missing" if isinstance(theirs, BaseException) else f"{theirs!r}"
            raise ClusterError(
                f"{place}: {name} is {shown}, here it is {ours!r}; expected the same everywhere; "
                "install the packages of one requirements.lock on all"
            )


def _compare_settings(client: "Client", address: str) -> None:
    import dask  # noqa: PLC0415

    other = []
    for name in _SCHEDULER_SETTINGS:
        theirs = client.run_on_scheduler(dask.config.get, name, None)
        if _plain(theirs) != _plain(SETTINGS[name]):
            other.append(f"{name} is {theirs!r}, not {SETTINGS[name]!r}")
    if other:
        warnings.warn(
            f"scheduler {address!r}: {'; '.join(other)}; give it deploy/dask/dlflow.yaml and start it again, "
            "or lost workers are noticed late and short tasks run slower",
            ClusterWarning,
            stacklevel=2,
        )


def _limit_blas(client: "Client") -> None:
    """One BLAS thread on every worker, now and later; what the worker says counts, not what it was told."""
    if max(client.run(blas_threads).values(), default=1) <= 1:
        return
    client.register_plugin(_one_blas_thread(), name="dlflow-blas")
    for address, threads in client.run(blas_threads).items():
        if threads > 1:
            warnings.warn(
                f"worker {address}: BLAS uses {threads} threads and cannot be limited; expected 1; start it with "
                "OMP_NUM_THREADS=1, or training is slower and its bits may differ",
                ClusterWarning,
                stacklevel=2,
            )


def _one_blas_thread() -> "WorkerPlugin":
    from flows.blas import OneBlasThread  # noqa: PLC0415

    return OneBlasThread()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # dlflow run from its source folder
        return None


def _minor(version: str) -> str:
    return version.rpartition(".")[0]


def _plain(value: Any) -> Any:
    """A setting in one spelling: 30.0 for "30s", and for 30."""
    from dask.utils import parse_timedelta  # noqa: PLC0415

    return parse_timedelta(value) if isinstance(value, str) and value != "inf" else value and float(value)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
