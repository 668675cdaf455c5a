"""Reads a text through cut and read in every way of cutting, and checks the laws that hold for all sources on the way."""

import os
from pathlib import Path

import pyarrow as pa

from pipelines import sources
from pipelines.schema import field
from pipelines.sources import Source
from pipelines.stage import REJECTS, Rows, data_columns

CUTS = (1, 7, 64, 4096, 1 << 24)


def declared(columns, **settings):
    """A source of columns given as in a pipeline file."""
    return Source(columns={name: field(value) for name, value in columns.items()}, **settings)


def write(path, content):
    path = Path(path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, ns=(10**18, 10**18))  # at rest
    return path


def read_once(columns, path, **settings):
    """All rows of a file, as one part after the other gives them."""
    source = declared(columns, path=str(path), **settings)
    [file] = sources.files(source)
    made = [sources.read(source, part) for part in sources.cut(source, file, 3)]
    rejected = [one.rejected for one in made if one.rejected is not None]
    notes = {}
    for one in made:
        for what, count in one.notes.items():
            notes[what] = notes.get(what, 0) + count
        assert one.kept.schema.equals(source.schema.with_origin(), check_metadata=True)
        assert one.kept.validate(full=True) is None
    return Rows(
        pa.concat_tables([one.kept for one in made]).combine_chunks(),
        pa.concat_tables(rejected) if rejected else REJECTS.empty_table(),
        notes=notes,
    )


def read_all(columns, path, cuts=CUTS, **settings):
    """All rows of a file, which are the same for every cut."""
    first, *others = (read_once(columns, path, part_bytes=size, **settings) for size in cuts)
    for other in others:
        assert other.kept.equals(first.kept)
        assert other.rejected.equals(first.rejected)
        assert other.notes == first.notes
    return first


def values(rows):
    """Kept rows as tuples."""
    table = rows.kept.select(data_columns(rows.kept.schema))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def lines(rows):
    return rows.kept["_line"].to_pylist()


def rejects(rows):
    """(line, rule, column, message) of the rows that were set aside."""
    return [
        tuple(row[key] for key in ("_line", "rule", "column", "message")) for row in rows.rejected.to_pylist()
    ]
