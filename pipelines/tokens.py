"""Texts as sequences of numbers of one length: a vocabulary of the training rows, learned from exact counts.

    "The cat, the hat"  ->  the cat the hat  ->  [0 0 0 2 4 2 3]      0: nothing here, 1: a word that is not in it

A word is a run of letters, digits and inner apostrophes. The most frequent word is 2; of equally frequent words the
first in the order of the alphabet comes first, so the vocabulary does not depend on the cut or the order of the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.fields import combined, numpy_of
from pipelines.sketch import Values
from pipelines.stage import Sketch

__all__ = ["Tokens", "Words", "sequences"]

FIRST = 2  # number of the most frequent word
_BETWEEN = r"(?:[^\p{L}\p{N}\p{M}']|\B'|'\B)+"
_MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """`length` whole numbers per text, from a vocabulary of at most `vocabulary` words that at least `min_count` texts' words are.

    `pad` says on which side a short text gets zeros, `cut` on which side a long one loses words: as in Keras, "before".
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = ("string",)

    encode: Literal["tokens"] = "tokens"
    length: int
    vocabulary: int = 20_000
    min_count: int = 1
    lower: bool = True
    pad: Literal["before", "after"] = "before"
    cut: Literal["before", "after"] = "before"

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 1 << 16 or not 1 <= self.vocabulary <= _MOST:
            raise SpecError(
                f"tokens: length = {self.length}, vocabulary = {self.vocabulary}: expected 1 to 65,536 and 1 to {_MOST:,}"
            )

    def sketch(self, column: str) -> Sketch:
        """How often each word occurs."""
        return Words(column, self.lower, self.vocabulary)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The vocabulary, the most frequent word first."""
        if fitted["values"] is None:
            raise InputError(
                f"features: column {column!r} has more than {_MOST:,} different words; clean the text first"
            )
        words = [word for word, count in fitted["values"] if count >= self.min_count]
        if not words:
            raise InputError(f"features: column {column!r} has no word in the training rows")
        return {
            "encode": "tokens",
            "column": column,
            "length": self.length,
            "words": words,
            "lower": self.lower,
            "pad": self.pad,
            "cut": self.cut,
        }


@dataclass(frozen=True)
class Words:
    """Values, of the words of a column."""

    column: str
    lower: bool
    top: int

    @property
    def _values(self) -> Values:
        return Values(self.column, limit=_MOST, top=self.top)

    def sketch(self, table: pa.Table, request: None) -> Any:
        """Counts of the words of one part."""
        words = pc.list_flatten(_words(combined(table[self.column]), lower=self.lower))
        return self._values.sketch(pa.table({self.column: words.filter(pc.not_equal(words, ""))}), request)

    def merge(self, left: Any, right: Any) -> Any:
        """The counts of both."""
        return self._values.merge(left, right)

    def finish(self, state: Any, request: None) -> tuple[bool, Any]:
        """The counts."""
        return self._values.finish(state, request)


def sequences(table: pa.Table, recipe: Mapping[str, Any]) -> np.ndarray:
    """The texts as numbers. Shapes: (rows, length), int32."""
    lists = _words(combined(table[recipe["column"]]), lower=recipe["lower"])
    words = pc.list_flatten(lists)
    rows = numpy_of(pc.list_parent_indices(lists)).astype(np.int64)
    there = numpy_of(pc.not_equal(words, ""))
    vocabulary = pa.array(recipe["words"], pa.string())
    found = pc.index_in(words, value_set=vocabulary)
    numbers = numpy_of(pc.fill_null(found, -1)).astype(np.int32)
    numbers = np.where(numbers >= 0, numbers + FIRST, 1)[there]
    rows = rows[there]
    many = np.bincount(rows, minlength=table.num_rows)
    begins = np.cumsum(many) - many
    place = np.arange(len(rows)) - begins[rows]
    length = recipe["length"]
    over = np.maximum(many - length, 0)
    if recipe["cut"] == "before":
        place -= over[rows]
    if recipe["pad"] == "before":
        place += np.maximum(length - many, 0)[rows]
    kept = (place >= 0) & (place < length)
    made = np.zeros((table.num_rows, length), np.int32)
    made[rows[kept], place[kept]] = numbers[kept]
    return made


def _words(texts: pa.Array, *, lower: bool) -> pa.Array:
    """The words of each text, beside empty ones; none of a missing text."""
    texts = pc.fill_null(texts.cast(pa.string()), "")
    if lower:
        texts = pc.utf8_lower(texts)
    return pc.split_pattern(pc.replace_substring_regex(texts, _BETWEEN, " "), " ")
