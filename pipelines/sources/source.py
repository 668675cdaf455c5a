"""Source: where rows come from and how they are written there. All of it is declared; nothing is guessed from the data."""

import codecs
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pipelines import cursor as cursors
from pipelines import postgres, stores
from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.schema import Field, Schema
from pipelines.stage import ORIGIN

__all__ = ["Contract", "Extra", "Identity", "Kind", "OnChange", "Source"]

Kind = Literal["csv", "jsonl", "sqlite", "sql", "parquet", "arrow", "idx", "images", "text"]
Extra = Literal["error", "ignore"]
Contract = Literal["evolve", "freeze", "quarantine", "null"]
OnChange = Literal["error", "ignore", "reload"]
Identity = Literal["times", "hash"]

_URLS = ("sqlite", *postgres.SCHEMES)
_NAMED = {"null", "ignore", "extra"}
_TEXT = {"null", "encoding", "max_field_bytes", "allow_empty"}
_ROWS = _NAMED | {"table", "query", "key", "cursor", "lag", "busy_s", "max_field_bytes"}
_SETTINGS: dict[str, set[str]] = {  # of the kinds; those of all are not named here
    "csv": _TEXT | _NAMED | {"header", "delimiter", "quote", "decimal", "nul", "optional"},
    "jsonl": _TEXT | _NAMED | {"flatten"},
    "sqlite": _ROWS | {"optional"},
    "sql": _ROWS | {"url", "connect_s", "query_s", "optional"},
    "parquet": _NAMED | {"optional"},
    "arrow": _NAMED | {"optional"},
    "idx": {"labels"},
    "images": {"fit", "max_field_bytes"},
    "text": _TEXT | {"label", "delimiter", "documents", "nul"},
}
_OFFERED = {  # what the files of a kind hold, where they do not name it themselves
    "idx": ("image", "label"),
    "images": ("image", "label", "file"),
    "text": ("text", "label", "file"),
}
_TENSORS = ("parquet", "arrow", "idx", "images")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one kind with the same columns.

    Raises: SpecError if settings contradict each other or have no effect on this kind.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind
    path: str = ""  # a file, a folder or a glob; of a sql source it follows from url
    columns: Mapping[str, Field]
    storage: stores.Storage | None = None  # how an object store is reached; None: as the environment says
    null: tuple[str, ...] | None = (
        None  # texts read as missing; None: ("",) in a csv, where "" is all there can be; else none
    )
    ignore: tuple[str, ...] = ()  # names in the file that are not read
    contract: Contract = "quarantine"  # what happens to what does not fit; see docs/ingest.md
    optional: tuple[str, ...] = ()  # columns that a file may lack; they are null there
    evolved: tuple[str, ...] = ()  # columns that came with contract = "evolve"; never in a pipeline file
    extra: Extra = "error"  # what other names that are not declared are
    on_change: OnChange = (
        "error"  # what a loaded file is that changed or is gone; of tables with load = "append"
    )
    identity: Identity = "times"  # by what a file is the one of before; "hash": by its bytes alone
    part_bytes: int = (
        16 << 20
    )  # 8-16 MiB of text keep a task above its overhead and below a core's cache misses
    allow_empty: bool = False  # a file without a header or a first row is no error
    max_field_bytes: int = 1 << 20  # a row with a longer value is set aside
    encoding: str = "utf-8"
    header: bool = True  # csv: False: columns by position
    delimiter: str | None = None  # None: a comma in a csv, a tab in a text
    quote: str = '"'  # csv: "" if no field is quoted
    decimal: Literal[".", ","] = "."
    nul: Literal["reject", "remove"] = "reject"  # csv, text: what a NUL character does to its row
    flatten: Mapping[str, str] = dataclasses.field(default_factory=dict)  # jsonl: column -> "dotted.path"
    url: str | None = dataclasses.field(
        default=None, repr=False
    )  # sql: with a password, so it is never shown
    table: str | None = None  # sqlite, sql: a table or a view
    query: str | None = None  # sqlite, sql: in place of a table
    key: str | None = (
        None  # sqlite, sql: unique integer column to cut by, where there is no rowid or primary key
    )
    cursor: str | None = None  # sqlite, sql: column that grows with every new row; of load = "append"
    lag: str = "0"  # how far rows may come late: "1h", "7d"; of a cursor of integers a number
    busy_s: float = 30.0  # sqlite, sql: how long to wait for another program's lock
    connect_s: float = 10.0  # sql: how long a server may take to answer at all
    query_s: float = 3600.0  # sql: and a query, all its rows read
    labels: str | None = None  # idx: the file of the labels, or a glob of as many files as `path` has
    label: Literal["first", "last"] | None = None  # text: where in a line the label stands
    documents: bool = False  # text: a document a file, its folder the label; else a document a line
    fit: Literal["exact", "resize"] = "exact"  # images: "resize": scaled and converted to the declared shape

    def __post_init__(self) -> None:
        problems = self._wrong()
        if self.kind == "sql" and not problems:
            object.__setattr__(self, "path", self._path())
        if self.kind in get_args(Kind):
            problems += [*self._without_effect(), *self._wrong_names(), *self._wrong_kinds()]
            problems += self._wrong_contract()
        if problems:
            raise SpecError(*problems)
        fields = {name: self._agreed(one) for name, one in self.columns.items()}
        object.__setattr__(self, "columns", fields)

    def _agreed(self, one: Field) -> Field:
        """The field with what the contract says of a value that does not fit."""
        if one.on_error is not None:
            return one
        if self.contract == "freeze":
            return dataclasses.replace(one, on_error="fail")
        nulled = self.contract == "null" and one.nullable
        return dataclasses.replace(one, on_error="null" if nulled else "quarantine")

    def _wrong_contract(self) -> list[str]:
        problems = []
        if self.contract not in get_args(Contract):
            problems.append(
                f"contract {self.contract!r} is not known{did_you_mean(str(self.contract), get_args(Contract))}"
            )
        if self.contract == "evolve" and self.kind in _OFFERED:
            problems.append(
                f'contract = "evolve" has no effect on a {self.kind} source: its files have the columns of their kind'
            )
        if self.contract == "evolve" and not self.header:
            problems.append('contract = "evolve" needs a header: without one a new column has no name')
        if self.contract == "evolve" and self.extra != "error":
            problems.append(
                'extra has no effect with contract = "evolve": columns that are not declared are added'
            )
        for name in self.optional:
            if name not in self.columns:
                problems.append(
                    f"optional names {name!r}, which is no column{did_you_mean(name, self.columns)}"
                )
            elif not self.columns[name].nullable:
                problems.append(
                    f"optional column {name!r} has nullable = false; it is null where a file lacks it"
                )
        return problems

    @property
    def reader(self) -> str:
        """What reads it: the kind, or of a sql source the database that its URL names."""
        if self.kind != "sql":
            return self.kind
        return "sqlite" if _scheme(self.url) == "sqlite" else "postgresql"

    @property
    def remote(self) -> bool:
        """Whether its files are objects of a store."""
        return self.kind != "sql" and stores.is_url(self.path)

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
    def separator(self) -> str:
        """What stands between fields, or between a text and its label."""
        return self.delimiter or ("\t" if self.kind == "text" else ",")

    @property
    def names(self) -> dict[str, str]:
        """Column -> its name in the file."""
        return {column: field.name or column for column, field in self.columns.items()}

    def _wrong(self) -> list[str]:
        problems = []
        if self.kind not in get_args(Kind):
            return [f"kind {self.kind!r} is not known{did_you_mean(str(self.kind), get_args(Kind))}"]
        if self.kind == "sql":
            problems += self._wrong_url()
        elif self.path:
            problems += self._wrong_place()
        else:
            problems.append("path is empty; expected a file, a folder or a glob such as 'data/*.csv'")
        if not self.columns:
            problems.append('columns is empty; declare every column, { name = "type" }')
        for key, text in (("delimiter", self.separator), ("quote", self.quote)):
            fine = len(text) == 1 and text.isascii() and text not in "\r\n\0"
            if not fine and not (key == "quote" and not text):
                problems.append(f"{key} = {text!r}: expected one ASCII character")
        problems += cursors.problems(self.columns, self.cursor, self.lag, self.key)
        if self.kind == "csv" and self.separator == self.quote:
            problems.append(f"delimiter and quote are both {self.quote!r}")
        if self.decimal not in {".", ","}:
            problems.append(f"decimal = {self.decimal!r}: expected '.' or ','")
        for key, least in (
            ("part_bytes", 1),
            ("max_field_bytes", 1),
            ("busy_s", 0),
            ("connect_s", 1),
            ("query_s", 1),
        ):
            if not least <= getattr(self, key) <= 1 << 30:
                problems.append(f"{key} = {getattr(self, key)!r}: expected {least} to {1 << 30}")
        if self.kind in {"sqlite", "sql"} and (self.table is None) == (self.query is None):
            problems.append(
                f'a {self.kind} source needs either table = "name" or query = "select ...", and not both'
            )
        for key, known in (
            ("identity", get_args(Identity)),
            ("nul", ("reject", "remove")),
            ("fit", ("exact", "resize")),
            ("label", (None, "first", "last")),
        ):
            if getattr(self, key) not in known:
                problems.append(
                    f"{key} = {getattr(self, key)!r}: expected {' or '.join(repr(one) for one in known if one)}"
                )
        try:
            "".encode(codecs.lookup(self.encoding).name)
        except (LookupError, ValueError):
            problems.append(
                f"encoding {self.encoding!r} is not known; examples: utf-8, utf-16, latin-1, cp1252, gb18030"
            )
        return problems

    def _wrong_place(self) -> list[str]:
        try:
            remote = stores.is_url(self.path)
        except SpecError as error:
            return list(error.problems)
        if remote and self.kind == "sqlite":
            return [
                f"path is an object of a store, and a {self.kind} source reads files of this machine; copy it first"
            ]
        return []

    def _wrong_url(self) -> list[str]:
        scheme = _scheme(self.url)
        if self.url is None:
            return ['url is missing; a sql source needs url = "postgresql://..." or "sqlite:///file"']
        if scheme not in _URLS:
            known = did_you_mean(scheme, _URLS) or f"; known: {', '.join(_URLS)}"
            return [f"url begins with {scheme!r}, which is no database that can be read{known}"]
        if scheme == "sqlite" and not self.url.startswith("sqlite:///"):
            return ['url of SQLite is "sqlite:///file.db", or "sqlite:////folder/file.db" from the root']
        if self.path not in {"", self._path()}:
            return ["path has no effect on a sql source; leave it out"]
        return []

    def _path(self) -> str:
        if self.reader == "sqlite":
            return (self.url or "").removeprefix("sqlite:///")
        return f"{postgres.place(self.url or '')}#{self.table or 'query'}"

    def _without_effect(self) -> list[str]:
        others = set().union(*_SETTINGS.values()) - _SETTINGS[self.kind]
        defaults = {one.name: one.default for one in dataclasses.fields(self)} | {"flatten": {}}
        problems = [
            f"{key} has no effect on a {self.kind} source; leave it out"
            for key in sorted(others)
            if getattr(self, key) != defaults[key]
        ]
        if self.identity != "times" and (self.remote or self.reader == "postgresql"):
            problems.append(
                "identity has no effect here: an object is known by its etag, rows of a server by their digest; leave it out"
            )
        if not self.header:
            renamed = [column for column, field in self.columns.items() if field.name]
            problems += [
                f"name of column {column!r} has no effect without a header; leave it out"
                for column in renamed
            ]
            if self.ignore or self.extra != "error":
                problems.append("ignore and extra have no effect without a header; declare every column")
        if self.label is None and not self.documents and self.kind == "text" and self.delimiter is not None:
            problems.append(
                'delimiter has no effect on a text without a label; set label = "first" or "last"'
            )
        if self.documents and self.label is not None:
            problems.append(
                "label has no effect where documents = true: the folder of a document is its label"
            )
        return problems

    def _offered(self) -> tuple[str, ...]:
        """The columns that the files hold, where they do not name them themselves; else none."""
        found = _OFFERED.get(self.kind, ())
        if self.kind == "text" and not self.documents:
            return found[: 1 if self.label is None else 2]
        return found[:1] if self.kind == "idx" and self.labels is None else found

    def _wrong_kinds(self) -> list[str]:
        problems = []
        offered = self._offered()
        for column, name in self.names.items():
            is_tensor = self.columns[column].type == "tensor"
            if offered and name not in offered:
                problems.append(
                    f"column {column!r} reads {name!r}; here a source of kind {self.kind} has {', '.join(map(repr, offered))}"
                )
            elif is_tensor and self.kind not in _TENSORS:
                problems.append(
                    f"column {column!r}: a {self.kind} source holds no tensors; take {', '.join(_TENSORS)}"
                )
            elif offered and is_tensor != (name == "image"):
                problems.append(
                    f"column {column!r}: {name!r} is {'a tensor' if name == 'image' else 'no tensor'}, "
                    f"the declared type is {self.columns[column].type}"
                )
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


def _scheme(url: str | None) -> str:
    return (url or "").partition(":")[0]
