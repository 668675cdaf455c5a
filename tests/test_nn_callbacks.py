"""Callbacks decide by the numbers of an epoch alone, and write files that are whole."""

import csv
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from dlflow.errors import ModelError
from dlflow.nn import (
    SGD,
    Callback,
    Cosine,
    Dense,
    EarlyStopping,
    EpochRate,
    HistoryFile,
    ReduceOnPlateau,
    SaveModel,
    Sequential,
    callback_from,
    callback_to,
)
from dlflow.nn.callbacks import Control, decide


def play(callback, values, *, name="val_loss", rate=0.1):
    """What the callback says epoch by epoch: (kept, scale, stopped)."""
    memory, history, said, scale = {}, [], [], 1.0
    for epoch, value in enumerate(values):
        history.append({"epoch": epoch, name: value})
        memory = json.loads(json.dumps(memory))  # as after a resume
        control = Control(epoch, 99, history[-1], history, rate, lambda path: None, scale)
        decide([callback], control, memory)
        scale = control.scale
        said.append((control.keep, round(scale, 9), bool(control.stop)))
        if control.stop:
            break
    return said


def test_early_stopping_keeps_the_best_and_stops_after_its_patience():
    said = play(EarlyStopping(patience=2), [3, 2, 2.5, 1, 1, 1.5, 0])

    assert [keep for keep, _, _ in said] == [True, True, False, True, False, False]
    assert [stop for _, _, stop in said] == [False] * 5 + [True]


def test_better_is_up_for_accuracy_and_by_more_than_min_delta():
    rising = EarlyStopping(patience=1, monitor="val_accuracy", min_delta=0.1)

    assert len(play(rising, [0.5, 0.7, 0.75, 0.9], name="val_accuracy")) == 3
    assert len(play(EarlyStopping(patience=1, mode="max"), [1, 2, 3, 2])) == 4


def test_epochs_before_the_first_that_counts_are_passed_over():
    assert [keep for keep, _, _ in play(EarlyStopping(from_epoch=2), [1, 1, 5, 4])] == [
        False,
        False,
        True,
        True,
    ]


def test_a_number_that_is_not_there_is_never_better():
    assert len(play(EarlyStopping(patience=2), [1, None, float("nan"), 0])) == 3


def test_the_rate_is_reduced_on_a_plateau_down_to_its_floor():
    callback = ReduceOnPlateau(factor=0.1, patience=2, floor=0.005)

    said = play(callback, [1, 1, 1, 1, 1, 1], rate=0.1)

    assert [scale for _, scale, _ in said] == [1, 1, 0.1, 0.1, 0.05, 0.05]


def test_after_a_reduction_the_cooldown_is_waited_for():
    said = play(ReduceOnPlateau(factor=0.5, patience=1, cooldown=2), [1, 1, 1, 1, 1, 1])

    assert [scale for _, scale, _ in said] == [1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_a_schedule_may_count_epochs():
    said = play(EpochRate(Cosine(0.1, updates=2)), [1, 1, 1])

    assert [scale for _, scale, _ in said] == pytest.approx([0.5, 0, 0], abs=1e-9)


@dataclass(frozen=True)
class Halve(Callback):
    kind: ClassVar[str] = "halve"

    def epoch_end(self, control, memory):
        memory["epochs"] = memory.get("epochs", 0) + 1
        control.scale /= 2
        if memory["epochs"] == 3:
            control.stop = "three are enough"


@dataclass(frozen=True)
class Broken(Callback):
    kind: ClassVar[str] = "broken"

    def epoch_end(self, control, memory):
        raise KeyError("here")


def data(rows=60):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 3))
    return X, X @ [1.0, 2.0, 3.0] + rng.standard_normal(rows)


def compiled(**optimizer):
    model = Sequential([Dense(1)], 3)
    model.compile(optimizer=SGD(**{"learning_rate": 0.02, **optimizer}), loss="mean_squared_error")
    return model


