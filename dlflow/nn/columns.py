"""The columns of a convolution: windows copied side by side, block by block, so that a product does the rest.

A block is as many places of the output as fit the L2 cache with their columns. Letters: B samples, C channels, O filters,
N places x samples.
"""

from collections.abc import Iterator

import numpy as np

from dlflow.nn.params import Array, Workspace
from dlflow.nn.windows import Axis, padded, samples_inner

__all__ = ["BLOCK_BYTES", "Block", "Columns", "flat"]

BLOCK_BYTES = (
    1 << 20
)  # columns and outputs of a block: 512 KiB to 6 MiB are within 10 %, less is slower (tests/bench)

Block = tuple[int, int, int, int]  # rows from, to; columns from, to: places of the output


def flat(Y: Array, block: Block) -> Array:
    """(O, H, W, B) at the places of a block, as a matrix with a row per filter; a view."""
    r0, r1, c0, c1 = block
    return Y[:, r0:r1, c0:c1].reshape(len(Y), (r1 - r0) * (c1 - c0) * Y.shape[3])


class Columns:
    """The windows of one batch: blocks of places, and the columns of each."""

    def __init__(
        self,
        high: Axis,
        wide: Axis,
        pool: tuple[int, int],
        groups: int,
        filters: int,
        X: Array,
        space: Workspace,
    ) -> None:
        ph, pw = pool
        self.high, self.wide = high, wide
        self.space, self.batch, self.channels = space, len(X), X.shape[3] // groups
        self.X = padded(samples_inner(X, space, "X"), self.high, self.wide, space, "padded")
        self.height, self.width = self.high.outputs // ph, self.wide.outputs // pw
        self.pool = pool
        self.places = [(a, b) for a in range(ph) for b in range(pw)]
        self.rows = self.high.kernel * self.wide.kernel * self.channels
        self.blocks = list(self._cut(filters // groups))
        self._views = [self._view(self.X, place) for place in self.places]

    def _cut(self, filters: int) -> Iterator[Block]:
        """Whole rows while they fit the cache, else parts of a row: so that a block of Y is a matrix without copying."""
        per_place = max((self.rows + 2 * filters) * self.batch * self.X.itemsize, 1)
        places = max(BLOCK_BYTES // per_place, 1)
        if places >= self.width:
            step = places // self.width
            for r0 in range(0, self.height, step):
                yield r0, min(r0 + step, self.height), 0, self.width
            return
        for row in range(self.height):
            for c0 in range(0, self.width, places):
                yield row, row + 1, c0, min(c0 + places, self.width)

    def _view(self, X: Array, place: tuple[int, int]) -> Array:
        """X seen as (kh, kw, C, H, W, B): the windows whose output is this place of its pool; nothing is copied."""
        (a, b), (ph, pw), high, wide = place, self.pool, self.high, self.wide
        of_C, of_H, of_W, of_B = X.strides
        return np.ndarray(
            (high.kernel, wide.kernel, len(X), self.height, self.width, self.batch),
            X.dtype,
            X,
            a * high.stride * of_H + b * wide.stride * of_W,
            (
                high.dilation * of_H,
                wide.dilation * of_W,
                of_C,
                ph * high.stride * of_H,
                pw * wide.stride * of_W,
                of_B,
            ),
        )

    def columns(self, number: int, q: int, group: int) -> Array:
        """The windows of a block as a matrix (kh kw C, N), in memory that the next block uses again."""
        r0, r1, c0, c1 = self.blocks[number]
        shape = (self.high.kernel, self.wide.kernel, self.channels, r1 - r0, c1 - c0, self.batch)
        made = self.space.array("columns", shape, self.X.dtype)
        at_C = slice(group * self.channels, (group + 1) * self.channels)
        np.copyto(made, self._views[q][:, :, at_C, r0:r1, c0:c1])
        return made.reshape(self.rows, (r1 - r0) * (c1 - c0) * self.batch)

    def gradient(self, dtype: np.dtype) -> Array:
        """Zeros like X, to add to."""
        dX = self.space.array("dX", self.X.shape, dtype)
        dX.fill(0)
        return dX

    def scatter(self, columns: Array, dX: Array, number: int, q: int, group: int) -> None:
        """Add the columns of a block back to where they came from."""
        r0, r1, c0, c1 = self.blocks[number]
        view = self._view(dX, self.places[q])
        at_C = slice(group * self.channels, (group + 1) * self.channels)
        shaped = columns.reshape(*view.shape[:2], self.channels, r1 - r0, c1 - c0, self.batch)
        for i in range(view.shape[0]):
            for j in range(view.shape[1]):  # within one (i, j) no two windows meet
                to = view[i, j, at_C, r0:r1, c0:c1]
                np.add(to, shaped[i, j], out=to)
