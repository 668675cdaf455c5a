"""From a table to what a model reads: the split into training, validation and test rows, and one vector per row.

Whatever is learned from data (scales, categories) is learned from the training rows only, and is stored with the
table, so that scoring later does the same. A row's vector is one fixed-size binary value (float32, row-major) whose
field says dtype, shape and the name of every number; a list column would cost 3-20 times more to read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.expression import Expression
from pipelines.hashing import row_hash, unit_interval
from pipelines.names import did_you_mean
from pipelines.sketch import Moments, Several, Values, plain
from pipelines.stage import SPLIT, Fit, Map, Rows, Sketch, Stage, reject

__all__ = ["SPLIT", "TEST", "TRAIN", "VALIDATION", "Features", "Split"]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
X, Y = "x", "y"
MOST_CATEGORIES = 1_000  # of one column: beyond, the rest share no number of their own
CLIP = 8.0  # standard deviations: a wild value in new data must not outshout all others


@dataclass(frozen=True, kw_only=True)
class Split:
    """Adds the column `split`: train, validation or test.

    With `by`, a row's place follows from the hash of its key columns: rows of one key are never apart, and a row
    keeps its place when others come. Then `test` and `validation` are shares. Without `by` they are expressions:
    "month >= 11"; a row that satisfies both is a test row.
    """

    do: ClassVar[str] = "split"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: tuple[str, ...] = ()
    test: float | str = 0.0
    validation: float | str = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = (float, int) if self.by else (str, float, int)
        for name in (TEST, VALIDATION):
            value = getattr(self, name)
            if not isinstance(value, wanted) or (not isinstance(value, str) and not 0 <= value < 1):
                raise SpecError(
                    f"split: {name} = {value!r}: expected a share from 0 to 1 with by = [...], or an expression without it"
                )
        if self.by and float(self.test) + float(self.validation) >= 1:
            raise SpecError("split: test and validation leave no rows to train on; make them smaller")
        if not self.by and not isinstance(self.test, str) and not isinstance(self.validation, str):
            raise SpecError(
                'split: say by which key (by = ["customer_id"], test = 0.2) or by which condition (test = "month >= 11")'
            )

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns and `split`."""
        for name in self.by:
            if name not in schema.names:
                raise SpecError(f"split: no column {name!r}{did_you_mean(name, schema.names)}")
        if SPLIT in schema.names:
            raise SpecError(f"split: there is a column {SPLIT!r} already; rename it first")
        for text in (self.test, self.validation):
            if isinstance(text, str) and not pa.types.is_boolean(found := Expression(text).type(schema)):
                raise SpecError(f"split: {text!r} is {found}, expected a condition such as month >= 11")
        return schema.append(pa.field(SPLIT, pa.string(), nullable=False))

    def stage(self, schema: pa.Schema) -> Stage:
        """A Map."""
        del schema
        return Map("split", split, {"settings": self})


def split(table: pa.Table, *, settings: Split) -> Rows:
    """Every row with its part in training."""
    if settings.by:
        place = unit_interval(row_hash(table, settings.by, seed=settings.seed))
        test = place < float(settings.test)
        validation = ~test & (place < float(settings.test) + float(settings.validation))
    else:
        test, validation = (_holds(table, text) for text in (settings.test, settings.validation))
    parts = np.select([test, validation], [2, 1], 0)
    column = pa.DictionaryArray.from_arrays(
        pa.array(parts, pa.int32()), pa.array([TRAIN, VALIDATION, TEST])
    ).cast(pa.string())
    counts = dict(zip((TRAIN, VALIDATION, TEST), np.bincount(parts, minlength=3).tolist(), strict=True))
    return Rows(table.append_column(pa.field(SPLIT, pa.string(), nullable=False), column), notes=counts)


def _holds(table: pa.Table, text: float | str) -> np.ndarray:
    if not isinstance(text, str):
        return np.zeros(table.num_rows, bool)
    found = pc.fill_null(Expression(text).evaluate(table), fill_value=False)
    return found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()


