"""Training on a Dask cluster: the bits of one process, whatever happens to workers; and no hang, ever."""

import os
import re
import signal
import sys
import threading
import time
import types
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from dlflow.errors import GangFailed, ModelError, NonFinite, PeerLost
from dlflow.nn import Dense
from dlflow.parallel import generation
from dlflow.parallel.gang import fit_on
from dlflow.training import fit
from tests.training_jobs import cluster, dataset, job, shared_memories

LONG = {"epochs": 60, "validation": None}  # about a second: there is time to interfere


@pytest.fixture(scope="module")
def three():
    """Three workers that nobody kills."""
    with cluster(3) as client:
        yield client


@pytest.fixture
def mortal():
    """Two workers to be killed."""
    with cluster(2) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gang")


@pytest.fixture(scope="module")
def short(folder):
    return fit(job(folder, "short"))


@pytest.fixture(scope="module")
def long(folder):
    return fit(job(folder, "long", **LONG))


class Listener:
    """Keeps what is reported, and does something at the n-th step that is told."""

    def __init__(self, act=None, *, at=1, event="step"):
        self.events, self._act, self._at, self._event = [], act, at, event

    def __call__(self, event):
        self.events.append(event)
        if self._act and event["event"] == self._event and self.count(self._event) == self._at:
            self._act()

    def count(self, name):
        return sum(event["event"] == name for event in self.events)


def pid_of_rank(client, rank):
    return sorted(client.run(os.getpid).items())[rank][1]


def running(client):
    """Ranks that are at work or prepared, over all workers."""
    from dlflow.parallel import rank

    return sum(client.run(lambda: len(rank._ranks)).values())


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_any_number_of_workers_gives_the_bits_of_one_process(three, folder, short, workers):
    heard = Listener()

    outcome = fit_on(three, job(folder, f"workers{workers}"), workers=workers, report=heard)

    assert outcome.weights_sha256 == short.weights_sha256
    assert outcome.workers == (workers or 3)
    assert outcome.numerics == short.numerics
    assert outcome.restarts == ()
    assert [line["val_loss"] for line in outcome.history] == [line["val_loss"] for line in short.history]
    assert heard.events[0]["event"] == "start"
    assert heard.count("epoch") == 3
    assert heard.count("checkpoint") >= 1
    assert running(three) == 0


WIDE = {  # enough weights to be lent in shared memory
    "layers": (Dense(512, activation="relu"), Dense(256, activation="relu"), Dense(1, activation="sigmoid")),
    "epochs": 1,
    "validation": None,
}


@pytest.mark.parametrize("shared", [True, False])
def test_ranks_of_one_host_share_memory_where_the_system_has_it_and_say_where_not(
    three, folder, monkeypatch, shared
):
    if not shared:
        usual = generation.describe
        monkeypatch.setattr(
            generation, "describe", lambda dask_worker: {**usual(dask_worker), "shared": False}
        )
    alone = fit(job(folder, "wide", **WIDE))
    lent: list[int] = []
    heard = Listener(lambda: lent.extend(three.run(shared_memories).values()), event="start")

    outcome = fit_on(three, job(folder, f"wide{shared}", **WIDE), report=heard)

    assert outcome.weights_sha256 == alone.weights_sha256
    assert heard.events[-1]["event"] != "start"
    (start,) = [event for event in heard.events if event["event"] == "start"]
    assert start["links"] == ("shared" if shared else "unix")
    advice = [event["why"] for event in heard.events if event["event"] == "advice"]
    assert any("no anonymous memory (memfd)" in why for why in advice) is not shared
    assert [count > 0 for count in lent] == [shared] * 3
    assert set(three.run(shared_memories).values()) == {0}  # nothing of it is left when the training is over


def test_a_training_is_in_the_log_that_the_dask_dashboard_shows(three, folder):
    """Also where the logs of workers are silenced, as here."""
    fit_on(three, job(folder, "logged"), workers=2)
    first = min(three.nthreads())
    told = [text for _, text in three.get_worker_logs()[first]]
    host = re.match(r"(http://[^/]+)/", three.dashboard_link)[1]
    address = f"{host}/info/logs/{urllib.parse.quote(first, safe='')}.html"
    with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - our own dashboard
        page = answer.read().decode()

    told = [text[text.index("training:") :] for text in reversed(told) if "training:" in text]
    told = told[max(at for at, line in enumerate(told) if "begins" in line) :]  # of this training
    numbers = r"(step \d+/11, )?loss 0\.\d+, (val loss 0\.\d+, )?[\d,]+ samples/s, 2 workers, \d+ s left"
    assert told[0] == "training: 2 workers, 225 parameters, begins at epoch 1, step 0"
    assert [each for each in told[1:] if not re.fullmatch(rf"training: epoch \d/3, {numbers}", each)] == []
    assert told[-1].startswith("training: epoch 3/3, loss")
    assert told[-1].endswith(", 0 s left")
    assert told[-1] in page


