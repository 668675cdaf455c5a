"""The escape: a step written in Python by the user, a function of Arrow tables in a module beside the pipeline file.

    { do = "python", function = "prices:in_euro", takes = ["price", "currency"], columns = { price_eur = "float64" } }

    def in_euro(table: pa.Table) -> pa.Table: ...     # prices.py: one row out for each row in, in the same order

The text of the module, and of the modules beside the pipeline file that it imports, is part of the step: it decides
whether a table is out of date, and it is what workers run, also those that come later, so nothing has to be installed
there. What else it imports must be installed on the workers.
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


_BESIDE = "_dlflow_beside"  # in a module of the user: the modules that came with the step, by name


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
        if not file.is_file():
            raise SpecError(f"python: function = {self.function!r}: there is no file {file}")
        text, tree = _parsed(file)
        known = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if name not in known:
            raise SpecError(f"python: {file} has no function {name!r}{did_you_mean(name, known)}")
        beside: dict[str, str] = {}
        _gather(folder, text, (module,), beside)
        return LocatedPython(self, text, tuple(sorted(beside.items())))


def _parsed(file: Path) -> tuple[str, ast.Module]:
    try:
        text = file.read_text("utf-8")
        return text, ast.parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"python: {file} cannot be read as UTF-8 text: {error}") from error
    except SyntaxError as error:
        raise SpecError(f"python: {file}:{error.lineno}: {error.msg}") from error


def _gather(folder: Path, text: str, chain: tuple[str, ...], beside: dict[str, str]) -> None:
    """Put the texts of the modules in this folder that are imported, directly or by another, into `beside`."""
    for name in sorted(_imported(text)):
        file = folder / f"{name}.py"
        if not file.is_file():
            continue
        if name in chain:
            raise SpecError(
                f"python: {' imports '.join((*chain, name))}: modules beside the pipeline file must not import each other in a circle"
            )
        if any(
            isinstance(node, ast.ImportFrom) and node.module == name and node.names[0].name == "*"
            for node in ast.walk(ast.parse(text))
        ):
            raise SpecError(f"python: {chain[-1]}.py: from {name} import *: expected names, or import {name}")
        beside[name], _ = _parsed(file)
        _gather(folder, beside[name], (*chain, name), beside)


@dataclass(frozen=True)
class LocatedPython:
    """The step with the text of its module, and name and text of the modules beside it that this imports."""

    step: Python
    text: str
    beside: tuple[tuple[str, str], ...] = ()

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
            "beside": self.beside,
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
    beside: tuple[tuple[str, str], ...] = (),
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
            made = _function(function, text, beside)(table.select(list(takes)), **settings)
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

    def __init__(self, text: str, file: str, names: set[str]) -> None:
        self.text, self.file, self.names = text, file, names

    def get_source(self, fullname: str) -> str:
        del fullname
        return self.text

    def get_code(self, fullname: str) -> Any:
        tree = ast.parse(self.get_source(fullname), self.file)
        return self.source_to_code(_Beside(self.names).visit(tree), self.file)


@functools.lru_cache(maxsize=64)
def _module(module: str, text: str, beside: tuple[tuple[str, str], ...]) -> ModuleType:
    spec = importlib.util.spec_from_loader(module, _Text(text, f"{module}.py", {name for name, _ in beside}))
    if spec is None or spec.loader is None:
        raise AssertionError(module)
    made = importlib.util.module_from_spec(spec)
    vars(made)[_BESIDE] = {
        name: _module(name, other, beside) for name, other in beside if name in _imported(text)
    }
    spec.loader.exec_module(made)
    return made


def _imported(text: str) -> set[str]:
    """Every module that a text imports by its full name."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


class _Beside(ast.NodeTransformer):
    """Imports of modules that came with the step become assignments.

    So they need no entry in sys.modules, where steps with other texts under the same name would meet.
    """

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_Import(self, node: ast.Import) -> Any:
        ours = [alias for alias in node.names if alias.name in self.names]
        node.names = [alias for alias in node.names if alias.name not in self.names]
        made = [_assigned(alias.asname or alias.name, _named(alias.name), node) for alias in ours]
        return [node, *made] if node.names else made

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.level or node.module not in self.names:
            return node
        return [
            _assigned(
                alias.asname or alias.name, ast.Attribute(_named(node.module), alias.name, ast.Load()), node
            )
            for alias in node.names
        ]


def _named(module: str) -> ast.expr:
    return ast.Subscript(ast.Name(_BESIDE, ast.Load()), ast.Constant(module), ast.Load())


def _assigned(name: str, value: ast.expr, node: ast.stmt) -> ast.stmt:
    return ast.fix_missing_locations(
        ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), node)
    )


def _function(function: str, text: str, beside: tuple[tuple[str, str], ...]) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    made: Callable[..., Any] = getattr(_module(module, text, beside), name)
    return made
