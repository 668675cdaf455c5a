"""JSON lines: one object per line, its keys and types as declared; a line that is not so is set aside with its text.

A number is its text, read by the grammar of its column: 2.7 and 2.0 are no int32, 9007199254740993 stays what it is. A
number is not taken for a text nor a text for a number; a date or timestamp is a text (a number where its format is an epoch), a bool is true or false. A key
that is missing is null, one that is there twice or is not declared sets the line aside, as do NaN, Infinity, half a
surrogate pair and more than 64 levels. A blank line is no row. Lines end with LF or CR LF.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json

from pipelines import epochs
from pipelines.errors import InputError
from pipelines.fields import combined
from pipelines.intake import Rejection
from pipelines.schema import Field
from pipelines.sources import stream
from pipelines.sources.head import cut_text, framing, read_head
from pipelines.sources.inputs import InputFile, Offered, Part, whole
from pipelines.sources.objects import LEVELS, BadLineError, NoObject, Number, Tree, check_keys, parse, what
from pipelines.sources.records import Long, blocks
from pipelines.sources.rows import Piece, is_text, long_row, together
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["columns", "cut", "read"]

_FEW = 32  # lines that are not worth a call of pyarrow
_TEXTS = ("string", "date", "timestamp")
_NUMBERS, _BOOLS = frozenset("-0123456789"), ("True", "False")  # how they begin; how they are as text


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file, cut at line ends.

    Raises: InputError for an empty file that may not be so, and a mark of another encoding.
    """
    head = read_head(source, file.path)
    part = whole(file, number)
    if head is None:
        return [dataclasses.replace(part, stop=0)]
    part = dataclasses.replace(part, start=head.start)
    return cut_text(source, part, framing(source, file.path, 0))


def columns(source: Source, file: InputFile) -> Offered:
    """The keys of all lines, of nested ones where the declaration looks into the object; a key may hold any type."""
    head = read_head(dataclasses.replace(source, allow_empty=True), file.path)
    tree, how = _tree(source), framing(source, file.path, 0)
    encoding = stream.chunk_encoding(source.encoding, "")
    found: dict[str, None] = {}
    start = 0 if head is None else head.start
    for one in blocks(
        stream.chunks(file.path, start, stream.END, source.encoding, ""), how, line=1, offset=start
    ):
        if not isinstance(one, Long):
            piece = Piece(source, whole(file, 0), one, encoding)
            found |= dict.fromkeys(name for keys in _keys(piece) for name in _names(keys, tree, ""))
    return dict.fromkeys(found, Field())


def _keys(piece: Piece) -> Iterable[Mapping[str, Any]]:
    """The objects of a block, or one that has all their keys."""
    data = piece.block.data
    if piece.encoding == "utf-8":
        try:
            options = arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
            return [_shape(arrow_json.read_json(pa.BufferReader(data), options).schema)]
        except pa.ArrowInvalid:
            pass  # a type that changes, or a line that is none: line by line
    found = []
    for begin, end in zip(piece.starts, piece.block.ends, strict=True):
        try:
            found.append(parse(data[begin:end], piece.encoding, piece.source.max_field_bytes))
        except BadLineError:
            continue  # it is set aside where it is read
    return found


def _shape(schema: Iterable[pa.Field]) -> dict[str, Any]:
    return {one.name: _shape(one.type) if pa.types.is_struct(one.type) else None for one in schema}