def test_between_hosts_of_a_tls_cluster_the_mesh_is_tls(three, folder, long, monkeypatch):
    from dlflow.training.numerics import numerics

    facts = numerics()
    monkeypatch.setattr(
        generation,
        "describe",
        lambda dask_worker: {"numerics": facts, "host": dask_worker.address, "unix": True, "shared": True},
    )
    used = []

    def look():
        used.extend(three.run(_links).values())

    outcome = fit_on(three, job(folder, "tls", **LONG), report=Listener(look, event="start"))

    assert outcome.weights_sha256 == long.weights_sha256
    assert used == [["Tls", "tcp://127.0.0.1"]] * 3


def _links():
    from dlflow.parallel import rank

    (here,) = rank._ranks.values()
    return [type(here.tls).__name__, str(here.link.address).rpartition(":")[0]]


@pytest.mark.parametrize(("rank", "workers"), [(0, 2), (1, 2), (0, 1)])
def test_a_killed_worker_costs_no_bit(mortal, folder, long, rank, workers):
    heard = Listener(lambda: os.kill(pid_of_rank(mortal, rank), signal.SIGKILL), at=2)
    this = job(folder, f"killed{rank}of{workers}", checkpoint_s=0.05, **LONG)
    outcome = fit_on(mortal, this, workers=workers, report=heard)
    memories = mortal.run(_memories).values()

    assert outcome.weights_sha256 == long.weights_sha256
    assert len(outcome.restarts) == heard.count("restart") == 1
    assert f"of rank {rank} was lost" in outcome.restarts[0]  # seen, not waited for until a deadline
    starts = [event for event in heard.events if event["event"] == "start"]
    assert starts[-1]["resumed"]
    assert starts[-1]["from"] == ("disk" if workers == 1 else "memory")
    assert not any(memories)
    assert running(mortal) == 0


def _memories():
    from dlflow.parallel import rank

    return len(rank._memories)


@pytest.mark.slow
def test_a_worker_that_comes_later_is_taken_in(mortal, folder, monkeypatch):
    """The gang goes on with one of two at once, and with two again when the nanny has brought another."""
    monkeypatch.setattr(generation, "JOIN_S", 0.2)
    settings = {"epochs": 500, "validation": None, "checkpoint_s": 1e9}  # a few seconds, and nothing on disk
    first = fit(job(folder, "alone500", **settings))
    # steps are told every 0.2 s, and memory is a second old at most
    heard = Listener(lambda: os.kill(pid_of_rank(mortal, 1), signal.SIGKILL), at=8)

    outcome = fit_on(mortal, job(folder, "joined", **settings), report=heard)

    starts = [
        (event["workers"], event["resumed"] and event["from"])
        for event in heard.events
        if event["event"] == "start"
    ]
    assert starts == [(2, False), (1, "memory"), (2, "memory")]
    steps = [
        11 * event["epoch"] + event["step"] for event in heard.events if event["event"] in {"start", "step"}
    ]
    assert steps == sorted(
        steps
    )  # no step is done again: each generation begins where the one before was, or after
    assert heard.count("restart") == heard.count("join") == 1
    assert outcome.weights_sha256 == first.weights_sha256


def test_a_rank_that_is_told_to_be_slow_is_given_up_if_that_is_wanted(three, folder, short, monkeypatch):
    dropped = []

    def slow(self):
        if not dropped and len(self.ranks) == 3:
            dropped.append(list(self.ranks)[1])
            self.events.put({"event": "straggler", "run": self.run_id, "rank": 1, "times": 4.0})
        return hear(self)

    hear = generation.Gang._hear
    monkeypatch.setattr(generation.Gang, "_hear", slow)
    heard = Listener()

    outcome = fit_on(three, job(folder, "slow"), report=heard, drop_slow=3.0)

    assert outcome.weights_sha256 == short.weights_sha256
    assert outcome.workers == 2
    assert [event["why"] for event in heard.events if event["event"] == "join"] == [
        f"rank 1 ({dropped[0]}) computes 4.0 times as long as the others: it is given up, as drop_slow = 3 asks for"
    ]


