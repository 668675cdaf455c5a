"""What the Prefect UI shows of a run besides its steps: tables, progress and links. Where the API does not answer, the run goes on without.

No artifact is the truth of anything, so none is worth waiting for: one more try, then the API is left alone for a while.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.terminal import Terminal

__all__ = ["Artifacts", "artifacts"]

PROGRESS_S = 2.0  # a progress artifact is a request to the API each time
AGAIN_S = 30.0  # after the API did not answer
REJECTS = 20  # rules shown of a table


@contextmanager
def artifacts(prefix: str) -> Iterator["Artifacts"]:
    """The artifacts of one run; `prefix` keeps those of this pipeline apart from others."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):  # 50 ms, so once and not for each of them
        yield Artifacts(prefix)


class Artifacts:
    """Makes artifacts of the flow run that calls."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._silent_until = 0.0

    def link(self, key: str, address: str, text: str) -> None:
        """An address to click."""
        self._made(create_link_artifact, address, key=self._key(key), link_text=text, description=text)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Rows; none are not shown."""
        if rows:
            shown = [{name: _plain(value) for name, value in row.items()} for row in rows]
            self._made(create_table_artifact, shown, key=self._key(key), description=description)

    def of_table(self, made: Mapping[str, Any]) -> None:
        """What a step found that built a table, or looked it up: rows, ledger by step, quarantine by rule, checks."""
        name = made["name"]
        self.table(name, [summary_of(made)], f"{name}: rows")
        ledger = [
            {"step": step["name"], **{key: step[key] for key in COUNTS}, "notes": step.get("notes") or None}
            for step in made["steps"]
        ]
        self.table(f"{name}-ledger", ledger, f"{name}: ledger, step by step")
        rejects = [
            {key: one[key] for key in ("rule", "column", "count")}
            | {"first": " line ".join(str(one["samples"][0][at]) for at in ("source", "line"))}
            for one in made["rejects"][:REJECTS]
        ]
        self.table(f"{name}-quarantine", rejects, f"{name}: quarantine, by rule")
        self.table(f"{name}-checks", made["checks"], f"{name}: quality checks")

    def of_model(self, made: Mapping[str, Any]) -> None:
        """What a step found that trained a model, or looked it up: metrics by set."""
        rows = [
            {"set": part, **{key: value for key, value in numbers.items() if value is not None}}
            for part, numbers in made["metrics"].items()
        ]
        self.table(f"{made['name']}-metrics", rows, f"{made['name']}: metrics")

    @contextmanager
    def lines(self, terminal: Terminal) -> Iterator[Callable[[str], None]]:
        """What the terminal says meanwhile, and what the block has to say, are logs of the flow run."""
        logger = logging.getLogger("dlflow.lines")
        handler = APILogHandler(logging.INFO)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        terminal.reader = logger.info
        try:
            yield logger.info
        finally:
            terminal.reader = None
            logger.removeHandler(handler)

    @contextmanager
    def progress(self, name: str, terminal: Terminal) -> Iterator[None]:
        """A bar that moves now and then while the block runs; a step that is done at once has none."""
        artifact: Any = None
        told = time.monotonic()

        def move(share: float, said: str) -> None:
            nonlocal artifact, told
            shown = f"{name}: {said}" if said else name
            if time.monotonic() - told < PROGRESS_S:
                return
            told, percent = time.monotonic(), round(100 * min(share, 1.0), 1)
            if artifact is None:
                key = self._key(f"{name}-progress")
                artifact = self._made(create_progress_artifact, percent, key=key, description=shown)
            else:
                self._made(update_progress_artifact, artifact, percent, description=shown)

        terminal.listener = move
        try:
            yield
        finally:
            terminal.listener = None
            if artifact is not None:
                self._made(update_progress_artifact, artifact, 100.0)

    def _made(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if time.monotonic() < self._silent_until:
            return None
        try:
            return make(*arguments, **options)
        except httpx.HTTPError as error:
            self._silent_until = time.monotonic() + AGAIN_S
            logging.getLogger("dlflow").warning(
                "the Prefect API did not take an artifact (%s); the run goes on", error
            )
            return None

    def _key(self, name: str) -> str:
        """Artifact keys have lower-case letters, digits and dashes only."""
        text = f"{self._prefix}-{name}".lower()
        return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text).strip("-")


COUNTS = ("rows_in", "added", "rows_out", "quarantined", "deduplicated", "filtered")


def summary_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """The one row that says most of a table."""
    return {key: made[key] for key in ("status", "version", *COUNTS, "files")}


def _plain(value: Any) -> Any:
    """A value as the UI can show it."""
    match value:
        case None | str() | int() | float():
            return value
        case Mapping():
            return ", ".join(f"{name} {each}" for name, each in value.items())
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(value)
