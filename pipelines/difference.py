"""The difference of two schemas as people read it: a line for each column that went or was (-), and that came or is (+).

- amount int64
+ amount float64: declare "float64", or correct the file
- price float64: is missing
+ note string: is not declared
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from pipelines import tensor
from pipelines.literals import ARROW

__all__ = ["described", "in_line", "told", "type_name"]

_NAMES = {kind: name for name, kind in ARROW.items()}
_MOST = 40  # lines


def told(head: str, lines: Sequence[str], fix: str = "") -> str:
    """The text of a difference: what differs, one change a line, and what to do.

    >>> print(told("a.csv: the columns are not those declared", ["- a int64", "+ a string"], "correct a.csv"))
    a.csv: the columns are not those declared:
      - a int64
      + a string; correct a.csv
    """
    more = [f"... and {len(lines) - _MOST:,} lines more"] if len(lines) > _MOST else []
    return "\n  ".join([f"{head}:", *lines[:_MOST], *more]) + (f"; {fix}" if fix else "")


def in_line(text: str) -> str:
    """The same in one line, within a sentence.

    >>> in_line(told("columns", ["- a int64", "+ a string"]))
    'columns: - a int64, + a string'
    """
    return text.replace(":\n  ", ": ").replace("\n  ", ", ")


def described(before: pa.Schema, now: pa.Schema) -> list[str]:
    """One line for each column that went or was another before (-), and for each that came or is another now (+).

    >>> described(pa.schema([("a", pa.int64()), ("b", pa.string())]), pa.schema([("b", pa.int64()), ("c", pa.bool_())]))
    ['- a int64', '- b string', '+ b int64', '+ c bool']
    """
    found = [f"- {_column(one)}" for one in before if one.name not in now.names]
    for one in now:
        place = before.get_field_index(one.name)
        old = [_column(before.field(place))] if place >= 0 else []
        if old != [_column(one)]:
            found += [*(f"- {text}" for text in old), f"+ {_column(one)}"]
    return found


def type_name(one: pa.Field) -> str:
    """The type of a column as it is declared; one that cannot be declared as Arrow calls it.

    >>> type_name(pa.field("x", pa.float64())), type_name(pa.field("x", pa.list_(pa.int8())))
    ('float64', 'list<item: int8>')
    """
    said = one.metadata or {}
    if tensor.is_tensor(one):
        return f"tensor {said[b'dtype'].decode()} {said[b'shape'].decode()}"
    kind = one.type.value_type if pa.types.is_dictionary(one.type) else one.type
    return _NAMES.get(kind, str(kind))


def _column(one: pa.Field) -> str:
    said = one.metadata or {}
    notes: Iterable[str] = (
        f", {key} {said[key.encode()].decode()}" for key in ("unit", "privacy") if key.encode() in said
    )
    return f"{one.name} {type_name(one)}{'' if one.nullable else ' NOT NULL'}{''.join(notes)}"
