"""Which source files a table's rows are from: the manifest of a table that is loaded file by file.

A manifest is a JSON file that nobody changes, named by its digest. The commit that brings the rows names it, in the
transaction id `dlflow:loads`, whose number is the beginning of the digest: rows and bookkeeping are one log entry. Every
version has its own manifest, so what is loaded can be asked of any version, and a crash leaves at most a file that no
commit names.

    root/_dlflow/loads/<table>-<number in hex>.json

A file or a batch that leaves the table gets RELEASED as the number of its transaction id: `Snapshot.holds` is then false.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipelines.errors import CommitConflict
from pipelines.failpoints import failpoint
from pipelines.warehouse import log, sealed
from pipelines.warehouse.commit import Change, Committed, commit
from pipelines.warehouse.file import LiveFile, Receipt
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.snapshot import RELEASED, REPLACED, Snapshot

__all__ = ["LoadedFile", "Manifest", "load", "loaded", "moved", "owners", "prune_manifests"]

LOADS, LOADED = "dlflow:loads", "dlflow:loaded"
_KIND = "loads"


@dataclass(frozen=True, kw_only=True)
class LoadedFile:
    """A source file whose rows are in the table."""

    source: str  # its name in the pipeline file
    path: str
    noted: str  # the path that its quarantine records have
    sha256: str
    size: int
    mtime_ns: int
    batch: str  # that its rejects are in
    rows: int  # read
    kept: int  # in the table
    quarantined: int
    files: tuple[str, ...]  # of the table, relative to it; they hold rows of this source file alone


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a version of a table was loaded from."""

    number: int  # of the load
    settings: Mapping[str, str]  # digests of what the rows were made by
    replays: int = 0  # how often rows came back from the quarantine
    files: tuple[LoadedFile, ...] = ()
    cursors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by source
    evolved: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # columns beyond those declared, by source


def loaded(uri: str) -> tuple[int | None, Manifest | None]:
    """The manifest of the newest version and its number; (None, None) if the content was not loaded file by file.

    Raises: PartFailed if the manifest is gone.
    """
    return _of(Snapshot.open(uri)) if log.exists(uri) else (None, None)


def load(
    uri: str,
    receipts: Sequence[Receipt],
    manifest: Manifest,
    *,
    key: str,
    base: int | None,
    whole: bool,
    schema: pa.Schema,
    partition_by: Sequence[str] = (),
    lineage: Lineage,
    remove: Collection[str] = (),
    release: Iterable[str] = (),
    transactions: Iterable[str] = (),
    rows_out: int | None = None,
    operation: str = "load",
    evolve: bool = False,
) -> Committed:
    """Add files to the table, take others out (`remove`, or all: `whole`), and name the manifest, in one log entry.

    `base` is the number of the manifest that this load was planned on; `evolve` as for `append`.

    Raises: CommitConflict if another load came between; as `commit`.
    """
    number = _write(uri, manifest)
    failpoint("load.after_manifest")
    gone = set(remove)
    ids: dict[str, int | None] = dict.fromkeys(release, RELEASED)
    ids |= {LOADS: number, LOADED: None, **dict.fromkeys(transactions)}

    def plan(snapshot: Snapshot | None) -> Change:
        if snapshot is not None and _number(snapshot) != base:
            raise CommitConflict(f"{uri}: another run has loaded into this table meanwhile; run again")
        live = () if snapshot is None else snapshot.files()
        return Change(
            operation=operation,
            add=receipts,
            remove=[file for file in live if whole or file.path in gone],
            schema=schema,
            partition_by=partition_by,
            whole=whole,
            evolve=evolve,
            rows_out=rows_out,
            transactions=ids,
        )

    return commit(uri, key=key, plan=plan, lineage=lineage, once=False)


def owners(snapshot: Snapshot) -> dict[str, int]:
    """For each file of a version, the number of the source file whose rows it holds; empty if nothing is known of that."""
    _, manifest = _of(snapshot)
    return {path: at for at, one in enumerate(manifest.files if manifest else ()) for path in one.files}


def moved(
    snapshot: Snapshot, moves: Iterable[tuple[Sequence[LiveFile], Sequence[Receipt]]]
) -> dict[str, int | None]:
    """The transaction ids of a rewrite: a manifest in which the new files stand for the old ones.

    Each move is files of one source file (by `owners`) and the files that hold what is kept of their rows.
    """
    _, manifest = _of(snapshot)
    if manifest is None:
        return {}
    owner = owners(snapshot)
    files = list(manifest.files)
    for old, new in moves:
        number = owner.get(old[0].path)
        if number is None:
            continue
        gone = {file.path for file in old}
        lost = sum(file.rows for file in old) - sum(receipt["rows"] for receipt in new)
        paths = [path for path in files[number].files if path not in gone]
        files[number] = replace(
            files[number],
            files=(*paths, *(receipt["path"] for receipt in new)),
            kept=files[number].kept - lost,
        )
    return {LOADS: _write(snapshot.uri, replace(manifest, files=tuple(files))), LOADED: None}


def prune_manifests(uri: str) -> int:
    """Remove manifests that are older than 90 days and not that of the newest version; how many."""
    current = _number(Snapshot.open(uri))
    needed = () if current is None else (sealed.sealed_path(uri, _KIND, current, "json"),)
    return sealed.prune(uri, _KIND, needed)


def _number(snapshot: Snapshot) -> int | None:
    named = snapshot.transaction(LOADED)
    if named is None or named < (snapshot.transaction(REPLACED) or 0):
        return None
    return snapshot.transaction(LOADS)


def _of(snapshot: Snapshot) -> tuple[int | None, Manifest | None]:
    number = _number(snapshot)
    if number is None:
        return None, None
    path = sealed.sealed_path(snapshot.uri, _KIND, number, "json")
    remedy = f"remove the folder {snapshot.uri} to load everything again"
    content = sealed.read(path, "the list of what was loaded into the table", remedy)
    said = json.loads(content)
    files = tuple(LoadedFile(**{**one, "files": tuple(one["files"])}) for one in said.pop("files"))
    return number, Manifest(**said, files=files)


def _write(uri: str, manifest: Manifest) -> int:
    return sealed.write(uri, _KIND, json.dumps(asdict(manifest), ensure_ascii=False).encode(), "json")
