"""Less of a person in the data: pseudonyms by a secret key, masked texts, coarser values.

A column's privacy class (in the metadata of its field) follows it through joins, windows, derivations and the user's own
functions; it is not told in messages, profiles or quarantines, and no feature is made of it unless it is allowed by
name. These steps say what class a column has afterwards: `becomes`, where "none" takes the class away.
"""

import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import NUMBER, ORDERED, combined, kind_of, replaced, require, schema_after, titled
from pipelines.stage import Map

__all__ = [
    "Generalise",
    "KeyedPseudonymise",
    "Mask",
    "Pseudonymise",
    "generalise",
    "mask",
    "pseudonymise",
]

LEAST_KEY = 16  # bytes
_MARK = b"which key this is, without telling the key"


@dataclass(frozen=True, kw_only=True)
class Pseudonymise:
    """Replaces values by HMAC-SHA256 of their text under a secret key, `length` hexadecimal digits of it.

    The key is the content of the environment variable `key_env`; it is in no file, log or fingerprint of ours (another
    key is noticed all the same, and the table built again). Equal values get equal pseudonyms, in every table with this
    key and `scope`: joins still work. With another `scope` nothing can be joined. A missing value stays missing.
    """

    do: ClassVar[str] = "pseudonymise"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    key_env: str
    scope: str = ""
    length: int = 32
    becomes: str = "pseudonym"

    def __post_init__(self) -> None:
        if not 8 <= self.length <= 64:
            raise SpecError(f"pseudonymise: length = {self.length}: expected 8 to 64 digits")

    def located(self, folder: Any) -> "KeyedPseudonymise":
        """The step with a mark of its key.

        Raises: SpecError if the variable is not set, or holds a short key.
        """
        del folder
        return KeyedPseudonymise(self, hmac.digest(self.key(), _MARK, "sha256").hex()[:16])

    def key(self) -> bytes:
        """The secret."""
        key = os.environ.get(self.key_env, "").encode()
        if len(key) < LEAST_KEY:
            raise SpecError(
                f"pseudonymise: environment variable {self.key_env} holds {len(key)} bytes, expected a secret key of at least "
                f"{LEAST_KEY}; make one: python -c 'import secrets; print(secrets.token_hex(32))'"
            )
        return key


@dataclass(frozen=True)
class KeyedPseudonymise:
    """The step, and which key it has."""

    step: Pseudonymise
    mark: str

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, these as text."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        step = self.step
        require(schema, step.columns, step=step.do, kinds=("string", "bool", *ORDERED))
        params = {
            "columns": step.columns,
            "key": Secret(step.key()),
            "scope": step.scope,
            "length": step.length,
            "becomes": step.becomes,
        }
        return Map(titled(step.do, step.columns), pseudonymise, params, step.columns, step.columns)


@dataclass(frozen=True)
class Secret:
    """A key that no message or log shows."""

    value: bytes

    def __repr__(self) -> str:
        return "Secret(***)"


