"""Class weights from the rows that a model is trained on: a rare class then counts as much as a frequent one."""

from dataclasses import replace

import numpy as np

from dlflow.data import Dataset
from dlflow.errors import ModelError
from dlflow.nn import BinaryCrossEntropy, CategoricalCrossEntropy, Loss, SparseCategoricalCrossEntropy
from dlflow.nn.rows import balanced

__all__ = ["balance"]


def balance(loss: Loss, dataset: Dataset, outputs: int) -> Loss:
    """The loss with class weights rows / (classes * rows of the class), as scikit-learn's "balanced".

    `outputs` are those of the model, one for each class; 1 if there are two classes.

    Raises: ModelError for a loss without classes, weights that are there already, or a class without rows.
    """
    if not isinstance(loss, BinaryCrossEntropy | SparseCategoricalCrossEntropy):
        what = "one-hot labels" if isinstance(loss, CategoricalCrossEntropy) else "no classes"
        raise ModelError(
            f"balanced class weights: {loss.kind} has {what}, expected class numbers as labels; leave them out, or give weights"
        )
    if loss.class_weights is not None:
        raise ModelError(
            f"balanced class weights: {loss.kind} has class_weights {list(loss.class_weights)!r} already; leave one of the two out"
        )
    counts = np.zeros(max(outputs, 2), np.int64)
    for labels in dataset.labels():
        known = labels[labels >= 0].astype(np.int64)
        if len(known) and known.max() >= len(counts):
            raise ModelError(
                f"balanced class weights: a label is {known.max()}, expected classes from 0 to {len(counts) - 1}; correct the model's last layer"
            )
        counts += np.bincount(known, minlength=len(counts))
    weights = balanced(counts)
    if isinstance(loss, BinaryCrossEntropy):
        return replace(loss, class_weights=(weights[0], weights[1]))
    return replace(loss, class_weights=weights)
