"""A scheduler and workers that an operator has started, with TLS: the same bytes as in this process, also when workers die.

The whole grid of places and arrivals is in tests/chaos/test_worker_loss.py.
"""

import pytest

from pipelines.engine import InProcess, OnDask
from tests import clusters, cutting


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    with clusters.two_workers(tmp_path_factory.mktemp("outside")) as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return cutting.files(tmp_path_factory.mktemp("whole"), monkeypatch, InProcess())


@pytest.mark.slow
def test_every_byte_of_a_table_is_that_of_this_process(tmp_path, monkeypatch, outside, whole):
    found = cutting.files(tmp_path, monkeypatch, OnDask(outside.client))

    assert found == whole
    assert outside.address.startswith("tls://")
    assert len(found[0]) == 6  # months, and none: of customers without orders


@pytest.mark.chaos
@pytest.mark.parametrize(("place", "nth"), [("kept.half_written:orders/0/", 2), ("file.half_written", 1)])
def test_workers_lost_while_rows_move_or_are_written_change_no_byte(
    tmp_path, monkeypatch, outside, whole, place, nth
):
    with outside.armed(f"{place}=kill@{nth}") as kills:
        found = cutting.files(tmp_path, monkeypatch, OnDask(outside.client))

    assert found == whole
    assert kills
