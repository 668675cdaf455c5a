"""Embeddings: a row of a table for each token, and a row for each position.

Letters: B samples, T tokens, V vocabulary, E units.
"""

from dataclasses import InitVar, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dlflow.errors import ModelError
from dlflow.nn.initializers import initializer
from dlflow.nn.layers import Backward, Layer, at_least_one
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.penalties import Penalized
from dlflow.nn.streams import Stream

__all__ = ["Embedding", "PositionalEmbedding"]


@dataclass(frozen=True)
class Embedding(Penalized, Layer):
    """Y = W[tokens]: tokens are whole numbers from 0 to vocabulary - 1. With `mask_zero`, token 0 is padding and does not count.

    The gradient is a sum per token that occurs, in the order in which it occurs: the tokens are sorted and their rows added run by
    run. It is sparse: a step costs what the batch holds, not what the table holds (see `tables`).

    Shapes: X (B, ...) -> (B, ..., E); W (V, E).
    Raises: ModelError for `input_length`, which is not needed: the length is that of the data.
    """

    kind: ClassVar[str] = "embedding"
    vocabulary: int
    units: int
    mask_zero: bool = False
    initializer: str = "small_uniform"
    input_length: InitVar[int | None] = None

    def __post_init__(self, input_length: int | None) -> None:
        if input_length is not None:
            raise ModelError(
                f"embedding: input_length is {input_length!r}, expected nothing: the length is that of the data; leave it out"
            )
        self.check_penalties()
        at_least_one(self.kind, vocabulary=self.vocabulary, units=self.units)
        initializer(self.initializer)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W (V, E); one axis more."""
        return {"W": (self.vocabulary, self.units)}, (*in_shape, self.units)

    def init(self, p: Views, rng: Stream) -> None:
        """As the initializer says."""
        p["W"][...] = initializer(self.initializer)(p["W"].shape, rng)

    def accept(self, X: Array, dtype: npt.DTypeLike) -> Array:
        """Tokens as indices.

        Raises: ModelError with the first number that is no token of the vocabulary.
        """
        del dtype
        if X.dtype.kind == "f":
            _refuse(X, ~(np.floor(X) == X), "a whole number; give the numbers of the tokens, not features")
        if X.size and not (X.min() >= 0 and X.max() < self.vocabulary):
            _refuse(
                X,
                (X < 0) | (self.vocabulary <= X),
                f"a token from 0 to {self.vocabulary - 1}; count the words of the training set, or raise vocabulary",
            )
        return np.ascontiguousarray(X, np.intp)

    def tables(self) -> tuple[str, ...]:
        """The rows of other tokens have no gradient."""
        return ("W",)

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """What is not padding."""
        del mask
        return X != 0 if self.mask_zero else None

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """A row for each token."""
        del rng
        W = p["W"]
        tokens = (X if X.dtype == np.intp else self.accept(X, W.dtype)).reshape(-1)
        Y = np.take(W, tokens, axis=0, out=space.array("Y", (tokens.size, self.units), W.dtype), mode="clip")

        def backward(dY: Array, dp: Views, need_dX: bool) -> None:
            del need_dX
            if not tokens.size:
                return
            # numbers of 16 bits are sorted three times faster: by their digits
            small = tokens.astype(np.uint16) if self.vocabulary <= 1 << 16 else tokens
            order = small.argsort(kind="stable")
            found = tokens[order]
            starts = np.flatnonzero(np.concatenate(([True], found[1:] != found[:-1])))
            rows = space.array("rows", Y.shape, dY.dtype)
            np.take(space.contiguous("dY", dY).reshape(Y.shape), order, axis=0, out=rows, mode="clip")
            sums = space.array("sums", (len(starts), self.units), dY.dtype)
            touched = space.rows["W"] = found[starts]
            dp["W"][touched] = np.add.reduceat(rows, starts, axis=0, out=sums)

        return Y.reshape(*X.shape, self.units), backward


def _refuse(X: Array, bad: Array, expected: str) -> None:
    if bad.any():
        at = tuple(int(axis) for axis in np.argwhere(bad)[0])
        raise ModelError(f"embedding: X{list(at)} is {X[at]!s}, expected {expected}")


@dataclass(frozen=True)
class PositionalEmbedding(Layer):
    """Y = X + W, a row for each position, so that attention knows the order; learned, or waves of many lengths.

    Shapes: X (B, T, E); W (T, E) if learned.
    Source: Vaswani et al. 2017, section 3.5.
    """

    kind: ClassVar[str] = "positional_embedding"
    learned: bool = True

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W if it is learned; same shape."""
        if len(in_shape) != 2:
            raise ModelError(
                f"{self.kind}: samples have shape {in_shape!r}, expected (time, units); put it after an Embedding"
            )
        return ({"W": in_shape} if self.learned else {}), in_shape

    def init(self, p: Views, rng: Stream) -> None:
        """Small numbers."""
        if self.learned:
            p["W"][...] = initializer("small_uniform")(p["W"].shape, rng)

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """One sum."""
        del rng
        W = p["W"] if self.learned else _waves(X.shape[1], X.shape[2]).astype(X.dtype)
        Y = np.add(X, W, out=space.array("Y", X.shape, X.dtype))

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array:
            del need_dX
            if self.learned:
                np.add.reduce(dY, axis=0, out=dp["W"])
            return dY

        return Y, backward


def _waves(length: int, units: int) -> Array:
    """Sin and cos of the position over lengths from 2 pi to 10,000 * 2 pi, in turn."""
    angle = np.arange(length)[:, None] / 10_000 ** (np.arange(units) // 2 * 2 / units)
    return np.where(np.arange(units) % 2, np.cos(angle), np.sin(angle))
