"""The beginning of what says its types itself: Parquet, Arrow, databases, IDX, images and documents in folders or a zip."""

import contextlib
import io
import sqlite3
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import postgres
from pipelines.errors import InputError
from pipelines.names import did_you_mean
from pipelines.sampling import Sample
from pipelines.sources.conversion import field_of
from pipelines.sources.idx import form_of
from pipelines.sources.inputs import listed
from pipelines.sources.postgresql import declared_as, types_of
from pipelines.sources.stream import opened

__all__ = ["READERS", "members", "postgresql", "sqlite_tables"]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_LOOKED = 50  # images that are opened
_TEXTS = {"text", "varchar", "bpchar", "char", "name"}
_PIXEL = 1 / 255


def _columns(sample: Sample, path: str, schema: pa.Schema, rows: int) -> None:
    sample.rows += rows
    sample.found_in(path, schema.names)
    for one in schema:
        sample.columns.setdefault(one.name, [])
        found = field_of(one)
        if pa.types.is_decimal(one.type):
            kind = "float64"
            sample.notes.append(f"column {one.name!r} is {one.type}; as a float64 it is the nearest number")
        elif isinstance(found, str):
            sample.ignore[one.name] = found
            continue
        else:
            kind = found.type
            if kind == "tensor":
                sample.fields[one.name] = {
                    "dtype": found.dtype,
                    "shape": list(found.shape or ()),
                    "scale": found.scale,
                }
        if sample.types.setdefault(one.name, kind) != kind:
            sample.notes.append(
                f"DRIFT: {Path(path).name}: column {one.name!r} is {kind}, {sample.types[one.name]} before"
            )


def _parquet(path: str, rows: int, sample: Sample, _: str | None) -> None:
    with opened(path) as file:
        found = pq.ParquetFile(file)
        _columns(sample, path, found.schema_arrow, min(rows, found.metadata.num_rows))


def _arrow(path: str, rows: int, sample: Sample, _: str | None) -> None:
    with opened(path) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        batch = reader.get_batch(0) if is_file and reader.num_record_batches else None
        _columns(sample, path, reader.schema, min(rows, batch.num_rows) if batch is not None else 0)


def sqlite_tables(path: str) -> list[str]:
    """Tables and views of a database."""
    with _sqlite_database(path) as database:
        query = (
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite!_%' ESCAPE '!' "
            "ORDER BY name"
        )
        return [str(name) for (name,) in database.execute(query)]


@contextlib.contextmanager
def _sqlite_database(path: str) -> Any:
    try:
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be read by SQLite: {error}; check path") from error


def _sqlite(path: str, rows: int, sample: Sample, table: str | None) -> None:
    known = sqlite_tables(path)
    if table is None or table not in known:
        raise InputError(f"{path}: which table? give --table{did_you_mean(table or '', known)}")
    sample.settings["table"] = table
    quoted = table.replace('"', '""')
    with _sqlite_database(path) as database:
        cursor = database.execute(f'SELECT * FROM "{quoted}" LIMIT {rows}')  # noqa: S608 - quoted
        names = [one[0] for one in cursor.description]
        found = cursor.fetchall()
    sample.rows += len(found)
    for place, name in enumerate(names):
        values = [row[place] for row in found]
        sample.columns[name] = [None if value is None else str(value) for value in values]
        kinds = {type(value) for value in values if value is not None}
        if kinds and kinds <= {int, float}:
            sample.types[name] = "int64" if kinds == {int} else "float64"
        elif bytes in kinds:
            sample.ignore[name] = "holds bytes"
        elif len(kinds) > 1:
            sample.notes.append(
                f"column {name!r} holds numbers and texts; the rows with numbers would be set aside"
            )
            sample.types[name] = "string"
        else:
            sample.texts.add(name)


