"""A worker that is killed anywhere costs its unfinished parts, and no row: the grid of places and passes."""

import os

import pytest

from pipelines.engine import InProcess, OnDask
from tests import cutting

pytestmark = pytest.mark.chaos

PLACES = [
    "part.before_read",
    "part.before_write",
    "file.half_written",
    "part.after_write",
    "part.before_receipt",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    cutting.sources(folder)
    return cutting.outcome(folder, cutting.PIPELINE.format(part_bytes=1 << 20), InProcess())


def arm(place, nth):
    """Let this worker be killed at its nth arrival; the one that replaces it is not armed."""
    os.environ["DLFLOW_FAILPOINTS"] = f"{place}=kill@{nth}"


@pytest.mark.parametrize("nth", [1, 8, 14, 17])  # while rows are read, moved, joined, written
@pytest.mark.parametrize("place", PLACES)
def test_a_worker_lost_anywhere_costs_no_row(tmp_path, monkeypatch, local_cluster, whole, place, nth):
    if place == "file.half_written" and nth > 1:
        nth -= 7  # files of tables alone come by there
    cutting.sources(tmp_path)
    before = set(local_cluster.run(os.getpid).values())
    victim = next(iter(local_cluster.scheduler_info(n_workers=-1)["workers"]))
    local_cluster.run(arm, place, nth, workers=[victim])
    try:
        found = cutting.outcome(tmp_path, cutting.cut(monkeypatch, 2500), OnDask(local_cluster))
    finally:
        local_cluster.wait_for_workers(2, timeout=60)
        local_cluster.run(os.environ.pop, "DLFLOW_FAILPOINTS", None)
        local_cluster.run(_forget)

    assert found == whole
    after = set(local_cluster.run(os.getpid).values())
    assert before != after or nth > 1, "nobody was killed"


def _forget():
    from pipelines import failpoints

    failpoints._arrivals.clear()
