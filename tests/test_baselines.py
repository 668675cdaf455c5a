"""Baselines of a model: the base rate, logistic regression on numbers and on bags of words, and columns of the table."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from dlflow.data import Dataset, TableFile
from dlflow.errors import ModelError
from flows.baselines import Column, compare
from flows.beside import beside


def dataset(path, X, y, **more):
    X = np.ascontiguousarray(X)
    width = X.itemsize * X.shape[1]
    metadata = {"dtype": X.dtype.name, "shape": json.dumps(X.shape[1:])}
    fields = [pa.field("x", pa.binary(width), metadata=metadata), pa.field("y", pa.from_numpy_dtype(y.dtype))]
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(X), [None, pa.py_buffer(X.tobytes())])
    table = pa.table([values, pa.array(y)], schema=pa.schema(fields))
    for name, column in more.items():
        table = table.append_column(name, pa.array(column))
    pq.write_table(table, path, row_group_size=7)
    return Dataset((TableFile.of(path),))


def test_a_bag_of_words_is_what_scikit_learn_makes_of_the_same_words(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 9, (80, 5)).astype(np.int32)  # 0 is padding
    y = ((X == 3).sum(axis=1) + rng.normal(size=80) / 2 > 0.5).astype(np.int32)
    train, test = dataset(tmp_path / "a", X[:60], y[:60]), dataset(tmp_path / "b", X[60:], y[60:])

    (found,) = compare(("bag_of_words",), "binary", train, test, 1)

    bag = CountVectorizer(tokenizer=str.split, token_pattern=None)
    texts = [" ".join(str(token) for token in row if token) for row in X]
    other = LogisticRegression(max_iter=1000).fit(bag.fit_transform(texts[:60]), y[:60])
    said = other.predict(bag.transform(texts[60:]))
    assert found["name"] == "bag_of_words"
    assert found["metrics"]["accuracy"] == np.mean(said == y[60:])
    assert found["metrics"]["accuracy"] > 0.7


def test_a_column_of_the_table_is_a_baseline(tmp_path):
    X, y = np.zeros((20, 1), np.float32), np.arange(20, dtype=np.float32)
    rows = dataset(tmp_path / "a", X, y, guess=y + 2)

    first, second = compare(
        (Column(column="guess", name="two too much"), Column(column="guess")), "regression", rows, rows, 1
    )

    assert first == {"name": "two too much", "metrics": second["metrics"]}
    assert second["name"] == "guess"
    assert second["metrics"]["rmse"] == 2


def test_classes_that_no_training_row_has_are_given_no_chance(tmp_path):
    X = np.zeros((12, 1), np.float32)
    y = np.array([0, 1] * 6, np.int32)
    train, test = (
        dataset(tmp_path / "a", X, y),
        dataset(tmp_path / "b", X, np.append(y[1:], 2).astype(np.int32)),
    )

    (found,) = compare(("prior",), "classes", train, test, 3)

    assert found["metrics"]["accuracy"] == 5 / 12


@pytest.mark.parametrize(
    ("wanted", "task", "said"),
    [
        ("bag_of_words", "binary", 'needs tokens, and these rows are numbers; take "logistic"'),
        ("bag_of_words", "regression", "needs classes"),
        ("logistic", "regression", "needs classes"),
        (Column(column="gap"), "regression", "1 test rows have no value"),
        (Column(column="word"), "regression", "its values are texts"),
        (Column(column="guess"), "classes", "a column is one number"),
        (Column(column="gues"), "regression", r"no column 'gues', there are \['gap', 'word', 'guess'\]"),
    ],
)
def test_a_baseline_that_does_not_fit_says_why(wanted, task, said, tmp_path):
    X, y = np.zeros((4, 1), np.float32), np.array([0, 1, 0, 1], np.int32)
    rows = dataset(
        tmp_path / "a", X, y, gap=[1.0, None, 2.0, 3.0], word=["a", "b", "c", None], guess=[1, 2, 3, 4]
    )

    with pytest.raises(ModelError, match=said):
        compare((wanted,), task, rows, rows, 2)


def test_tokens_are_no_numbers_for_logistic_regression(tmp_path):
    rows = dataset(tmp_path / "a", np.ones((4, 2), np.int32), np.array([0, 1, 0, 1], np.int32))

    with pytest.raises(ModelError, match='these are tokens; take "bag_of_words"'):
        compare(("logistic",), "binary", rows, rows, 1)


def test_columns_beside_come_in_the_order_of_the_rows(tmp_path):
    names = [f"row {row}" for row in range(20)]
    one = dataset(tmp_path / "a", np.zeros((20, 1), np.float32), np.zeros(20, np.float32), name=names)
    two = dataset(tmp_path / "b", np.zeros((2, 1), np.float32), np.zeros(2, np.float32), name=["x", None])

    assert beside(Dataset(one.files + two.files), "name").tolist() == [*names, "x", None]
