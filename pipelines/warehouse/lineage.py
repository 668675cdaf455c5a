"""Where rows come from: what every commit says of itself, in the same log entry as the rows.

It is the truth from which the tables of `pipelines.ledger` are written, and written again after a crash.
"""

import getpass
import hashlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipelines.warehouse.snapshot import source_id

__all__ = ["Lineage", "source_transactions", "who"]

_MOST_SOURCES = 10_000  # ids in one commit: 16 ms and 0.5 MB of checkpoint
_MOST_LISTED = 1_000


def who() -> str:
    """The user and the machine: "ann@host"."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container with a number for a user
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a commit is made from. Values are JSON: text, whole or finite numbers, lists, mappings."""

    run: str
    fingerprint: str | None = None  # of a build: code, parameters and inputs in one digest
    parts: Mapping[str, str] = field(default_factory=dict)  # what the fingerprint is made of
    sources: Sequence[Mapping[str, Any]] = ()  # {"path", "sha256", "rows", ...} or {"table", "version", ...}
    code: str = ""  # version of the code
    why: Sequence[str] = ()  # why it was built
    ledger: Sequence[Mapping[str, Any]] = ()  # entries of pipelines.ledger, as dicts
    checks: Sequence[Mapping[str, Any]] = ()  # {"name", "column", "severity", "passed", "found", "expected"}
    counts: Mapping[str, int] = field(default_factory=dict)  # rows_in, rows_out, quarantined, ...
    fitted: Mapping[str, Any] = field(
        default_factory=dict
    )  # by step: the values that new data have to be treated with; beside the table, not in the log (see fitted)
    evolved: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # of a table that is changed by key: columns beyond those declared, by source
    who: str = field(default_factory=who)

    def record(self) -> dict[str, Any]:
        """It as JSON; of what was fitted the steps, of more than a thousand sources the first, their number and one digest."""
        record = asdict(replace(self, fitted={})) | {
            name: list(getattr(self, name)) for name in ("why", "ledger", "checks", "sources", "fitted")
        }
        if len(self.sources) > _MOST_LISTED:
            record |= {
                "sources": record["sources"][:_MOST_LISTED],
                "sources_in_all": len(self.sources),
                "sources_digest": _digest(repr(sorted(s.items())) for s in self.sources),
            }
        return record


def source_transactions(files: Iterable[tuple[str, str]]) -> list[str]:
    """The transaction ids of loaded files, given as (path, sha256); of more than 10,000 one id for all."""
    ids = sorted({source_id(path, sha256) for path, sha256 in files})
    return ids if len(ids) <= _MOST_SOURCES else [f"srcs:{_digest(ids)}"]


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in sorted(texts):
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
