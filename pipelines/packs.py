"""How many short parts go to a worker together, and what goes next: a task of Dask costs milliseconds, a part may take less.

    parts 0 1 2 3 4 ...  --packs of so many as take half a second------->  tasks, a bounded number at a time

The number of workers decides the packs, and packs decide nothing else: a part has a receipt of its own, an answer of its
own, and a number by which it is blamed. A pack that fails for the machine's sake is sent again part by part.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.failures import ATTEMPTS

__all__ = ["Pack", "Packs", "each"]

PACK_S = (
    0.5  # of a pack: a hundred times what a task costs, and as long as a run that is told to end may wait
)
MOST = 64  # parts of a pack: what is left to save is then a hundredth
SHARES = 4  # of each thread in what is left: so threads end together
FIRST, AHEAD = 4, 32  # tasks for each thread that wait or run: until the pace is known, and then
BATCHES = 8  # of ended tasks that the pace is taken from


@dataclass(frozen=True)
class Pack:
    """Parts from `start` to before `stop`."""

    start: int
    stop: int
    alone: bool = False  # nothing else runs beside it: if its workers die, it is to blame

    def __len__(self) -> int:
        return self.stop - self.start

    def singles(self) -> "list[Pack]":
        """A pack for each part."""
        return [Pack(part, part + 1, self.alone) for part in range(self.start, self.stop)]


class Packs:
    """What of `total` parts is still to be sent."""

    def __init__(self, total: int, now: float) -> None:
        self.total, self.sent = total, 0
        self.again: deque[Pack] = deque()
        self.suspects: deque[Pack] = deque()  # that may have killed workers: they run one by one
        self.attempts: dict[int, int] = {}  # of parts that have failed
        self.ends: deque[tuple[float, int]] = deque([(now, 0)], maxlen=BATCHES)  # when how many parts ended

    def next(self, flying: int, threads: int) -> list[Pack]:
        """What is to be sent while `flying` tasks are under way; nothing beside a suspect."""
        if self.suspects:
            return [] if flying else [self.suspects.popleft()]
        size = self._size(threads)
        found: list[Pack] = []
        room = threads * (FIRST if len(self.ends) == 1 else AHEAD) - flying
        while len(found) < room and (self.again or self.sent < self.total):
            if self.again:
                found.append(self.again.popleft())
            else:
                left = (self.total - self.sent) // (SHARES * threads)
                start, self.sent = self.sent, self.sent + max(1, min(size, left))
                found.append(Pack(start, self.sent))
        return found

    def _size(self, threads: int) -> int:
        """Parts that take `PACK_S` at the pace of the last ones; one until there is a pace."""
        began, took = self.ends[0][0], self.ends[-1][0] - self.ends[0][0]
        parts = sum(count for at, count in self.ends if at > began)
        return min(MOST, int(PACK_S * parts / (threads * took))) if parts else 1

    def ended(self, parts: int, now: float) -> None:
        """So many parts have ended well, by now."""
        self.ends.append((now, parts))

    def killed(self, pack: Pack) -> bool:
        """Workers died on which this pack was. Whether it is a part and to blame: if not, it runs again, alone."""
        if not pack.alone:
            self.suspects.append(Pack(pack.start, pack.stop, alone=True))
        elif len(pack) > 1:
            self.suspects.extendleft(reversed(pack.singles()))
        return pack.alone and len(pack) == 1

    def failed(self, pack: Pack, part: int | None) -> tuple[int, bool]:
        """A pack failed for the machine's sake, at a part or as a whole. The part to name, and whether it was its last attempt."""
        blamed = range(pack.start, pack.stop) if part is None else (part,)
        for one in blamed:
            self.attempts[one] = self.attempts.get(one, 1) + 1
        self.again.extendleft(reversed(pack.singles()))
        return blamed[0], self.attempts[blamed[0]] > ATTEMPTS


def each(fn: Callable[[Any], Any], items: Sequence[Any], first: int) -> Iterator[Any]:
    """The answers of the parts of a pack, numbered from `first`; an OSError says in which of them it came."""
    for part, item in enumerate(items, first):
        try:
            yield fn(item)
        except OSError as error:
            error.part = part  # type: ignore[attr-defined]  # it travels with the error
            raise
