"""What a table with `load = "append"` lacks: the files of its sources beside those that its manifest names.

    file of the source        in the manifest              what happens
    same content              this path                    nothing
    same content              another path                 nothing: it was moved
    other content             this path                    on_change: error, ignore, or reload: its rows are replaced
    -                         any                          on_change: error, ignore, or reload: its rows go
    any                       -                            it is loaded

Rows once loaded stay as they are when dlflow itself changes; when the steps or the declared columns change, all files are
loaded again, which needs all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import difference, evolution, fingerprint, warehouse
from pipelines.errors import InputError
from pipelines.sources import InputFile, Source
from pipelines.spec import Pipeline, Table

__all__ = ["NO_PART", "Load", "decide", "known_columns", "parts_of", "settings_of"]

NO_PART = {
    "path": "",
    "url": None,
    "storage": None,
    "on_change": "",
    "part_bytes": 0,
    "busy_s": 0,
    "connect_s": 0,
    "query_s": 0,
    "lag": "",
}
"""Settings of a source that do not change what its rows become."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one load of a table has to do."""

    base: int | None  # number of the manifest that it is planned on
    before: warehouse.Manifest | None
    settings: Mapping[str, str]
    whole: bool  # everything is loaded, and what is there is replaced
    new: Mapping[str, tuple[InputFile, ...]]  # by source
    keep: tuple[warehouse.LoadedFile, ...]
    remove: tuple[warehouse.LoadedFile, ...]
    why: tuple[str, ...]
    ignored: tuple[str, ...]
    there: Mapping[str, tuple[InputFile, ...]]  # all files of the sources, by source
    problem: str | None
    declared: Mapping[str, Source]  # the sources as the pipeline file has them
    evolved: Mapping[str, Mapping[str, Any]]  # columns beyond, by source

    @property
    def nothing_to_do(self) -> bool:
        """Whether the table holds what it should."""
        return self.problem is None and not self.whole and not self.remove and not any(self.new.values())

    def cursor(self, source: str) -> Mapping[str, Any] | None:
        """Where the cursor of a source was after the last load; None: nowhere, everything is new."""
        return None if self.whole or self.before is None else self.before.cursors.get(source)

    @property
    def parts(self) -> dict[str, Any]:
        """Parts of the fingerprint of the table after this load; of a file its content alone counts."""
        content = [(name, file.sha256) for name, files in self.new.items() for file in files]
        content += [(one.source, one.sha256) for one in self.keep]
        replays = self.before.replays if self.before and not self.whole else 0
        return parts_of(self.settings, content, replays)


def parts_of(settings: Mapping[str, str], content: Iterable[tuple[str, str]], replays: int) -> dict[str, Any]:
    """Parts of the fingerprint of a table with this content, given as (source, digest of a file)."""
    by_source: dict[str, list[str]] = {}
    for name, sha256 in content:
        by_source.setdefault(name, []).append(sha256)
    return {
        **settings,
        **{f"source {name}": fingerprint.digest(sorted(found)) for name, found in by_source.items()},
        **({"replays": replays} if replays else {}),
    }


def settings_of(table: Table, sources: Mapping[str, Source]) -> dict[str, str]:
    """Digests of all that decides what the rows become, save the code."""
    plain = {**fingerprint.plain(table), "reject_limit": None}
    del plain["on_duplicate"]  # a policy, as on_change
    said = {"settings": fingerprint.digest(plain)}
    for name in table.inputs:
        plain = {**fingerprint.plain(sources[name]), **NO_PART}
        del plain["evolved"], plain["identity"]
        said[f"declaration of {name}"] = fingerprint.digest(plain)
    return said


def known_columns(pipeline: Pipeline, source: str) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
    """What the tables that read a source know of columns beyond those declared, and files (digests) that none must look at.

    A column that came once stays; a table that is built as a whole knows none.
    """
    known: dict[str, Mapping[str, Any]] = {}
    looked: list[set[str]] = []
    for name, table in pipeline.tables.items():
        if table.source is None or source not in table.inputs:
            continue
        uri = str(pipeline.warehouse / name)
        _, before = warehouse.loaded(uri) if table.load == "append" else (None, None)
        known |= before.evolved.get(source, {}) if before else {}
        if table.load == "upsert" and (build := warehouse.newest_build(uri)) is not None:
            known |= build.record.get("evolved", {}).get(source, {})
        again = before is None or dict(before.settings) != settings_of(table, pipeline.sources)
        looked.append(
            set() if again or before is None else {one.sha256 for one in before.files if one.source == source}
        )
    return known, set.intersection(*looked) if looked else set()


