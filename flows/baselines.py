"""What a model has to beat on the same rows: the base rate, and scikit-learn's logistic regression."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlflow.data import Dataset
from dlflow.errors import ModelError
from dlflow.nn.metrics import evaluate

__all__ = ["BASELINES", "compare"]

LIMIT_BYTES = 2 << 30  # of training rows that logistic regression holds in memory


def compare(names: tuple[str, ...], task: str, train: Dataset, test: Dataset) -> list[dict[str, Any]]:
    """`{"name", "metrics"}` of every baseline on the test rows.

    Raises: ModelError if scikit-learn is wanted and not installed, or the rows do not fit.
    """
    if not names:
        return []
    X, y = test.read()
    return [{"name": name, "metrics": evaluate(task, BASELINES[name](task, train, X), y)} for name in names]


def _prior(task: str, train: Dataset, X: np.ndarray) -> np.ndarray:
    """The share of each class (or the mean) among the training rows, for every row."""
    y = np.concatenate(
        [
            train.group(number, group)[1]
            for number, file in enumerate(train.files)
            for group in range(len(file.row_groups))
        ]
    )
    if task == "classes":
        shares = np.bincount(y.astype(np.int64)) / max(len(y), 1)
        return np.broadcast_to(shares.astype(np.float32), (len(X), len(shares)))
    return np.full(len(X), y.mean(dtype=np.float64), np.float32)


def _logistic(task: str, train: Dataset, X: np.ndarray) -> np.ndarray:
    """scikit-learn's LogisticRegression with its defaults and enough iterations."""
    if task == "regression":
        raise ModelError(
            'baseline "logistic" needs classes, and this model predicts a number; take it out of baselines'
        )
    size = 4 * train.rows * int(np.prod(train.shape))
    if size > LIMIT_BYTES:
        raise ModelError(
            f'baseline "logistic" holds all training rows in memory: {size:,} bytes, the limit is {LIMIT_BYTES:,}; take it out of baselines'
        )
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ModelError(
            'baseline "logistic" needs scikit-learn; pip install "dlflow[sklearn]", or take it out of baselines'
        ) from error
    X_train, y_train = train.read()
    fitted = LogisticRegression(max_iter=1000).fit(X_train.reshape(len(X_train), -1), y_train)
    probabilities = fitted.predict_proba(X.reshape(len(X), -1))
    return probabilities[:, 1] if task == "binary" else probabilities


BASELINES: Mapping[str, Callable[[str, Dataset, np.ndarray], np.ndarray]] = {
    "prior": _prior,
    "logistic": _logistic,
}