def postgresql(url: str, rows: int, sample: Sample, table: str | None) -> None:
    """Add some rows of a table of a server.

    Raises: InputError, PartFailed: as `connected`.
    """
    deadlines = {"connect_s": 10.0, "query_s": 60.0, "lock_s": 10.0}
    with postgres.connected(url, **deadlines, readonly=True) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname NOT IN "
            "('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%' ORDER BY 1 LIMIT 1000"
        )
        known = [str(name) for (name,) in cursor.fetchall()]
        table = known[0] if table is None and len(known) == 1 else table
        if table is None or table not in known:
            raise InputError(
                f"{postgres.place(url)}: which table? give --table{did_you_mean(table or '', known)}"
            )
        sample.settings["table"] = table
        place = ".".join(postgres.quoted(one) for one in table.split("."))
        types = types_of(cursor, place)
        wanted = ", ".join(f"{postgres.quoted(name)}::text" for name in types)
        cursor.execute(f"SELECT {wanted} FROM {place} LIMIT {int(rows)}")  # noqa: S608 - quoted
        found = cursor.fetchall()
    sample.rows += len(found)
    for number, (name, kind) in enumerate(types.items()):
        sample.columns[name] = [None if row[number] is None else str(row[number]) for row in found]
        if kind in _TEXTS:
            sample.texts.add(name)
        else:
            sample.types[name] = declared_as(kind)


def _idx(path: str, rows: int, sample: Sample, _: str | None) -> None:
    form = form_of(path)
    sample.rows += min(rows, form.rows)
    kind = form.dtype.newbyteorder("=").name
    sample.columns["image"] = []
    sample.types["image"] = "tensor"
    scale = _PIXEL if kind == "uint8" else None
    sample.fields["image"] = {"dtype": kind, "shape": list(form.shape), "scale": scale}
    beside = path.replace("images", "labels").replace("idx3", "idx1")
    if beside != path and Path(beside).exists():
        sample.settings["labels"] = beside
        sample.columns["label"] = []
        sample.types["label"] = "int32"


def members(path: str) -> list[str]:
    """Names of the files in a folder or zip."""
    if Path(path).is_dir():
        return listed(Path(path))
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return [one.filename for one in archive.infolist() if not one.is_dir()]
        except zipfile.BadZipFile as error:
            raise InputError(f"{path}: no zip file ({error}); check path") from error


def _documents(path: str, rows: int, sample: Sample, _: str | None) -> None:
    names = [name for name in members(path) if name.lower().endswith(".txt")]
    sample.settings["documents"] = True
    _labels(sample, names[:rows], "text")
    sample.texts.add("text")


def _labels(sample: Sample, names: Sequence[str], what: str) -> None:
    sample.rows += len(names)
    labels = [PurePosixPath(name).parent.name or None for name in names]
    sample.columns |= {what: [], "file": list(names)}
    sample.types |= {"file": "string"} | ({"text": "string"} if what == "text" else {})
    if any(labels):
        sample.columns["label"] = list(labels)
        sample.texts.add("label")


def _images(path: str, rows: int, sample: Sample, _: str | None) -> None:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra: only who reads images needs it
    except ImportError as error:
        raise InputError(
            'images need Pillow, which is not installed: pip install "dlflow[images]"'
        ) from error
    names = [name for name in members(path) if name.lower().endswith(IMAGES)]
    forms: Counter[tuple[int, ...]] = Counter()
    for name in names[:: max(1, len(names) // _LOOKED)][:_LOOKED]:
        with contextlib.suppress(OSError), Image.open(io.BytesIO(_content(path, name))) as image:
            width, height = image.size
            forms[(height, width) if image.mode in {"1", "L"} else (height, width, 3)] += 1
    if not forms:
        raise InputError(f"{path}: none of its images can be opened; check path")
    shape = forms.most_common(1)[0][0]
    if len(forms) > 1:
        sample.settings["fit"] = "resize"
        sample.notes.append(
            f'images of {len(forms)} sizes or colours among those looked at; fit = "resize" makes them alike'
        )
    _labels(sample, names[:rows], "image")
    sample.types["image"] = "tensor"
    sample.fields["image"] = {"dtype": "uint8", "shape": list(shape), "scale": _PIXEL}


def _content(path: str, name: str) -> bytes:
    if Path(path).is_dir():
        return Path(path, name).read_bytes()
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        return archive.read(name)


READERS = {
    "parquet": _parquet,
    "arrow": _arrow,
    "sqlite": _sqlite,
    "idx": _idx,
    "images": _images,
    "documents": _documents,
}
"""By kind: `read(path, rows, sample, table)` adds what a file says to the sample."""
