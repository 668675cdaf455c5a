"""Environments of a pipeline file: what is different where it runs.

    [env.prod]
    params = { data = "/mnt/raw" }                    override those of [params]
    warehouse = "/srv/warehouse"
    scheduler = "tls://head:8786"                     or workers = 8 for a local cluster, or cluster = {...}: flows.cluster_kind
    tls = ["ca.pem", "cert.pem", "key.pem"]
    notify = { url = "${HOOK_URL}", on = "failed" }   a webhook is told how a run ended

The command line comes before the environment, and the environment before the rest of the file. Texts may hold ${NAME} of the process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from flows.cluster_kind import KINDS, Kind, Kubernetes, Scaling, Slurm, Ssh
from pipelines import references
from pipelines.document import Document, dotted
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
    workers: int | Scaling | None = None
    scheduler: str | None = None
    tls: tuple[str, str, str] | None = None
    cluster: Kind | None = None
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
    apart = {"workers": _workers, "cluster": _cluster}
    rest = {key: one for key, one in value.items() if key not in apart} if isinstance(value, dict) else value
    made: Environment | None = document.checked(Environment, rest, path)
    if made is None:
        return None
    found: dict[str, Any] = {
        key: check(document, (*path, key), value[key]) for key, check in apart.items() if key in value
    }
    made = replace(made, **found)
    for key, problem in _misfits(made).items():
        document.problem((*path, key), f"env.{name}.{key}: {problem}")
    return made


def _workers(document: Document, path: tuple[str, ...], value: Any) -> int | Scaling | None:
    if isinstance(value, dict):
        made: Scaling | None = document.checked(Scaling, value, path)
        if made and not 0 <= made.at_least <= made.at_most > 0:
            document.problem(
                path,
                f"{dotted(path)}: at_least = {made.at_least}, at_most = {made.at_most}: expected 0 <= at_least <= at_most, and one at most or more",
            )
        return made
    if type(value) is int and value >= 0:
        return value
    document.problem(
        path,
        f"{dotted(path)} = {value!r}: expected 0 or more, or {{ at_least = 2, at_most = 40 }} for a cluster by its kind",
    )
    return None


def _cluster(document: Document, path: tuple[str, ...], value: Any) -> Kind | None:
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        known = " | ".join(f'"{name}"' for name in KINDS)
        document.problem(
            path,
            f"{dotted(path)}: kind = {kind!r}: expected {{ kind = {known}, ... }}{did_you_mean(str(kind), KINDS)}",
        )
        return None
    made: Kind | None = document.checked(
        KINDS[kind], {key: one for key, one in value.items() if key != "kind"}, path
    )
    if isinstance(made, Ssh):
        if not made.hosts:
            document.problem((*path, "hosts"), f"{dotted(path)}.hosts is empty: expected one host or more")
    elif isinstance(made, Slurm) and made.cores < 1:
        document.problem((*path, "cores"), f"{dotted(path)}.cores = {made.cores}: expected 1 or more")
    return made


def _misfits(made: Environment) -> dict[str, str]:
    """What does not go together, by key."""
    found = {}
    if made.workers is not None and made.scheduler:
        found["workers"] = "expected no scheduler, whose workers are those that are there"
    elif isinstance(made.workers, Scaling) and not isinstance(made.cluster, Slurm):
        found["workers"] = "only a cluster of kind slurm or pbs grows and shrinks; expected a number"
    elif made.cluster and not made.workers:
        found["workers"] = "is needed with a cluster: how many worker processes; add workers = 16"
    if made.cluster and made.scheduler:
        found["cluster"] = "is started for the run, and scheduler is one that runs; keep one of them"
    if made.tls and not made.scheduler and not isinstance(made.cluster, Kubernetes):
        found["tls"] = (
            "a cluster that is started for a run gets certificates of its own; leave tls out"
            if made.cluster
            else 'is for a scheduler; add scheduler = "tls://HOST:PORT"'
        )
    return found


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
        cluster=chosen.cluster
        and replace(
            chosen.cluster,
            **{key: _text(value, text) for key, value in vars(chosen.cluster).items()},
        ),
        notify=notify,
    )


def _text(value: Any, text: Callable[[str, str], str]) -> Any:
    """A setting of a cluster, with what its texts refer to."""
    if isinstance(value, tuple):
        return tuple(_text(one, text) for one in value)
    return text("cluster", value) if isinstance(value, str) else value
