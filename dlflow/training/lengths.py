"""Whether a model may be given sequences without their padding: it may if it answers the same."""

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import Model

__all__ = ["allow_lengths"]


def allow_lengths(model: Model) -> None:
    """Let a model of tokens take shorter sequences, once it is seen that padding does not change its answers. Uses up its weights.

    Raises: ModelError if a layer needs the whole length, or sees padding.
    """
    (length,) = model.in_shape
    some, why = max(1, length // 2), ""
    X = np.zeros((2, length), np.int32)
    X[0, :some], X[1, :1] = 1, 1
    model.any_length = True
    model.init(0)
    try:
        short = model.outputs(X[:, :some])
        for padded in (X, np.roll(X, length - some, axis=1)):  # after the tokens, and before them
            whole = model.outputs(padded)
            if whole.shape != short.shape or not np.allclose(whole, short, rtol=1e-3, atol=1e-5):
                why = "it answers otherwise to a sequence with more padding"
    except (ModelError, ValueError, IndexError) as error:
        why = str(error)
    model.w[...] = 0
    if why:
        raise ModelError(
            f"bucket: the model needs sequences of {length} tokens: {why}; begin with an embedding with mask_zero = true, "
            "and layers that keep to it (recurrent, attention, global pooling), or leave bucket out"
        )
