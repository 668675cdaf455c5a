"""Who is told that steps begin and end: nobody (the direct driver), or a Prefect API. The steps are the same."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.server import Server, check_api, configured_api, temporary_server
from flows.session import Session
from flows.steps import finish, steps_of

__all__ = ["Driver", "driver"]


@dataclass(frozen=True)
class Driver:
    """A driver, ready or on its way."""

    name: str  # "direct" | "prefect"
    why: str  # in words, for the terminal; empty if it was asked for
    api: str | None = None
    server: Server | None = None

    def run(self, session: Session) -> None:
        """Take all steps of the session.

        Raises: what a step raises; ServerError if a server of our own did not start.
        """
        if self.name == "direct":
            for step in steps_of(session):
                step.do(session)
            finish(session)
            return
        if self.server is not None:
            os.environ.update(self.server.settings)  # before prefect is imported for the first time
        from flows.pipeline import run_as_flow  # noqa: PLC0415 - 1.5 s, while the server and the cluster start

        own = self.server
        run_as_flow(session, own.wait if own is not None else lambda: str(self.api))


@contextmanager
def driver(prefect: bool | None, home: Path) -> Iterator[Driver]:
    """The driver that is asked for; None: Prefect if an API is configured. A server of our own starts at once, in `home`.

    Raises: ServerError before any work if the configured API does not answer.
    """
    api = configured_api()
    if api is not None and prefect is not False:
        check_api(api)
    if prefect is None:
        if api is None:
            yield Driver("direct", "direct (no Prefect API is configured; --prefect starts one for the run)")
        else:
            yield Driver("prefect", f"Prefect at {api}", api)
    elif not prefect:
        yield Driver("direct", "")
    elif api is not None:
        yield Driver("prefect", "", api)
    else:
        with temporary_server(home) as server:
            yield Driver("prefect", "", None, server)
