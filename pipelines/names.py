"""Names as people mistype them: the one place that says "did you mean"."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, else the list of what is known.

    >>> did_you_mean("tabel", ["table", "source"])
    "; did you mean 'table'?"
    """
    names = [candidate for candidate in known if not candidate.startswith("_")]
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(sorted(names)[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}" if names else ""