@dataclass(frozen=True, kw_only=True)
class Features:
    """One vector `x` and one label `y` per row, beside the key columns and the split.

    A numeric column becomes (value - mean) / deviation of the training rows, a missing value 0 with a second number
    that says so. A categorical column becomes one number per category that the training rows have at least
    `min_count` times; any other category is all zeros. The label is a class (text, bool or integer) or a value.
    """

    do: ClassVar[str] = "features"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    label: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    task: Literal["classes", "regression"] | None = None  # None: a float label is a value, any other a class
    min_count: int = 10
    scale: bool = True

    def build(self, schema: pa.Schema) -> pa.Schema:
        """Key columns, `split`, `x`, `y`. What `x` holds is known when it is fitted."""
        wanted = [self.label, *self.numeric, *self.categorical, *self.key]
        for name in wanted:
            if name not in schema.names:
                raise SpecError(f"features: no column {name!r}{did_you_mean(name, schema.names)}")
        if SPLIT not in schema.names:
            raise SpecError("features: no column 'split'; add the step { do = \"split\", ... } before it")
        if not self.numeric and not self.categorical:
            raise SpecError("features: name at least one numeric or categorical column")
        if self.label in {*self.numeric, *self.categorical}:
            raise SpecError(
                f"features: the label {self.label!r} is also a feature; a model would only repeat it"
            )
        if twice := sorted({name for name in wanted if [*self.numeric, *self.categorical].count(name) > 1}):
            raise SpecError(f"features: {twice} are there twice; name each once")
        for name in self.numeric:
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                raise SpecError(
                    f"features: numeric column {name!r} is {kind}, expected numbers; make it categorical, or derive a number"
                )
        for name in (*self.numeric, *self.categorical):
            privacy = (schema.field(name).metadata or {}).get(b"privacy")
            if privacy is not None:
                raise SpecError(
                    f"features: column {name!r} has privacy class {privacy.decode()!r} and may not become a feature; drop it, or generalise it first"
                )
        kept = [
            schema.field(name) for name in schema.names if name in {*self.key, SPLIT} or name.startswith("_")
        ]
        return pa.schema(
            [
                *kept,
                pa.field(X, pa.binary(), nullable=False),
                pa.field(Y, self._label_type(schema), nullable=False),
            ]
        )

    def stage(self, schema: pa.Schema) -> Stage:
        """A Fit on the training rows."""
        sketches: dict[str, Sketch] = {f"numeric {name}": Moments(name, spread=True) for name in self.numeric}
        sketches |= {f"categorical {name}": Values(name, limit=100_000) for name in self.categorical}
        if self._is_class(schema):
            sketches["label"] = Values(self.label, limit=10_000)
        columns = tuple(dict.fromkeys([*self.numeric, *self.categorical, self.label, SPLIT]))
        params = {"settings": self, "classes": self._is_class(schema)}
        return Fit("features", OfTraining(Several(sketches), self), vectors, columns, params)

    def _is_class(self, schema: pa.Schema) -> bool:
        if self.task is not None:
            return self.task == "classes"
        return not pa.types.is_floating(schema.field(self.label).type)

    def _label_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.int32() if self._is_class(schema) else pa.float32()


