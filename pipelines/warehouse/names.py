"""The one rule for table and column names, and where a table lies.

A name is an ASCII letter or underscore, then letters, digits and underscores, 63 characters at most. Two underscores
in a table name are reserved for the framework (`<table>__quarantine`, `<table>__evidence`), and so is a leading underscore (`_dlflow`).
Columns may not differ in case alone: Delta, DataFusion and many file systems take them for one.

    root/trips                    a table of the user
    root/trips__quarantine        its rejected rows
    root/trips__evidence          the contradictions in it
    root/_dlflow/ledger           tables of the framework; in SQL: dlflow__ledger
    root/_dlflow/locks/trips.lock
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from pipelines.access import is_url
from pipelines.errors import SpecError

__all__ = [
    "EVIDENCE",
    "QUARANTINE",
    "SYSTEM",
    "check_columns",
    "check_table",
    "evidence_uri",
    "quarantine_uri",
    "system_uri",
    "table_uri",
]

QUARANTINE = "__quarantine"
EVIDENCE = "__evidence"
SYSTEM = "_dlflow"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_RULE = "expected a letter or '_', then letters, digits and '_', 63 characters at most"


def check_table(name: str) -> str:
    """The name itself, if a user may give it to a table.

    >>> check_table("trips")
    'trips'

    Raises: SpecError.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(f"table name {name!r}: {_RULE}; rename the table")
    if name.startswith("_") or "__" in name:
        raise SpecError(
            f"table name {name!r}: '_' in front and '__' are reserved for the framework; rename the table"
        )
    return name


def check_columns(names: Iterable[str]) -> None:
    """Nothing, if the names may be the columns of a table.

    Raises: SpecError with all problems.
    """
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        if not _NAME.fullmatch(name):
            problems.append(f"column name {name!r}: {_RULE}; rename the column")
        if (twin := seen.setdefault(name.lower(), name)) != name:
            problems.append(
                f"columns {twin!r} and {name!r} differ in case alone, expected distinct names; rename one"
            )
    listed = list(names)
    problems += [
        f"column {n!r} is there twice; rename one" for n in sorted({n for n in listed if listed.count(n) > 1})
    ]
    if problems:
        raise SpecError(*problems)


def table_uri(root: str, name: str) -> str:
    """The folder of a table of the user.

    Raises: SpecError for a name against the rule, or a link that leads out of the warehouse.
    """
    return _inside(root, check_table(name))


def quarantine_uri(uri: str) -> str:
    """The folder of the rejected rows of the table at `uri`."""
    return uri.rstrip("/") + QUARANTINE


def evidence_uri(uri: str) -> str:
    """The folder of the contradictions that were found in the table at `uri`."""
    return uri.rstrip("/") + EVIDENCE


def system_uri(root: str, name: str) -> str:
    """The folder of a table of the framework: ledger, quality, commits."""
    return _inside(root, f"{SYSTEM}/{name}")


def _inside(root: str, relative: str) -> str:
    if is_url(root):  # no links there
        return f"{root.rstrip('/')}/{relative}"
    home = Path(root).resolve()
    place = Path(root, relative)
    if not place.resolve().is_relative_to(home):
        raise SpecError(f"{place}: leads out of the warehouse {root!r} through a link; remove the link")
    return os.path.join(root, relative)  # noqa: PTH118 - uris are text here
