"""Slices: the metrics of the rows with each value of a column; together they are those of all rows."""

import numpy as np
import pytest

from flows.evaluation import SLICES, Sets, evaluation
from tests.test_baselines import dataset


@pytest.fixture
def found(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 1)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int32)
    site = [None if row % 10 == 0 else "ab"[row % 2] for row in range(40)]
    train = dataset(tmp_path / "train", X, y, site=site, number=np.arange(40) % 3)
    test = dataset(tmp_path / "test", X[:30], 1 - y[:30], site=site[:30], number=np.arange(30) % 3)
    return evaluation(
        lambda X: 1 / (1 + np.exp(-X[:, 0])),
        "binary",
        Sets(train, None, test),
        baselines=("prior",),
        sliced=("site", "number"),
        outputs=1,
    )


def test_each_value_has_its_rows_the_most_frequent_first(found):
    assert [(line["value"], line["rows"]) for line in found["slices"]["site"]] == [
        ("b", 15),
        ("a", 12),
        ("(missing)", 3),
    ]
    assert [line["value"] for line in found["slices"]["number"]] == ["0", "1", "2"]
    for lines in found["slices"].values():
        right = sum(line["accuracy"] * line["rows"] for line in lines)
        assert right == pytest.approx(30 * found["metrics"]["test"]["accuracy"])


def test_slices_are_of_the_test_rows(found):
    assert found["metrics"]["train"]["accuracy"] == 1
    assert found["metrics"]["test"]["accuracy"] == 0
    assert [line["accuracy"] for line in found["slices"]["site"]] == [0, 0, 0]


def test_the_most_frequent_values_are_told_apart_the_others_together(tmp_path):
    X, y = np.zeros((200, 1), np.float32), np.zeros(200, np.float32)
    rows = dataset(tmp_path / "a", X, y, many=np.minimum(np.arange(200), 150))

    found = evaluation(
        lambda X: X[:, 0], "regression", Sets(rows, None, None), baselines=(), sliced=("many",), outputs=1
    )

    lines = found["slices"]["many"]
    assert len(lines) == SLICES + 1
    assert (lines[0]["value"], lines[0]["rows"]) == ("150", 50)
    assert (lines[-1]["value"], lines[-1]["rows"]) == ("(101 others)", 101)
