"""Shuffled batches of a training set: which rows are in a batch is a pure function of (seed, epoch, step).

The order of an epoch has two levels, so that memory is bounded and reads stay long:

    row groups in random order:      g7  g2  g9 | g0  g4 | g8 ...        cut into windows
    rows of a window in random order: ................... | ........     the global order; batches are cut from it

A batch may span windows. It does not matter how many workers take which part of it: any row is found without the
rows before it, and each window is read once by whoever needs it, the next one while this one is trained on. If all rows fit two
windows, they are read once in all.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, TypeAlias

import numpy as np

from dlflow.data.bucket import bucketed, cut, lengths
from dlflow.data.table import Array, Dataset, Samples
from dlflow.errors import ModelError
from dlflow.nn.streams import Stream

__all__ = ["Batches"]

Arrays: TypeAlias = tuple[Array, ...]
"""As `Dataset.arrays` gives them: inputs, labels, weights if there are some."""

KEPT = 2  # windows in memory: a batch that spans two does not read either twice


@dataclass(frozen=True, order=True)
class _Group:
    file: int
    number: int
    rows: int


class Batches:
    """Steps and batches of a dataset; every row is in exactly one batch of an epoch.

    Memory: at most two windows, of which one may be on its way. A window is as many row groups as fit `window_rows` and `window_bytes`, at least one: both
    are part of the order, so resume with the same. It is large by default, because rows that lie together (one month,
    say) must not train one after the other. With `bucket`, for sequences of tokens, batches have rows of similar length (see `bucket`), and
    rows that are taken are cut to the longest of them. Not for two threads at once.

    Raises: ModelError for sizes below 1, `bucket` of other rows than tokens, and as Dataset.shape does.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch: int,
        seed: int,
        window_rows: int = 1 << 20,
        window_bytes: int = 192 << 20,
        bucket: bool = False,
    ) -> None:
        if batch < 1 or window_rows < 1:
            raise ModelError(
                f"batches of {batch!r} rows from windows of {window_rows!r}, expected at least 1; correct them"
            )
        if bucket and (len(dataset.inputs) > 1 or len(dataset.shape) != 1 or dataset.dtype != np.int32):
            raise ModelError(
                f"bucket: column {dataset.x!r} has no sequences of tokens (whole numbers, 0 for padding); encode texts as tokens, or leave it out"
            )
        self.dataset = dataset
        self.batch = batch
        self._bucket = bucket
        self.rows = dataset.rows
        self._seed = seed
        numbers = sum(prod(each.shape) for each in dataset.inputs)
        self._window_rows = min(window_rows, max(1, window_bytes // (4 * numbers)))
        self._groups = [
            _Group(file, number, rows)
            for file, each in enumerate(dataset.files)
            for number, rows in enumerate(each.row_groups)
            if rows
        ]
        self._epoch = -1
        self._windows: list[tuple[_Group, ...]] = []
        self._begins: list[int] = []  # global place of the first row of each window
        self._orders: dict[int, Array] = {}
        self._kept: dict[tuple[_Group, ...], Arrays] = {}
        self._ahead: _Ahead | None = None

    def close(self) -> None:
        """End what is read ahead. Closing twice is closing once."""
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None

    @property
    def steps(self) -> int:
        """Batches of one epoch; the last may be smaller."""
        return -(-self.rows // self.batch)

    def size(self, step: int) -> int:
        """Rows of batch `step` of an epoch."""
        return max(0, min(self.batch, self.rows - step * self.batch))

    def take(self, epoch: int, step: int, start: int, stop: int) -> Samples:
        """Rows start .. stop of batch `step`, as new arrays that belong to the caller; none if start == stop.

        Shapes: X (stop - start, *shape) of the dataset's dtype, or one of these for each input; y (stop - start,).
        Raises: ModelError for rows that are not in the batch, and as Dataset.arrays does.
        """
        X, y, _ = self.take_weighted(epoch, step, start, stop)
        return X, y

    def take_weighted(self, epoch: int, step: int, start: int, stop: int) -> tuple[Any, Array, Array | None]:
        """As `take`, and the weights of the rows, None if the dataset has none. Shapes: weights (stop - start,)."""
        made, inputs = self._take(epoch, step, start, stop), len(self.dataset.inputs)
        X = made[0] if isinstance(self.dataset.x, str) else made[:inputs]
        return X, made[inputs], made[inputs + 1] if len(made) > inputs + 1 else None

    def _take(self, epoch: int, step: int, start: int, stop: int) -> Arrays:
        if step < 0 or not 0 <= start <= stop <= self.size(step):
            raise ModelError(
                f"rows {start} to {stop} of step {step}: an epoch has {self.steps} steps, this one {self.size(step)} rows"
            )
        if start == stop:
            return tuple(np.empty((0, *shape), dtype) for shape, dtype in self.dataset.forms)
        self._enter(epoch)
        first, last = step * self.batch + start, step * self.batch + stop
        parts = []
        for window in range(bisect_right(self._begins, first) - 1, len(self._windows)):
            begin = self._begins[window]
            if begin >= last:
                break
            rows = self._order(epoch, window)[max(first - begin, 0) : last - begin]
            window_rows = self._read(self._windows[window])
            parts.append(tuple(np.take(each, rows, axis=0) for each in window_rows))
        self._read_ahead(bisect_right(self._begins, last - 1) - 1)
        made = (
            parts[0] if len(parts) == 1 else tuple(np.concatenate(each) for each in zip(*parts, strict=True))
        )
        return (cut(made[0]), *made[1:]) if self._bucket else made

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        # layer=1 keeps this order apart from the orders of rows, which are those of layer 0
        order = Stream(self._seed, "shuffle", step=epoch, layer=1).permutation(len(self._groups))
        windows: list[list[_Group]] = []
        room = 0
        for group in (self._groups[place] for place in order):
            if group.rows > room:
                windows.append([])
                room = self._window_rows
            windows[-1].append(group)
            room -= group.rows
        # sorted: the order of groups in a window does not matter, and equal windows are then read once
        self._windows = [tuple(sorted(window)) for window in windows]
        sizes = (sum(group.rows for group in window) for window in self._windows)
        self._begins = list(accumulate(sizes, initial=0))[:-1]
        self._orders.clear()
        self._epoch = epoch

    def _order(self, epoch: int, window: int) -> Array:
        if window not in self._orders:
            size = sum(group.rows for group in self._windows[window])
            _drop_oldest(self._orders)
            order = Stream(self._seed, "shuffle", step=epoch, shard=window).permutation(size)
            if self._bucket:
                found, skip = (
                    lengths(self._read(self._windows[window])[0]),
                    -self._begins[window] % self.batch,
                )
                stream = Stream(
                    self._seed, "shuffle", step=epoch, shard=window, layer=2
                )  # 0 is that of `order`
                order = bucketed(order, found, skip=skip, batch=self.batch, stream=stream)
            self._orders[window] = order
        return self._orders[window]

    def _read(self, window: tuple[_Group, ...]) -> Arrays:
        if window not in self._kept:
            ahead, self._ahead = self._ahead, None
            if ahead is not None and ahead.window == window:
                made = ahead.result()
            else:
                if ahead is not None:
                    ahead.join()  # not three windows at once
                made = self._join(window)
            _drop_oldest(self._kept)
            self._kept[window] = made
        return self._kept[window]

    def _read_ahead(self, number: int) -> None:
        """Read the window after this one beside the training, if windows come and go; those before this one are done with."""
        if len(self._windows) <= KEPT or number + 1 >= len(self._windows) or self._ahead is not None:
            return
        current, following = self._windows[number], self._windows[number + 1]
        if following in self._kept:
            return
        self._kept = {current: self._kept[current]}
        self._ahead = _Ahead(following, self._join)
        self._ahead.start()

    def _join(self, window: tuple[_Group, ...]) -> Arrays:
        if len(window) == 1:
            return self.dataset.arrays(window[0].file, window[0].number)
        rows = sum(group.rows for group in window)
        made = tuple(np.empty((rows, *shape), dtype) for shape, dtype in self.dataset.forms)
        at = 0
        for (
            group
        ) in window:  # one after the other into the window, so that at most one group is in memory twice
            for whole, part in zip(made, self.dataset.arrays(group.file, group.number), strict=True):
                whole[at : at + group.rows] = part
            at += group.rows
        return made


class _Ahead(threading.Thread):
    """A window on its way into memory."""

    def __init__(self, window: tuple[_Group, ...], read: Callable[[tuple[_Group, ...]], Arrays]) -> None:
        super().__init__(name="dlflow-ahead", daemon=True)
        self.window, self._read = window, read
        self._made: Arrays | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._made = self._read(self.window)
        except Exception as error:  # noqa: BLE001  raised where the window is wanted
            self._error = error

    def result(self) -> Arrays:
        """The window, once it is there.

        Raises: what reading it raised.
        """
        self.join()
        if self._made is None:
            raise self._error or ModelError("a window was not read")
        return self._made


def _drop_oldest(kept: dict) -> None:
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
