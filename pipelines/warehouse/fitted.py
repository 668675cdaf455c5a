"""What the steps of a build have fitted, beside the table: named by the commit of its rows, kept as long as they can be read.

A JSON file has all of it but what is by group, which is in Parquet files of its own; the transaction id `dlflow:fitted`
has the number of the JSON file, which has the names of the others. So a version has the values that its rows were made
with, also when the log has forgotten its entry, and a restored version has those of then. The log itself tells none.

    root/_dlflow/fitted/<table>-<number>.json       {"steps": {step: values}, "by_group": [[path of keys, file], ...]}
    root/_dlflow/fitted/<table>-<number>.parquet    group, value_0, value_1 (see by_group)
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.places import Place, place
from pipelines.warehouse import sealed
from pipelines.warehouse.by_group import ByGroup
from pipelines.warehouse.snapshot import RELEASED, Snapshot

__all__ = ["FITTED", "file_groups", "fitted_of", "mark", "prune_fitted"]

FITTED = "dlflow:fitted"
_KIND = "fitted"


def file_groups(uri: str, fitted: Any) -> Any:
    """The same, with what is by group in files beside the table at `uri`, where workers find it."""
    if isinstance(fitted, Mapping):
        return {name: file_groups(uri, one) for name, one in fitted.items()}
    if not isinstance(fitted, ByGroup):
        return fitted
    stream = pa.BufferOutputStream()
    pq.write_table(fitted.table, stream, compression="zstd")
    number = sealed.write(uri, _KIND, stream.getvalue().to_pybytes(), "parquet")
    return ByGroup(path=str(sealed.sealed_path(uri, _KIND, number, "parquet")))


def mark(uri: str, fitted: Mapping[str, Any], snapshot: Snapshot | None, *, whole: bool) -> dict[str, int]:
    """The transaction id of a commit that brings fitted values (they are written), or ends with those that were there."""
    if fitted:
        filed = file_groups(uri, fitted)
        groups = [[keys, place(one.path).name] for keys, one in _by_group(filed, [])]
        said = {"steps": _without(filed), "by_group": groups}
        return {FITTED: sealed.write(uri, _KIND, json.dumps(said, ensure_ascii=False).encode(), "json")}
    if whole and snapshot is not None and snapshot.transaction(FITTED) is not None:
        return {FITTED: RELEASED}
    return {}


def fitted_of(snapshot: Snapshot) -> dict[str, Any]:
    """What the steps of the build of a version have fitted, by their names.

    Raises: PartFailed if the file is gone or damaged.
    """
    said = _said(snapshot)
    steps: dict[str, Any] = said["steps"]
    for keys, name in said["by_group"]:
        inner = steps
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = ByGroup(path=str(_folder(snapshot.uri) / name))
    return steps


def prune_fitted(uri: str, pinned: Iterable[int] = ()) -> int:
    """Remove files that are older than 90 days, and not of the newest or a pinned version; how many."""
    needed: list[Place] = []
    for version in (None, *pinned):
        snapshot = Snapshot.open(uri, version)
        number = snapshot.transaction(FITTED)
        if number is None or number == RELEASED:
            continue
        needed.append(sealed.sealed_path(uri, _KIND, number, "json"))
        needed += [_folder(uri) / name for _, name in _said(snapshot)["by_group"]]
    return sealed.prune(uri, _KIND, needed)


def _said(snapshot: Snapshot) -> dict[str, Any]:
    number = snapshot.transaction(FITTED)
    if number is None or number == RELEASED:
        return {"steps": {}, "by_group": []}
    path = sealed.sealed_path(snapshot.uri, _KIND, number, "json")
    said: dict[str, Any] = json.loads(sealed.read(path, "what was fitted", "build the table again"))
    return said


def _by_group(fitted: Any, keys: list[str]) -> Iterator[tuple[list[str], ByGroup]]:
    if isinstance(fitted, ByGroup):
        yield keys, fitted
    elif isinstance(fitted, Mapping):
        for name, one in fitted.items():
            yield from _by_group(one, [*keys, name])


def _without(fitted: Any) -> Any:
    """The same, null where it is by group."""
    if isinstance(fitted, Mapping):
        return {name: _without(one) for name, one in fitted.items()}
    return None if isinstance(fitted, ByGroup) else fitted


def _folder(uri: str) -> Place:
    return sealed.sealed_path(uri, _KIND, 0, "").parent
