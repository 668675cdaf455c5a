"""PostgreSQL: a table, view or query, all parts of it in one snapshot of the server; types as declared, or the run fails.

    files   begins a transaction, exports its snapshot, counts and hashes the rows on the server; holds it while the plan lives
    cut     ranges of the key, in that snapshot
    read    one range, in that snapshot, on any worker; a COPY in binary, batch by batch

Whole numbers, floats, bools and texts come as they are. Everything else comes as the server's text (ISO dates, UTC) and is
read by the grammar of the declared type, as is a text in a column that is none. Rows are cut by `key`, else by a primary
key of one integer, else a table by the place of its rows; a view or query without a key is one part, its rows numbered.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import difference, epochs
from pipelines.errors import InputError
from pipelines.intake import Rejection
from pipelines.names import did_you_mean
from pipelines.postgres import quoted, text
from pipelines.schema import Field, Type
from pipelines.sources import snapshots
from pipelines.sources.head import check_names
from pipelines.sources.inputs import InputFile, Offered, Part
from pipelines.sources.rows import together, typed_rows
from pipelines.sources.source import Source
from pipelines.stage import Rows

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Cursor

__all__ = ["columns", "cut", "declared_as", "files", "read", "types_of"]

_WHOLE, _REAL, _TEXT = (
    {"int2", "int4", "int8"},
    {"float4", "float8"},
    {"text", "varchar", "bpchar", "char", "name"},
)
_NATIVE = _WHOLE | _REAL | _TEXT | {"bool"}
_READS: dict[
    str, set[str]
] = {  # declared type -> types of the server that may be it; a string may be anything
    "int": _WHOLE | _TEXT | {"numeric"},
    "float": _WHOLE | _REAL | _TEXT | {"numeric"},
    "bool": _TEXT | {"bool"},
    "date": _TEXT | {"date"},
    "timestamp": _TEXT | {"timestamp", "timestamptz"},
}
_OFFERED: dict[str, Type] = {
    "int2": "int16",
    "int4": "int32",
    "int8": "int64",
    "float4": "float32",
    "float8": "float64",
    "bool": "bool",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamp",
}
_PLACE = "((ctid::text::point)[0]::bigint << 16) + (ctid::text::point)[1]::bigint"
_UNCUT = 64  # times part_bytes that a view or query without a key may have


def files(source: Source) -> list[InputFile]:
    """The rows of the source as one input: the digest is over all of them, the state is the snapshot they are read in.

    Raises: InputError if there is no such table, or its columns are not as declared; PartFailed if the server fails.
    """
    evolving = source.contract == "evolve"  # then what is not declared counts, too
    with snapshots.held(source) as held:
        table = _table(_tolerant(source) if evolving else source, held.cursor)
        names = (
            [name for name in table.types if name not in source.ignore] if evolving else source.names.values()
        )
        named = (quoted(name) for name in names)
        row = ", ".join(filter(None, [*named, table.number]))
        sums = "count(*), sum(octet_length(r)), sum(hashtextextended(r, 0)), sum(hashtextextended(r, 1))"
        query = f"SELECT {sums} FROM (SELECT ROW({row})::text AS r FROM {table.rows}) AS rows"  # noqa: S608 - quoted
        [(count, size, *digest)] = _asked(held.cursor, query)
        identity = f"rows:{count}:{digest[0]}:{digest[1]}"
        file = InputFile(source.path, int(size or 0), 0, identity, held.name)
        held.keep_for(file)
    return [file]


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts by ranges of the key, `[start, stop]`, with the same number of rows each.

    Raises: InputError if the key is not unique, or there is none and too much to read at once.
    """
    with snapshots.within(source, file.state) as cursor:
        table = _table(source, cursor)
        count = int(file.sha256.split(":")[1])
        part = Part(number, file.path, 0, 0, 1, file.size, 0, state=file.state)
        if table.number is None:
            if file.size > _UNCUT * source.part_bytes:
                raise InputError(
                    f"{file.path}: {count:,} rows with {file.size:,} bytes and no key to cut them by; set key to a unique integer column"
                )
            return [dataclasses.replace(part, stop=file.size)]
        _check_key(source, cursor, table)
        rows = max(1, int(count * source.part_bytes / max(file.size, 1)))
        weight = rows * file.size // max(count, 1)
        first = (
            f"SELECT k FROM (SELECT k, row_number() OVER (ORDER BY k) - 1 AS i FROM (SELECT {table.number} AS k FROM "  # noqa: S608 - quoted
            f"{table.rows}) AS keys) AS numbered WHERE i % {rows} = 0 ORDER BY k"
        )
        starts = [int(one) for (one,) in _asked(cursor, first)]
        [(last,)] = _asked(cursor, f"SELECT max({table.number}) FROM {table.rows}")  # noqa: S608 - quoted
        stops = [*(start - 1 for start in starts[1:]), last]
        return [
            dataclasses.replace(
                part,
                start=start,
                stop=int(stop),
                line=start,
                names=("key",),
                weight=weight,
            )
            for start, stop in zip(starts, stops, strict=bool(starts))
        ] or [part]


