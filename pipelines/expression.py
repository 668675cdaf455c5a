"""Expressions of the pipeline file: the syntax of Python, the nulls of SQL, computed by whole Arrow columns.

    total > 100 and status in ("paid", "sent")       (price - cost) / price        lower(trim(name)) + "!"

The text is parsed by `ast` and every node must be on a short list; nothing is ever executed. A name is a column;
column("Total Price") is one whose name is no Python name. In an expression every integer is int64 and every float
is float64. What operators and functions answer for missing values is in functions.py. Comparisons may be chained;
`a if condition else b` is if_else; `x is None` is is_null(x).
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.errors import InputError, SpecError
from pipelines.names import did_you_mean
from pipelines.stage import LINE, SOURCE, data_columns
from pipelines.syntax import Run, compiled, shortened

__all__ = ["Expression", "expression"]


@dataclass(frozen=True)
class Expression:
    """One expression: equal, hashed and pickled by its text; checked when it is made.

    Raises: SpecError with the place of what is wrong.
    """

    text: str
    columns: frozenset[str] = field(init=False, compare=False, repr=False)
    _run: Run = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        run, columns = compiled(self.text)
        object.__setattr__(self, "_run", run)
        object.__setattr__(self, "columns", columns)

    def __reduce__(self) -> tuple[Any, ...]:
        return Expression, (self.text,)

    def type(self, schema: pa.Schema) -> pa.DataType:
        """Type of the answer for tables of this schema.

        Raises: SpecError for a column that is not there, or types that do not go together.
        """
        return self.evaluate(schema.empty_table()).type

    def evaluate(self, table: pa.Table) -> pa.Array:
        """The answer for every row.

        Raises: InputError with one row that an integer overflow or a cast failed on; SpecError as `type`.
        """
        known = data_columns(table.schema)
        if unknown := sorted(self.columns - set(known)):
            raise SpecError(
                *(
                    f"expression {shortened(self.text)}: no column {name!r}{did_you_mean(name, known)}"
                    for name in unknown
                )
            )
        try:
            answer = self._run(table.select(sorted(self.columns)) if self.columns else table)
        except pa.ArrowInvalid as error:
            raise self._failure(table, str(error)) from error
        if isinstance(answer, pa.Scalar):
            return pa.repeat(answer, table.num_rows)
        return answer

    def _failure(self, table: pa.Table, reason: str) -> InputError | SpecError:
        """The error with the first row that the expression fails on, found by halving."""
        first, stop = 0, table.num_rows
        while stop - first > 1:
            middle = (first + stop) // 2
            if self._fails(table.slice(first, middle - first)):
                stop = middle
            else:
                first = middle
        reason = (
            "an integer leaves int64 (overflow); cast to float64 first" if "overflow" in reason else reason
        )
        if table.num_rows == 0:
            return SpecError(f"expression {shortened(self.text)}: {reason}")
        row = table.slice(first, 1)
        origin = (
            f"source {row[SOURCE][0]} line {row[LINE][0]}"
            if {SOURCE, LINE} <= set(table.schema.names)
            else f"row {first}"
        )
        values = ", ".join(f"{name} = {row[name][0].as_py()!r}" for name in sorted(self.columns))
        return InputError(
            f"expression {shortened(self.text)}: {origin}{f' ({values})' if values else ''}: {reason}"
        )

    def _fails(self, table: pa.Table) -> bool:
        try:
            self._run(table)
        except pa.ArrowInvalid:
            return True
        return False


@functools.lru_cache(maxsize=256)
def expression(text: str) -> Expression:
    """The expression of a text, parsed once per process."""
    return Expression(text)