def decide(
    name: str,
    table: Table,
    uri: str,
    sources: Mapping[str, Source],
    files: Mapping[str, Sequence[InputFile]],
    grown: Mapping[str, Source],
) -> Load:
    """What the table at `uri` lacks of these files, by source; `grown` are the sources with the columns of all files."""
    base, before = warehouse.loaded(uri)
    settings = settings_of(table, sources)
    found = _Found(name, sources)
    for source in table.inputs:
        known = [] if before is None else [one for one in before.files if one.source == source]
        found.compare(source, known, files[source])
    why: list[str] = []
    if before is None:
        why.append(
            "it is not there yet" if not warehouse.log.exists(uri) else "it was not loaded file by file"
        )
    elif dict(before.settings) != settings:
        why.append("its steps or settings in the pipeline file changed; all files are loaded again")
    elif found.remove and not _are_live(uri, found.remove):
        why.append("its files were rewritten since; all source files are loaded again")
    elif wider := _wider(before, sources, grown):
        why.append(difference.told("columns of a wider type, so all files are loaded again", wider))
    if not why and before is not None:
        for other in table.inputs:
            if new := evolution.added(before.evolved.get(other, {}), grown[other]):
                found.why.append(difference.told(f"source {other}: new columns", new))
    whole = bool(why)
    problem = found.problem
    if whole and problem is None and found.lost:
        problem = (
            f"table {name!r}: {difference.in_line(why[0])}, but {_listed(found.lost)} loaded before {_is(found.lost)} no longer there as "
            f"{'it was' if len(found.lost) == 1 else 'they were'}; bring back what was loaded, undo the change, or set "
            'on_change = "reload" to go on without it'
        )
    return Load(
        base=base,
        before=before,
        settings=settings,
        whole=whole,
        new={source: tuple(files[source]) for source in table.inputs} if whole else found.new,
        keep=() if whole else tuple(found.keep),
        remove=() if whole else tuple(found.remove),
        why=tuple(why or found.why),
        ignored=tuple(found.ignored),
        there={source: tuple(files[source]) for source in table.inputs},
        problem=problem,
        declared={source: sources[source] for source in table.inputs},
        evolved={
            source: more
            for source in table.inputs
            if (more := evolution.recorded(sources[source].columns, grown[source]))
        },
    )


def _wider(
    before: warehouse.Manifest, sources: Mapping[str, Source], grown: Mapping[str, Source]
) -> list[str]:
    return [
        text
        for name, source in sources.items()
        for text in evolution.widened(source, before.evolved.get(name, {}), grown[name])
    ]


class _Found:
    """The comparison of files with a manifest, source by source."""

    def __init__(self, table: str, sources: Mapping[str, Source]) -> None:
        self.table, self.sources = table, sources
        self.new: dict[str, tuple[InputFile, ...]] = {}
        self.keep: list[warehouse.LoadedFile] = []
        self.remove: list[warehouse.LoadedFile] = []
        self.lost: list[str] = []  # loaded, not there any more as it was, and not to be taken out
        self.why: list[str] = []
        self.ignored: list[str] = []
        self.problem: str | None = None

    def compare(self, source: str, known: Sequence[warehouse.LoadedFile], files: Sequence[InputFile]) -> None:
        """Add one source."""
        if self.sources[source].cursor is not None:
            self._compare_rows(source, known, files)
            return
        there = {file.path: file for file in files}
        other = []
        for one in known:
            same = there.get(one.path)
            if same is not None and same.sha256 == one.sha256:
                self.keep.append(replace(one, size=same.size, mtime_ns=same.mtime_ns))
                del there[one.path]
            else:
                other.append(one)
        changed: list[warehouse.LoadedFile] = []
        gone: list[warehouse.LoadedFile] = []
        for one in other:
            moved = next((file for file in there.values() if file.sha256 == one.sha256), None)
            if moved is not None:
                del there[moved.path]
                self.keep.append(replace(one, path=moved.path, size=moved.size, mtime_ns=moved.mtime_ns))
            else:
                (changed if one.path in there else gone).append(one)
        self._apply(source, changed, gone, there)
        new = tuple(there.values())
        self.new[source] = new
        replaced = {one.path for one in changed}
        if added := [file.path for file in new if file.path not in replaced]:
            size = sum(file.size for file in new if file.path not in replaced)
            self.why.append(
                f"source {source}: {_count(added, 'new file')} ({size / 1e6:,.1f} MB): {_listed(added)}"
            )

    def _compare_rows(
        self, source: str, known: Sequence[warehouse.LoadedFile], files: Sequence[InputFile]
    ) -> None:
        """Of a database with a cursor the rows are compared, by the load itself; here only whether it has changed."""
        if len(files) != 1:
            raise InputError(f"source {source}: a cursor is of one database, here are {len(files)}; name one")
        last = known[-1:]
        self.keep += [one for one in known if one.files or one.quarantined or one in last]
        self.new[source] = () if last and last[0].sha256 == files[0].sha256 else tuple(files)
        if self.new[source]:
            self.why.append(
                f"source {source}: changed since the last load; rows that are new by {self.sources[source].cursor}"
            )

    def _apply(
        self,
        source: str,
        changed: list[warehouse.LoadedFile],
        gone: list[warehouse.LoadedFile],
        there: dict[str, InputFile],
    ) -> None:
        policy = self.sources[source].on_change
        said = []
        if changed:
            said.append(f"{_count(changed, 'loaded file')} changed: {_listed([one.path for one in changed])}")
        if gone:
            said.append(f"{_count(gone, 'loaded file')} gone: {_listed([one.path for one in gone])}")
        if not said:
            return
        text = f"source {source}: {'; '.join(said)}"
        if policy == "reload":
            self.remove += [*changed, *gone]
            self.why.append(f"{text}; their rows {'are replaced' if changed else 'go'}")
            return
        for one in changed:
            del there[one.path]
        self.keep += [*changed, *gone]
        self.lost += [one.path for one in (*changed, *gone)]
        if policy == "ignore":
            self.ignored.append(f"{text}; the rows that were loaded stay")
        elif self.problem is None:
            self.problem = (
                f"table {self.table!r}: {text}; nothing was loaded. Restore the files, or set on_change in "
                f'[sources.{source}]: "reload" (the rows follow the files) or "ignore" (the rows that were loaded stay)'
            )


def _are_live(uri: str, files: Sequence[warehouse.LoadedFile]) -> bool:
    live = {file.path for file in warehouse.Snapshot.open(uri).files()}
    return all(path in live for one in files for path in one.files)


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things):,} {noun}{'s' * (len(things) != 1)}"


def _is(things: Sequence[Any]) -> str:
    return "is" if len(things) == 1 else "are"


def _listed(paths: Sequence[str]) -> str:
    names = [Path(path).name for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
