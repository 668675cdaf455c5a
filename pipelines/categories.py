"""Categories as numbers: one per category, their order, a hash, or what the label is on average where they occur."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.encoders import Encoded
from pipelines.errors import InputError, SpecError
from pipelines.fields import ORDERED, combined, numpy_of
from pipelines.hashing import row_hash
from pipelines.sketch import Values, group_labels, plain
from pipelines.stage import SPLIT, Sketch
from pipelines.sums import SCALE, exact_sum

__all__ = ["APPLY", "ENCODERS", "Hash", "OneHot", "Ordinal", "Target", "TargetSums"]

Recipe = Mapping[str, Any]
_ANY = ("string", "bool", *ORDERED)
MOST = 1_000  # categories of one column: beyond, the rest share no number of their own
LIMIT = 100_000
FOLD_SEED = 0x746172676574  # apart from the hash that splits


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """One number per category that at least `min_count` training rows have; any other and a missing one is all zeros."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = _ANY

    encode: Literal["one_hot"] = "one_hot"
    min_count: int = 10

    def sketch(self, column: str) -> Sketch:
        """How often each category occurs."""
        return Values(column, limit=LIMIT)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The categories, in their order."""
        often = [value for value, count in _few(column, fitted) if count >= self.min_count][:MOST]
        return {"encode": "one_hot", "column": column, "values": sorted(often)}


@dataclass(frozen=True, kw_only=True)
class Ordinal:
    """The place of a category in `values`, from 0, or in the order of those in the training rows; -1 for any other."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = _ANY

    encode: Literal["ordinal"] = "ordinal"
    values: tuple[str | int | float | bool, ...] = ()

    def sketch(self, column: str) -> Sketch:
        """The categories."""
        return Values(column, limit=LIMIT)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The categories in their order."""
        values = list(self.values) or sorted(value for value, _ in _few(column, fitted))
        return {"encode": "ordinal", "column": column, "values": values}


@dataclass(frozen=True, kw_only=True)
class Hash:
    """`width` numbers, all 0 but one, which is 1 or -1: its place and sign follow from the value alone. Nothing is learned."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = _ANY

    encode: Literal["hash"] = "hash"
    width: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 1 << 16:
            raise SpecError(f"hash: width = {self.width}: expected 1 to 65,536")

    def sketch(self, column: str) -> None:
        """Nothing."""

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The width."""
        del fitted
        return {"encode": "hash", "column": column, "width": self.width}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The mean of the label over the training rows of the category, drawn to the mean of all by `smoothing` rows.

    A training row gets the mean of the other folds, so its own label is not in it; folds follow from the hash of the
    key. Any other row, and any new one, gets the mean of all training rows; an unknown category the mean of all.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = _ANY

    encode: Literal["target"] = "target"
    smoothing: float = 20.0
    folds: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= 100 or not 0 <= self.smoothing < float("inf"):
            raise SpecError(
                f"target: folds = {self.folds}, smoothing = {self.smoothing}: expected 2 to 100 folds, and smoothing from 0"
            )

    def sums(self, column: str, label: str, key: tuple[str, ...]) -> Sketch:
        """Sums of the label by category and fold."""
        return TargetSums(column, label, key, self.folds)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """Counts and sums by category and fold."""
        return {
            "encode": "target",
            "column": column,
            "smoothing": self.smoothing,
            "folds": self.folds,
            **fitted,
        }


@dataclass(frozen=True)
class TargetSums:
    """Counts and exact sums of the label, by category (the last: missing) and fold; up to 100,000 categories."""

    column: str
    label: str
    key: tuple[str, ...]
    folds: int

    def sketch(self, table: pa.Table, request: None) -> dict[tuple[str | None, int], tuple[int, int]]:
        """Of one part."""
        del request
        table = table.filter(pc.is_valid(table[self.label]))
        encoded = group_labels(table, (self.column,)).dictionary_encode()
        names = [*encoded.dictionary.to_pylist(), None]
        codes = numpy_of(pc.fill_null(encoded.indices, len(names) - 1)).astype(np.int64)
        groups = codes * self.folds + fold_of(table, self.key, self.folds)
        labels = numpy_of(combined(table[self.label]).cast(pa.float64()))
        order = np.argsort(groups, kind="stable")
        found, starts = np.unique(groups[order], return_index=True)
        parts = np.split(labels[order], starts[1:]) if len(found) else []
        return self._within(
            {
                (names[group // self.folds], group % self.folds): (len(part), exact_sum(part))
                for group, part in zip(found.tolist(), parts, strict=True)
            }
        )

    def merge(self, left: dict[Any, tuple[int, int]], right: dict[Any, tuple[int, int]]) -> dict[Any, Any]:
        """The sums of both."""
        both = dict(left)
        for place, (count, total) in right.items():
            before = both.get(place, (0, 0))
            both[place] = (before[0] + count, before[1] + total)
        return self._within(both)

    def finish(self, state: dict[Any, tuple[int, int]], request: None) -> tuple[bool, Any]:
        """{"key", "values", "counts", "sums"}: a row per category and one for missing ones, a number per fold in each."""
        del request
        values = sorted({name for name, _ in state if name is not None})
        rows = [*values, None]
        cells = [[state.get((name, fold), (0, 0)) for fold in range(self.folds)] for name in rows]
        counts = [[count for count, _ in row] for row in cells]
        sums = [[total / (1 << SCALE) for _, total in row] for row in cells]
        return True, {"key": list(self.key), "values": values, "counts": counts, "sums": sums}

    def _within(self, state: dict[Any, tuple[int, int]]) -> dict[Any, tuple[int, int]]:
        if len(state) > LIMIT * self.folds:
            raise InputError(
                f"features: column {self.column!r} has more than {LIMIT:,} categories; generalise it first"
            )
        return state


def fold_of(table: pa.Table, key: tuple[str, ...], folds: int) -> np.ndarray:
    """The fold of each row: it follows from its key alone."""
    return (row_hash(table, key, seed=FOLD_SEED) % np.uint64(folds)).astype(np.int64)


def _few(column: str, fitted: Mapping[str, Any]) -> list[list[Any]]:
    if fitted["values"] is None:
        raise InputError(
            f"features: column {column!r} has more than {LIMIT:,} categories; generalise it first"
        )
    values: list[list[Any]] = fitted["values"]
    return values


def _place(table: pa.Table, recipe: Recipe) -> np.ndarray:
    """The place of each value among those of the recipe, -1 for any other."""
    column = combined(table[recipe["column"]])
    known = pa.array(recipe["values"]).cast(column.type) if recipe["values"] else pa.array([], column.type)
    return numpy_of(pc.fill_null(pc.index_in(column, value_set=known, skip_nulls=True), -1))


def _one_hot(table: pa.Table, recipe: Recipe) -> Encoded:
    place = _place(table, recipe)
    made = np.zeros((len(place), len(recipe["values"])), np.float32)  # as wide as it is, a copy would show
    rows = np.flatnonzero(place >= 0)
    made[rows, place[rows]] = 1.0
    return made, [f"{recipe['column']} = {plain(value)}" for value in recipe["values"]]


def _ordinal(table: pa.Table, recipe: Recipe) -> Encoded:
    return _place(table, recipe).astype(np.float64)[:, None], [recipe["column"]]


def _hash(table: pa.Table, recipe: Recipe) -> Encoded:
    name, width = recipe["column"], recipe["width"]
    hashes = row_hash(table, (name,))
    made = np.zeros((table.num_rows, width), np.float32)
    sign = np.where(hashes >> np.uint64(63), -1.0, 1.0)
    made[np.arange(table.num_rows), (hashes % np.uint64(width)).astype(np.int64)] = sign
    made[~numpy_of(pc.is_valid(combined(table[name])))] = 0.0
    return made, [f"{name} hash {place}" for place in range(width)]


def _target(table: pa.Table, recipe: Recipe) -> Encoded:
    labels = group_labels(table, (recipe["column"],))
    known = pa.array(recipe["values"], pa.string())
    unknown = len(recipe["values"]) + 1
    place = pc.fill_null(pc.index_in(labels, value_set=known, skip_nulls=True), unknown)
    place = numpy_of(pc.if_else(pc.is_valid(labels), place, pa.scalar(unknown - 1, pa.int32())))
    nothing = np.zeros((1, recipe["folds"]))
    counts, sums = (np.concatenate([np.array(recipe[name], float), nothing]) for name in ("counts", "sums"))
    count, total = counts.sum(axis=1)[place], sums.sum(axis=1)[place]
    count_all, total_all = np.full(len(place), counts.sum()), np.full(len(place), sums.sum())
    if SPLIT in table.schema.names:
        training = numpy_of(pc.fill_null(pc.equal(combined(table[SPLIT]), "train"), fill_value=False))
        fold = fold_of(table, tuple(recipe["key"]), recipe["folds"])
        count, total = count - training * counts[place, fold], total - training * sums[place, fold]
        count_all -= training * counts.sum(axis=0)[fold]
        total_all -= training * sums.sum(axis=0)[fold]
    prior = np.divide(total_all, count_all, out=np.zeros(len(place)), where=count_all > 0)
    weight = count + recipe["smoothing"]
    made = np.divide(total + recipe["smoothing"] * prior, weight, out=prior.copy(), where=weight > 0)
    return made[:, None], [f"{recipe['column']} (mean label)"]


ENCODERS: dict[str, Any] = {"one_hot": OneHot, "ordinal": Ordinal, "hash": Hash, "target": Target}
APPLY: dict[str, Callable[[pa.Table, Recipe], Encoded]] = {
    "one_hot": _one_hot,
    "ordinal": _ordinal,
    "hash": _hash,
    "target": _target,
}