def test_more_workers_than_shards_are_told_of(three, folder):
    heard = Listener()

    outcome = fit_on(three, job(folder, "shards", shards=2), report=heard)

    assert outcome.workers == 2
    (why,) = [event["why"] for event in heard.events if event["event"] == "advice"]
    assert why == (
        "3 workers are there and a batch has 2 shards, which 2 ranks share as fast as more would: the others stay idle; "
        "shards = 8 (12 rows each, which costs some time, and gives other last bits) would use 3"
    )


@pytest.mark.parametrize(
    ("batch", "told"), [(1024, "shards = 8 (128 rows each"), (2, "a larger batch would use more")]
)
def test_workers_that_come_to_have_nothing_to_do_are_told_of_once(folder, batch, told):
    events = []
    gang = generation.Gang(
        None, job(folder, batch=batch, shards=0), events.append, None, 1, None, relay=False
    )
    gang.wanted = 8

    gang._advise(2)
    assert events == []
    for _ in range(2):
        gang._advise(8)

    assert [event["event"] for event in events] == ["advice"]
    assert "the others stay idle" in events[0]["why"]
    assert told in events[0]["why"]


def test_a_factor_of_slowness_that_would_drop_everybody_is_refused(three, folder):
    with pytest.raises(ModelError, match=r"drop_slow is 1\.5, expected more than 2"):
        fit_on(three, job(folder), drop_slow=1.5)


def test_a_gang_that_is_lost_again_and_again_ends_with_the_reason(mortal, folder):
    kills = []

    def report(event):
        if event["event"] == "start":
            kills.append(event)
            for pid in mortal.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(
        GangFailed, match=r"2 generations were lost, at most 1 restarts .* run again to resume"
    ):
        fit_on(mortal, job(folder, "hopeless", **LONG), workers=2, report=report, max_restarts=1)

    assert len(kills) == 2


def test_numbers_that_overflow_end_all_ranks_at_once_and_are_not_tried_again(three, folder, tmp_path):
    poisoned = replace(
        job(folder), train=dataset(tmp_path / "poisoned.parquet", 1000, poison=500), folder=str(tmp_path)
    )
    heard = Listener()

    with pytest.raises(NonFinite, match=r"epoch 0, step \d+ of 11: .*not finite in the gradient of: layer"):
        fit_on(three, poisoned, report=heard)

    assert heard.count("restart") == 0
    assert running(three) == 0


def test_data_that_are_not_there_are_an_error_of_the_job(three, folder, tmp_path):
    missing = replace(job(folder), validation=dataset(tmp_path / "gone.parquet", 100), folder=str(tmp_path))
    (tmp_path / "gone.parquet").unlink()
    heard = Listener()

    with pytest.raises(ModelError, match=r"gone\.parquet"):
        fit_on(three, missing, report=heard)

    assert heard.count("restart") == 0


def test_a_layer_that_workers_cannot_import_is_named_before_anything_runs(three, folder, monkeypatch):
    @dataclass(frozen=True)
    class Own(Dense):
        kind: ClassVar[str] = "own"

    module = types.ModuleType("only_here")
    module.Own, Own.__module__, Own.__qualname__ = Own, "only_here", "Own"
    monkeypatch.setitem(sys.modules, "only_here", module)

    with pytest.raises(GangFailed, match=r"cannot load the job .*only_here.* install"):
        fit_on(three, job(folder, "own", layers=(Own(3), Dense(1))))


