"""Field and Schema: what a column was declared to hold. Nothing is guessed, so everything that is read is written down here.

    columns = { id = "int64", price = { type = "float64", range = [0, inf], unit = "EUR", on_error = "null" } }

The grammar of the types is in literals.py and timestamps.py, the cast of whole tables in intake.py.
"""

import dataclasses
import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import tensor, timestamps
from pipelines.errors import SpecError
from pipelines.formats import check_format
from pipelines.literals import ARROW, reader
from pipelines.names import did_you_mean
from pipelines.stage import ORIGIN

__all__ = ["Bound", "Field", "OnError", "Schema", "Type", "field"]

Type = Literal[
    "string", "bool", "int8", "int16", "int32", "int64", "float32", "float64", "date", "timestamp", "tensor"
]
TYPES = (*ARROW, "tensor")
OnError = Literal["quarantine", "null", "fail"]
Bound = int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Field:
    """One declared column. A value that does not fit is set aside with its row, made null, or ends the run: `on_error`.

    Raises: SpecError if the settings contradict each other.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    type: Type = "string"
    name: str | None = None  # in the file, where it is another: "CO(GT)"
    nullable: bool = True
    null: tuple[str, ...] | None = None  # texts read as missing; None: those of the source
    trim: bool = False  # take blanks (space, tab) off both ends before anything else
    format: str | None = None  # of a date or timestamp, as for strptime; None: ISO 8601
    zone: str = "UTC"  # IANA name of the zone that a timestamp without an offset is in
    range: tuple[Bound, Bound] | None = None  # both ends belong to it; None or inf: open; a date is ISO text
    values: tuple[str, ...] | None = None  # the only values, as text
    pattern: str | None = None  # RE2 expression that the whole text must match
    unit: str | None = None
    privacy: str | None = None  # its class; the values then stay out of messages
    on_error: OnError | None = None  # None: as the contract of the source says
    dtype: tensor.DType | None = None  # of a tensor: the type of its numbers
    shape: tuple[int, ...] | None = None  # of a tensor: [28, 28]; of one number: []
    scale: float | None = (
        None  # of a tensor: what a reader multiplies the stored numbers with, 1/255 for pixels
    )

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise SpecError(f"type {self.type!r} is not known{did_you_mean(str(self.type), TYPES)}")
        if self.on_error not in (None, *get_args(OnError)):
            raise SpecError(
                f"on_error {self.on_error!r} is not known{did_you_mean(str(self.on_error), get_args(OnError))}"
            )
        if self.on_error == "null" and not self.nullable:
            raise SpecError('on_error = "null" contradicts nullable = false; take "quarantine" or "fail"')
        self._check_tensor()
        if self.format is not None:
            if self.type not in {"date", "timestamp"}:
                raise SpecError(f"format is for a date or timestamp, and the type is {self.type}")
            check_format(self.format, date=self.type == "date")
        if self.zone != "UTC":
            if self.type != "timestamp":
                raise SpecError(f"zone is for a timestamp, and the type is {self.type}")
            timestamps.check_zone(self.zone)
        if self.pattern is not None:
            self._check_pattern(self.pattern)
        if self.values is not None:
            self._constants(self.values, "values")
        self._check_range()

    @property
    def arrow(self) -> pa.DataType:
        """Type of the Arrow column."""
        if self.type == "tensor":
            return tensor.arrow_type(self.dtype or "", self.shape or ())
        return ARROW[self.type]

    @property
    def title(self) -> str:
        """The type in words.

        >>> Field(type="tensor", dtype="uint8", shape=(28, 28)).title
        'tensor uint8 [28, 28]'
        """
        return f"tensor {self.dtype} {list(self.shape or ())}" if self.type == "tensor" else self.type

    def allowed(self) -> pa.Array | None:
        """`values` as this type; None if all are allowed."""
        return None if self.values is None else self._constants(self.values, "values")

    def bounds(self) -> tuple[pa.Scalar | None, pa.Scalar | None]:
        """The ends of `range` as this type, None where open; of an integer, fractions are rounded inwards."""
        lower, upper = self.range or (None, None)
        return self._bound(lower, math.ceil), self._bound(upper, math.floor)

    def _bound(self, bound: Bound, inwards: Any) -> pa.Scalar | None:
        if bound is None or bound in {math.inf, -math.inf}:
            return None
        if isinstance(bound, str):
            return self._constants((bound,), "range")[0]
        if pa.types.is_integer(self.arrow):
            return pa.scalar(inwards(bound), pa.int64())
        return pa.scalar(float(bound), pa.float64())

    def _constants(self, texts: tuple[str, ...], what: str) -> pa.Array:
        found, bad = reader(self.type, pattern=None, zone=self.zone)(pa.array(texts, pa.string()))
        if len(bad):
            raise SpecError(f"{what}: {texts[bad[0]]!r} is no {self.type}")
        return found

    def _check_tensor(self) -> None:
        given = {"dtype": self.dtype, "shape": self.shape, "scale": self.scale}
        if self.type != "tensor":
            for key, value in given.items():
                if value is not None:
                    raise SpecError(f"{key} is for a tensor, and the type is {self.type}")
            return
        if self.dtype not in tensor.DTYPES or self.shape is None:
            raise SpecError(
                f'a tensor needs dtype and shape, such as dtype = "uint8", shape = [28, 28]; here {self.dtype!r}, {self.shape!r}; '
                f"known: {', '.join(tensor.DTYPES)}"
            )
        if not all(0 < length <= tensor.MOST_BYTES for length in self.shape) or not (
            tensor.size(self.dtype, self.shape) <= tensor.MOST_BYTES
        ):
            raise SpecError(
                f"shape {list(self.shape)}: expected lengths from 1, and at most {tensor.MOST_BYTES:,} bytes for one value"
            )
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale):
            raise SpecError(f"scale = {self.scale!r}: expected a number other than 0")
        for key in ("trim", "null", "values"):
            if getattr(self, key):
                raise SpecError(f"{key} has no effect on a tensor; leave it out")

    def _check_pattern(self, pattern: str) -> None:
        if self.type != "string":
            raise SpecError(f"pattern is for a string, and the type is {self.type}")
        try:
            pc.match_substring_regex(pa.array([""]), f"^(?:{pattern})$")
        except pa.ArrowInvalid as error:
            raise SpecError(f"pattern {pattern!r} is no RE2 expression: {error}") from error

    def _check_range(self) -> None:
        if self.range is None:
            return
        moment = self.type in {"date", "timestamp"}
        if self.type in {"string", "bool", "tensor"} or len(self.range) != 2:
            raise SpecError(
                f"range is [lowest, highest] of a number, date or timestamp; here {self.range!r} of a {self.type}"
            )
        for bound in self.range:
            if bound is not None and isinstance(bound, str) != moment and bound not in {math.inf, -math.inf}:
                raise SpecError(
                    f"range of a {self.type}: {bound!r} is not {'ISO text' if moment else 'a number'}"
                )
            if isinstance(bound, float) and math.isnan(bound):
                raise SpecError("range: nan is no bound; leave it out or write inf")
            if (
                isinstance(bound, int | float)
                and math.isfinite(bound)
                and abs(bound) >= 2**63
                and "int" in self.type
            ):
                raise SpecError(f"range: {bound!r} is beyond int64; write inf")
        lower, upper = self.bounds()
        if lower is not None and upper is not None and pc.greater(lower, upper).as_py():
            raise SpecError(f"range {list(self.range)!r} is empty: the first must not be above the second")


@dataclass(frozen=True)
class Schema:
    """Declared columns in their order."""

    fields: Mapping[str, Field]

    def arrow(self) -> pa.Schema:
        """Arrow columns; unit and privacy class are in the metadata of the fields."""
        return pa.schema([_arrow_field(name, one) for name, one in self.fields.items()])

    def with_origin(self) -> pa.Schema:
        """The columns as they travel: with those of the origin behind them."""
        return pa.schema([*self.arrow(), *ORIGIN])


def field(value: Any) -> Field:
    """A Field from what a pipeline file says: a type, or a table of settings.

    Raises: SpecError for an unknown setting or a value of the wrong type.

    >>> field("int32").type, field({"type": "float64", "range": [0, 1]}).range
    ('int32', (0, 1))
    """
    if isinstance(value, Field):
        return value
    if isinstance(value, str):
        return Field(type=value)  # type: ignore[arg-type] # checked by Field
    if not isinstance(value, Mapping):
        raise SpecError(
            f'{value!r} is no column; write a type, "int64", or a table, {{ type = "int64", nullable = false }}'
        )
    settings = {one.name: one for one in dataclasses.fields(Field)}
    given = {}
    for key, setting in value.items():
        if key not in settings:
            raise SpecError(f"unknown key {key!r}{did_you_mean(str(key), settings)}")
        given[key] = _checked(key, setting)
    return Field(**given)


def _checked(key: str, value: Any) -> Any:
    if key in {"nullable", "trim"}:
        return _of(key, value, bool, "true or false")
    if key in {"null", "values"}:
        items = _of(key, value, list | tuple, "a list of texts")
        return tuple(_of(key, item, str, "a list of texts") for item in items)
    if key == "shape":
        lengths = _of(key, value, list | tuple, "a list of lengths, [28, 28]")
        if any(isinstance(length, bool) or not isinstance(length, int) for length in lengths):
            raise SpecError(f"shape = {value!r}: expected a list of lengths, [28, 28]")
        return tuple(lengths)
    if key == "scale":
        if isinstance(value, bool):
            raise SpecError(f"scale = {value!r}: expected a number")
        return float(_of(key, value, int | float, "a number"))
    if key == "range":
        ends = _of(key, value, list | tuple, "[lowest, highest]")
        return tuple(_end(end) for end in ends)
    return _of(key, value, str, "a text")


def _end(value: Any) -> Bound:
    if isinstance(value, dt.date):  # TOML writes dates and times without quotes
        return value.isoformat()
    if value is None or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    raise SpecError(f"range: {value!r} is neither a number nor a date")


def _of(key: str, value: Any, kind: Any, expected: str) -> Any:
    if not isinstance(value, kind):
        raise SpecError(f"{key} = {value!r}: expected {expected}")
    return value


def _arrow_field(name: str, one: Field) -> pa.Field:
    said = {key: text for key, text in (("unit", one.unit), ("privacy", one.privacy)) if text is not None}
    if one.type == "tensor":
        said |= tensor.metadata(one.dtype or "", one.shape or (), one.scale)
    return pa.field(name, one.arrow, one.nullable, said or None)
