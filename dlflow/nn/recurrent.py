"""Recurrent layers: what SimpleRNN, LSTM and GRU share.

    Z (G, T, B, H)  = X W + b for all steps at once, one product per gate; the bias is a column of ones in X
    step t:           Z[:, t] + H[t-1] U -> the cell -> H[t]
    back:             the cell backwards fills dZ; dW, dU, db and dX are large products after the loop

Storage is gate-major, so every gate of a step is one run of memory. Letters: B samples, T steps, I inputs, H hidden, G gates.

Masked steps (padding) hand on the state as it was, and give it as their output. `truncate=k` stops gradients every k steps: the same
as training on pieces of k steps that hand on their state. A second input is the state to begin with; with `return_state` the
output is the state at the end, which another layer may begin with: (B, H), of an LSTM (B, 2 H) with the cell after the output. A
`stateful` layer begins each batch with the state at the end of the one before it, sample by sample, and no gradient goes back there.

Source: findings of the project; Gal & Ghahramani 2016 for dropout with one mask for all steps of a sample.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.initializers import initializer
from dlflow.nn.layers import Backward, JoinedBackward, Layer, at_least_one, check_rate, dropout_mask
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.penalties import Penalized
from dlflow.nn.streams import Stream

__all__ = ["Loop", "Recurrent"]


class Loop:
    """One pass over the steps of a batch: the arrays that a cell fills, and what it needs to know.

    Shapes: Z and dZ (G, T, B, H); states S (T + 1, B, H) each, the first is the output.
    """

    def __init__(self, layer: "Recurrent", p: Views, X: Array, rng: Stream | None, space: Workspace) -> None:
        B, T, I = X.shape  # noqa: E741  (the letter of the formula)
        G, H = layer.gates, layer.units
        self.layer, self.p, self.space, self.X = layer, p, space, X
        self.B, self.T, self.I, self.H, self.G, self.dtype = B, T, I, H, G, X.dtype
        self.drop_X = self.drop_H = None
        if rng is not None and layer.dropout:
            self.drop_X = dropout_mask((B, I), layer.dropout, rng, space, X.dtype, "drop X")
        if rng is not None and layer.recurrent_dropout:
            rng = Stream(rng.seed, rng.purpose, rng.step, rng.shard, rng.layer + (1 << 32))
            self.drop_H = dropout_mask((B, H), layer.recurrent_dropout, rng, space, X.dtype, "drop H")
        self.Xs = space.array("Xs", (T, B, I + 1), X.dtype)
        np.copyto(self.Xs[..., :I], self._in_time(X.transpose(1, 0, 2)))
        if self.drop_X is not None:
            np.multiply(self.Xs[..., :I], self.drop_X, out=self.Xs[..., :I])
        self.Xs[..., I] = 1
        self.Z = space.array("Z", (G, T, B, H), X.dtype)
        self.S = [space.array(f"S{number}", (T + 1, B, H), X.dtype) for number in range(layer.states)]
        self.count: Array | None = None
        self.all_count: list[bool] = [True] * T
        self.none_counts: list[bool] = [False] * T
        if space.mask is not None:
            mask = self._in_time(space.mask.T)
            counted = mask.sum(axis=1).tolist()
            self.all_count, self.none_counts = [n == B for n in counted], [n == 0 for n in counted]
            self.count = mask.astype(X.dtype)[:, :, None]
        self.W = space.array("W", (G, I + 1, H), X.dtype)
        self.U = space.array("U", (G, H, H), X.dtype)
        self.step = space.array("step", (G, B, H), X.dtype)

    def _in_time(self, of_time: Array) -> Array:
        return of_time[::-1] if self.layer.go_backwards else of_time

    def start(self, state: Array | None, scale: Array) -> None:
        """Fill Z with X W + b, each gate times its scale, U likewise, and the states before the first step."""
        np.multiply(self.p["W"], scale, out=self.W[:, : self.I])
        np.multiply(self.p["b"][:, None], scale, out=self.W[:, self.I :])
        np.multiply(self.p["U"], scale, out=self.U)
        rows = self.Xs.reshape(-1, self.I + 1)
        for gate, Z in zip(self.W, self.Z.reshape(self.G, -1, self.H), strict=True):
            np.matmul(rows, gate, out=Z)
        for number, S in enumerate(self.S):
            S[0] = 0 if state is None else state[:, number * self.H : (number + 1) * self.H]

    def recall(self, t: int) -> Array:
        """The output before step t, as the recurrent product sees it."""
        H = self.S[0][t]
        if self.drop_H is None:
            return H
        return np.multiply(H, self.drop_H, out=self.space.array("H dropped", H.shape, self.dtype))

    def product(self, t: int) -> Array:
        """Z of step t, and the recurrent product: a work array (G, B, H)."""
        np.matmul(self.recall(t), self.U, out=self.step)
        return np.add(self.Z[:, t], self.step, out=self.step)

    def skip(self, t: int) -> bool:
        """Whether step t is padding for all samples; then the states are handed on."""
        if self.none_counts[t]:
            for S in self.S:
                np.copyto(S[t + 1], S[t])
        return self.none_counts[t]

    def keep(self, t: int) -> None:
        """Hand on the states of the samples for which step t is padding."""
        if self.count is not None and not self.all_count[t]:
            kept = self.space.array("kept", (self.B, self.H), self.dtype)
            for S in self.S:
                np.multiply(S[t + 1], self.count[t], out=S[t + 1])
                np.multiply(S[t], 1 - self.count[t], out=kept)
                np.add(S[t + 1], kept, out=S[t + 1])

    def backward(
        self, dY: Array, dp: Views, cell: Callable[[int, Array, list[Array]], None], *, need_dX: bool
    ) -> tuple[Array | None, Array]:
        """Run `cell(t, dZ of t, [dS])` from the last step to the first; give dX and the gradient of the state at the start.

        The cell turns the gradients dS at the states after step t into those at the states before it, but for the part that goes
        through U, which is added here.
        """
        layer, space, T, G = self.layer, self.space, self.T, self.G
        self.dZ = space.array("dZ", self.Z.shape, self.dtype)
        dS = [space.array(f"dS{number}", (self.B, self.H), self.dtype) for number in range(layer.states)]
        kept = [
            space.array(f"dS{number} kept", (self.B, self.H), self.dtype) for number in range(layer.states)
        ]
        self.Ut = space.array("Ut", self.U.shape, self.dtype)
        np.copyto(self.Ut, self.p["U"].transpose(0, 2, 1))
        for number, d in enumerate(dS):
            d[...] = dY[:, number * self.H : (number + 1) * self.H] if layer.return_state else 0
        outputs = self._in_time_out(dY) if layer.return_sequences else None
        if not layer.return_sequences and not layer.return_state:
            np.copyto(dS[0], dY)
        for t in reversed(range(T)):
            if outputs is not None:
                np.add(dS[0], outputs[t], out=dS[0])
            if self.none_counts[t]:
                self.dZ[:, t] = 0
            else:
                partly = self.count is not None and not self.all_count[t]
                if partly and self.count is not None:
                    for d, k in zip(dS, kept, strict=True):
                        np.multiply(d, 1 - self.count[t], out=k)
                        np.multiply(d, self.count[t], out=d)
                cell(t, self.dZ[:, t], dS)
                if partly:
                    for d, k in zip(dS, kept, strict=True):
                        np.add(d, k, out=d)
            if layer.truncate and t and t % layer.truncate == 0:
                for d in dS:
                    d.fill(0)
        self._products(dp)
        dX = None
        if need_dX:
            dX = space.array("dX", (T * self.B, self.I), self.dtype)
            part = space.array("dX part", dX.shape, self.dtype)
            for number, (gate, W) in enumerate(zip(self.dZ.reshape(G, -1, self.H), self.p["W"], strict=True)):
                np.matmul(gate, W.T, out=part if number else dX)
                if number:
                    np.add(dX, part, out=dX)
            dX = dX.reshape(T, self.B, self.I)
            if self.drop_X is not None:
                np.multiply(dX, self.drop_X, out=dX)
            dX = self._in_time(dX).transpose(1, 0, 2)
        d_state = np.concatenate(dS, axis=1)
        return dX, d_state

    def through(self, dZ: Array, dH: Array) -> None:
        """Write the gradient that goes back through U into dH."""
        np.matmul(dZ, self.Ut, out=self.step)
        np.add.reduce(self.step, axis=0, out=dH)
        if self.drop_H is not None:
            np.multiply(dH, self.drop_H, out=dH)

    def output(self) -> Array:
        """What the layer gives."""
        if self.layer.return_state:
            return self.S[0][-1] if len(self.S) == 1 else np.concatenate([S[-1] for S in self.S], axis=1)
        if self.layer.return_sequences:
            return self.S[0][1:].transpose(1, 0, 2)
        return self.S[0][-1]

    def _in_time_out(self, dY: Array) -> Array:
        return dY.transpose(1, 0, 2)

    def _products(self, dp: Views) -> None:
        rows, before = self.Xs.reshape(-1, self.I + 1), self.S[0][:-1]
        if self.drop_H is not None:
            before = np.multiply(
                before, self.drop_H, out=self.space.array("before", before.shape, self.dtype)
            )
        before = before.reshape(-1, self.H)
        dW = self.space.array("dW", (self.I + 1, self.H), self.dtype)
        for gate, dZ in enumerate(self.dZ.reshape(self.G, -1, self.H)):
            np.matmul(rows.T, dZ, out=dW)
            np.copyto(dp["W"][gate], dW[: self.I])
            np.copyto(dp["b"][gate], dW[self.I])
            np.matmul(before.T, dZ, out=dp["U"][gate])


@dataclass(frozen=True)
class Recurrent(Penalized, Layer):
    """Settings that all recurrent layers have. Shapes: X (B, T, I) -> (B, H), or (B, T, H) with `return_sequences`.

    With `go_backwards` the sequence is read from its end, and the outputs come in the order in which they were made.
    """

    kernels: ClassVar[tuple[str, ...]] = ("W", "U")
    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    units: int
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    truncate: int | None = None
    stateful: bool = False

    def __post_init__(self) -> None:
        at_least_one(self.kind, units=self.units)
        self.check_penalties()
        if self.truncate is not None:
            at_least_one(self.kind, truncate=self.truncate)
        if self.return_sequences and self.return_state:
            raise ModelError(
                f"{self.kind}: return_sequences and return_state, expected one of them; take two layers for both"
            )
        if self.stateful and self.go_backwards:
            raise ModelError(
                f"{self.kind}: stateful and go_backwards, expected one of them; what comes later is in the next batch"
            )
        check_rate(self.kind, "dropout", self.dropout)
        check_rate(self.kind, "recurrent_dropout", self.recurrent_dropout)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W (G, I, H), U (G, H, H) and b (G, H)."""
        if len(in_shape) != 2:
            more = (
                "add the axis of the features with X[..., None]"
                if len(in_shape) == 1
                else "use Reshape before it"
            )
            raise ModelError(
                f"{self.kind}: samples have shape {in_shape!r}, expected (time, features); {more}"
            )
        G, H = self.gates, self.units
        need: dict[str, Shape] = {"W": (G, in_shape[1], H), "U": (G, H, H), "b": (G, H)}
        if self.return_state:
            return need, (self.states * H,)
        return need, ((in_shape[0], H) if self.return_sequences else (H,))

    def build_joined(self, in_shapes: tuple[Shape, ...]) -> tuple[dict[str, Shape], Shape]:
        """A sequence, and the state to begin with."""
        state = (self.states * self.units,)
        if self.stateful:
            raise ModelError(
                f"{self.kind}: stateful with a second input, expected one of them; both say what it begins with"
            )
        if len(in_shapes) != 2 or in_shapes[1] != state:
            raise ModelError(
                f"{self.kind}: inputs have shapes {', '.join(map(repr, in_shapes))}, expected a sequence and a state {state!r}; "
                "give the output of a layer with return_state=True and as many units"
            )
        return self.build(in_shapes[0])

    def init(self, p: Views, rng: Stream) -> None:
        """W by Glorot over all gates, U orthogonal, b zero (of an LSTM's forget gate one)."""
        G, I, H = p["W"].shape  # noqa: E741
        p["W"][...] = initializer("glorot_uniform")((I, G * H), rng).reshape(I, G, H).transpose(1, 0, 2)
        second = Stream(rng.seed, rng.purpose, rng.step, rng.shard, rng.layer + (1 << 32))
        Q = initializer("orthogonal")((G * H, H), second)
        p["U"][...] = Q.reshape(G, H, H).transpose(0, 2, 1)
        p["b"].fill(0)

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """Sequences keep theirs, in the order in which they are made."""
        del X
        if not self.return_sequences or mask is None:
            return None
        return mask[:, ::-1] if self.go_backwards else mask

    def mask_joined(self, Xs: tuple[Array, ...], masks: tuple[Array | None, ...]) -> Array | None:
        """That of the sequence."""
        return self.mask(Xs[0], masks[0])

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """From the state zero, or where the last batch ended."""
        before = space.carried if self.stateful else None
        if before is not None and len(before) != len(X):
            raise ModelError(
                f"{self.kind}: {len(X)} samples after a batch of {len(before)}, expected as many: sample by sample they go on; "
                "give batches of one size, or call reset_states() first"
            )
        loop = Loop(self, p, X, rng, space)
        Y, back = self.run(loop, before)
        if self.stateful and len(X):
            space.carried = np.concatenate([S[-1] for S in loop.S], axis=1)
        return Y, lambda dY, dp, need_dX: back(dY, dp, need_dX)[0]

    def forward_joined(
        self, p: Views, Xs: tuple[Array, ...], rng: Stream | None, space: Workspace
    ) -> tuple[Array, JoinedBackward]:
        """From a given state."""
        Y, back = self.run(Loop(self, p, Xs[0], rng, space), Xs[1])

        def backward(dY: Array, dp: Views, need_dX: bool) -> tuple[Array, ...] | None:
            dX, d_state = back(dY, dp, need_dX)
            return None if dX is None else (dX, d_state)

        return Y, backward

    @abstractmethod
    def run(
        self, loop: Loop, state: Array | None
    ) -> tuple[Array, Callable[[Array, Views, bool], tuple[Array | None, Array]]]:
        """All steps; the output, and the backward pass: dX, and the gradient of the state at the start."""
