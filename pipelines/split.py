"""Which rows train a model, which validate it, which test it: stable, reproducible, and never torn.

by a key       hash(key) -> [0, 1)         | test | validation | train ...          a row keeps its place for ever
stratified     the same, cut at the exact quantiles of each stratum                 equal shares of every class
by conditions  "month >= 11"                                                        by time, by region
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.expression import expression
from pipelines.fields import ORDERED, combined, kind_of, numpy_of, refuse_private, require
from pipelines.hashing import row_hash, unit_interval
from pipelines.ranks import GroupedQuantiles
from pipelines.sketch import group_labels
from pipelines.stage import SPLIT, Fit, Map, Rows, Sketch, Stage, data_columns
from pipelines.warehouse.by_group import ByGroup

__all__ = ["TEST", "TRAIN", "VALIDATION", "OfTraining", "Split", "split", "trained"]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_ANY = ("string", "bool", *ORDERED)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Adds the column `split`: train, validation or test.

    With shares (test = 0.2) a row's place follows from the hash of its key `by`: rows of one key (of one group) are never
    apart, and a row keeps its place when others come. With `stratify` every stratum is cut at exactly these shares; a
    row near a border may then move when others come; the labels of the strata are stored, so a private column has to be
    named in `allow_private`. With conditions (test = "month >= 11") a row that satisfies both
    is a test row.

    With conditions and with `stratify` rows of one key could come apart. That is an error: the table is checked for it,
    so its key columns have to be there at the end (features: key = [...]).
    """

    do: ClassVar[str] = "split"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: tuple[str, ...] = ()
    test: float | str = 0.0
    validation: float | str = 0.0
    stratify: tuple[str, ...] = ()
    seed: int = 0
    allow_private: tuple[str, ...] = ()  # of `stratify`

    def __post_init__(self) -> None:
        shares = [value for value in (self.test, self.validation) if not isinstance(value, str)]
        conditions = len(shares) < 2
        for name in (TEST, VALIDATION):
            value = getattr(self, name)
            if not isinstance(value, str) and (not 0 <= value < 1 or (conditions and value)):
                raise SpecError(
                    f"split: {name} = {value!r}: expected shares from 0 to 1 with by = [...], or conditions for both"
                )
        if conditions:
            if self.stratify:
                raise SpecError("split: stratify is for shares; leave it out, or give test = 0.2")
            return
        if sum(shares) >= 1:
            raise SpecError("split: test and validation leave no rows to train on; make them smaller")
        if not self.by:
            raise SpecError(
                'split: say by which key (by = ["customer_id"], test = 0.2) or by which condition (test = "month >= 11")'
            )

    @property
    def apart(self) -> tuple[str, ...]:
        """The key whose rows could come apart, so that it has to be checked."""
        return (
            self.by if self.stratify or isinstance(self.test, str) or isinstance(self.validation, str) else ()
        )

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns and `split`."""
        self.stage(schema)
        return schema.append(pa.field(SPLIT, pa.string(), nullable=False))

    def stage(self, schema: pa.Schema) -> Stage:
        """A Map; with strata a Fit of the borders."""
        require(schema, self.by, step=self.do, kinds=_ANY)
        require(schema, self.stratify, step=self.do, kinds=_ANY)
        if SPLIT in data_columns(schema):
            raise SpecError(f"split: there is a column {SPLIT!r} already; rename it first")
        for text in (self.test, self.validation):
            if isinstance(text, str) and kind_of(found := expression(text).type(schema)) != "bool":
                raise SpecError(f"split: {text!r} is {found}, expected a condition such as month >= 11")
        if not self.stratify:
            texts = [text for text in (self.test, self.validation) if isinstance(text, str)]
            read = {*self.by, *(name for text in texts for name in expression(text).columns)}
            return Map("split", split, {"settings": self}, tuple(sorted(read)), (SPLIT,))
        refuse_private(schema, self.stratify, step=self.do, allowed=self.allow_private)
        columns = tuple(dict.fromkeys((*self.by, *self.stratify)))
        return Fit("split", Borders(self), split, columns, {"settings": self})


@dataclass(frozen=True)
class OfTraining:
    """A sketch of the training rows alone."""

    inner: Sketch

    def sketch(self, table: pa.Table, request: Any) -> Any:
        """The state of the training rows of one part."""
        return self.inner.sketch(table.filter(pc.equal(table[SPLIT], TRAIN)), request)

    def merge(self, left: Any, right: Any) -> Any:
        """The state of both parts."""
        return self.inner.merge(left, right)

    def finish(self, state: Any, request: Any) -> tuple[bool, Any]:
        """As it is."""
        return self.inner.finish(state, request)


def trained(fit: Fit, schema: pa.Schema, *, step: str) -> Fit:
    """The same, fitted on the training rows alone.

    Raises: SpecError if the rows are not split yet.
    """
    if SPLIT not in data_columns(schema):
        raise SpecError(
            f'{step}: fit_on = "train" needs the column {SPLIT!r}; put the step split before this one'
        )
    return replace(fit, sketch=OfTraining(fit.sketch), columns=(*fit.columns, SPLIT))


@dataclass(frozen=True)
class Borders:
    """The places that cut each stratum at the shares, exactly. Fitted: by label, the end of test and of validation."""

    settings: Split

    @property
    def _shares(self) -> tuple[float, ...]:
        shares = (float(self.settings.test), float(self.settings.test) + float(self.settings.validation))
        return tuple(dict.fromkeys(shares))

    @property
    def _grouped(self) -> GroupedQuantiles:
        return GroupedQuantiles(("_stratum",), "_place", self._shares)

    def sketch(self, table: pa.Table, request: Any) -> Any:
        """Counts of the places in each stratum."""
        places = pa.table(
            {"_place": _places(table, self.settings), "_stratum": _strata(table, self.settings)}
        )
        return self._grouped.sketch(places, request)

    def merge(self, left: Any, right: Any) -> Any:
        """The counts of both."""
        return self._grouped.merge(left, right)

    def finish(self, state: Any, request: Any) -> tuple[bool, Any]:
        """The borders."""
        done, answer = self._grouped.finish(state, request)
        if not done:
            return False, answer
        ends = (float(self.settings.test), float(self.settings.test) + float(self.settings.validation))
        labels, *found = map(combined, answer.table.columns)
        columns = [found[self._shares.index(end)] if end else np.zeros(len(labels)) for end in ends]
        return True, ByGroup.of(labels, *columns)


def _places(table: pa.Table, settings: Split) -> np.ndarray:
    return unit_interval(row_hash(table, settings.by, seed=settings.seed))


def _strata(table: pa.Table, settings: Split) -> pa.Array:
    """The stratum of each row; those with a missing value are one of their own."""
    return pc.fill_null(group_labels(table, settings.stratify), "\\missing")


def split(table: pa.Table, *, settings: Split, fitted: ByGroup | None = None) -> Rows:
    """Every row with its part in training."""
    if isinstance(settings.test, str) or isinstance(settings.validation, str):
        test, validation = (_holds(table, text) for text in (settings.test, settings.validation))
    else:
        place = _places(table, settings)
        end_of_test: Any = float(settings.test)
        end: Any = end_of_test + float(settings.validation)
        if fitted is not None:
            end_of_test, end = _borders(table, settings, fitted)
        test, validation = place < end_of_test, place < end
    parts = np.select([test, validation], [2, 1], 0)
    column = pa.DictionaryArray.from_arrays(
        pa.array(parts, pa.int32()), pa.array([TRAIN, VALIDATION, TEST])
    ).cast(pa.string())
    counts = dict(zip((TRAIN, VALIDATION, TEST), np.bincount(parts, minlength=3).tolist(), strict=True))
    return Rows(table.append_column(pa.field(SPLIT, pa.string(), nullable=False), column), notes=counts)


def _borders(table: pa.Table, settings: Split, fitted: ByGroup) -> list[np.ndarray]:
    """Of each row the places where its stratum's test rows and validation rows end; of a new stratum the shares."""
    shares = [float(settings.test), float(settings.test) + float(settings.validation)]
    ends = fitted.of_rows(_strata(table, settings))
    return [numpy_of(pc.fill_null(end, share)) for end, share in zip(ends, shares, strict=True)]


def _holds(table: pa.Table, text: float | str) -> np.ndarray:
    if not isinstance(text, str):
        return np.zeros(table.num_rows, bool)
    found = pc.fill_null(expression(text).evaluate(table), fill_value=False)
    return numpy_of(found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found)
