"""Networks as scikit-learn estimators: for `clone`, `cross_val_score`, `GridSearchCV` and pipelines (pip install "dlflow[sklearn]").

>>> import numpy as np
>>> from dlflow.estimators import NetworkClassifier
>>> X = np.random.default_rng(0).standard_normal((200, 2))
>>> y = np.where(X[:, 0] > X[:, 1], "left", "right")
>>> optimizer = {"optimizer": "adam", "learning_rate": 0.02}
>>> bool(NetworkClassifier(hidden=(8,), optimizer=optimizer).fit(X, y).score(X, y) > 0.9)
True
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from dlflow.nn import (
    Callback,
    Dense,
    Dropout,
    Layer,
    Loss,
    Model,
    Optimizer,
    Sequential,
    layer_from,
    loss_from,
)
from dlflow.nn.params import Array

__all__ = ["NetworkClassifier", "NetworkRegressor"]


class _Network(BaseEstimator):
    """What both share. `layers` are those before the output, which is added; without them they are Dense layers of `hidden` units.

    The features should be of about the size of 1: put a StandardScaler before it.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        *,
        layers: Sequence[Layer | dict[str, Any]] | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        l2: float = 0.0,
        loss: Loss | str | dict[str, Any] | None = None,
        optimizer: Optimizer | str | dict[str, Any] = "adam",
        epochs: int = 50,
        batch_size: int = 32,
        validation_split: float = 0.0,
        callbacks: Sequence[Callback | str | dict[str, Any]] = (),
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.layers = layers
        self.activation = activation
        self.dropout = dropout
        self.l2 = l2
        self.loss = loss
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_split = validation_split
        self.callbacks = callbacks
        self.random_state = random_state

    def _train(self, X: Array, y: Array, outputs: int, loss: str, sample_weight: Array | None) -> Self:
        if self.layers is not None:
            layers = [layer_from(layer) for layer in self.layers]
        else:
            layers = []
            for units in self.hidden:
                layers.append(Dense(units, self.activation, l2=self.l2))
                if self.dropout:
                    layers.append(Dropout(self.dropout))
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            if not sample_weight.any():
                raise ValueError("all sample weights are zero, expected more; correct them")
        chosen = loss_from(self.loss or loss)
        seed = 0 if self.random_state is None else int(self.random_state)
        self.network_ = Sequential([*layers, Dense(outputs, l2=self.l2)], X.shape[1:], seed=seed)
        self.network_.compile(optimizer=self.optimizer, loss=chosen)
        self.history_ = self.network_.fit(
            X,
            y,
            epochs=self.epochs,
            batch_size=self.batch_size,
            validation_split=self.validation_split,
            sample_weight=sample_weight,
            callbacks=self.callbacks,
        )
        self.n_iter_ = len(self.history_)
        self.loss_ = chosen
        return self

    def _scores(self, X: Array) -> Array:
        """What the network says, computed in float64, so that a row's answer does not depend on the rows beside it."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        trained = self.network_.model
        exact = Model(trained.graph, dtype=np.float64)
        exact.w[...] = trained.w
        return self.loss_.scores(exact.outputs(X), exact.head)


class NetworkClassifier(ClassifierMixin, _Network):
    """A network for two or more classes of any type."""

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Train.

        Shapes: X (n, features), y (n,), sample_weight (n,).
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y holds one class only ({self.classes_[0]!r}), expected 2 or more; the number of classes is 1"
            )
        if len(self.classes_) == 2:
            return self._train(X, numbers, 1, "binary_cross_entropy", sample_weight)
        return self._train(X, numbers, len(self.classes_), "sparse_categorical_cross_entropy", sample_weight)

    def predict_proba(self, X: Array) -> Array:
        """Probabilities. Shapes: (n, classes)."""
        scores = self._scores(X)
        return np.hstack([1 - scores, scores]) if len(self.classes_) == 2 else scores

    def predict(self, X: Array) -> Array:
        """The most probable class. Shapes: (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]


class NetworkRegressor(RegressorMixin, _Network):
    """A network for one or several measured values."""

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Self:
        """Train; the values are scaled to mean 0 and deviation 1 for it.

        Shapes: X (n, features), y (n,) or (n, outputs), sample_weight (n,).
        """
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True, y_numeric=True)
        values = np.asarray(y, np.float64).reshape(len(y), -1)
        self.y_mean_, deviation = values.mean(axis=0), values.std(axis=0)
        self.y_scale_ = np.where(deviation > 0, deviation, 1)
        self.y_axes_ = np.ndim(y)
        scaled = (values - self.y_mean_) / self.y_scale_
        return self._train(X, scaled, values.shape[1], "mean_squared_error", sample_weight)

    def predict(self, X: Array) -> Array:
        """Values. Shapes: (n,) or (n, outputs), as y was."""
        values = self._scores(X) * self.y_scale_ + self.y_mean_
        return values[:, 0] if self.y_axes_ == 1 else values

    def __sklearn_tags__(self) -> Any:
        """Several values at once are fine."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
