"""A TOML file whose problems are told all at once, each with its line and a "did you mean"."""

import keyword
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.toml_lines import line_of, lines

__all__ = ["Document", "dotted", "read"]


@dataclass
class Document:
    """A TOML file with its places and the problems found in it so far."""

    file: Path
    values: dict[str, Any]
    places: dict[tuple[str | int, ...], int]
    problems: list[str] = field(default_factory=list)

    def problem(self, path: Sequence[str | int], message: str) -> None:
        """Note one problem at the line of `path`."""
        self.problems.append(f"{self.file}:{line_of(self.places, tuple(path))}: {message}")

    def checked(self, kind: Any, value: Any, path: Sequence[str | int]) -> Any:
        """`value` as a `kind`, or None after its problems are noted."""
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - workers need the specs, not pydantic

        try:
            return TypeAdapter(kind).validate_python(_safe_keys(value))
        except ValidationError as error:
            for found in error.errors(include_url=False):
                self._explain(kind, found, path)
        return None

    def _explain(self, kind: Any, found: Any, path: Sequence[str | int]) -> None:
        place = [*path]
        for part in found["loc"]:
            if isinstance(part, int) or (*place, part) in self.places:
                place.append(part)
        where = dotted(place)
        match found["type"]:
            case "unexpected_keyword_argument" | "extra_forbidden":
                known = [name.rstrip("_") for name in getattr(kind, "__dataclass_fields__", {})]
                key = str(found["loc"][-1])
                self.problem(place, f"unknown key {key!r} in {dotted(path)}{did_you_mean(key, known)}")
            case "missing" | "missing_argument" | "missing_keyword_only_argument":
                self.problem(place, f"{where}: key {str(found['loc'][-1]).rstrip('_')!r} is missing")
            case "value_error" if isinstance(cause := found["ctx"]["error"], SpecError):
                for text in cause.problems:
                    self.problem(place, f"{where}: {text}")
            case _:
                text = found["msg"][:1].lower() + found["msg"][1:]
                self.problem(place, f"{where} = {_shown(found.get('input'))}: {text}")

    def raise_problems(self) -> None:
        """Raises: SpecError with all problems, in the order of the file."""
        if self.problems:
            unique = dict.fromkeys(self.problems)
            raise SpecError(
                *sorted(unique, key=lambda text: int(text.removeprefix(f"{self.file}:").partition(":")[0]))
            )


def read(file: Path | str) -> Document:
    """The values of a TOML file and where they stand."""
    file = Path(file)
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise SpecError(
            f"{file}: no such file; `dlflow new NAME` makes a project with a pipeline file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(
            f"{file}: not valid TOML: {error}; strings need quotes, tables need [brackets]"
        ) from error
    return Document(file, values, lines(text))


def dotted(path: Sequence[str | int]) -> str:
    """A place as people write it: tables.orders.steps[2]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _safe_keys(value: Any) -> Any:
    """`with` is a word of Python: the field is `with_`."""
    if isinstance(value, dict):
        return {
            f"{key}_" if isinstance(key, str) and keyword.iskeyword(key) else key: item
            for key, item in value.items()
        }
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
