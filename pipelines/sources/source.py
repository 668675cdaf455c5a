"""Source: where rows come from and how they are written there. All of it is declared; nothing is guessed from the data."""

import codecs
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.schema import Field, Schema
from pipelines.stage import ORIGIN

__all__ = ["Extra", "Kind", "OnChange", "Source"]

Kind = Literal["csv", "jsonl", "sqlite"]
Extra = Literal["error", "ignore"]
OnChange = Literal["error", "ignore", "reload"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one kind with the same columns.

    Raises: SpecError if settings contradict each other or have no effect on this kind.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind
    path: str  # a file, a folder or a glob
    columns: Mapping[str, Field]
    null: tuple[str, ...] | None = (
        None  # texts read as missing; None: ("",) in a csv, where "" is all there can be; else none
    )
    ignore: tuple[str, ...] = ()  # names in the file that are not read
    extra: Extra = "error"  # what other names that are not declared are
    on_change: OnChange = (
        "error"  # what a loaded file is that changed or is gone; of tables with load = "append"
    )
    part_bytes: int = (
        16 << 20
    )  # 8-16 MiB of text keep a task above its overhead and below a core's cache misses
    allow_empty: bool = False  # a file without a header or a first row is no error
    max_field_bytes: int = 1 << 20  # a row with a longer value is set aside
    encoding: str = "utf-8"
    header: bool = True  # csv: False: columns by position
    delimiter: str = ","
    quote: str = '"'  # csv: "" if no field is quoted
    decimal: Literal[".", ","] = "."
    flatten: Mapping[str, str] = dataclasses.field(default_factory=dict)  # jsonl: column -> "dotted.path"
    table: str | None = None  # sqlite: a table or a view
    key: str | None = None  # sqlite: unique integer column to cut by, where there is no rowid
    busy_s: float = 30.0  # sqlite: how long to wait for another program's lock

    def __post_init__(self) -> None:
        problems = self._wrong()
        if self.kind in get_args(Kind):
            problems += [*self._without_effect(), *self._wrong_names()]
        if problems:
            raise SpecError(*problems)

    @property
    def schema(self) -> Schema:
        """The declared columns."""
        return Schema(self.columns)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts that mean missing in fields that name none."""
        if self.null is not None:
            return self.null
        return ("",) if self.kind == "csv" else ()

    @property
    def names(self) -> dict[str, str]:
        """Column -> its name in the file."""
        return {column: field.name or column for column, field in self.columns.items()}

    def _wrong(self) -> list[str]:
        problems = []
        if self.kind not in get_args(Kind):
            return [f"kind {self.kind!r} is not known{did_you_mean(str(self.kind), get_args(Kind))}"]
        if not self.path:
            problems.append("path is empty; expected a file, a folder or a glob such as 'data/*.csv'")
        if not self.columns:
            problems.append('columns is empty; declare every column, { name = "type" }')
        for key, text in (("delimiter", self.delimiter), ("quote", self.quote)):
            fine = len(text) == 1 and text.isascii() and text not in "\r\n\0"
            if not fine and not (key == "quote" and not text):
                problems.append(f"{key} = {text!r}: expected one ASCII character")
        if self.delimiter == self.quote:
            problems.append(f"delimiter and quote are both {self.quote!r}")
        if self.decimal not in {".", ","}:
            problems.append(f"decimal = {self.decimal!r}: expected '.' or ','")
        for key, least in (("part_bytes", 1), ("max_field_bytes", 1), ("busy_s", 0)):
            if not least <= getattr(self, key) <= 1 << 30:
                problems.append(f"{key} = {getattr(self, key)!r}: expected {least} to {1 << 30}")
        if self.kind == "sqlite" and not self.table:
            problems.append('table is missing; a sqlite source needs table = "name"')
        try:
            "".encode(codecs.lookup(self.encoding).name)
        except (LookupError, ValueError):
            problems.append(
                f"encoding {self.encoding!r} is not known; examples: utf-8, utf-16, latin-1, cp1252, gb18030"
            )
        return problems

    def _without_effect(self) -> list[str]:
        text = {"encoding", "max_field_bytes", "allow_empty"}
        of = {
            "csv": text | {"header", "delimiter", "quote", "decimal"},
            "jsonl": text | {"flatten"},
            "sqlite": {"table", "key", "busy_s", "max_field_bytes"},
        }
        others = set().union(*of.values()) - of[self.kind]
        defaults = {one.name: one.default for one in dataclasses.fields(self)} | {"flatten": {}}
        problems = [
            f"{key} has no effect on a {self.kind} source; leave it out"
            for key in sorted(others)
            if getattr(self, key) != defaults[key]
        ]
        if not self.header:
            renamed = [column for column, field in self.columns.items() if field.name]
            problems += [
                f"name of column {column!r} has no effect without a header; leave it out"
                for column in renamed
            ]
            if self.ignore or self.extra != "error":
                problems.append("ignore and extra have no effect without a header; declare every column")
        return problems

    def _wrong_names(self) -> list[str]:
        problems = [f"column {name!r}: the name is reserved" for name in self.columns if name in ORIGIN.names]
        seen: dict[str, str] = {}
        for column, name in (self.names | dict(self.flatten)).items():
            if column not in self.columns:
                problems.append(
                    f"flatten names {column!r}, which is no column{did_you_mean(column, self.columns)}"
                )
            elif name in seen:
                problems.append(f"columns {seen[name]!r} and {column!r} both read {name!r}")
            elif name in self.ignore:
                problems.append(f"column {column!r} reads {name!r}, which is in ignore")
            seen[name] = column
        for column, path in self.flatten.items():
            inside = [other for name, other in seen.items() if name.startswith(f"{path}.")]
            inside += [
                other
                for name, other in seen.items()
                if path.startswith(f"{name}.") and other not in self.flatten
            ]
            problems += [
                f"columns {column!r} and {other!r}: one is read from inside the other" for other in inside
            ]
        return problems