def pseudonymise(
    table: pa.Table, *, columns: tuple[str, ...], key: Secret, scope: str, length: int, becomes: str
) -> pa.Table:
    """The table with pseudonyms."""
    for name in columns:
        encoded = combined(table[name]).cast(pa.string()).dictionary_encode()
        texts = [
            hmac.digest(key.value, f"{len(scope)}:{scope}{text}".encode(), "sha256").hex()[:length]
            for text in encoded.dictionary.to_pylist()
        ]
        table = classed(
            replaced(table, name, pa.array(texts, pa.string()).take(encoded.indices)), name, becomes
        )
    return table


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Replaces texts by *** and their last (or first) `keep` characters; one that is not longer than that by *** alone."""

    do: ClassVar[str] = "mask"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    keep: int = 0
    side: Literal["end", "start"] = "end"
    becomes: str | None = None  # None: the class that it has

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do, kinds=("string",))
        if not 0 <= self.keep <= 100:
            raise SpecError(f"mask: keep = {self.keep}: expected 0 to 100 characters")
        params = {"columns": self.columns, "keep": self.keep, "side": self.side, "becomes": self.becomes}
        return Map(titled(self.do, self.columns), mask, params, self.columns, self.columns)


def mask(table: pa.Table, *, columns: tuple[str, ...], keep: int, side: str, becomes: str | None) -> pa.Table:
    """The table with masked texts."""
    for name in columns:
        texts = combined(table[name])
        if keep:
            shown = (
                pc.utf8_slice_codeunits(texts, -keep)
                if side == "end"
                else pc.utf8_slice_codeunits(texts, 0, keep)
            )
            parts = ("***", shown) if side == "end" else (shown, "***")
            masked = pc.binary_join_element_wise(*parts, "")
            masked = pc.if_else(pc.greater(pc.utf8_length(texts), keep), masked, "***")
        else:
            masked = pa.repeat(pa.scalar("***"), len(texts))
        made = pc.if_else(pc.is_valid(texts), masked, pa.scalar(None, pa.string()))
        table = replaced(table, name, made)
        if becomes is not None:
            table = classed(table, name, becomes)
    return table


@dataclass(frozen=True, kw_only=True)
class Generalise:
    """Makes values coarser: { age = 10, zip = 3, born = "year" }.

    A number is brought down to a multiple of the width that is given, of a text the first characters stay, a date or time
    becomes the first moment of its year, quarter, month or day.
    """

    do: ClassVar[str] = "generalise"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: dict[str, int | float | Literal["year", "quarter", "month", "day"]]
    becomes: str = "none"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do, kinds=("string", *ORDERED))
        if not self.columns:
            raise SpecError('generalise: columns is empty; write columns = { age = 10, born = "year" }')
        for name, to in self.columns.items():
            kind = kind_of(schema.field(name).type)
            moment = kind in {"date", "timestamp"}
            fits = isinstance(to, str) == moment and (
                moment or (isinstance(to, int | float) and 0 < to < 2**31)
            )
            if not fits or (isinstance(to, float) and kind != "float"):
                wanted = {"string": "a number of characters", "integer": "a whole width", "float": "a width"}
                expected = wanted.get(kind, '"year", "quarter", "month" or "day"')
                raise SpecError(f"generalise: {name} = {to!r}: the column is {kind}, expected {expected}")
        params = {"columns": dict(self.columns), "becomes": self.becomes}
        names = tuple(self.columns)
        return Map(titled(self.do, self.columns), generalise, params, names, names)


def generalise(table: pa.Table, *, columns: Mapping[str, Any], becomes: str) -> pa.Table:
    """The table with coarser values."""
    for name, to in columns.items():
        values = combined(table[name])
        table = classed(replaced(table, name, _COARSER[kind_of(values.type)](values, to)), name, becomes)
    return table


def _floor(values: pa.Array, width: float) -> pa.Array:
    """The greatest multiple of the width that is not greater."""
    if kind_of(values.type) == "float":
        step = pa.scalar(width, values.type)
        many = pc.floor(pc.divide(values, step))
        # 0.7 / 0.1 is less than 7: a multiple stays what it is, so that doing it twice changes nothing
        more = pc.less_equal(pc.multiply(pc.add(many, 1), step), values)
        less = pc.greater(pc.multiply(many, step), values)
        many = pc.subtract(pc.add(many, more.cast(values.type)), less.cast(values.type))
        return pc.multiply(many, step)
    wide = values.cast(pa.int64())
    down = pc.divide(wide, int(width))  # towards zero
    lower = pc.and_(pc.less(wide, 0), pc.not_equal(pc.multiply(down, int(width)), wide))
    floors = pc.multiply(pc.subtract(down, lower.cast(pa.int64())), int(width))
    least = pa.scalar(-(2 ** (values.type.bit_width - 1)) if pa.types.is_signed_integer(values.type) else 0)
    return pc.max_element_wise(floors, least.cast(pa.int64()), skip_nulls=False).cast(values.type)


def _moment(values: pa.Array, unit: str) -> pa.Array:
    if kind_of(values.type) == "date":
        return pc.floor_temporal(values.cast(pa.timestamp("s")), unit=unit).cast(values.type)
    naive = values.cast(pa.timestamp(values.type.unit))
    return pc.floor_temporal(naive, unit=unit).cast(values.type)


_COARSER: dict[str, Callable[[pa.Array, Any], pa.Array]] = {
    **dict.fromkeys(NUMBER, _floor),
    "string": lambda values, many: pc.utf8_slice_codeunits(values, 0, int(many)),
    "date": _moment,
    "timestamp": _moment,
}


def classed(table: pa.Table, name: str, privacy: str) -> pa.Table:
    """The table with the privacy class of one column set, or taken away by "none"."""
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != b"privacy"}
    if privacy != "none":
        metadata[b"privacy"] = privacy.encode()
    field = field.with_metadata(metadata) if metadata else field.remove_metadata()
    return table.set_column(place, field, table[name])