def columns(source: Source, file: InputFile) -> Offered:
    """The columns of the table or query; of what is no number, bool, date or time the server's text."""
    with snapshots.within(source, file.state) as cursor:
        table = _table(_tolerant(source), cursor)
        return {name: Field(type=declared_as(kind)) for name, kind in table.types.items()}


def _tolerant(source: Source) -> Source:
    return dataclasses.replace(source, path="", contract="quarantine", extra="ignore")


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a value that does not fit a column with on_error = "fail"; PartFailed if the server fails.
    """
    made = []
    with snapshots.within(source, part.state) as cursor:
        table = _table(source, cursor)
        columns = ", ".join(
            "NULL::text"
            if name not in table.types
            else quoted(name)
            if table.types[name] in _NATIVE
            else f"{quoted(name)}::text"
            for name in source.names.values()
        )
        query = f"SELECT 0::bigint, {columns} FROM {table.rows}"  # noqa: S608 - quoted
        if part.names:
            query = f"SELECT ({table.number})::bigint, {columns} FROM {table.rows} WHERE {_between(table, part)} ORDER BY 1"  # noqa: S608
        cursor.execute(query)
        line = 1
        for batch in cursor.fetch_record_batch():
            keys, *cells = batch.columns
            lines = keys.to_numpy() if part.names else np.arange(line, line + len(keys))
            made.append(_rows(source, part, lines, dict(zip(source.columns, cells, strict=True))))
            line += len(keys)
    return together(source.schema, made)


# ---- the server


class _Table(NamedTuple):
    """What is read: a FROM item, the types of its columns, and an expression for the number of a row."""

    rows: str
    types: Mapping[str, str]
    number: str | None


def _asked(cursor: "Cursor", query: str) -> list[tuple[Any, ...]]:
    cursor.execute(query)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _table(source: Source, cursor: "Cursor") -> _Table:
    """Raises: InputError if the table is not there, or a column is missing, too many or of another type."""
    if source.query is not None:
        rows, what, kind = f"({source.query.rstrip().rstrip(';')}\n) AS query", "query", ""
    else:
        rows, kind = _named(source, cursor)
        what = f"table {source.table!r}"
    types = types_of(cursor, rows)
    check_names(source, source.path, what, list(types))
    lines = [
        line
        for column, name in source.names.items()
        if name in types
        for line in _wrong_type(name, source.columns[column], types[name])
    ]
    if lines:
        head = f"{source.path}: the columns of {what} are not those declared (- declared, + on the server)"
        raise InputError(difference.told(head, lines, "correct columns, or cast in a query"))
    if source.key is None:
        return _Table(rows, types, _PLACE if kind in {"r", "m"} else quoted(kind[3:]) if kind else None)
    if source.key not in types:
        raise InputError(
            f"{source.path}: {what} has no column {source.key!r}{did_you_mean(source.key, types)}; correct key"
        )
    if types[source.key] not in _WHOLE:
        raise InputError(
            f"{source.path}: key {source.key!r} of {what} is {types[source.key]}; expected a unique column of integers"
        )
    return _Table(rows, types, quoted(source.key))


def types_of(cursor: "Cursor", rows: str) -> dict[str, str]:
    """The server's types of the columns of a FROM item."""
    return {field.name: _type(field) for field in cursor.adbc_execute_schema(f"SELECT * FROM {rows}")}  # noqa: S608 - quoted


def declared_as(kind: str) -> Type:
    """What a type of the server may be declared as; of what is no number, bool, date or time the server's text."""
    return _OFFERED.get(kind, "string")


