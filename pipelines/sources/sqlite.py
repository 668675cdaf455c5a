"""SQLite: a table, view or query, read-only, each part in one transaction; a value of another type than declared sets its row aside.

SQLite keeps values of any type in any column, so every cell is checked: an integer column takes integers, a float column
integers and reals, a bool 0 and 1, a string, date or timestamp text. NULL is null. Rows are cut by rowid or by `key`,
which is then the line of a row; a view without a key is one part, and its rows are numbered.
"""

import contextlib
import dataclasses
import functools
import json
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import epochs
from pipelines.errors import InputError, PartFailed
from pipelines.intake import Rejection
from pipelines.literals import ARROW
from pipelines.names import did_you_mean
from pipelines.schema import Field, Type
from pipelines.sources.head import check_names
from pipelines.sources.inputs import InputFile, Offered, Part, whole
from pipelines.sources.rows import together, typed_rows
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["columns", "cut", "read"]

_TEXTS = ("string", "date", "timestamp")
_BATCH = 10_000  # rows fetched at once: some 4 MB of Python objects; 2,000 to 50,000 are as fast
_ROWID = ("rowid", "_rowid_", "oid")
_SAMPLE = 1_000  # rows of which the mean size is taken
_AFFINITIES: tuple[tuple[tuple[str, ...], Type], ...] = (
    (("INT",), "int64"),
    (("CHAR", "CLOB", "TEXT", "DATE", "TIME"), "string"),
    (("REAL", "FLOA", "DOUB", "NUMERIC", "DECIMAL"), "float64"),
)
_TYPES: dict[str, set[type]] = {
    "int": {int},
    "float": {int, float},
    "bool": {int},
    "string": {str},
    "date": {str},
    "timestamp": {str},
}


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one table by ranges of its key, `[start, stop]`, with the same number of rows each.

    Raises: InputError if the file is damaged or no database, or table, columns or key are not as declared; PartFailed if
    another program locks it.
    """
    with _transaction(source, file.path) as database:
        [(health,)] = database.execute("PRAGMA quick_check(1)").fetchall()
        if health != "ok":
            raise InputError(
                f"{file.path}: damaged database: {health}; restore it from a copy, or try the .recover command of sqlite3"
            )
        names = _check_table(source, file.path, database)
        key = _key(source, file.path, database, names)
        part = whole(file, number)
        if key is None:
            return [part]
        part = dataclasses.replace(part, names=(key,))
        return _ranges(database, source, part)


def columns(source: Source, file: InputFile) -> Offered:
    """The columns of the table or query: of the type that it is declared as, else of that of all its values."""
    with _transaction(source, file.path) as database:
        database.execute(f"CREATE TEMP VIEW offered AS SELECT * FROM {_rows_of(source)}")  # noqa: S608 - quoted, or the user's own
        found = [
            (str(row[1]), str(row[2]).upper()) for row in database.execute("PRAGMA temp.table_xinfo(offered)")
        ]
        return {name: _offered(database, name, kind) for name, kind in found}


def _offered(database: sqlite3.Connection, name: str, kind: str) -> Field | str:
    """By the rules that SQLite has for names of types."""
    for words, declared in _AFFINITIES:
        if any(word in kind for word in words):
            return Field(type=declared)
    there = database.execute(f"SELECT DISTINCT typeof({_quoted(name)}) FROM offered")  # noqa: S608 - quoted
    kinds = {str(one) for (one,) in there} - {"null"}
    if "BLOB" in kind or not (kinds <= {"integer", "real"} or kinds <= {"text"}):
        return f"holds {' and '.join(sorted(kinds)) or 'blobs'}"
    return Field(type="string" if kinds <= {"text"} else "int64" if kinds == {"integer"} else "float64")


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a value that does not fit a column with on_error = "fail"; PartFailed if another program locks it.
    """
    table, made = _rows_of(source), []
    with _transaction(source, part.path) as database:
        there = _names(source, database)
        columns = ", ".join(_quoted(name) if name in there else "NULL" for name in source.names.values())
        database.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
        if part.names:
            key = _key_name(part.names[0])
            query = f"SELECT {key}, {columns} FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}"  # noqa: S608 - names are quoted
            cursor = database.execute(query, (part.start, part.stop))
        else:
            cursor = database.execute(f"SELECT 0, {columns} FROM {table}")  # noqa: S608 - names are quoted
        line = 1
        while batch := cursor.fetchmany(_BATCH):
            keys, *cells = zip(*batch, strict=True)
            lines = np.array(keys, np.int64) if part.names else np.arange(line, line + len(batch))
            made.append(_rows(source, part, lines, dict(zip(source.columns, cells, strict=True))))
            line += len(batch)
    return together(source.schema, made)


