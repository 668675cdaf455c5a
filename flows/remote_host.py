"""What a host that is reached by SSH runs: `python -P -m flows.remote_host`, the scheduler or some workers of a cluster.

Its standard input is the order, with the keys of TLS, as one line, and the lifeline then (flows.lifeline): sshd closes it
when the connection has ended, whichever way, and this process ends with all that it has started. Its standard output is
one answer line. The keys stay in memory: they are on no command line and in no file.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from flows.lifeline import END_S, Life, live
from flows.local_cluster import ENVIRONMENT, SETTINGS

__all__ = ["hold", "main"]


def main() -> None:
    """The process's whole life."""
    order = json.loads(sys.stdin.readline())
    if os.getpgrp() != os.getpid():  # a shell leads our group: one of our own, which the lifeline may kill
        os.setpgrp()
    os.environ.update(ENVIRONMENT)
    folder = order.pop("scratch")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="dlflow-", dir=folder)
    live({"function": "flows.remote_host:hold", "scratch": scratch, "end_s": END_S, "order": order})


def hold(
    life: Life,
    *,
    scheduler: str | None,
    workers: int,
    memory: str | None,
    interface: str | None,
    tls: dict[str, str],
) -> None:
    """Be the scheduler, or as many workers of the one at this address, until the lifeline is cut or they end by themselves."""
    import dask  # noqa: PLC0415  after the environment is set
    import distributed  # noqa: PLC0415

    dask.config.set({**SETTINGS, "temporary-directory": str(life.scratch)})
    roles = {
        f"tls_{role}_{what}": tls[what]
        for role in ("scheduler", "worker", "client")
        for what in ("cert", "key")
    }
    shared = {
        "protocol": "tls://",
        "interface": interface,
        "security": distributed.Security(tls_ca_file=tls["ca"], require_encryption=True, **roles),
    }

    async def run() -> None:
        cut: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(life.cut.wait))
        if scheduler is None:
            servers = [
                distributed.Scheduler(port=0, dashboard=False, dashboard_address="127.0.0.1:0", **shared)
            ]
        else:
            limits: dict[str, Any] = {"nthreads": 1, "memory_limit": memory or "auto"}
            servers = [
                distributed.Nanny(scheduler, local_directory=str(life.scratch), **limits, **shared)
                for _ in range(workers)
            ]
        await asyncio.gather(*servers)
        life.answer({"address": servers[0].address})
        ended: asyncio.Future[Any] = asyncio.ensure_future(
            asyncio.wait([asyncio.ensure_future(one.finished()) for one in servers])
        )
        await asyncio.wait({cut, ended}, return_when=asyncio.FIRST_COMPLETED)
        for server in servers:
            if pid := getattr(server, "pid", None):  # a nanny's worker: only what is committed counts
                server.close_gracefully()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    asyncio.run(_left(life, run()))


async def _left(life: Life, running: Any) -> None:
    """Run it, and end without waiting for threads and connections; an error is the last line of what is printed."""
    try:
        await running
    except Exception as error:  # noqa: BLE001  whatever it is: it is told to who has started us
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr, flush=True)  # noqa: T201
    life.leave()


if __name__ == "__main__":
    main()
