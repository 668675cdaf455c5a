"""What a model has to beat on the same rows: the base rate, scikit-learn's logistic regression, a bag of words, a column."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dlflow.data import Dataset
from dlflow.errors import ModelError
from dlflow.nn.metrics import evaluate
from flows.beside import beside

__all__ = ["BASELINES", "Baseline", "Column", "compare"]

LIMIT_BYTES = 2 << 30  # of training rows that logistic regression holds in memory


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of features (`keep` of its features step) as the answer: a rule that the pipeline computed.

    A value for a regression, a probability of label 1 for a binary task.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str
    name: str | None = None  # how it is told; None: as the column


Baseline = Literal["prior", "logistic", "bag_of_words"] | Column


def compare(
    wanted: tuple[Baseline, ...], task: str, train: Dataset, test: Dataset, outputs: int
) -> list[dict[str, Any]]:
    """`{"name", "metrics"}` of every baseline on the test rows; `outputs` is the number of classes of the model.

    Raises: ModelError if scikit-learn is wanted and not installed, the rows do not fit, or a baseline not the task.
    """
    if not wanted:
        return []
    X, y = test.read()
    found = []
    for one in wanted:
        if isinstance(one, Column):
            name, scores = one.name or one.column, _column(one, task, test)
        else:
            name, scores = one, BASELINES[one](task, train, X)
        if task == "classes" and scores.shape[1] < outputs:  # classes that no training row has
            scores = np.pad(scores, ((0, 0), (0, outputs - scores.shape[1])))
        found.append({"name": name, "metrics": evaluate(task, scores, y)})
    return found


def _column(baseline: Column, task: str, test: Dataset) -> np.ndarray:
    if task == "classes":
        raise ModelError(
            f"baseline {baseline.column!r}: a column is one number, and this model tells several classes apart; take it out"
        )
    values = beside(test, baseline.column)
    if values.dtype.kind not in "biuf":
        raise ModelError(
            f"baseline {baseline.column!r}: its values are texts, expected numbers; take another"
        )
    if (bad := ~np.isfinite(values.astype(np.float64))).any():
        raise ModelError(
            f"baseline {baseline.column!r}: {int(bad.sum())} test rows have no value, expected one in each; fill it"
        )
    return values.astype(np.float32)


def _labels(train: Dataset) -> np.ndarray:
    return np.concatenate(
        [
            train.group(number, group)[1]
            for number, file in enumerate(train.files)
            for group in range(len(file.row_groups))
        ]
    )


def _prior(task: str, train: Dataset, X: np.ndarray) -> np.ndarray:
    """The share of each class (or the mean) among the training rows, for every row."""
    y = _labels(train)
    if task == "classes":
        shares = np.bincount(y.astype(np.int64)) / max(len(y), 1)
        return np.broadcast_to(shares.astype(np.float32), (len(X), len(shares)))
    return np.full(len(X), y.mean(dtype=np.float64), np.float32)


def _logistic(task: str, train: Dataset, X: np.ndarray) -> np.ndarray:
    """scikit-learn's LogisticRegression with its defaults and enough iterations."""
    _classes_only("logistic", task)
    size = 4 * train.rows * int(np.prod(train.shape))
    if size > LIMIT_BYTES:
        raise ModelError(
            f'baseline "logistic" holds all training rows in memory: {size:,} bytes, the limit is {LIMIT_BYTES:,}; take it out of baselines'
        )
    if train.dtype == np.int32:
        raise ModelError(
            'baseline "logistic" needs numbers, and these are tokens; take "bag_of_words" in its place'
        )
    X_train, y_train = train.read()
    return _fitted("logistic", task, X_train.reshape(len(X_train), -1), y_train, X.reshape(len(X), -1))


def _bag_of_words(task: str, train: Dataset, X: np.ndarray) -> np.ndarray:
    """How often each token is there, whatever the order, to scikit-learn's LogisticRegression; padding (0) does not count."""
    _classes_only("bag_of_words", task)
    if train.dtype != np.int32:
        raise ModelError(
            'baseline "bag_of_words" needs tokens, and these rows are numbers; take "logistic" in its place'
        )
    X_train, y_train = train.read()
    width = 1 + max(int(X_train.max(initial=0)), int(X.max(initial=0)))
    return _fitted("bag_of_words", task, _counts(X_train, width), y_train, _counts(X, width))


def _counts(tokens: np.ndarray, width: int) -> Any:
    """A sparse matrix (rows, width) of how often each token is in each row."""
    try:
        from scipy.sparse import csr_matrix  # noqa: PLC0415 - comes with scikit-learn
    except ImportError as error:
        raise _missing("bag_of_words") from error
    tokens = tokens.reshape(len(tokens), -1)
    rows, places = np.nonzero(tokens)
    ones = np.ones(len(rows), np.float64)
    return csr_matrix((ones, (rows, tokens[rows, places])), shape=(len(tokens), width))


def _fitted(name: str, task: str, X_train: Any, y_train: np.ndarray, X: Any) -> np.ndarray:
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing(name) from error
    fitted = LogisticRegression(max_iter=1000).fit(X_train, y_train)
    probabilities = fitted.predict_proba(X)
    return probabilities[:, 1] if task == "binary" else probabilities


def _classes_only(name: str, task: str) -> None:
    if task == "regression":
        raise ModelError(
            f'baseline "{name}" needs classes, and this model predicts a number; take it out of baselines'
        )


def _missing(name: str) -> ModelError:
    return ModelError(
        f'baseline "{name}" needs scikit-learn; pip install "dlflow[sklearn]", or take it out of baselines'
    )


BASELINES: Mapping[str, Callable[[str, Dataset, np.ndarray], np.ndarray]] = {
    "prior": _prior,
    "logistic": _logistic,
    "bag_of_words": _bag_of_words,
}