@contextlib.contextmanager
def _transaction(source: Source, path: str) -> Iterator[sqlite3.Connection]:
    """A read-only database in one state, whatever others write."""
    place = f"file:{urllib.parse.quote(str(Path(path).resolve()))}?mode=ro"
    try:
        with contextlib.closing(
            sqlite3.connect(place, uri=True, timeout=source.busy_s, isolation_level=None)
        ) as database:
            database.execute(
                "PRAGMA trusted_schema = OFF"
            )  # a file may come from anywhere: its views call no function with effects
            database.execute("BEGIN")
            yield database
    except sqlite3.Error as error:
        if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")):
            raise PartFailed(
                f"{path}: {error}, after waiting {source.busy_s:g} s (busy_s); run again when no other program writes"
            ) from error
        what = (
            "no SQLite database" if error.sqlite_errorname == "SQLITE_NOTADB" else "cannot be read by SQLite"
        )
        raise InputError(f"{path}: {what}: {error}; check path, or restore the file from a copy") from error


def _check_table(source: Source, path: str, database: sqlite3.Connection) -> list[str]:
    """Column names of the table or query."""
    if source.query is not None:
        names = _names(source, database)
        check_names(source, path, "query", names)
        return names
    known = [
        name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
    ]
    if source.table not in known:
        raise InputError(
            f"{path}: there is no table {source.table!r}{did_you_mean(source.table or '', known)}; correct table"
        )
    names = _names(source, database)
    check_names(source, path, f"table {source.table!r}", names)
    return names


def _names(source: Source, database: sqlite3.Connection) -> list[str]:
    if source.query is None:
        return [str(row[1]) for row in database.execute(f"PRAGMA table_xinfo({_quoted(source.table or '')})")]
    cursor = database.execute(f"SELECT * FROM {_rows_of(source)} LIMIT 0")  # noqa: S608 - it is the user's own
    return [str(column[0]) for column in cursor.description]


def _key(source: Source, path: str, database: sqlite3.Connection, names: list[str]) -> str | None:
    """What rows are cut by: `key`, else the rowid, else None."""
    table = _rows_of(source)
    if source.key is None and source.query is not None:
        return None
    if source.key is None:
        taken = {name.lower() for name in names}
        for name in _ROWID:
            if name in taken:
                continue
            try:
                found = database.execute(f"SELECT {name} FROM {table} LIMIT 1").fetchall()  # noqa: S608 - names are quoted
            except sqlite3.OperationalError:
                return None  # a table WITHOUT ROWID
            return name if found and found[0][0] is not None else None  # a view has null there
        return None
    if source.key not in names:
        raise InputError(
            f"{path}: {_what_of(source)} has no column {source.key!r}{did_you_mean(source.key, names)}; correct key"
        )
    key = _quoted(source.key)
    counts = f"SELECT count(*), count(DISTINCT {key}), count(*) FILTER (WHERE typeof({key}) = 'integer') FROM {table}"  # noqa: S608
    rows, distinct, integers = database.execute(counts).fetchone()
    if not rows == distinct == integers:
        raise InputError(
            f"{path}: key {source.key!r} of {_what_of(source)} has {distinct:,} values and {integers:,} integers in {rows:,} rows, "
            "expected a unique integer in each; take another key, or none"
        )
    return source.key if rows else None


def _ranges(database: sqlite3.Connection, source: Source, part: Part) -> list[Part]:
    table, key = _rows_of(source), _key_name(part.names[0])
    there = _names(source, database)
    sizes = " + ".join(
        f"ifnull(length(CAST({_quoted(name)} AS BLOB)), 0) + 2"
        for name in source.names.values()
        if name in there
    )
    [(size,)] = database.execute(f"SELECT avg({sizes}) FROM (SELECT * FROM {table} LIMIT {_SAMPLE})")  # noqa: S608 - names are quoted
    rows = max(1, int(source.part_bytes / size))
    weight = int(rows * size)
    [(begin, last)] = database.execute(f"SELECT min({key}), max({key}) FROM {table}")  # noqa: S608 - names are quoted
    parts = []
    while begin is not None:
        following = f"SELECT {key} FROM {table} WHERE {key} >= ? ORDER BY {key} LIMIT 1 OFFSET {rows}"  # noqa: S608 - names are quoted
        found = database.execute(following, (begin,)).fetchone()
        after = None if found is None else int(found[0])
        stop = last if after is None else after - 1
        parts.append(dataclasses.replace(part, start=begin, stop=stop, line=begin, weight=weight))
        begin = after
    return parts