@dataclass(frozen=True)
class OfTraining:
    """A sketch of the training rows alone; what it fits becomes the recipe of the vectors."""

    inner: Several
    settings: Features

    def sketch(self, table: pa.Table, request: Any) -> Any:
        """The state of the training rows of one part."""
        return self.inner.sketch(table.filter(pc.equal(table[SPLIT], TRAIN)), request)

    def merge(self, left: Any, right: Any) -> Any:
        """The state of both parts."""
        return self.inner.merge(left, right)

    def finish(self, state: Any, request: Any) -> tuple[bool, Any]:
        """The recipe.

        Raises: InputError if there are no training rows.
        """
        done, answer = self.inner.finish(state, request)
        return (True, self._recipe(answer)) if done else (False, answer)

    def _recipe(self, fitted: Mapping[str, Any]) -> dict[str, Any]:
        settings = self.settings
        first = next(iter(fitted.values()))
        if not first["rows"]:
            raise InputError(
                "features: there are no training rows; look at the split and the steps before it"
            )
        recipe: dict[str, Any] = {"numeric": [], "categorical": [], "labels": None}
        for name in settings.numeric:
            numbers = fitted[f"numeric {name}"]
            if not numbers["count"]:
                raise InputError(
                    f"features: column {name!r} has no value in the training rows; take it out of numeric, or fill it first"
                )
            deviation = numbers["std"] or 1.0  # one value only: it says nothing, and becomes 0
            recipe["numeric"].append(
                {
                    "column": name,
                    "mean": numbers["mean"],
                    "std": deviation if settings.scale else 1.0,
                    "missing": numbers["nulls"] > 0,
                }
            )
        for name in settings.categorical:
            values = fitted[f"categorical {name}"]["values"]
            if values is None:
                raise InputError(
                    f"features: column {name!r} has more than 100,000 categories; generalise it first"
                )
            often = [value for value, count in values if count >= settings.min_count][:MOST_CATEGORIES]
            recipe["categorical"].append(
                {"column": name, "values": sorted(often, key=lambda value: (str(type(value)), value))}
            )
        if "label" in fitted:
            values = fitted["label"]["values"]
            if values is None:
                raise InputError(
                    f'features: label {settings.label!r} has more than 10,000 classes; is it a value? then set task = "regression"'
                )
            recipe["labels"] = sorted(value for value, _ in values)
        return recipe


def vectors(table: pa.Table, *, settings: Features, classes: bool, fitted: Mapping[str, Any]) -> Rows:
    """The vectors and labels of one part; a row without a usable label is set aside."""
    label = table[settings.label]
    aside = reject(
        table,
        label.is_null(),
        rule="label",
        column=settings.label,
        message=f"label {settings.label!r} is missing",
    )
    table, rejected = aside.kept, aside.rejected
    if classes:
        known = pa.array(fitted["labels"]).cast(table[settings.label].type)
        place = pc.index_in(table[settings.label], value_set=known)
        strange = reject(
            table,
            place.is_null(),
            rule="label",
            column=settings.label,
            message=lambda row: f"label {row[settings.label]!r} is not among those of the training rows",
        )
        place, table = place.drop_null(), strange.kept
        y = place.cast(pa.int32())
        both = [one for one in (rejected, strange.rejected) if one is not None]
        rejected = pa.concat_tables(both) if both else None
    else:
        y = table[settings.label].cast(pa.float32())
    columns, names = [], []
    for one in fitted["numeric"]:
        columns.extend(_numeric(table[one["column"]], one))
        names.extend([one["column"], f"{one['column']} is missing"] if one["missing"] else [one["column"]])
    for one in fitted["categorical"]:
        columns.append(_one_hot(table[one["column"]], one["values"]))
        names.extend(f"{one['column']} = {plain(value)}" for value in one["values"])
    matrix = np.concatenate(
        [column if column.ndim == 2 else column[:, None] for column in columns], axis=1
    ).astype("<f4")
    width = matrix.shape[1]
    metadata = {"dtype": "float32", "shape": json.dumps([width]), "names": json.dumps(names)}
    buffer = pa.py_buffer(np.ascontiguousarray(matrix))
    x = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * width), table.num_rows, [None, buffer])
    kept = [name for name in table.schema.names if name in {*settings.key, SPLIT} or name.startswith("_")]
    made = table.select(kept).append_column(pa.field(X, x.type, nullable=False, metadata=metadata), x)
    return Rows(made.append_column(pa.field(Y, y.type, nullable=False), y), rejected)


def _numeric(column: pa.ChunkedArray, one: Mapping[str, Any]) -> list[np.ndarray]:
    missing = column.is_null().to_numpy()
    values = pc.fill_null(column.cast(pa.float64()), one["mean"]).to_numpy()
    scaled = np.clip((values - one["mean"]) / one["std"], -CLIP, CLIP)
    return [scaled, missing.astype(np.float64)] if one["missing"] else [scaled]


def _one_hot(column: pa.ChunkedArray, values: list[Any]) -> np.ndarray:
    matrix = np.zeros((len(column), len(values)))
    if values:
        known = pa.array(values).cast(column.type)
        place = pc.fill_null(pc.index_in(column, value_set=known), -1).to_numpy()
        rows = np.flatnonzero(place >= 0)
        matrix[rows, place[rows]] = 1.0
    return matrix