def test_a_callback_of_ones_own_changes_the_rate_and_stops():
    model = compiled()

    history = model.fit(*data(), epochs=10, callbacks=[Halve()])

    assert [line["learning_rate"] for line in history] == pytest.approx([0.02, 0.01, 0.005])
    assert model.stopped == "three are enough"


def test_a_callback_that_fails_is_named():
    with pytest.raises(ModelError, match=r"callback 'broken' failed after epoch 0: KeyError: 'here'"):
        compiled().fit(*data(), callbacks=[Broken()])


def test_training_ends_with_the_best_weights():
    X, y = data()
    model = compiled(learning_rate=0.3)
    seen = []

    history = model.fit(
        X,
        y,
        epochs=20,
        batch_size=2,
        validation_split=0.2,
        callbacks=[EarlyStopping(patience=2)],
        report=lambda line: seen.append(model.model.w.copy()),
    )

    best = int(np.argmin([line["val_loss"] for line in history]))
    assert np.array_equal(model.model.w, seen[best])
    assert len(history) == best + 3
    assert "did not improve for 2 epochs" in model.stopped


def test_the_history_is_written_as_a_table_and_as_json(tmp_path):
    table, text = tmp_path / "new" / "history.csv", tmp_path / "history.json"

    history = compiled().fit(*data(), epochs=3, callbacks=[HistoryFile(str(table)), HistoryFile(str(text))])

    assert json.loads(text.read_text()) == history
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in history]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "history.csv",
        "history.json",
    ]


def test_the_best_and_the_last_model_are_written(tmp_path):
    best, last = tmp_path / "best.safetensors", str(tmp_path / "{epoch}.safetensors")
    X, y = data()
    model = compiled(learning_rate=0.3)

    history = model.fit(
        X,
        y,
        epochs=4,
        batch_size=2,
        validation_data=(X, y),
        callbacks=[SaveModel(str(best)), {"callback": "save_model", "path": last, "which": "last"}],
    )

    number = int(np.argmin([line["val_loss"] for line in history]))
    assert [(tmp_path / f"{epoch}.safetensors").exists() for epoch in range(4)] == [True] * 4
    written = Sequential.load(best)
    assert np.array_equal(written.model.w, Sequential.load(tmp_path / f"{number}.safetensors").model.w)
    assert written.evaluate(X, y)["loss"] == pytest.approx(history[number]["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (["early_stoping"], "unknown callback 'early_stoping'; did you mean 'early_stopping'"),
        ([EarlyStopping()], "watches 'val_loss' and there are no validation rows"),
        ([EarlyStopping(monitor="lss")], r"watches 'lss', which no epoch has; did you mean 'loss'"),
        ([EarlyStopping(monitor="loss"), EarlyStopping(monitor="loss", patience=9)], "all choose the final"),
        ([print], "callback is <built-in function print>, expected a table such as"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(callbacks, message):
    with pytest.raises(ModelError, match=message):
        compiled().fit(*data(), callbacks=callbacks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(patience=0), "patience is 0, expected at least 1"),
        (lambda: EarlyStopping(min_delta=-1), "min_delta is -1"),
        (lambda: EarlyStopping(mode="up"), "mode is 'up', expected 'auto', 'max' or 'min'"),
        (lambda: ReduceOnPlateau(factor=1), "factor is 1, expected 0 < factor < 1"),
        (lambda: ReduceOnPlateau(cooldown=-1), "cooldown is -1"),
        (lambda: HistoryFile("history.txt"), r"ends in \.csv or \.json"),
        (lambda: SaveModel("m", which="first"), "which is 'first', expected 'best' or 'last'"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping(patience=3, mode="max"),
        ReduceOnPlateau(floor=0.1),
        EpochRate(Cosine(0.1, updates=4)),
        HistoryFile("a.csv"),
        SaveModel("m", which="last"),
    ],
)
def test_what_is_written_as_json_is_what_is_read(callback):
    assert callback_from(json.loads(json.dumps(callback_to(callback)))) == callback
