"""The laws of training: N ranks equal one rank, and a resumed run equals an unbroken one, bit for bit."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from dlflow.errors import DlflowError, ModelError, ModelFileError, NonFinite
from dlflow.nn import (
    LSTM,
    SGD,
    Adam,
    AdamW,
    BatchNormalization,
    Callback,
    Conv1D,
    Cosine,
    Dense,
    EarlyStopping,
    Flatten,
    HistoryFile,
    MaxNorm,
    MeanSquaredError,
    Model,
    ReduceOnPlateau,
    Reshape,
    RMSprop,
    SaveModel,
    Sequential,
)
from dlflow.parallel.testing import Flaky, ThreadRing, on_every_rank
from dlflow.training import fit, train
from dlflow.training.checkpoint import load_weights
from tests.training_jobs import WIDTH, dataset, job

CLOCKS = {"seconds", "samples_per_s"}


def told(history):
    """History without what the clock says."""
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in history]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def alone(folder):
    """The undisturbed run on one rank."""
    return fit(job(folder, "alone"))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 11])
def test_any_number_of_ranks_gives_the_weights_and_history_of_one(folder, alone, size):
    this = job(folder, f"ranks{size}")

    outcomes = on_every_rank(ThreadRing(size), lambda comm: train(this, comm))

    assert {outcome.weights_sha256 for outcome in outcomes} == {alone.weights_sha256}
    assert all(told(outcome.history) == told(alone.history) for outcome in outcomes)


@pytest.mark.parametrize(
    "settings",
    [
        {"shards": 1},
        {"shards": 2},
        {"shards": 32, "batch": 20},  # more shards than rows: some are empty
        {"batch": 5000},  # one batch, larger than the data
        {"optimizer": SGD(0.1)},  # no state at all
        {"optimizer": Adam(Cosine(0.02, updates=33), clip_global_norm=0.1, average=0.9)},
        {
            "optimizer": RMSprop(clip_norm=0.05),
            "layers": (Dense(9, "relu", l1=1e-3, constraint=MaxNorm(0.5)), Dense(1)),
        },
        {
            "optimizer": AdamW(0.02, weight_decay=0.5),  # must not shrink running statistics
            "layers": (
                *(Reshape((WIDTH, 1)), Conv1D(4, 3, activation="relu"), BatchNormalization(momentum=0.8)),
                *(LSTM(5, dropout=0.2), Dense(6000, "relu"), BatchNormalization(), Dense(1)),
            ),
        },
        {"validation": None},
        {"loss": MeanSquaredError(), "layers": (Flatten(), Dense(7, activation="tanh"), Dense(1))},
    ],
)
def test_the_law_holds_for_other_jobs(folder, tmp_path, settings):
    this = job(folder, epochs=2, **settings)
    first = fit(replace(this, folder=str(tmp_path / "one")))

    outcomes = on_every_rank(
        ThreadRing(3), lambda comm: train(replace(this, folder=str(tmp_path / "three")), comm)
    )

    assert {outcome.weights_sha256 for outcome in outcomes} == {first.weights_sha256}


def test_training_learns(alone):
    assert alone.history[-1]["val_loss"] < alone.history[0]["val_loss"]
    assert alone.history[-1]["val_accuracy"] > 0.8
    assert alone.steps == 33


def test_the_weights_file_holds_the_weights_of_the_digest(alone, tmp_path):
    w = load_weights(alone.weights, sha256=alone.weights_sha256)

    assert w.shape == (alone.parameters,)
    with pytest.raises(ModelFileError, match="expected 0000"):
        load_weights(alone.weights, sha256="0000")
    with pytest.raises(ModelFileError, match="not a file of weights"):
        load_weights(tmp_path / "none.safetensors", sha256="0000")


def test_the_first_step_is_the_one_of_the_whole_batch(folder, tmp_path):
    """Against an independent computation: one gradient over the batch, without shards (dropout off)."""
    this = job(
        tmp_path, layers=(Dense(8, activation="relu"), Dense(1)), optimizer=SGD(0.1), epochs=1, batch=1000
    )
    outcome = fit(this)
    X, y = this.train.read()
    model = Model(this.layers, this.train.shape)
    model.init(this.seed)
    model.gradient(this.loss, X, y)
    model.finish()

    expected = model.w - 0.1 * model.g[:-2]

    np.testing.assert_allclose(
        load_weights(outcome.weights, sha256=outcome.weights_sha256), expected, rtol=1e-4, atol=1e-6
    )


def test_a_finished_job_is_not_trained_again(folder, alone):
    events = []

    again = fit(job(folder, "alone"), events.append)

    assert again.weights_sha256 == alone.weights_sha256
    assert again.history == alone.history
    assert [event["event"] for event in events] == ["start"]


def test_a_checkpoint_of_another_job_is_never_used(folder, alone, tmp_path):
    shutil.copytree(folder / "alone", tmp_path / "alone")
    events = []

    other = fit(replace(job(folder), folder=str(tmp_path / "alone"), seed=4), events.append)

    assert events[0]["resumed"] is False
    assert other.weights_sha256 != alone.weights_sha256


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [0, 1, 5, 10, 11, 12, 32])
@pytest.mark.parametrize("size", [1, 3])
def test_a_run_resumed_at_any_step_on_any_number_of_ranks_has_the_same_bits(
    folder, alone, tmp_path, stop_at, size
):
    this = job(folder, checkpoint_s=1e-9)  # after every step
    this = replace(this, folder=str(tmp_path))
    saved = []

    def interrupt(event):
        if event["event"] == "checkpoint":
            saved.append(event)
        if len(saved) == stop_at + 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(this, interrupt)
    outcomes = on_every_rank(ThreadRing(size), lambda comm: train(this, comm))

    assert {outcome.weights_sha256 for outcome in outcomes} == {alone.weights_sha256}
    assert told(outcomes[0].history) == told(alone.history)


def test_a_resumed_run_takes_up_where_it_stopped(folder, tmp_path):
    this = replace(job(folder, checkpoint_s=1e-9), folder=str(tmp_path))

    def interrupt(event):
        if event["event"] == "checkpoint" and event["epoch"] == 1 and event["step"] == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(this, interrupt)
    events = []
    fit(this, events.append)

    at = events[0]["epoch"], events[0]["step"]
    assert events[0]["resumed"]
    assert (1, 4) <= at <= (1, 7)  # a checkpoint is told once it is written, and training goes on meanwhile
    assert sum(event["event"] == "checkpoint" for event in events) == 33 - 11 * at[0] - at[1]


def test_a_rank_that_dies_at_any_message_costs_no_bit(folder, alone, tmp_path):
    """Rank 1 of 3 dies at its n-th message; the next gang, of another size, resumes from what rank 0 has saved."""
    this = replace(job(folder, checkpoint_s=1e-9), folder=str(tmp_path))
    generations = 0
    for dies_at in range(3, 1000, 37):
        ring = ThreadRing(3)
        comms = [Flaky(comm, dies_at=dies_at) if comm.rank == 1 else comm for comm in ring.comms]
        try:
            outcomes = on_every_rank(comms, lambda comm: train(this, comm))
        except DlflowError:
            generations += 1
            continue
        break

    assert generations >= 3
    assert {outcome.weights_sha256 for outcome in outcomes} == {alone.weights_sha256}
    assert told(outcomes[0].history) == told(alone.history)


def test_a_nan_that_one_rank_sees_stops_all_in_the_same_step(folder, tmp_path):
    poisoned = dataset(tmp_path / "poisoned.parquet", 1000, poison=777)
    this = replace(job(folder, shards=8), train=poisoned, folder=str(tmp_path))
    messages = []

    def work(comm):
        try:
            train(this, comm)
        except NonFinite as error:
            messages.append(str(error))
            raise

    with pytest.raises(NonFinite, match=r"epoch 0, step \d+ of 11: .*layer 0 \(dense\)"):
        on_every_rank(ThreadRing(3), work)

    assert len(messages) == 3
    assert len(set(messages)) == 1


def test_weights_that_are_not_finite_are_never_saved(folder, tmp_path):
    this = replace(job(folder, optimizer=SGD(1e38), checkpoint_s=1e-9), folder=str(tmp_path))

    with pytest.raises(NonFinite):
        fit(this)

    for path in tmp_path.glob("*.safetensors"):
        from safetensors.numpy import load

        assert np.isfinite(load(path.read_bytes())["w"]).all()


def test_early_stopping_ends_with_the_best_weights(folder, tmp_path):
    this = replace(job(folder, optimizer=SGD(3.0), epochs=30, patience=2), folder=str(tmp_path))

    outcome = fit(this)

    losses = [line["val_loss"] for line in outcome.history]
    assert outcome.stopped_early
    assert outcome.best_epoch == int(np.argmin(losses))
    assert len(losses) == outcome.best_epoch + 3
    model = Model(this.layers, this.train.shape)
    model.w[...] = load_weights(outcome.weights, sha256=outcome.weights_sha256)
    X, y = this.validation.read()
    probability = model.predict(X)[:, 0].astype(np.float64)
    loss = -np.log(np.where(y == 1, probability, 1 - probability)).mean() + model.penalty()
    assert loss == pytest.approx(min(losses), rel=1e-3)


def test_early_stopping_is_the_same_on_three_ranks_and_after_a_resume(folder, tmp_path):
    settings = {"optimizer": SGD(3.0), "epochs": 30, "patience": 2, "checkpoint_s": 1e-9}
    first = fit(replace(job(folder, **settings), folder=str(tmp_path / "one")))
    this = replace(job(folder, **settings), folder=str(tmp_path / "three"))

    def interrupt(event):
        if event["event"] == "epoch" and event["epoch"] == first.best_epoch + 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(this, interrupt)
    outcomes = on_every_rank(ThreadRing(3), lambda comm: train(this, comm))

    assert {outcome.weights_sha256 for outcome in outcomes} == {first.weights_sha256}
    assert outcomes[0].best_epoch == first.best_epoch


def test_a_loss_that_does_not_fit_the_model_fails_before_the_first_step(tmp_path):
    events = []

    with pytest.raises(ModelError, match="softmax"):
        fit(job(tmp_path, layers=(Dense(1, activation="softmax"),)), events.append)

    assert not events


def test_a_checkpoint_computed_with_another_kernel_is_used_with_a_warning(folder, tmp_path, monkeypatch):
    this = replace(job(folder, checkpoint_s=1e-9), folder=str(tmp_path))

    def interrupt(event):
        if event["event"] == "checkpoint":
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(this, interrupt)
    here = fit.__globals__["train"].__globals__["one_blas_thread"].__wrapped__.__globals__["numerics"]
    monkeypatch.setattr("dlflow.training.numerics.numerics", lambda: {**here(), "blas": "openblas 0.0 Other"})
    events = []
    fit(this, events.append)

    warnings = [event["why"] for event in events if event["event"] == "warning"]
    assert len(warnings) == 1
    assert "is 'openblas 0.0 Other'" in warnings[0]
    assert "last bits" in warnings[0]


def test_steps_are_told_at_most_five_times_a_second(folder, tmp_path):
    events = []

    outcome = fit(replace(job(folder, epochs=5), folder=str(tmp_path)), events.append)

    seconds = sum(line["seconds"] for line in outcome.history)
    assert 1 <= sum(event["event"] == "step" for event in events) <= 2 + seconds * 5.5


def test_short_epochs_share_a_checkpoint_and_the_end_has_one(folder, tmp_path):
    events = []

    outcome = fit(replace(job(folder, epochs=20), folder=str(tmp_path)), events.append)

    saved = [event["epoch"] for event in events if event["event"] == "checkpoint"]
    seconds = sum(line["seconds"] for line in outcome.history)
    assert saved[-1] == 20
    assert len(saved) <= 2 + seconds * 1.5


def test_the_folder_of_a_run_can_be_made_by_the_run(folder, tmp_path):
    deep = tmp_path / "a" / "b"

    outcome = fit(replace(job(folder, epochs=1), folder=str(deep)))

    assert Path(outcome.weights).parent == deep


@dataclass(frozen=True)
class Clock(Callback):
    """Decides by what differs between ranks, and between runs."""

    kind: ClassVar[str] = "clock"

    def epoch_end(self, control, memory):
        memory["seen"] = [*memory.get("seen", []), control.line["seconds"]]
        control.scale = float(np.random.default_rng().uniform(0.1, 1))


@dataclass(frozen=True)
class Failing(Callback):
    kind: ClassVar[str] = "failing"

    def epoch_end(self, control, memory):
        raise OSError("no space")


WATCHING = {
    "optimizer": SGD(3.0, average=0.5),
    "epochs": 12,
    "callbacks": (EarlyStopping(patience=4), ReduceOnPlateau(patience=1, factor=0.3)),
}


def test_callbacks_decide_alike_on_any_number_of_ranks_and_after_a_resume(folder, tmp_path):
    first = fit(replace(job(folder, **WATCHING), folder=str(tmp_path / "one")))
    this = replace(job(folder, **WATCHING, checkpoint_s=1e-9), folder=str(tmp_path / "three"))

    def interrupt(event):
        if event["event"] == "epoch" and event["epoch"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(this, interrupt)
    outcomes = on_every_rank(ThreadRing(3), lambda comm: train(this, comm))

    assert {outcome.weights_sha256 for outcome in outcomes} == {first.weights_sha256}
    assert all(told(outcome.history) == told(first.history) for outcome in outcomes)
    assert len({line["learning_rate"] for line in first.history}) > 1
    losses = [line["val_loss"] for line in first.history]
    assert first.best_epoch == outcomes[0].best_epoch == int(np.argmin(losses))


def test_all_ranks_do_what_the_first_decides(folder, tmp_path):
    this = replace(job(folder, callbacks=(Clock(),)), folder=str(tmp_path))

    outcomes = on_every_rank(ThreadRing(3), lambda comm: train(this, comm))

    assert len({outcome.weights_sha256 for outcome in outcomes}) == 1
    rates = [[line["learning_rate"] for line in outcome.history] for outcome in outcomes]
    assert rates[0] == rates[1] == rates[2]


def test_a_callback_that_fails_ends_all_ranks(folder, tmp_path):
    this = replace(job(folder, callbacks=(Failing(),)), folder=str(tmp_path))
    messages = []

    def work(comm):
        try:
            train(this, comm)
        except ModelError as error:
            messages.append(str(error))
            raise

    with pytest.raises(ModelError, match="callback 'failing' failed after epoch 0: OSError: no space"):
        on_every_rank(ThreadRing(3), work)

    assert len(set(messages)) == 1
    assert len(messages) == 3


def test_files_are_written_once_and_decide_nothing(folder, alone, tmp_path):
    history, model = tmp_path / "history.json", tmp_path / "model.safetensors"
    files = (HistoryFile(str(history)), SaveModel(str(model), which="last"))
    this = replace(job(folder, callbacks=files), folder=str(tmp_path / "run"))

    outcomes = on_every_rank(ThreadRing(2), lambda comm: train(this, comm))

    assert outcomes[0].weights_sha256 == alone.weights_sha256
    assert this.fingerprint == job(folder).fingerprint
    assert told(json.loads(history.read_text())) == told(alone.history)
    assert np.array_equal(
        Sequential.load(model).model.w, load_weights(alone.weights, sha256=alone.weights_sha256)
    )
