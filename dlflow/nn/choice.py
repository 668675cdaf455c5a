"""A thing chosen by its name, with a "did you mean" when the name is wrong."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from dlflow.errors import ModelError

__all__ = ["choose", "suggestion"]

Thing = TypeVar("Thing")


def choose(name: object, options: Mapping[str, Thing], what: str) -> Thing:
    """The option of this name.

    Raises: ModelError that names the nearest option.

    >>> choose("adm", {"adam": 1, "sgd": 2}, "optimizer")
    Traceback (most recent call last):
    dlflow.errors.ModelError: unknown optimizer 'adm'; did you mean 'adam'? (known: 'adam', 'sgd')
    """
    if isinstance(name, str) and name in options:
        return options[name]
    raise ModelError(f"unknown {what} {name!r}; {suggestion(name, options)}")


def suggestion(name: object, options: Iterable[str]) -> str:
    """The end of a message about a wrong name: the nearest option, and all of them."""
    known = sorted(options)
    near = (
        get_close_matches(name.lower(), known, 1) or get_close_matches(name, known, 1)
        if isinstance(name, str)
        else []
    )
    listed = f"known: {', '.join(map(repr, known))}"
    return f"did you mean {near[0]!r}? ({listed})" if near else listed
