"""What stands for something else in the texts of a pipeline file: values of [params] and of the environment."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from pipelines.document import Document, dotted
from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.stores import Storage

__all__ = ["of_environment", "params", "storage", "text", "url"]

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\{{(?P<variable>{_NAME})(?::-(?P<default>[^}}]*))?\}}|\{{(?P<param>{_NAME})\}}")


def params(document: Document, settings: Mapping[str, str]) -> dict[str, str]:
    """The values of [params]; `settings` override them."""
    given = document.values["params"]
    for key in settings:
        if key not in given:
            document.problem(
                ("params",), f"--set {key}=...: the file has no such param{did_you_mean(key, given)}"
            )
    values = {}
    for key, value in given.items():
        if isinstance(value, dict | list):
            document.problem(("params", key), f"params.{key}: expected a text or a number")
        else:
            values[key] = settings.get(key) or text(document, ("params", key), str(value), {})
    return values


def text(document: Document, path: tuple[str | int, ...], value: str, params: Mapping[str, str]) -> str:
    """A text with what its references mean: `{name}` of [params], `${NAME}` and `${NAME:-default}` of the environment."""

    def meant(match: re.Match[str]) -> str:
        name = match["param"]
        if name is None:
            name = match["variable"]
            found = os.environ.get(name, match["default"])
            if found is None:
                document.problem(
                    path,
                    f"{dotted(path)}: environment variable {name} is not set, and there is no default ${{{name}:-...}}",
                )
            return found or ""
        if name not in params:
            document.problem(
                path, f"{dotted(path)}: {{{name}}} is not in [params]{did_you_mean(name, params)}"
            )
        return params.get(name, "")

    return _REFERENCE.sub(meant, value)  # once: a secret that looks like a reference is none


def of_environment(address: str) -> str:
    """A path or URL with the values of `${NAME}`, quoted where a user or a password stands.

    Raises: SpecError for a variable that is not set.
    """
    document = Document(Path(), {}, {})
    scheme, mark, _ = address.partition("://")
    if mark and scheme != "sqlite":
        found = url(document, (), address, {}, Path())
    else:
        found = _REFERENCE.sub(
            lambda one: text(document, (), one[0], {}) if one["variable"] else one[0], address
        )
    if document.problems:
        raise SpecError(*(problem.partition(": ")[2].removeprefix(": ") for problem in document.problems))
    return found


def storage(document: Document, params: Mapping[str, str]) -> Storage:
    """[storage], and what the environment says of the rest."""
    given = {
        key: text(document, ("storage", key), value, params) if isinstance(value, str) else value
        for key, value in document.values["storage"].items()
    }
    found = document.checked(Storage, given, ("storage",)) or Storage(anonymous=True)
    try:
        return found.complete()
    except SpecError as error:
        for problem in error.problems:
            document.problem(("storage",), f"storage, with the environment: {problem}")
        return found


def url(
    document: Document, path: tuple[str, ...], value: str, params: Mapping[str, str], folder: Path
) -> str:
    """A URL with what its references mean: quoted where a user or a password stands, so that these may have any sign."""
    scheme, colon, rest = value.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        return f"sqlite:///{folder / text(document, path, rest[1:], params)}"
    before, at, behind = rest.rpartition("@")
    user = _REFERENCE.sub(lambda one: quote(text(document, path, one[0], params), safe=""), before)
    return "".join(
        [text(document, path, scheme, params), colon, user, at, text(document, path, behind, params)]
    )
