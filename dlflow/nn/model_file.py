"""A whole model in one file: what it is, its weights, and what is needed to train on. NumPy alone writes and reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dlflow.errors import ModelError, ModelFileError
from dlflow.nn.files import Readable, read_tensors, write_tensors
from dlflow.nn.losses import Loss
from dlflow.nn.model import Model
from dlflow.nn.optimizer import Optimizer
from dlflow.nn.params import Array
from dlflow.nn.spec import graph_from, graph_to, loss_from, loss_to, optimizer_from, optimizer_to

__all__ = ["Description", "read_model", "write_model"]

FORMAT = "dlflow-model-file"
FORMAT_VERSION = 1


@dataclass(kw_only=True)
class Description:
    """What a file tells beside layers and weights; `metadata` is the caller's."""

    loss: Loss | None = None
    optimizer: Optimizer | None = None
    metrics: tuple[str, ...] = ()
    seed: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    scale: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict)


def write_model(
    path: str | Path,
    model: Model,
    description: Description,
    *,
    state: Array | None = None,
    last: Array | None = None,
) -> str:
    """Write a model; give the digest of the file's content.

    Shapes: state as the optimizer made it; last (P,), the last weights if those of the model are others (best, average).
    Raises: ModelError for weights that are not finite; ModelFileError if the file cannot be written.
    """
    if not np.isfinite(model.w).all():
        raise ModelError(
            f"{int((~np.isfinite(model.w)).sum())} weights are not finite, expected numbers; training has diverged, nothing was saved"
        )
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "graph": graph_to(model.graph),
        "parameters": [
            {"layer": slot.layer, "name": slot.name, "shape": list(slot.shape), "start": slot.start}
            for slot in model.slots
        ],
        "loss": None if description.loss is None else loss_to(description.loss),
        "optimizer": None if description.optimizer is None else optimizer_to(description.optimizer),
        "metrics": list(description.metrics),
        "seed": description.seed,
        "history": description.history,
        "steps": description.steps,
        "scale": description.scale,
        "metadata": description.metadata,
    }
    tensors = {"w": model.w, "state": state, "last": last}
    return write_tensors(path, {name: each for name, each in tensors.items() if each is not None}, facts)


def read_model(path: str | Readable) -> tuple[Model, Description, dict[str, Array]]:
    """The model with its weights, its description, and all tensors of the file.

    Raises: ModelFileError for a file that is damaged, foreign or of a newer dlflow.
    """
    tensors, facts = read_tensors(path)
    if facts.get("format") != FORMAT or facts.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format {facts.get('format')!r} version {facts.get('format_version')!r}, expected {FORMAT!r} "
            f"version {FORMAT_VERSION}; install the dlflow that wrote it"
        )
    try:
        model = Model(graph_from(facts["graph"]))
        found = Description(
            loss=None if facts["loss"] is None else loss_from(facts["loss"]),
            optimizer=None if facts["optimizer"] is None else optimizer_from(facts["optimizer"]),
            metrics=tuple(facts["metrics"]),
            seed=int(facts["seed"]),
            history=list(facts["history"]),
            steps=int(facts["steps"]),
            scale=float(facts["scale"]),
            metadata=dict(facts["metadata"]),
        )
    except (ModelError, MemoryError, OverflowError, TypeError, ValueError, KeyError) as error:
        raise ModelFileError(
            f"{path}: cannot build the model: {error}; was it written by a newer dlflow?"
        ) from error
    sizes = {"w": model.parameters, "last": model.parameters}
    sizes["state"] = 0 if found.optimizer is None else found.optimizer.slots * model.parameters
    for name, tensor in tensors.items():
        if tensor.shape != (sizes.get(name),):
            raise ModelFileError(
                f"{path}: tensor {name!r} has shape {tensor.shape!r}, the model needs ({sizes.get(name)},); take another copy"
            )
    if "w" not in tensors or (
        found.optimizer is not None and found.loss is not None and "state" not in tensors
    ):
        raise ModelFileError(f"{path}: weights or optimizer state are missing; take another copy")
    model.w[...] = tensors["w"]
    return model, found, tensors