def _named(source: Source, cursor: "Cursor") -> tuple[str, str]:
    """FROM item of a table, and how it can be cut: r or m by place, "by NAME" by its primary key, "" not."""
    name = ".".join(quoted(one) for one in (source.table or "").split("."))
    found = _asked(
        cursor,
        "SELECT c.relkind::text, c.relhassubclass, (SELECT string_agg(a.attname, ',') FROM pg_index i JOIN pg_attribute a ON "  # noqa: S608 - quoted
        "a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1 "
        "AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)) "
        f"FROM pg_class c WHERE c.oid = to_regclass({text(name)})",
    )
    if not found:
        known = _asked(
            cursor,
            "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname NOT IN "
            "('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%' ORDER BY 1 LIMIT 1000",
        )
        names = [one for (one,) in known]
        raise InputError(
            f"{source.path}: there is no table {source.table!r}{did_you_mean(source.table or '', names)}; correct table"
        )
    [(kind, inherited, key)] = found
    if key is not None and "," not in key and not (kind == "r" and inherited):
        return name, f"by {key}"
    return name, kind if kind in {"r", "m"} and not inherited else ""


def _type(field: pa.Field) -> str:
    said = field.metadata or {}
    return (
        said.get(b"POSTGRESQL:type") or said.get(b"ADBC:postgresql:typname") or str(field.type).encode()
    ).decode()


def _wrong_type(name: str, field: Field, found: str) -> list[str]:
    """The lines of a difference."""
    kind = "float" if field.format in epochs.FORMATS else field.type.rstrip("0123456789")
    if field.type != "string" and found not in _READS[kind]:
        fitting = [one for one, types in _READS.items() if found in types][:1]
        fitting = [{"int": "int64", "float": "float64"}.get(one, one) for one in fitting]
        other = " or ".join(f'"{one}"' for one in (*fitting, "string"))
        return [f"- {name} {field.title}", f"+ {name} {found}: declare {other}, or cast it in a query"]
    if field.format is not None and kind != "float" and found not in _TEXT:
        return [
            f"- {name} {field.title} with a format",
            f"+ {name} {found}: leave out its format, which has no effect",
        ]
    return []


def _check_key(source: Source, cursor: "Cursor", table: _Table) -> None:
    if source.key is None:
        return
    query = f"SELECT count(*), count({table.number}), count(DISTINCT {table.number}) FROM {table.rows}"  # noqa: S608 - quoted
    [(rows, present, distinct)] = _asked(cursor, query)
    if not rows == present == distinct:
        raise InputError(
            f"{source.path}: key {source.key!r} has {distinct:,} values and {rows - present:,} nulls in {rows:,} rows, "
            "expected a unique integer in each; take another key, or none"
        )


def _between(table: _Table, part: Part) -> str:
    if table.number != _PLACE:
        return f"{table.number} BETWEEN {part.start} AND {part.stop}"
    first, last = (f"({number >> 16},{number & 0xFFFF})" for number in (part.start, part.stop))
    return f"ctid BETWEEN '{first}'::tid AND '{last}'::tid"


# ---- the rows


def _rows(source: Source, part: Part, lines: np.ndarray, cells: dict[str, pa.Array]) -> Rows:
    """Rows of the declared types from the columns of one batch."""
    long: dict[int, Rejection] = {}
    strings = {}
    for column, values in cells.items():
        strings[column] = _column(values, source.columns[column])
        if pa.types.is_string(values.type):
            sizes = pc.binary_length(values)
            for row in np.flatnonzero(
                pc.fill_null(pc.greater(sizes, source.max_field_bytes), False)
            ).tolist():
                message = f"column {column!r}: {sizes[row].as_py():,} bytes, more than max_field_bytes = {source.max_field_bytes}"
                long.setdefault(row, Rejection("field", column, message))
    batch = pa.table(cells)

    def raw(rows: np.ndarray) -> list[str]:
        some = batch.take(pa.array(rows, pa.int64())).to_pylist()
        return [
            json.dumps({key: _short(value) for key, value in row.items()}, ensure_ascii=False) for row in some
        ]

    return typed_rows(source, part, lines, strings, {}, long, raw)


def _column(values: pa.Array, field: Field) -> pa.Array:
    """The values as the declared type, where none is lost; else as text, so that those that do not fit are named."""
    if pa.types.is_string(values.type):
        return values
    if field.type not in {"string", "date", "timestamp"}:
        try:
            found = values.cast(field.arrow, safe=not pa.types.is_floating(values.type))
        except pa.ArrowInvalid:
            return values.cast(pa.string())
        if not pa.types.is_floating(found.type) or pc.all(pc.is_finite(found)).as_py() is not False:
            return found
    return values.cast(pa.string())


def _short(value: Any) -> Any:
    return f"{value[:1000]}..." if isinstance(value, str) and len(value) > 1000 else value