def _names(keys: Mapping[str, Any], tree: Tree, above: str) -> Iterable[str]:
    for key, value in keys.items():
        below = tree.get(key)
        if not isinstance(below, dict):
            yield above + key
        elif isinstance(value, Mapping):
            yield from _names(value, below, f"{above}{key}.")


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a value that does not fit a column with on_error = "fail", and for a damaged packed file.
    """
    how = framing(source, part.path, 0)
    encoding = stream.chunk_encoding(source.encoding, "")
    text = stream.chunks(part.path, part.start, part.stop, source.encoding, "")
    made = []
    for one in blocks(text, how, line=part.line, offset=part.start):
        if isinstance(one, Long):
            made.append(long_row(source, part, how, one, encoding))
        else:
            made.append(_rows(Piece(source, part, one, encoding), 0, len(one.ends)))
    return together(source.schema, made)


def _rows(piece: Piece, first: int, stop: int) -> Rows:
    """The rows of lines `[first, stop)`: at once if all is well with them, else in pieces, at last line by line."""
    if stop - first <= _FEW:
        return _one_by_one(piece, first, stop)
    made = _at_once(piece, first, stop)
    if made is not None:
        return made
    step = max(_FEW, (stop - first + 7) // 8)
    return together(
        piece.source.schema, [_rows(piece, at, min(at + step, stop)) for at in range(first, stop, step)]
    )


def _at_once(piece: Piece, first: int, stop: int) -> Rows | None:
    """The rows by pyarrow, 20 times as fast; None where it could see anything in another way than `_one_by_one` does.

    Every line begins with { and ends with }, and there are as many objects as lines: so each line is one object. What
    pyarrow refuses (keys twice or not declared, other types, bad escapes, numbers that do not fit) is read again. What it
    takes and we do not, bytes that are not UTF-8, infinities and long values, is looked for here. Keys that are ignored are
    read with the others, so that what is wrong with them (there twice, no JSON) is found too.
    """
    source, block = piece.source, piece.block
    plain = [field for field in source.columns.values() if field.type not in _TEXTS]
    tokens = {token for field in plain for token in (source.tokens if field.null is None else field.null)}
    if any(token[:1] in _NUMBERS or token in _BOOLS for token in tokens):  # a number may mean missing
        return None
    start, end = int(piece.starts[first]), int(block.ends[stop - 1])
    data, sizes = block.data[start:end], block.ends[first:stop] - piece.starts[first:stop]
    if sizes.max() > source.max_field_bytes or not (data.isascii() or is_text(data, piece.encoding)):
        return None
    codes = np.frombuffer(block.data, np.uint8)
    last = block.ends[first:stop] - 1
    last = last - (codes[last] == 10)
    last = last - (codes[last] == 13)
    if (codes[piece.starts[first:stop]] != ord("{")).any() or (codes[last] != ord("}")).any():
        return None
    tree = _tree(source)
    ignoring = source.extra == "ignore" or bool(source.ignore)
    if ignoring and _may_be_deep(data, np.cumsum(sizes)):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            arrow_json.ParseOptions(
                explicit_schema=pa.schema(_arrow(tree, source)),
                unexpected_field_behavior="infer" if ignoring else "error",
            ),
        )
        if source.extra == "error" and ignoring:
            check_keys(_shape(table.schema), tree, source.ignore, "")
    except (pa.ArrowInvalid, BadLineError):
        return None
    columns = {column: _column(table, path) for column, path in _paths(tree, ()).items()}
    if table.num_rows != stop - first or not all(_finite(combined(column)) for column in table.columns):
        return None
    for column, field in source.columns.items():
        if field.format in epochs.FORMATS:
            columns[column] = columns[column].cast(pa.string())
    strings = pa.table({column: columns[column] for column in source.columns})
    try:
        made = piece.cast(strings, np.arange(first, stop), {}, source.tokens)
    except InputError:  # told again with the text as it stands
        return None
    return made if made.rejected is None and not made.notes else None


def _finite(values: pa.Array) -> bool:
    """Whether there is no nan or infinity, which are no JSON, in a column or what is nested in it."""
    if pa.types.is_struct(values.type):
        return all(_finite(values.field(place)) for place in range(values.type.num_fields))
    if pa.types.is_list(values.type):
        return _finite(values.values)
    return not pa.types.is_floating(values.type) or pc.all(pc.is_finite(values)).as_py() is not False


def _may_be_deep(data: bytes, ends: np.ndarray) -> bool:
    """Whether a line has so many objects and lists that they could be too many levels; pyarrow would end the process for a million."""
    codes = np.frombuffer(data, np.uint8)
    lines = np.searchsorted(ends, np.flatnonzero((codes == ord("{")) | (codes == ord("["))), "right")
    return bool((lines[LEVELS:] == lines[:-LEVELS]).any())


def _arrow(tree: Tree, source: Source) -> list[pa.Field]:
    """Types for pyarrow: a number or bool as declared, all else as text."""
    fields = []
    for key, below in tree.items():
        if not isinstance(below, str):
            kind = pa.struct(_arrow(below, source))
        elif source.columns[below].format in epochs.FORMATS:
            kind = pa.int64()
        else:
            kind = pa.string() if source.columns[below].type in _TEXTS else source.columns[below].arrow
        fields.append(pa.field(key, kind))
    return fields


def _column(table: pa.Table, path: tuple[str, ...]) -> pa.Array:
    found = table[path[0]].combine_chunks()
    for key in path[1:]:
        found = pc.struct_field(found, key)
    return found


def _one_by_one(piece: Piece, first: int, stop: int) -> Rows:
    source, data = piece.source, piece.block.data
    tree = _tree(source)
    known = frozenset({*tree, *source.ignore})
    objects, rows, why = [], [], {}
    for row, begin, end in zip(
        range(first, stop), piece.starts[first:stop], piece.block.ends[first:stop], strict=True
    ):
        line = data[begin:end]
        if line.isspace():
            continue
        try:
            found = parse(line, piece.encoding, source.max_field_bytes)
            if source.extra == "error" and (source.flatten or not found.keys() <= known):
                check_keys(found, tree, source.ignore, "")
        except BadLineError as error:
            why[row] = Rejection(error.rule, None, str(error))
            continue
        objects.append(found)
        rows.append(row)
    strings, wrong = {}, {}
    for column, path in _paths(tree, ()).items():
        values = (
            [one.get(path[0]) for one in objects] if len(path) == 1 else [_at(one, path) for one in objects]
        )
        field = source.columns[column]
        if column in source.evolved:
            values = [_any_text(value) for value in values]
        strings[column], found_wrong = _texts(
            values, "float64" if field.format in epochs.FORMATS else field.type
        )
        if found_wrong is not None:
            wrong[column] = found_wrong
    table = pa.table({column: strings[column] for column in source.columns})
    return piece.cast(table, np.array(rows, np.int64), why, source.tokens, wrong)


def _tree(source: Source) -> Tree:
    tree: Tree = {}
    for column, name in source.names.items():
        *above, last = source.flatten[column].split(".") if column in source.flatten else [name]
        node = tree
        for key in above:
            deeper = node.setdefault(key, {})
            node = deeper if isinstance(deeper, dict) else {}
        node[last] = column
    return tree


def _paths(tree: Tree, above: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Column -> the keys that lead to it."""
    found: dict[str, tuple[str, ...]] = {}
    for key, below in tree.items():
        found |= {below: (*above, key)} if isinstance(below, str) else _paths(below, (*above, key))
    return found


def _at(found: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if found is None:
            return None
        if not isinstance(found, dict):
            return NoObject(found)
        found = found.get(key)
    return found


def _any_text(value: Any) -> str | None:
    """Whatever stands in a column that was not declared, as it stands there; of an object or a list its JSON."""
    if value is None or type(value) is str:
        return value
    return _json(value)


def _json(value: Any) -> str:
    """JSON with its numbers as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key, ensure_ascii=False)}: {_json(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _texts(values: list[Any], kind: str) -> tuple[pa.StringArray, pa.StringArray | None]:
    """The values as text; and what was found where the type is another (None: nowhere)."""
    expected = bool if kind == "bool" else str if kind in _TEXTS else Number
    fine = {expected, type(None)}
    wrong = None
    if not set(map(type, values)) <= fine:
        wrong = pa.array([None if type(value) in fine else what(value) for value in values], pa.string())
        values = [value if type(value) is expected else None for value in values]
    if kind == "bool":
        values = [None if value is None else str(value) for value in values]
    return pa.array(values, pa.string()), wrong
