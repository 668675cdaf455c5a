"""Arrays of another module than NumPy, to try one: a GPU library, say.

NumPy's functions ask the arrays they are given (NEP 13 and 18: `__array_ufunc__`, `__array_function__`), so a layer made of them computes
on any arrays that answer. All that is NumPy's own is where arrays are made, and that is what `Model(..., arrays=module)` chooses: the
module has `zeros`, `ones`, `empty` and `asarray`. NumPy is the only module that is promised; the layers below are tested with another one,
the others want memory laid out by hand, sorting or random bits, and are refused by name.
"""

from collections.abc import Sequence
from typing import Any

from dlflow.errors import ModelError
from dlflow.nn.layers import Layer

__all__ = ["PORTABLE", "check_portable", "moved"]

PORTABLE = (
    "activation",
    "add",
    "batch_normalization",
    "concatenate",
    "dense",
    "flatten",
    "layer_normalization",
    "rescaling",
    "reshape",
)


def check_portable(layers: Sequence[Layer], arrays: Any) -> None:
    """Raises: ModelError naming the layer that needs NumPy, if another module makes the arrays."""
    for number, layer in enumerate(layers):
        if arrays is not None and layer.kind not in PORTABLE:
            raise ModelError(
                f"layer {number} ({layer.kind}) computes on NumPy's arrays alone, not on those of {arrays.__name__}; "
                f"take one of {', '.join(PORTABLE)}, or leave arrays out"
            )


def moved(made: Any, arrays: Any) -> Any:
    """Arrays of NumPy as those of the module."""
    if arrays is None:
        return made
    return tuple(arrays.asarray(each) for each in made) if isinstance(made, tuple) else arrays.asarray(made)
