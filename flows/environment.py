"""Environments of a pipeline file: what is different where it runs.

    [env.prod]
    params = { data = "/mnt/raw" }                    override those of [params]
    warehouse = "/srv/warehouse"
    scheduler = "tls://head:8786"                     or workers = 8 for a local cluster
    tls = ["ca.pem", "cert.pem", "key.pem"]
    notify = { url = "${HOOK_URL}", on = "failed" }   a webhook is told how a run ended

The command line comes before the environment, and the environment before the rest of the file. Texts may hold ${NAME} of the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pipelines import references
from pipelines.document import Document
from pipelines.names import did_you_mean

__all__ = ["Environment", "Notify", "environment"]


@dataclass(frozen=True, kw_only=True)
class Notify:
    """A webhook: gets {"pipeline", "run", "status", "error", "seconds", "tables", "models"} as JSON by POST."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    url: str
    on: Literal["failed", "always"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One [env.NAME]; without a name, nothing is different."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    params: Mapping[str, str | int | float] = field(default_factory=dict)
    warehouse: str | None = None
    workers: int | None = None
    scheduler: str | None = None
    tls: tuple[str, str, str] | None = None
    notify: Notify | None = None


def environment(document: Document, name: str | None) -> Environment:
    """The environment of this name; every one in the file is checked, and problems are noted in the document."""
    given = document.values.get("env", {})
    if not isinstance(given, dict):
        document.problem(("env",), "env must be a table: [env.NAME]")
        given = {}
    found = {key: _checked(document, key, value) for key, value in given.items()}
    if name is None:
        return Environment()
    if name not in found:
        known = f"the file has {', '.join(found)}" if found else "the file has no [env.NAME]"
        document.problem(("env",), f"--env {name}: {known}{did_you_mean(name, found)}")
    chosen = found.get(name) or Environment()
    return _referred(document, name, chosen)


def _checked(document: Document, name: str, value: Any) -> Environment | None:
    path = ("env", name)
    made: Environment | None = document.checked(Environment, value, path)
    if made is None:
        return None
    if made.workers is not None and (made.workers < 0 or made.scheduler):
        document.problem(
            (*path, "workers"),
            f"env.{name}.workers = {made.workers}: expected 0 or more, and no scheduler, whose workers are those that are there",
        )
    if made.tls and not made.scheduler:
        document.problem(
            (*path, "tls"), f'env.{name}.tls: is for a scheduler; add scheduler = "tls://HOST:PORT"'
        )
    return made


def _referred(document: Document, name: str, chosen: Environment) -> Environment:
    """With what ${NAME} stands for: only that of the environment that is used must be set."""

    def text(key: str, value: str) -> str:
        return references.text(document, ("env", name, key), value, {})

    notify = chosen.notify and replace(chosen.notify, url=text("notify", chosen.notify.url))
    if notify and not notify.url.startswith(
        ("https://", "http://")
    ):  # the address may be a secret: it is not shown
        document.problem(("env", name, "notify"), f"env.{name}.notify.url: expected https://...")
    return replace(
        chosen,
        scheduler=chosen.scheduler and text("scheduler", chosen.scheduler),
        tls=chosen.tls
        and (text("tls", chosen.tls[0]), text("tls", chosen.tls[1]), text("tls", chosen.tls[2])),
        notify=notify,
    )
