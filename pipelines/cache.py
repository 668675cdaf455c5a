"""What was found in files before, kept in a JSON file of this machine: it saves looking again, and may be lost at any time."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["load", "store"]


def load(path: Path | str) -> dict[str, Any]:
    """What is kept there; a file that cannot be read keeps nothing."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def store(path: Path | str, entries: Mapping[str, Any]) -> None:
    """Keep this in place of what was there; who reads meanwhile sees the one or the other."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=0, sort_keys=True)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
