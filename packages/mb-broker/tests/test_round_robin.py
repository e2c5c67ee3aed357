"""RoundRobin: each in its turn, a few milliseconds of all of them at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mb_broker.round_robin import RoundRobin


class Loop:
    """What is posted, and runs when the test says so."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], None]] = []

    def post(self, function: Callable[[], None]) -> bool:
        self.posted.append(function)
        return True

    def turn(self) -> None:
        (function,) = self.posted
        self.posted.clear()
        function()


def test_each_has_its_turn_until_it_has_no_more() -> None:
    left = {"one": 3, "two": 1, "three": 2}
    taken: list[str] = []

    def take(item: str) -> bool:
        taken.append(item)
        left[item] -= 1
        return left[item] > 0

    loop = Loop()
    turns = RoundRobin(loop.post, take)
    for item in ("one", "two", "one", "three"):
        turns.add(item)
    assert taken == []
    loop.turn()
    assert taken == ["one", "two", "three", "one", "three", "one"]
    assert loop.posted == []
    left["two"] = 1
    turns.add("two")
    loop.turn()
    assert taken[6:] == ["two"]


def test_what_takes_long_lets_the_loop_go_on_in_between() -> None:
    taken: list[int] = []

    def take(item: int) -> bool:
        taken.append(item)
        end = time.perf_counter() + 0.005
        while time.perf_counter() < end:
            pass
        return len(taken) < 10

    loop = Loop()
    turns = RoundRobin(loop.post, take)
    for item in range(2):
        turns.add(item)
    rounds = 0
    while loop.posted:
        loop.turn()
        rounds += 1
        assert len(taken) == rounds
    assert taken[:6] == [0, 1, 0, 1, 0, 1]


def test_one_that_fails_stops_no_others() -> None:
    taken: list[str] = []

    def take(item: str) -> bool:
        if item == "faulty":
            raise RuntimeError(item)
        taken.append(item)
        return False

    loop = Loop()
    turns = RoundRobin(loop.post, take)
    for item in ("faulty", "other"):
        turns.add(item)
    with pytest.raises(RuntimeError, match="faulty"):
        loop.turn()
    loop.turn()
    assert taken == ["other"]
