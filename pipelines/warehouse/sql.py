"""Read-only SQL over all tables of a warehouse, by DataFusion inside deltalake.

A table's quarantine is `<table>__quarantine`, its contradictions are `<table>__evidence`, the framework's tables are `dlflow__ledger`, `dlflow__quality` and
`dlflow__commits`. Both hold the batches of their table's content and, for a short while, others: join by `batch`, or
use `read_quarantine` and `read_evidence`. Names are written as they are, with their capital letters.
"""

import datetime as dt
import re
from collections.abc import Mapping
from difflib import get_close_matches

import pyarrow as pa

from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.places import place
from pipelines.warehouse import catalog, log
from pipelines.warehouse.moment import version_at
from pipelines.warehouse.names import EVIDENCE, QUARANTINE, SYSTEM
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["sql", "visible"]

_HIDDEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", re.DOTALL)
_READING = re.compile(
    r"\s*(?:EXPLAIN\s+(?:ANALYZE\s+)?(?:VERBOSE\s+)?)?(?:SELECT|WITH|DESCRIBE|DESC|\(\s*SELECT)\b",
    re.IGNORECASE,
)
_WRITING = re.compile(r"\b(?:INSERT|MERGE)\s+INTO\b", re.IGNORECASE)  # can follow a WITH


def sql(
    root: str,
    query: str,
    *,
    at: str | int | dt.datetime | None = None,
    versions: Mapping[str, int] | None = None,
) -> pa.Table:
    """The answer to one SELECT, WITH, DESCRIBE or EXPLAIN over the newest versions.

    `at` takes all tables of the user as they were at a time, or in a release; `versions` one by one.

    Raises: SpecError for any other statement, one that cannot be understood, or a version of a table that is not there.
    """
    from deltalake import QueryBuilder  # noqa: PLC0415 - slow to import
    from deltalake.exceptions import DeltaError  # noqa: PLC0415

    _check_reads(query)
    places = visible(root)
    chosen = versions or {}
    if unknown := sorted(set(chosen) - set(places)):
        raise SpecError(f"there is no table {unknown[0]!r}{did_you_mean(unknown[0], places)}")
    own = set(catalog.names(root))
    builder = QueryBuilder()
    for name, uri in places.items():
        if not re.search(rf"\b{name}\b", query):  # a table costs an open, so only those that are named
            continue
        version = chosen[name] if name in chosen else version_at(uri, at) if name in own else None
        snapshot = Snapshot.open(uri, version)
        builder.register(f'"{name}"', snapshot._handle)  # noqa: SLF001 - the snapshot's own package; without quotes it would become lower case
    try:
        return _plain(pa.table(builder.execute(query)))
    except (DeltaError, pa.ArrowException, ValueError) as error:
        raise SpecError(_explain(str(error), places)) from error


def visible(root: str) -> dict[str, str]:
    """All names that a query can use, with the folders of their tables."""
    found = {name: str(place(root, name)) for name in catalog.names(root)}
    found |= {
        name + suffix: uri + suffix
        for name, uri in found.items()
        for suffix in (EVIDENCE, QUARANTINE)
        if log.exists(uri + suffix)
    }
    system = place(root, SYSTEM)
    own = sorted(path.name for path in system.iterdir() if log.exists(str(path))) if system.is_dir() else []
    return found | {f"dlflow__{name}": str(system / name) for name in own}


def _check_reads(query: str) -> None:
    bare = _HIDDEN.sub(" ", query).strip().rstrip(";")
    if ";" in bare:
        raise SpecError(f"query {query[:80]!r}: more than one statement, expected one; run them one by one")
    if not _READING.match(bare) or _WRITING.search(bare):
        raise SpecError(
            f"query {query[:80]!r}: expected SELECT, WITH, DESCRIBE or EXPLAIN; tables change by `dlflow run` alone"
        )


def _plain(table: pa.Table) -> pa.Table:
    """Text and bytes as types that all of pyarrow knows (DataFusion answers with views)."""
    kinds = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return table.cast(pa.schema([f.with_type(kinds.get(f.type, f.type)) for f in table.schema]))


def _explain(text: str, places: dict[str, str]) -> str:
    text = " ".join(text.split())
    missing = re.search(r"table '(?:\w+\.)*(\w+)' not found", text)
    if not missing:
        return f"query: {text}; correct the query"
    near = get_close_matches(missing[1], places) or [n for n in places if n.lower() == missing[1].lower()]
    hint = f"did you mean {near[0]!r}?" if near else "name one of them"
    return f"query: no table {missing[1]!r}, there are {sorted(places)}; {hint}"
