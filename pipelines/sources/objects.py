"""One line of JSON as an object, strictly: nothing of it is guessed, repaired or lost."""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.names import did_you_mean

__all__ = ["LEVELS", "BadLineError", "NoObject", "Number", "Tree", "check_keys", "parse", "what"]

LEVELS = 64  # of objects and lists; Python itself ends in a RecursionError at some hundred
Tree = dict[str, "Tree | str"]
"""Declared keys: of a column, or of an object with more of them."""


class Number(str):
    """A number as it is written."""

    __slots__ = ()


class BadLineError(ValueError):
    """A line that is no object as declared; `rule` says which rule it breaks."""

    def __init__(self, rule: str, message: str) -> None:
        self.rule = rule
        super().__init__(message)


def parse(line: bytes, encoding: str, max_field_bytes: int) -> dict[str, Any]:
    """The object of one line; its numbers are Number.

    Raises: BadLineError if the line is not one JSON object, or a text in it is none or too long.
    """
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError as error:
        message = f"byte 0x{line[error.start]:02X} at {error.start} of the row is not {encoding}; set encoding (gb18030, cp1252, ...?)"
        raise BadLineError("encoding", message) from error
    if text.count("{") + text.count("[") > LEVELS and _levels(text) > LEVELS:
        raise BadLineError("json", f"more than {LEVELS} levels of objects and lists")
    try:
        found = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadLineError("json", f"not JSON: {error.msg} at character {error.pos}") from error
    if not isinstance(found, dict):
        raise BadLineError("json", f"{what(found)} found, one object per line expected")
    if "\\ud" in text or "\\uD" in text or len(line) > max_field_bytes:
        for key, value in _leaves(found):
            try:
                size = len(value.encode())
            except UnicodeEncodeError as error:
                raise BadLineError(
                    "encoding", f"key {key!r} holds half a surrogate pair, which is no text"
                ) from error
            if size > max_field_bytes:
                raise BadLineError(
                    "field", f"key {key!r} has {size:,} bytes, more than max_field_bytes = {max_field_bytes}"
                )
    return found


def _levels(text: str) -> int:
    """How deep objects and lists are nested, at most."""
    level = deepest = 0
    quoted = escaped = False
    for letter in text:
        if escaped:
            escaped = False
        elif quoted and letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in "{[":
            level += 1
            deepest = max(deepest, level)
        elif not quoted and letter in "}]":
            level -= 1
    return deepest


def _leaves(found: Any, key: str = "") -> list[tuple[str, str]]:
    """All texts and numbers with the key they stand under; keys too are texts."""
    if isinstance(found, str):
        return [(key, found)]
    if isinstance(found, dict):
        return [leaf for name, value in found.items() for leaf in ((name, name), *_leaves(value, name))]
    return [leaf for value in found for leaf in _leaves(value, key)] if isinstance(found, list) else []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise BadLineError(
            "keys", f"key {next(name for name in names if names.count(name) > 1)!r} is there twice"
        )
    return found


def _constant(name: str) -> Any:
    raise BadLineError("json", f"{name} is not JSON; null is how a missing number is written")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_constant
)


def check_keys(found: Mapping[str, Any], tree: Tree, ignore: tuple[str, ...], above: str) -> None:
    """Raises: BadLineError for a key that is neither in `tree` nor, with the keys that lead to it, in `ignore`."""
    for key, value in found.items():
        if key not in tree and f"{above}{key}" not in ignore:
            raise BadLineError("keys", f"key {above + key!r} is not declared{did_you_mean(key, tree)}")
        below = tree.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            check_keys(value, below, ignore, f"{above}{key}.")


class NoObject:
    """A value on the way to a column that is no object."""

    def __init__(self, found: Any) -> None:
        self.found = found


def what(value: Any) -> str:
    """A value that has another type than declared, in words."""
    if isinstance(value, NoObject):
        return f"{what(value.found)} in place of an object"
    if isinstance(value, Number):
        return f"number {value[:40]}"
    if isinstance(value, str):
        return f"text {value[:40]!r}"
    return (
        "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)
    )
