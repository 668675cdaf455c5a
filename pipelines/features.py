"""From a table to what a model reads: one vector, tensor or sequence of tokens per row, and its label.

Whatever is learned from data (scales, categories, vocabularies) is learned from the training rows only, and is stored
with the table and in the model as a recipe, so that scoring later does the same by the same code (`encode`). A row's
`x` is one fixed-size binary value (row-major) whose field says dtype, shape and the name of every number; a list column
would cost 3-20 times more to read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import categories, encoders
from pipelines.errors import InputError, SpecError
from pipelines.fields import NUMBER, kind_of, require, shown
from pipelines.names import did_you_mean
from pipelines.recipes import described
from pipelines.sketch import Moments, Several, Values
from pipelines.split import TEST, TRAIN, VALIDATION
from pipelines.stage import SPLIT, Fit, Rows, Sketch, Stage, data_columns, reject
from pipelines.tensors import Form, Inputs, Tensor, numbers_of, scaled
from pipelines.tokens import Tokens, sequences

__all__ = ["ENCODERS", "SPLIT", "TEST", "TRAIN", "VALIDATION", "Features", "Inputs", "encode"]

X, Y = "x", "y"
ENCODERS: dict[str, Any] = {
    **encoders.ENCODERS,
    **categories.ENCODERS,
    "tensor": Tensor,
    "tokens": Tokens,
}
_APPLY = {**encoders.APPLY, **categories.APPLY}


@dataclass(frozen=True, kw_only=True)
class Features:
    """One input `x` and one label `y` per row, beside the key columns and the split.

    `columns` says how each column becomes numbers: { price = "robust", city = { encode = "target" } }. Those in
    `numeric` are standard (plain with scale = false), those in `categorical` one_hot. tokens, and a tensor that is the
    only column, keep their shape; all others stand side by side in one vector. The label is a class (text, bool or
    integer) or a value. A column with a privacy class may only be used if `allow_private` names it.
    """

    do: ClassVar[str] = "features"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    label: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    columns: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()  # columns that stay beside x and y: for slices and baselines of a model
    task: Literal["classes", "regression"] | None = None  # None: a float label is a value, any other a class
    min_count: int = 10
    scale: bool = True
    allow_private: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.encoders()

    def encoders(self) -> list[tuple[str, Any]]:
        """Every input column and its encoder, in the order of the vector.

        Raises: SpecError for a setting that is not one.
        """
        made: list[tuple[str, Any]] = []
        numeric = encoders.Scaler() if self.scale else encoders.Plain()
        made += [(name, numeric) for name in self.numeric]
        made += [(name, categories.OneHot(min_count=self.min_count)) for name in self.categorical]
        made += [(name, _encoder(name, value)) for name, value in self.columns.items()]
        return made

    def build(self, schema: pa.Schema) -> pa.Schema:
        """Key columns, `split`, `x`, `y`. What `x` holds is known when it is fitted."""
        inputs = self.encoders()
        names = [name for name, _ in inputs]
        known = data_columns(schema)
        for name in (self.label, *names, *self.key, *self.keep, *self.allow_private):
            if name not in known:
                raise SpecError(f"features: no column {name!r}{did_you_mean(name, known)}")
        if SPLIT not in known:
            raise SpecError("features: no column 'split'; add the step { do = \"split\", ... } before it")
        if not inputs:
            raise SpecError("features: name at least one numeric or categorical column, or one in columns")
        if self.label in names:
            raise SpecError(
                f"features: the label {self.label!r} is also a feature; a model would only repeat it"
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SpecError(f"features: {twice} are there twice; name each once")
        for name, encoder in inputs:
            self._fits(schema.field(name), encoder, alone=len(inputs) == 1)
        if any(isinstance(encoder, categories.Target) for _, encoder in inputs):
            self._target_fits(schema)
        if {X, Y} & {*self.key, *self.keep}:
            raise SpecError("features: x and y are the inputs and the label; rename that column before")
        return pa.schema(
            [
                *(schema.field(name) for name in self.kept(schema)),
                pa.field(X, pa.binary(), nullable=False),
                pa.field(Y, self._label_type(schema), nullable=False),
            ]
        )

    def _fits(self, column: pa.Field, encoder: Any, *, alone: bool) -> None:
        found = "tensor" if Form.of(column) is not None else kind_of(column.type)
        if found not in encoder.kinds:
            raise SpecError(
                f"features: column {column.name!r} is {column.type}, {encoder.encode} takes {' or '.join(encoder.kinds)}; "
                "choose another encoder, or derive such a column"
            )
        parts = {"hour", "minute"} & set(getattr(encoder, "parts", ()))
        if parts and found == "date":
            raise SpecError(f"features: column {column.name!r} is a date, it has no {min(parts)}")
        if isinstance(encoder, Tokens) and not alone:
            raise SpecError(
                f"features: column {column.name!r} becomes tokens, whole numbers; it must be the only column of x"
            )
        privacy = (column.metadata or {}).get(b"privacy")
        if privacy is not None and column.name not in self.allow_private:
            raise SpecError(
                f"features: column {column.name!r} has privacy class {privacy.decode()!r} and may not become a feature; "
                f"drop it, generalise it first, or allow it by name: allow_private = [{column.name!r}]"
            )

    def _target_fits(self, schema: pa.Schema) -> None:
        if kind_of(schema.field(self.label).type) not in {*NUMBER, "bool"}:
            raise SpecError(
                f"features: target encoding needs a label that is a number or true and false, {self.label!r} is "
                f"{schema.field(self.label).type}"
            )
        if not self.key:
            raise SpecError(
                "features: target encoding needs key = [...], the columns that say what a row is: its folds follow from it"
            )

    def kept(self, schema: pa.Schema) -> list[str]:
        """The columns beside `x` and `y`."""
        names = {*self.key, *self.keep, SPLIT}
        return [name for name in schema.names if name in names or name.startswith("_")]

    def stage(self, schema: pa.Schema) -> Stage:
        """A Fit on the training rows.

        Raises: SpecError for columns that are not there.
        """
        read = [*dict.fromkeys(name for name, _ in self.encoders()), self.label]
        require(schema, read, step="features")
        sketches: dict[str, Sketch] = {"rows": Moments(self.label)}
        for name, encoder in self.encoders():
            if isinstance(encoder, categories.Target):
                sketches[f"input {name}"] = encoder.sums(name, self.label, self.key)
            elif (sketch := encoder.sketch(name)) is not None:
                sketches[f"input {name}"] = sketch
        classes = self._is_class(schema)
        if classes or kind_of(schema.field(self.label).type) not in {*NUMBER, "bool", "date", "timestamp"}:
            sketches["rows"] = Values(self.label, limit=10_000)
        columns = tuple(dict.fromkeys([*(name for name, _ in self.encoders()), self.label, SPLIT, *self.key]))
        params = {"settings": self}
        made = OfTraining(Several(sketches), self, classes, described(schema, read))
        return Fit("features", made, vectors, columns, params)

    def _is_class(self, schema: pa.Schema) -> bool:
        if self.task is not None:
            return self.task == "classes"
        return not pa.types.is_floating(schema.field(self.label).type)

    def _label_type(self, schema: pa.Schema) -> pa.DataType:
        return pa.int32() if self._is_class(schema) else pa.float32()


def _encoder(column: str, value: str | Mapping[str, Any]) -> Any:
    settings = {"encode": value} if isinstance(value, str) else dict(value)
    where = f"features: column {column!r}"
    encode_ = settings.get("encode")
    if encode_ not in ENCODERS:
        raise SpecError(f"{where}: there is no encoder {encode_!r}{did_you_mean(str(encode_), ENCODERS)}")
    kind = ENCODERS[encode_]
    known = [one.name for one in fields(kind)]
    if unknown := sorted(set(settings) - set(known)):
        raise SpecError(f"{where}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - workers need the recipes, not pydantic

    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        cause = found.get("ctx", {}).get("error")
        said = str(cause) if isinstance(cause, SpecError) else f"{found['loc'][-1]}: {found['msg']}"
        raise SpecError(f"{where}: {said}") from None


@dataclass(frozen=True)
class OfTraining:
    """A sketch of the training rows alone; what it fits becomes the recipe of the inputs and labels."""

    inner: Several
    settings: Features
    classes: bool
    columns: Mapping[str, Any]  # types of the inputs and of the label

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
        if not fitted["rows"]["rows"]:
            raise InputError(
                "features: there are no training rows; look at the split and the steps before it"
            )
        inputs = [
            encoder.recipe(name, fitted.get(f"input {name}")) for name, encoder in self.settings.encoders()
        ]
        known = {"label": self.settings.label, "key": list(self.settings.key), "columns": dict(self.columns)}
        return {"inputs": inputs, **known, "classes": self._classes(fitted["rows"])}

    def _classes(self, fitted: Mapping[str, Any]) -> list[Any] | None:
        if not self.classes:
            return None
        if fitted["values"] is None:
            raise InputError(
                f'features: label {self.settings.label!r} has more than 10,000 classes; is it a value? then set task = "regression"'
            )
        return sorted(value for value, _ in fitted["values"])


def encode(table: pa.Table, recipe: Mapping[str, Any]) -> Inputs:
    """The inputs of a model from rows with the columns that the recipe names: in training and in scoring.

    Rows without a tensor that the recipe needs have zeros in its place: set them aside before.
    """
    inputs = recipe["inputs"]
    if len(inputs) == 1 and inputs[0]["encode"] == "tokens":
        return Inputs(sequences(table, inputs[0]), None)
    if len(inputs) == 1 and inputs[0]["encode"] == "tensor":
        return _tensor(table, inputs[0])
    columns: list[np.ndarray] = []
    names: list[str] = []
    for one in inputs:
        made, called = (
            _side_by_side(table, one) if one["encode"] == "tensor" else _APPLY[one["encode"]](table, one)
        )
        columns.append(made)
        names += called
    single = len(columns) == 1 and columns[0].dtype == np.float32  # one column, nothing to put side by side
    matrix = columns[0] if single else np.concatenate(columns, axis=1, dtype=np.float32)
    if not matrix.shape[1]:
        raise InputError(
            "features: no number is left: no category is frequent enough; make min_count smaller, or add columns"
        )
    return Inputs(np.ascontiguousarray(matrix, "<f4"), tuple(names))


def _tensor(table: pa.Table, recipe: Mapping[str, Any]) -> Inputs:
    """A tensor alone: as it is stored, beside the scale that its reader applies, or standardised."""
    if "means" in recipe:
        return Inputs(scaled(table, recipe), None)
    form = Form.of(table.schema.field(recipe["column"]))
    values, _ = numbers_of(table, recipe["column"])
    scale = recipe["scale"] or (None if form is None else form.scale)
    return Inputs(values, None, scale)


def _side_by_side(table: pa.Table, recipe: Mapping[str, Any]) -> encoders.Encoded:
    values = scaled(table, recipe).reshape(table.num_rows, -1) if table.num_rows else None
    if values is None:
        values = np.zeros((0, int(np.prod(numbers_of(table, recipe["column"])[0].shape[1:]))))
    return values, [f"{recipe['column']} {place}" for place in range(values.shape[1])]


def vectors(table: pa.Table, *, settings: Features, fitted: Mapping[str, Any]) -> Rows:
    """The inputs and labels of one part; a row without a usable label or tensor is set aside."""
    rejected = []
    for why, bad in _unusable(table, settings, fitted):
        aside = reject(table, bad(table), rule=why[0], column=why[1], message=why[2])
        table = aside.kept
        rejected += [] if aside.rejected is None else [aside.rejected]
    label = table[settings.label]
    if fitted["classes"] is not None:
        y = pc.index_in(label, value_set=pa.array(fitted["classes"]).cast(label.type)).cast(pa.int32())
    else:
        y = label.cast(pa.float32())
    inputs = encode(table, fitted)
    made = table.select(settings.kept(table.schema)).append_column(inputs.field, inputs.column())
    return Rows(
        made.append_column(pa.field(Y, y.type, nullable=False), y),
        pa.concat_tables(rejected) if rejected else None,
    )


def _unusable(table: pa.Table, settings: Features, fitted: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Why a row cannot be used, and which are so: one after the other."""
    name = settings.label
    yield ("label", name, f"label {name!r} is missing"), lambda rows: rows[name].is_null()
    if fitted["classes"] is not None:
        known = pa.array(fitted["classes"]).cast(table[name].type)
        yield (
            (
                "label",
                name,
                lambda row: (
                    f"label {shown(table.schema, name, row[name])} is not among those of the training rows"
                ),
            ),
            lambda rows: pc.index_in(rows[name], value_set=known).is_null(),
        )
    for one in fitted["inputs"]:
        if one["encode"] == "tensor":
            column = one["column"]
            yield (
                ("tensor", column, f"column {column!r} is missing"),
                lambda rows, column=column: rows[column].is_null(),
            )
