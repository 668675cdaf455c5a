"""Metrics against scikit-learn, and the law that a merge of states is the state of the whole."""

import itertools
import json

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn.curves import charts
from dlflow.nn.metrics import by_class, evaluate, merge, merge_slices, numbers, slices, state_of, top_k

seeds = st.integers(0, 10_000)
sizes = st.integers(1, 60)


def binary(seed, rows, digits=2):
    """Scores with many ties."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=rows).round(digits).astype(np.float32), rng.integers(0, 2, rows)


def classes(seed, rows, count=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(count), rows).astype(np.float32), rng.integers(0, count, rows)


def values(seed, rows):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, rows)) * 3 + 7


MADE = {"binary": binary, "classes": classes, "regression": values}


@given(seeds, sizes)
def test_numbers_of_a_binary_task_are_those_of_scikit_learn(seed, rows):
    scores, y = binary(seed, rows)
    said = scores >= 0.5

    found = evaluate("binary", scores, y)

    both = 0 < y.sum() < rows
    assert found["auc"] == (pytest.approx(sk.roc_auc_score(y, scores), abs=1e-12) if both else None)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, said))
    assert found["log_loss"] == pytest.approx(
        sk.log_loss(y, scores.astype(float).clip(2**-23, 1 - 2**-23), labels=[0, 1])
    )
    assert found["brier"] == pytest.approx(sk.brier_score_loss(y, scores, pos_label=1))
    assert found["precision"] == (pytest.approx(sk.precision_score(y, said)) if said.any() else None)
    assert found["recall"] == (pytest.approx(sk.recall_score(y, said)) if y.any() else None)
    assert found["f1"] == (pytest.approx(sk.f1_score(y, said)) if said.any() or y.any() else None)
    assert found["base_rate"] == pytest.approx(y.mean())
    assert found["rows"] == rows
    assert (
        charts(state_of("binary", scores, y))["confusion"]
        == sk.confusion_matrix(y, said, labels=[0, 1]).tolist()
    )


@given(seeds, sizes)
def test_numbers_of_classes_are_those_of_scikit_learn(seed, rows):
    scores, y = classes(seed, rows)
    said = scores.argmax(axis=1)

    found = evaluate("classes", scores, y)

    exact = scores.astype(float) / scores.astype(float).sum(axis=1, keepdims=True)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, said))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, exact, labels=range(4)), rel=1e-5)
    f1 = sk.f1_score(y, said, average="macro", labels=range(4), zero_division=0)
    assert found["macro_f1"] == pytest.approx(f1)
    assert found["base_rate"] == pytest.approx(np.bincount(y).max() / rows)
    found_matrix = charts(state_of("classes", scores, np.eye(4)[y]))["confusion"]
    assert found_matrix == sk.confusion_matrix(y, said, labels=range(4)).tolist()


@given(seeds, sizes)
def test_numbers_of_a_regression_are_those_of_scikit_learn(seed, rows):
    scores, y = values(seed, rows)

    found = evaluate("regression", scores[:, None], y)

    assert found["mse"] == pytest.approx(sk.mean_squared_error(y, scores))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, scores))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, scores))
    assert found["r2"] == (pytest.approx(sk.r2_score(y, scores)) if rows > 1 else None)


@settings(deadline=None)
@given(st.sampled_from(sorted(MADE)), seeds, sizes, st.lists(st.floats(0, 1), max_size=4), st.randoms())
def test_a_merge_of_states_is_the_state_of_the_whole(task, seed, rows, cuts, random):
    scores, y = MADE[task](seed, rows)
    edges = [0, *sorted(int(cut * rows) for cut in cuts), rows]
    parts = [state_of(task, scores[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    random.shuffle(parts)

    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)

    whole = state_of(task, scores, y)
    assert numbers(merged) == (
        numbers(whole) if task == "binary" else pytest.approx(numbers(whole), nan_ok=True)
    )
    assert json.dumps(charts(merged)) == json.dumps(charts(whole))


@given(seeds, st.integers(2, 60))
def test_the_roc_curve_is_that_of_scikit_learn(seed, rows):
    scores, y = binary(seed, rows, digits=1)
    points = charts(state_of("binary", scores, y))["roc"]
    if not 0 < y.sum() < rows:
        assert points == []
        return

    fpr, tpr, _ = sk.roc_curve(y, scores)

    assert points[0] == [0, 0]
    assert points[-1] == [1, 1]
    np.testing.assert_allclose(np.interp(fpr, *zip(*points, strict=True)).max(), 1)
    assert sk.auc(*zip(*points, strict=True)) == pytest.approx(sk.auc(fpr, tpr))


def test_points_on_a_line_are_left_out_of_the_roc_curve():
    scores = np.linspace(0, 1, 1000)

    assert charts(state_of("binary", scores, scores > 0.7))["roc"] == [[0, 0], [0, 1], [1, 1]]


def test_a_long_roc_curve_is_thinned_to_200_points():
    scores, y = binary(0, 20_000, digits=7)

    points = charts(state_of("binary", scores, y))["roc"]

    assert len(points) == 200
    assert sk.auc(*zip(*points, strict=True)) == pytest.approx(sk.roc_auc_score(y, scores), abs=0.005)


def test_calibration_compares_what_was_said_with_what_was_so():
    scores = np.array([0.05, 0.15, 0.15, 0.95, 1.0, 0.9])
    y = np.array([0, 0, 1, 1, 1, 0])

    bins = charts(state_of("binary", scores, y))["calibration"]

    assert [each["rows"] for each in bins] == [1, 2, 3]
    assert [each["observed"] for each in bins] == pytest.approx([0, 0.5, 2 / 3])
    assert [each["predicted"] for each in bins] == pytest.approx([0.05, 0.15, 0.95])


def test_auc_counts_ties_half():
    assert evaluate("binary", np.array([0.5, 0.5, 0.5]), np.array([0, 1, 1]))["auc"] == 0.5
    assert evaluate("binary", np.array([0.1, 0.5, 0.5]), np.array([0, 0, 1]))["auc"] == 0.75


@pytest.mark.parametrize(("task", "shape"), [("binary", (0,)), ("classes", (0, 3)), ("regression", (0, 1))])
def test_no_rows_have_no_numbers(task, shape):
    found = evaluate(task, np.zeros(shape), np.zeros(0))

    assert found.pop("rows") == 0
    assert set(found.values()) == {None}
    assert json.dumps(charts(state_of(task, np.zeros(shape), np.zeros(0))))


def test_one_class_has_no_auc():
    assert evaluate("binary", np.array([0.2, 0.7]), np.array([1, 1]))["auc"] is None


def test_a_certain_mistake_costs_much_but_not_everything():
    found = evaluate("binary", np.array([0.0, 1.0], np.float32), np.array([1, 0]))

    assert found["log_loss"] == pytest.approx(-np.log(2.0**-23), rel=1e-6)


@pytest.mark.parametrize(
    ("task", "scores", "y", "message"),
    [
        ("binari", [0.5], [1], "unknown task 'binari'; did you mean 'binary'"),
        ("binary", [0.5], [1, 0], "1 scores for 2 labels"),
        ("binary", [0.5, 1.5], [1, 0], "score of row 1 is 1.5"),
        ("binary", [0.5, np.nan], [1, 0], "score of row 1 is not finite"),
        ("binary", [0.5, 0.5], [1, 2], "label of row 1 is 2 .* expected 0 or 1"),
        ("binary", [[0.5, 0.5]], [1], "give one score per label"),
        ("classes", [0.5, 0.5], [1, 0], r"expected \(n, classes\)"),
        ("classes", [[0.5, 0.5]], [2], "label of row 0 is 2 .* a class from 0 to 1"),
        ("regression", [0.5], [np.nan], "label of row 0 is nan"),
    ],
)
def test_scores_and_labels_that_do_not_fit_are_refused(task, scores, y, message):
    with pytest.raises(ModelError, match=message):
        evaluate(task, np.array(scores), np.array(y))


def test_states_of_different_tasks_do_not_merge():
    with pytest.raises(ModelError, match="Binary and Regression cannot be merged"):
        merge(state_of("binary", np.ones(1), np.ones(1)), state_of("regression", np.ones(1), np.ones(1)))


@given(seeds, sizes)
def test_precision_recall_and_f1_of_each_class_are_those_of_scikit_learn(seed, rows):
    scores, y = classes(seed, rows)
    expected = sk.precision_recall_fscore_support(y, scores.argmax(axis=1), labels=range(4), zero_division=0)

    found = by_class(state_of("classes", scores, y))

    for name, column in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        assert [line[name] for line in found] == pytest.approx(column.tolist())
    averages = numbers(state_of("classes", scores, y))
    assert averages["macro_precision"] == pytest.approx(expected[0].mean())
    assert averages["macro_recall"] == pytest.approx(expected[1].mean())


@given(seeds, sizes, st.integers(1, 4))
def test_top_k_accuracy_is_that_of_scikit_learn(seed, rows, k):
    scores, y = classes(seed, rows)  # without ties, where scikit-learn prefers the higher class

    found = top_k(state_of("classes", scores, y), k)

    assert found == pytest.approx(sk.top_k_accuracy_score(y, scores, k=k, labels=range(4)) if k < 4 else 1)


def test_of_equal_scores_the_lower_class_comes_first():
    state = state_of("classes", np.full((3, 3), 1 / 3), np.array([0, 1, 2]))

    assert [top_k(state, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert numbers(state)["accuracy"] == top_k(state, 1)
    with pytest.raises(ModelError, match="k is 0"):
        top_k(state, 0)


@given(seeds, st.integers(0, 40))
def test_slices_are_the_metrics_of_their_rows_and_merge_key_by_key(seed, cut):
    scores, y = binary(seed, 40)
    keys = np.random.default_rng(seed).choice(["de", "fr", "it"], 40)

    parts = [slices("binary", scores[at], y[at], keys[at]) for at in (slice(cut), slice(cut, None))]
    merged = merge_slices(*parts)

    assert set(merged) == set(keys.tolist())
    for key, state in merged.items():
        assert numbers(state) == evaluate("binary", scores[keys == key], y[keys == key])
