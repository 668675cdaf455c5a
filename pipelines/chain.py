"""Which maps of a chain, and which columns of a row, some columns behind it need: a sketch reads no others.

columns needed behind    <-- does this map write one of them?  no: it is left out
                                                               yes: what it reads is needed before it
"""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from pipelines.stage import Exchange, Fit, Map, Stage, Step

__all__ = ["ahead", "foreseen", "needed"]

Chain = tuple[tuple[Map, ...], tuple[str, ...]]


def needed(maps: Sequence[Map], columns: Iterable[str]) -> Chain | None:
    """The maps that make these columns what they are, and the columns that those read; None if a map does not say.

    A row of the chain as a whole must be a row before it: a map that may leave rows out is not passed by.
    """
    return None if any(one.thins for one in maps) else foreseen(maps, columns)


def foreseen(stages: Sequence[Stage], columns: Iterable[str]) -> Chain | None:
    """The maps that make these columns of a row what they are behind all stages, and the columns that those read.

    Rows may be left out on the way, but not moved. None if the columns cannot be told before: a stage does not say what
    it writes, or they follow from what is fitted.
    """
    wanted, kept = set(columns), list[Map]()
    for one in reversed(stages):
        if isinstance(one, Exchange):
            if one.looks is None:
                return None
            continue
        if one.writes is None:
            return None
        made = wanted & set(one.writes)
        if not made:
            continue
        if isinstance(one, Fit) or one.reads is None:
            return None
        wanted = (wanted - made) | set(one.reads)
        kept.append(one.narrowed(made))
    return tuple(reversed(kept)), tuple(sorted(wanted))


def ahead(steps: Iterable[Step], schema: pa.Schema) -> list[Stage] | None:
    """What these steps, bound to their tables, do with rows of this schema; None if what is fitted decides the columns."""
    found = list[Stage]()
    for step in steps:
        stage = step.stage(schema)
        if isinstance(stage, Fit) and stage.writes is None:
            return None
        found.append(stage)
        schema = step.build(schema)
    return found
