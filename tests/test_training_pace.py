"""Slow ranks, and steps too short to share, are told once."""

import numpy as np
import pytest

from dlflow.training import pace
from dlflow.training.pace import Pace


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([0.01, 0.011, 0.01, 0.05], [3]),
        ([0.01, 0.01, 0.01], []),
        ([0.01, 0.05], []),  # of two ranks, nobody knows which one is as it should be
        ([0.01, 0.019, 0.01], []),
    ],
)
def test_a_rank_that_takes_twice_as_long_is_told_once(seconds, told):
    events = []
    paces = Pace(len(seconds), events.append)
    for _ in range(3):
        paces.add(np.array(seconds))
        paces.look()

    assert [event["rank"] for event in events if event["event"] == "straggler"] == told


def test_how_much_slower_is_told():
    events = []
    paces = Pace(3, events.append)
    paces.add(np.array([0.01, 0.03, 0.01]))
    paces.look()

    assert events == [{"event": "straggler", "rank": 1, "times": pytest.approx(3)}]


def test_one_hiccup_in_a_look_is_not_told():
    events = []
    paces = Pace(3, events.append)
    for step in range(100):
        paces.add(np.array([0.01, 0.05 if step == 50 else 0.01, 0.01]))
    paces.look()

    assert events == []


def test_steps_too_short_to_share_are_told_once_and_not_of_one_rank():
    events, alone = [], []
    paces, one = Pace(2, events.append), Pace(1, alone.append)
    for _ in range(2):
        paces.add(np.array([0.0002, 0.0003]))
        one.add(np.array([0.0002]))
        paces.look()
        one.look()

    assert [event["event"] for event in events] == ["advice"]
    assert "0.25 ms on each of 2 ranks" in events[0]["why"]
    assert alone == []


def test_looks_are_taken_by_the_clock(monkeypatch):
    monkeypatch.setattr(pace, "LOOK_S", 0.0)
    events = []
    Pace(3, events.append).add(np.array([0.01, 0.03, 0.01]))

    assert len(events) == 1
