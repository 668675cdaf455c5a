"""One update, computed by segments, by all, or per rank: what is the same, what repeats, and what every rank hears."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from dlflow.errors import DlflowError, NonFinite
from dlflow.nn import SGD, Adam, ReduceOnPlateau
from dlflow.parallel.comm import Stopped
from dlflow.parallel.testing import Flaky, ThreadRing, on_every_rank
from dlflow.training import fit, train, trainer, update
from dlflow.training.checkpoint import Memory
from tests.test_training_trainer import told
from tests.training_jobs import dataset, job


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("update")


@pytest.fixture
def segmented(monkeypatch):
    """Small models are updated as large ones are: each rank a segment."""
    monkeypatch.setattr(update, "ALL_BYTES", -1)


def train_on(size, this, **more):
    return on_every_rank(ThreadRing(size), lambda comm: train(this, comm, **more))


OPTIMIZERS = {
    "adam": Adam(0.01),
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "global norm": Adam(0.01, clip_global_norm=0.05),
    "norm": SGD(0.1, clip_norm=0.02),
    "value, average": Adam(0.01, clip_value=0.01, average=0.9),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.usefixtures("segmented")
def test_an_update_by_segments_has_the_bits_of_one_rank(folder, tmp_path, size, optimizer):
    this = job(folder, optimizer=optimizer)
    first = fit(replace(this, folder=str(tmp_path / "one")))

    outcomes = train_on(size, replace(this, folder=str(tmp_path / "more")))

    assert {outcome.weights_sha256 for outcome in outcomes} == {first.weights_sha256}
    assert all(told(outcome.history) == told(first.history) for outcome in outcomes)


@pytest.mark.usefixtures("segmented")
def test_a_checkpoint_made_of_segments_is_resumed_by_another_number_of_ranks(folder, tmp_path):
    first = fit(job(folder, "whole"))
    this = replace(job(folder, checkpoint_steps=5, checkpoint_s=1e9), folder=str(tmp_path))

    class Interrupted(Exception):
        pass

    def interrupt(event):
        if event["event"] == "checkpoint" and event["step"]:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_on(3, this, report=interrupt)
    events = []
    outcome = fit(this, events.append)

    assert events[0]["resumed"]
    assert events[0]["from"] == "disk"
    assert (11 * events[0]["epoch"] + events[0]["step"]) % 5 == 0
    assert outcome.weights_sha256 == first.weights_sha256


@pytest.mark.usefixtures("segmented")
def test_numbers_that_overflow_in_one_segment_stop_all_ranks_with_the_same_words(folder, tmp_path):
    poisoned = dataset(tmp_path / "poisoned.parquet", 1000, poison=777)
    this = replace(job(folder), train=poisoned, folder=str(tmp_path))
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


def test_what_is_not_exact_repeats_for_one_number_of_ranks_and_differs_for_others(folder, tmp_path):
    found = {}
    for size in (1, 2, 3):
        for turn in "ab":
            this = replace(job(folder, exact=False), folder=str(tmp_path / f"{size}{turn}"))
            found[size, turn] = {outcome.weights_sha256 for outcome in train_on(size, this)}

    assert all(found[size, "a"] == found[size, "b"] for size in (1, 2, 3))
    assert len(set.union(*found.values())) == 3


def test_what_is_not_exact_is_close_to_what_is(folder, tmp_path):
    exact = fit(
        job(folder, "exact", layers=job(folder).layers[::2])
    )  # without dropout, whose masks are those of shards
    this = replace(job(folder, exact=False, layers=job(folder).layers[::2]), folder=str(tmp_path))

    outcome = train_on(3, this)[0]

    assert outcome.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("keeper", [0, 2])
@pytest.mark.usefixtures("segmented")
def test_what_one_rank_has_in_memory_is_enough_to_go_on(folder, tmp_path, keeper):
    """All die but one; the next ranks are others, and the disk has nothing."""
    first = fit(job(folder, "undisturbed"))
    this = replace(job(folder, checkpoint_steps=7, checkpoint_s=1e9), folder=str(tmp_path / "first"))
    memories = [Memory() for _ in range(3)]

    class Lost(Exception):
        pass

    def lose(event):
        if event["event"] == "epoch" and event["epoch"] == 1:
            raise Lost

    with pytest.raises(Lost):
        on_every_rank(ThreadRing(3), lambda comm: train(this, comm, lose, memories[comm.rank]))
    assert all(memory.kept.progress.updates == 21 for memory in memories)

    elsewhere, events = replace(this, folder=str(tmp_path / "second")), []
    kept = {1: memories[keeper]}
    outcomes = on_every_rank(
        ThreadRing(2), lambda comm: train(elsewhere, comm, events.append, kept.get(comm.rank, Memory()))
    )

    assert (events[0]["from"], events[0]["epoch"], events[0]["step"]) == ("memory", 1, 10)
    assert {outcome.weights_sha256 for outcome in outcomes} == {first.weights_sha256}
    assert told(outcomes[0].history) == told(first.history)


def test_a_newer_checkpoint_on_disk_is_preferred_to_an_older_one_in_memory(folder, tmp_path):
    this = replace(job(folder, checkpoint_steps=4), folder=str(tmp_path))
    old = Memory()

    class Enough(Exception):
        pass

    def stop(event):
        if event["event"] == "epoch" and event["epoch"] == 0:
            raise Enough

    with pytest.raises(Enough):
        on_every_rank(
            ThreadRing(1), lambda comm: train(replace(this, folder=str(tmp_path / "x")), comm, stop, old)
        )
    whole, events = fit(this), []

    outcome = on_every_rank(ThreadRing(1), lambda comm: train(this, comm, events.append, old))[0]

    assert (events[0]["from"], events[0]["epoch"]) == ("disk", 3)
    assert outcome.weights_sha256 == whole.weights_sha256


def test_seconds_of_all_ranks_travel_with_the_sums(folder, tmp_path):
    from dlflow.data import Batches
    from dlflow.nn import Model
    from dlflow.training.checkpoint import Progress

    this = job(folder)

    def work(comm):
        model = Model(this.layers, this.train.shape)
        step = update.Update(this, model, comm)
        step.run(Batches(this.train, batch=96, seed=1), Progress(), command=int(comm.rank == 0))
        return step.seconds.tolist(), step.tree.notes[:, update.COMMAND].tolist()

    found = on_every_rank(ThreadRing(3), work)

    assert found[0] == found[1] == found[2]
    assert np.all(np.array(found[0][0]) > 0)
    assert found[0][1] == [1, 0, 0]


@pytest.fixture
def steps_done(monkeypatch):
    """Every step that a rank has done, in order: (rank, steps of the training so far)."""
    done, settle = [], update.Update.settle

    def counted(self, step):
        done.append((self.comm.rank, step))
        settle(self, step)

    monkeypatch.setattr(update.Update, "settle", counted)
    return done


@pytest.mark.parametrize("by_segments", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_steps_that_survivors_have_done_are_not_done_again_unless_each_has_a_segment(
    folder, tmp_path, monkeypatch, steps_done, by_segments
):
    """Rank 1 of 3 dies at its n-th message, also in validation and while callbacks are asked; two others go on from what lives."""
    if by_segments:
        monkeypatch.setattr(update, "ALL_BYTES", -1)
        monkeypatch.setattr(trainer, "MEMORY_S", 0.0)  # kept after every step but the last of an epoch
        monkeypatch.setattr(trainer, "KEEP_SHARE", 1e9)
    chosen = {"epochs": 2, "callbacks": (ReduceOnPlateau(patience=1, min_delta=9),), "checkpoint_s": 1e9}
    first = fit(job(folder, f"undisturbed{by_segments}", **chosen))
    again = []
    for dies_at in range(3, 400, 31):
        steps_done.clear()
        ring, memories = ThreadRing(3), [Memory() for _ in range(3)]
        comms = [Flaky(comm, dies_at=dies_at) if comm.rank == 1 else comm for comm in ring.comms]
        this = replace(job(folder, **chosen), folder=str(tmp_path / f"{dies_at}"))
        try:
            on_every_rank(
                comms,
                partial(lambda this, kept, comm: train(this, comm, None, kept[comm.rank]), this, memories),
            )
        except DlflowError:
            done = {step for rank, step in steps_done if rank != 1}
        else:
            break
        steps_done.clear()
        memories.pop(1)
        elsewhere = replace(this, folder=str(tmp_path / f"{dies_at}b"))
        outcomes = on_every_rank(
            ThreadRing(2),
            partial(lambda this, kept, comm: train(this, comm, None, kept[comm.rank]), elsewhere, memories),
        )
        again.append(len(done & {step for _, step in steps_done}))
        assert {outcome.weights_sha256 for outcome in outcomes} == {first.weights_sha256}
        assert told(outcomes[0].history) == told(first.history)

    assert len(again) > 2
    assert set(again) == {0} if not by_segments else set(again) <= {0, 1, 2}


@pytest.mark.parametrize("by_segments", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ranks_that_pause_do_no_step_twice(folder, tmp_path, monkeypatch, steps_done, by_segments):
    if by_segments:
        monkeypatch.setattr(update, "ALL_BYTES", -1)
    first = fit(job(folder, "unbroken"))
    steps_done.clear()
    memories = [Memory() for _ in range(3)]
    this = replace(job(folder, checkpoint_s=1e9), folder=str(tmp_path))

    def pause(event):
        memories[0].pause |= event["event"] == "epoch"

    for size in (3, 2):
        with pytest.raises(Stopped, match="paused after step"):
            on_every_rank(ThreadRing(size), lambda comm: train(this, comm, pause, memories[comm.rank]))
    outcome = train_on(1, this, memory=memories[1])[0]

    steps_done.sort()
    assert len(steps_done) == len(set(steps_done))
    assert {step for _, step in steps_done} == set(range(33))
    assert outcome.weights_sha256 == first.weights_sha256


def test_large_models_are_kept_in_memory_less_often(folder, tmp_path, monkeypatch):
    """So that it costs a small part of the time, however long it takes."""
    monkeypatch.setattr(update, "ALL_BYTES", -1)
    monkeypatch.setattr(trainer, "MEMORY_S", 0.0)
    kept = []

    def slow(self, step):
        kept.append(step)
        return gather(self, step)

    gather = update.Update.gather_state
    monkeypatch.setattr(update.Update, "gather_state", slow)
    this = replace(job(folder, checkpoint_s=1e9, validation=None, epochs=1), folder=str(tmp_path))
    counts = {}
    for share in (1e9, 1e-9):
        kept.clear()
        monkeypatch.setattr(trainer, "KEEP_SHARE", share)
        on_every_rank(ThreadRing(2), partial(lambda this, comm: train(this, comm, None, Memory()), this))
        counts[share] = len(kept) // 2
        this = replace(this, folder=f"{tmp_path}/again")

    assert counts == {1e9: 11, 1e-9: 2}  # after each step; after the first, and at the end


@pytest.mark.parametrize("wanted", [8, pytest.param(100, marks=pytest.mark.chaos)])
def test_deaths_at_random_messages_cost_no_bit(folder, tmp_path, wanted):
    """Gangs of changing size, each of which loses a rank; the survivors' memory is all that the next one has, the disk nothing."""
    this = replace(
        job(folder, epochs=6, checkpoint_steps=2, checkpoint_s=1e9), folder=str(tmp_path / "first")
    )
    undisturbed = fit(this)
    chance, memories, deaths = random.Random(7), [Memory()], 0
    while deaths < wanted:
        size = chance.randint(2, 5)
        memories = [*memories[:size], *(Memory() for _ in range(size - len(memories)))]
        chance.shuffle(memories)
        ring, victim = ThreadRing(size), chance.randrange(size)
        comms = [
            Flaky(comm, dies_at=chance.randint(1, 400)) if comm.rank == victim else comm
            for comm in ring.comms
        ]
        elsewhere = replace(this, folder=str(tmp_path / f"gang{deaths}"))
        try:
            outcomes = on_every_rank(
                comms,
                partial(lambda job, kept, comm: train(job, comm, None, kept[comm.rank]), elsewhere, memories),
            )
        except DlflowError:
            deaths += 1
            memories.pop(victim)
            continue
        assert {outcome.weights_sha256 for outcome in outcomes} == {undisturbed.weights_sha256}
        memories = [Memory()]

    outcome = train_on(1, replace(this, folder=str(tmp_path / "last")), memory=memories[0])[0]
    assert outcome.weights_sha256 == undisturbed.weights_sha256
    assert told(outcome.history) == told(undisturbed.history)
