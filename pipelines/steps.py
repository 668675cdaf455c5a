"""The steps by the name that the pipeline file gives them, each read by its own class."""

from collections.abc import Sequence
from typing import Any

from pipelines import (
    asof,
    clean,
    columns,
    contradictions,
    custom,
    duplicates,
    features,
    fill,
    integrate,
    outliers,
    privacy,
    quality,
    rows,
    split,
    units,
    windows,
)
from pipelines.document import Document, dotted
from pipelines.errors import SpecError
from pipelines.names import did_you_mean

__all__ = ["STEPS", "implied_checks", "step_of"]

STEPS: dict[str, Any] = {
    step.do: step
    for module in (
        clean,
        fill,
        units,
        columns,
        custom,
        rows,
        outliers,
        contradictions,
        duplicates,
        integrate,
        asof,
        windows,
        privacy,
        split,
        features,
    )
    for step in (getattr(module, name) for name in module.__all__)
    if hasattr(step, "do")
}


def step_of(document: Document, path: tuple[str | int, ...], value: Any) -> Any:
    """The step that a table of settings says, or None after its problems are noted in the document."""
    if not isinstance(value, dict) or not isinstance(value.get("do"), str):
        document.problem(
            path,
            f'{dotted(path)}: a step is written {{ do = "name", ... }}; steps: {", ".join(sorted(STEPS))}',
        )
        return None
    settings = dict(value)
    do = settings.pop("do")
    if do not in STEPS:
        document.problem((*path, "do"), f"{dotted(path)}: there is no step {do!r}{did_you_mean(do, STEPS)}")
        return None
    step = document.checked(STEPS[do], settings, path)
    if not isinstance(step, custom.Python | privacy.Pseudonymise):
        return step
    try:
        return step.located(document.file.resolve().parent)
    except SpecError as error:
        document.problem(path, f"{dotted(path)}: {error}")
        return None


def implied_checks(steps: Sequence[Any], checks: Sequence[Any]) -> tuple[Any, ...]:
    """Checks that no key is in two parts of the split, where the split itself does not make sure of it."""
    wanted: list[tuple[str, ...]] = []
    last: split.Split | None = None
    for step in steps:
        if isinstance(step, split.Split):
            last = step
            wanted.append(step.apart)
        elif isinstance(step, features.Features):
            sure = last is not None and not last.apart and last.by and {*last.by} <= {*step.key}
            wanted.append(() if sure else step.key)
    given = {frozenset(check.targets) for check in checks if check.check == "apart"}
    keys = {frozenset(key): key for key in wanted if key and frozenset(key) not in given}
    return tuple(quality.Check(check="apart", columns=key) for key in keys.values())