def _rows(source: Source, part: Part, lines: np.ndarray, cells: dict[str, tuple[Any, ...]]) -> Rows:
    """Rows of the declared types from the values of each column."""
    why: dict[int, Rejection] = {}
    strings, wrong = {}, {}
    for column, values in cells.items():
        field = source.columns[column]
        kind = "float" if field.format in epochs.FORMATS else field.type
        tokens = source.tokens if field.null is None else field.null
        plain = None if tokens and kind not in _TEXTS else _at_once(values, kind, source.max_field_bytes)
        if plain is not None:
            strings[column] = plain
            continue
        strings[column], found = _texts(column, values, kind, source.max_field_bytes, why)
        if found is not None:
            wrong[column] = found

    def raw(rows: np.ndarray) -> list[str]:
        return [
            json.dumps({column: _raw(values[row]) for column, values in cells.items()}, ensure_ascii=False)
            for row in rows.tolist()
        ]

    return typed_rows(source, part, lines, strings, wrong, why, raw)


def _at_once(values: tuple[Any, ...], kind: str, max_field_bytes: int) -> pa.Array | None:
    """The values as they are, five times as fast, where all have the one type that needs no second look; else None."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str} and kind in _TEXTS:
        try:
            found = pa.array(values, pa.string())
        except UnicodeEncodeError:
            return None
        longest = pc.max(pc.binary_length(found)).as_py() or 0
        return found if longest <= max_field_bytes else None
    if kinds == {int} and kind.startswith("int"):
        try:
            return pc.cast(pa.array(values, pa.int64()), ARROW[kind])
        except pa.ArrowInvalid:
            return None
    if kinds == {float} and kind == "float64":
        found = pa.array(values, pa.float64())
        return None if pc.all(pc.is_finite(found)).as_py() is False else found
    return None


def _texts(
    column: str, values: tuple[Any, ...], kind: str, max_field_bytes: int, why: dict[int, Rejection]
) -> tuple[pa.StringArray, pa.StringArray | None]:
    """The values as text; and what was found where the type is another (None: nowhere). Adds broken texts to `why`."""
    fine = {*_TYPES[kind.rstrip("0123456789")], type(None)}
    kinds = set(map(type, values))
    wrong = None
    if not kinds <= fine:
        wrong = pa.array([None if type(value) in fine else _what(value) for value in values], pa.string())
        values = tuple(value if type(value) in fine else None for value in values)
    if str not in fine:
        return pa.array([None if value is None else repr(value) for value in values], pa.string()), wrong
    sound = list(values)
    for row, value in enumerate(values):
        if value is None or (value.isascii() and len(value) <= max_field_bytes):
            continue
        message = _broken(value, max_field_bytes)
        if message is not None:
            rule = "encoding" if "UTF-8" in message else "field"
            why.setdefault(row, Rejection(rule, column, f"column {column!r}: {message}"))
            sound[row] = None
    return pa.array(sound, pa.string()), wrong


def _broken(value: str, max_field_bytes: int) -> str | None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        return f"byte 0x{ord(value[error.start]) - 0xDC00:02X} of a text is not UTF-8"
    return (
        f"{size:,} bytes, more than max_field_bytes = {max_field_bytes}" if size > max_field_bytes else None
    )


def _what(value: Any) -> str:
    if isinstance(value, bytes):
        return f"blob of {len(value):,} bytes"
    name = {int: "integer", float: "real"}.get(type(value), "text")
    return f"{name} {value if name != 'text' else value[:40]!r}"


def _raw(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"0x{value[:64].hex()}{'...' if len(value) > 64 else ''}"
    return (
        value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if isinstance(value, str)
        else value
    )


def _what_of(source: Source) -> str:
    return f"table {source.table!r}" if source.query is None else "query"


def _rows_of(source: Source) -> str:
    """What stands after FROM."""
    return _quoted(source.table or "") if source.query is None else f"({source.query.rstrip().rstrip(';')}\n)"


def _key_name(name: str) -> str:
    return (
        name if name in _ROWID else _quoted(name)
    )  # in quotes it would be a text where there is no such column


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