def test_workers_with_other_kernels_are_refused_by_name(three, folder, monkeypatch):
    from dlflow.training.numerics import numerics

    facts = numerics()
    monkeypatch.setattr(
        generation,
        "describe",
        lambda dask_worker: {
            "numerics": {**facts, "blas": f"openblas {dask_worker.address}"},
            "host": "one",
            "unix": True,
            "shared": True,
        },
    )

    with pytest.raises(
        ModelError, match=r"workers differ in 'blas'.*tls://127.*has 'openblas tls://127"
    ) as caught:
        fit_on(three, job(folder, "kernels"))

    assert str(caught.value).count("has 'openblas") == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_whatever_ends_the_driver_ends_the_ranks_and_leaves_the_workers(three, folder, error):
    began = []

    def interrupt():
        began.append(time.monotonic())
        raise error

    before = three.run(os.getpid)
    with pytest.raises(error):
        fit_on(
            three,
            job(folder, f"interrupted{error.__name__}", epochs=5000, validation=None),
            report=Listener(interrupt),
        )

    assert time.monotonic() - began[0] < 5
    assert running(three) == 0
    assert three.run(os.getpid) == before
    assert three.submit(sum, [1, 2], pure=False).result(timeout=10) == 3


def test_a_run_that_was_interrupted_goes_on_when_it_is_run_again(three, folder, long):
    def interrupt():
        raise KeyboardInterrupt

    this = job(folder, "again", checkpoint_s=0.05, **LONG)
    with pytest.raises(KeyboardInterrupt):
        fit_on(three, this, report=Listener(interrupt, at=3))
    heard = Listener()
    outcome = fit_on(three, this, workers=2, report=heard)

    assert heard.events[0]["resumed"]
    assert outcome.weights_sha256 == long.weights_sha256


@pytest.mark.parametrize("workers", [2, 3])
def test_over_the_connections_of_dask_the_bits_are_the_same(three, folder, short, workers):
    outcome = fit_on(three, job(folder, f"relay{workers}"), workers=workers, transport="dask")

    assert outcome.weights_sha256 == short.weights_sha256
    assert running(three) == 0


def test_a_killed_worker_costs_no_bit_over_the_connections_of_dask(mortal, folder, long):
    heard = Listener(lambda: os.kill(pid_of_rank(mortal, 1), signal.SIGKILL), at=2)

    outcome = fit_on(mortal, job(folder, "relaykill", **LONG), report=heard, transport="dask")

    assert outcome.weights_sha256 == long.weights_sha256
    assert len(outcome.restarts) == 1


def test_where_sockets_are_forbidden_ranks_talk_over_dask(three, folder, short):
    def forbid():
        import dlflow.parallel.transport as there

        def refuse(address, tls):
            raise PermissionError(f"no way to {address}")

        there.allowed, there._dial = there._dial, refuse

    def allow():
        import dlflow.parallel.transport as there

        there._dial = there.allowed

    heard = Listener()
    three.run(forbid)
    try:
        outcome = fit_on(three, job(folder, "forbidden"), report=heard)
    finally:
        three.run(allow)

    assert outcome.weights_sha256 == short.weights_sha256
    assert outcome.restarts == ()
    (why,) = [event["why"] for event in heard.events if event["event"] == "warning"]
    assert "no way to" in why
    assert "ranks talk over Dask's connections from now on" in why


def test_an_unknown_transport_is_refused(three, folder):
    with pytest.raises(ModelError, match="transport is 'pigeon', expected one of auto, sockets, dask"):
        fit_on(three, job(folder), transport="pigeon")


def test_two_trainings_on_one_cluster_wait_for_each_other(three, folder, long):
    from distributed import Client

    outcomes, heard = {}, {name: Listener() for name in "ab"}

    def work(name):
        with Client(three.scheduler.address, security=three.security, set_as_default=False) as own:
            outcomes[name] = fit_on(own, job(folder, f"both{name}", **LONG), report=heard[name])

    jobs = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join(60)

    assert {outcome.weights_sha256 for outcome in outcomes.values()} == {long.weights_sha256}
    assert sum(listener.count("warning") for listener in heard.values()) == 1


def test_a_training_that_waits_too_long_for_another_says_so(three, folder):
    from distributed import Lock

    from dlflow.parallel.cluster import LOCK

    with Lock(LOCK), pytest.raises(GangFailed, match=r"another training has held the cluster .* for 0.1 s"):
        fit_on(three, job(folder, "waits"), wait_s=0.1)


def test_a_rank_that_was_never_prepared_answers_with_a_loss(three):
    from dlflow.parallel.rank import run_rank

    answer = three.submit(run_rank, "no such run", 0, (), pure=False).result(timeout=10)

    assert isinstance(answer, PeerLost)


def test_a_gang_of_no_worker_is_refused(three, folder):
    with pytest.raises(ModelError, match="workers is 0, expected at least 1"):
        fit_on(three, job(folder), workers=0)
