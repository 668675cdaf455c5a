"""What identifies the content of a table, in parts that have names: so that a plan can say which of them changed."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import sources
from pipelines.spec import Table

__all__ = ["NOT_ROWS", "code", "digest", "files_below", "plain", "versions", "why"]

NOT_ROWS = {
    "access",
    "conditional",
    "places",
    "analysis",
    "additions",
    "contract",
    "engine",
    "errors",
    "failpoints",
    "fingerprint",
    "guess",
    "infer",
    "inspection",
    "ledger",
    "loads",
    "made",
    "names",
    "plan",
    "profile",
    "publish",
    "drift",
    "measures",
    "merges",
    "replay",
    "sampling",
    "spec",
    "steps",
    "storage",
    "toml_lines",
    "verdicts",
}
"""Modules of this package that decide nothing about what a row becomes."""


_OF_ROWS = ("by_group", "file")  # of the warehouse


def versions() -> dict[str, str]:
    """The libraries that compute what rows become, each with its major version."""
    return {one.__name__: one.__version__.partition(".")[0] for one in (np, pa)}


@functools.cache
def code() -> str:
    """Digest of the modules that decide what rows become. One for all tables: coarse, but never stale."""
    package = Path(__file__).parent
    modules = [path for path in package.glob("*.py") if path.stem not in NOT_ROWS]
    modules += [*package.glob("sources/*.py"), *(package / "warehouse" / f"{name}.py" for name in _OF_ROWS)]
    found = hashlib.sha256()
    for module in sorted(modules):
        found.update(module.read_bytes())
    return found.hexdigest()[:32]


def plain(value: Any) -> Any:
    """Settings as JSON-able values, with the kind of every step."""
    if isinstance(value, Table):
        return {
            **{key: item for key, item in asdict(value).items() if key not in {"steps", "checks"}},
            "steps": [[type(step).__name__, plain(step)] for step in value.steps],
            "checks": [plain(one) for one in value.checks],
        }
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def digest(value: Any) -> str:
    """Digest of JSON-able settings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def files_below(files: Iterable[sources.InputFile]) -> dict[str, str]:
    """Digests by path below the common folder: moving the whole input elsewhere changes nothing."""
    files = list(files)
    root = os.path.commonpath([Path(file.path).parent for file in files]) if files else ""
    return {os.path.relpath(file.path, root): file.sha256 for file in files}


def why(parts: Mapping[str, Any], before: Mapping[str, Any] | None, rebuilt: set[str]) -> tuple[str, ...]:
    """What is another than `before` in words; None: there was nothing before."""
    if before is None:
        return ("it is not there yet",)
    reasons = []
    for name, value in parts.items():
        old = before.get(name)
        if old == value:
            continue
        match name.split(" ", 1):
            case ["code"]:
                reasons.append("the code of dlflow changed")
            case ["settings"]:
                reasons.append("its steps or settings in the pipeline file changed")
            case ["numpy" | "pyarrow"]:
                reasons.append(f"{name} {old} became {value}")
            case ["source", other] if isinstance(old, dict):
                reasons.extend(_changed_files(other, old, value))
            case ["table", other]:
                reasons.append(f"table {other} {'is built again' if other in rebuilt else 'has new content'}")
            case _:
                reasons.append(f"{name} changed")
    return tuple(reasons) or ("its content was replaced by another build",)


def _changed_files(source: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    kinds = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
    return [
        f"source {source}: {kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for kind, names in kinds.items()
        if names
    ]
