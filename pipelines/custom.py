"""The escape: a step written in Python by the user, a function of Arrow tables in a module beside the pipeline file.

    { do = "python", function = "prices:in_euro", takes = ["price", "currency"], columns = { price_eur = "float64" } }

    def in_euro(table: pa.Table) -> pa.Table: ...     # prices.py: one row out for each row in, in the same order

The text of the module is part of the step: it decides whether a table is out of date, and it is what workers run, so
nothing has to be installed there. It may import what is installed on the workers, but no file beside it.
"""

import ast
import functools
import importlib.abc
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.errors import InputError, SpecError
from pipelines.fields import inherited, require
from pipelines.literals import ARROW
from pipelines.names import did_you_mean
from pipelines.stage import LINE, SOURCE, Map, data_columns

__all__ = ["LocatedPython", "Python", "python"]


@dataclass(frozen=True, kw_only=True)
class Python:
    """Gives `columns` (name and type) by a function of the columns it `takes` (default: all), with `params` by name.

    The function gets an Arrow table and gives one of exactly these columns, row by row; a column that is there is
    replaced. It sees one part of the rows at a time, so a row's answer must not depend on the rows beside it.
    """

    do: ClassVar[str] = "python"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    function: str
    columns: dict[str, str]
    takes: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)

    def located(self, folder: Path) -> "LocatedPython":
        """The step with the text of its module.

        Raises: SpecError if the module or the function is not there, or the text is no Python.
        """
        module, _, name = self.function.partition(":")
        if not all(part.isidentifier() for part in module.split(".")) or not name.isidentifier():
            raise SpecError(
                f'python: function = {self.function!r}: expected "module:function", the module beside the pipeline file'
            )
        file = folder.joinpath(*module.split(".")).with_suffix(".py")
        try:
            text = file.read_text("utf-8")
            tree = ast.parse(text)
        except FileNotFoundError:
            raise SpecError(f"python: function = {self.function!r}: there is no file {file}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"python: {file} cannot be read as UTF-8 text: {error}") from error
        except SyntaxError as error:
            raise SpecError(f"python: {file}:{error.lineno}: {error.msg}") from error
        known = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if name not in known:
            raise SpecError(f"python: {file} has no function {name!r}{did_you_mean(name, known)}")
        return LocatedPython(self, text)


@dataclass(frozen=True)
class LocatedPython:
    """The step with the text of its module."""

    step: Python
    text: str

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns with those that the function gives; a new one inherits the privacy classes of what it takes."""
        self.stage(schema)
        for name, kind in self.step.columns.items():
            one = self._field(schema, name, kind)
            place = schema.get_field_index(name)
            schema = schema.append(one) if place < 0 else schema.set(place, one)
        return schema

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        step = self.step
        require(schema, step.takes, step=step.do)
        if not step.columns:
            raise SpecError(
                'python: columns is empty; say what the function gives: columns = { x = "float64" }'
            )
        problems = [
            f"python: column {name!r}: no type {kind!r}{did_you_mean(kind, ARROW)}"
            for name, kind in step.columns.items()
            if kind not in ARROW
        ]
        problems += [
            f"python: {name!r} is not a name for a column; a leading '_' is reserved"
            for name in step.columns
            if name.startswith("_") or not name
        ]
        if problems:
            raise SpecError(*problems)
        params = {
            "function": step.function,
            "text": self.text,
            "takes": step.takes or tuple(data_columns(schema)),
            "gives": pa.schema([self._field(schema, name, kind) for name, kind in step.columns.items()]),
            "settings": step.params,
        }
        return Map(f"python {step.function}", python, params)

    def _field(self, schema: pa.Schema, name: str, kind: str) -> pa.Field:
        takes = self.step.takes or tuple(data_columns(schema))
        return pa.field(name, ARROW[kind], metadata=inherited(schema, takes))


def python(
    table: pa.Table,
    *,
    function: str,
    text: str,
    takes: tuple[str, ...],
    gives: pa.Schema,
    settings: Mapping[str, Any],
) -> pa.Table:
    """The table with the columns that the function gives.

    Raises: InputError that names the function and the rows if it fails, or gives something else than was declared.
    """
    if not table.num_rows:  # a function need not know what to do with none
        made = gives.empty_table()
    else:
        where = f"python {function}, {_rows(table)}"
        try:
            made = _function(function, text)(table.select(list(takes)), **settings)
        except Exception as error:  # whatever the user's code raises is theirs, told with its place
            raise InputError(f"{where}: {type(error).__name__}: {error}{_line(error, function)}") from error
        _require_declared(made, gives, table.num_rows, where)
    for one in gives:
        place = table.schema.get_field_index(one.name)
        values = made[one.name]
        table = table.append_column(one, values) if place < 0 else table.set_column(place, one, values)
    return table


def _require_declared(made: Any, gives: pa.Schema, rows: int, where: str) -> None:
    if not isinstance(made, pa.Table):
        raise InputError(f"{where}: it gave a {type(made).__name__}, expected a pyarrow.Table")
    if made.num_rows != rows:
        raise InputError(
            f"{where}: it gave {made.num_rows:,} rows for {rows:,}; expected one for each, in order"
        )
    if sorted(made.column_names) != sorted(gives.names):
        raise InputError(f"{where}: it gave the columns {made.column_names}, declared are {gives.names}")
    for one in gives:
        if made.schema.field(one.name).type != one.type:
            found = made.schema.field(one.name).type
            raise InputError(
                f"{where}: column {one.name!r} is {found}, declared is {one.type}; cast it there"
            )


def _rows(table: pa.Table) -> str:
    """Which rows these are: what a person looks up to repeat the failure."""
    first, last = (
        f"line {table[LINE][row]} of input file {table[SOURCE][row]}" for row in (0, table.num_rows - 1)
    )
    return f"{table.num_rows:,} rows from {first} to {last}"


def _line(error: BaseException, function: str) -> str:
    """Where in the user's file it failed."""
    file = function.partition(":")[0] + ".py"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" ({file}:{lines[-1]})" if lines else ""


class _Text(importlib.abc.InspectLoader):
    """Loads a module from its text."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file

    def get_source(self, fullname: str) -> str:
        del fullname
        return self.text

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_source(fullname), self.file)


@functools.lru_cache(maxsize=64)
def _module(module: str, text: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(module, _Text(text, f"{module}.py"))
    if spec is None or spec.loader is None:
        raise AssertionError(module)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _function(function: str, text: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    made: Callable[..., Any] = getattr(_module(module, text), name)
    return made
