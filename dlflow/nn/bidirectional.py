"""A recurrent layer read in both directions."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.constraints import Constraint
from dlflow.nn.layers import Backward, Layer
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.penalties import Penalty
from dlflow.nn.recurrent import Recurrent
from dlflow.nn.streams import Stream

__all__ = ["Bidirectional"]

MERGES = ("concat", "sum")


@dataclass(frozen=True)
class Bidirectional(Layer):
    """The same layer twice, with weights of its own for each direction; outputs side by side, or their sum.

    Shapes: parameters of the layer, prefixed "forward " and "backward "; the last axis of its output twice as long with "concat".
    Source: Schuster & Paliwal 1997.
    """

    kind: ClassVar[str] = "bidirectional"
    of: Layer
    merge: str = "concat"

    def __post_init__(self) -> None:
        if not isinstance(self.of, Recurrent) or self.of.go_backwards:
            raise ModelError(
                f"bidirectional: of is {self.of!r}, expected a SimpleRNN, LSTM or GRU that goes forwards; correct it"
            )
        if self.of.stateful:
            raise ModelError(
                "bidirectional: of is stateful, expected one that is not: its second half begins at the end of each batch; leave it out"
            )
        if self.merge not in MERGES:
            raise ModelError(f"bidirectional: merge is {self.merge!r}, expected 'concat' or 'sum'")

    def _pair(self) -> dict[str, Recurrent]:
        if not isinstance(self.of, Recurrent):
            raise TypeError(self.of)
        return {"forward ": self.of, "backward ": replace(self.of, go_backwards=True)}

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """The parameters of both."""
        need, shape = self.of.build(in_shape)
        both = {prefix + name: each for prefix in self._pair() for name, each in need.items()}
        return both, (shape if self.merge == "sum" else (*shape[:-1], 2 * shape[-1]))

    def init(self, p: Views, rng: Stream) -> None:
        """Each with random numbers of its own."""
        for prefix, layer in self._pair().items():
            layer.init(_of(p, prefix), _stream(rng, prefix))

    def penalties(self) -> dict[str, Penalty]:
        """Those of the layer, in both directions."""
        return {prefix + name: each for prefix in self._pair() for name, each in self.of.penalties().items()}

    def constraints(self) -> dict[str, Constraint]:
        """Those of the layer, in both directions."""
        return {
            prefix + name: each for prefix in self._pair() for name, each in self.of.constraints().items()
        }

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """As the layer."""
        return self.of.mask(X, mask)

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """Both, and the second turned round."""
        made, backs = [], []
        for prefix, layer in self._pair().items():
            part = space.part(prefix)
            part.mask = space.mask
            Y, back = layer.forward(_of(p, prefix), X, None if rng is None else _stream(rng, prefix), part)
            made.append(_turned(Y, layer))
            backs.append((prefix, layer, back))
        H = made[0].shape[-1]
        if self.merge == "sum":
            out = np.add(made[0], made[1], out=space.array("Y", made[0].shape, X.dtype))
        else:
            out = space.array("Y", (*made[0].shape[:-1], 2 * H), X.dtype)
            np.copyto(out[..., :H], made[0])
            np.copyto(out[..., H:], made[1])

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            found = []
            for number, (prefix, layer, back) in enumerate(backs):
                d = dY if self.merge == "sum" else dY[..., number * H : (number + 1) * H]
                found.append(back(_turned(d, layer), _of(dp, prefix), need_dX))
            first, second = found
            return None if first is None or second is None else np.add(first, second, out=first)

        return out, backward


def _of(p: Views, prefix: str) -> Views:
    return {name.removeprefix(prefix): view for name, view in p.items() if name.startswith(prefix)}


def _stream(rng: Stream, prefix: str) -> Stream:
    """A stream for each direction; the layers use the places from 2^32 on for their second streams."""
    return (
        rng
        if prefix == "forward "
        else Stream(rng.seed, rng.purpose, rng.step, rng.shard, rng.layer + (1 << 33))
    )


def _turned(Y: Array, layer: Recurrent) -> Array:
    """Outputs in the order of the input."""
    return Y[:, ::-1] if layer.return_sequences and layer.go_backwards else Y
