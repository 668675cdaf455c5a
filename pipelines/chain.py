"""Which maps of a chain, and which columns of a row, some columns behind it need: a sketch reads no others.

columns needed behind    <-- does this map write one of them?  no: it is left out
                                                               yes: what it reads is needed before it
"""

from collections.abc import Iterable, Sequence

from pipelines.stage import Map

__all__ = ["needed"]


def needed(maps: Sequence[Map], columns: Iterable[str]) -> tuple[tuple[Map, ...], tuple[str, ...]] | None:
    """The maps that make these columns what they are, and the columns that those read; None if a map does not say.

    A row of the chain as a whole must be a row before it: a map that may leave rows out does not say what it writes.
    """
    wanted, kept = set(columns), list[Map]()
    for one in reversed(maps):
        if one.reads is None or one.writes is None:
            return None
        if wanted & set(one.writes):
            wanted = (wanted - set(one.writes)) | set(one.reads)
            kept.append(one)
    return tuple(reversed(kept)), tuple(sorted(wanted))
