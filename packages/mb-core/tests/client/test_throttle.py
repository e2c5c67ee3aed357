"""Reports that could come by the thousand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mb_core import throttle as module
from mb_core.throttle import Tally, Throttle


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock whose `now` the test sets."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_first_report_is_let_through_and_the_next_after_a_second(
    clock: SimpleNamespace,
) -> None:
    throttle = Throttle()
    assert throttle.allow("a")
    clock.now = 1000.99
    assert not throttle.allow("a")
    clock.now = 1001.0
    assert throttle.allow("a")
    clock.now = 1001.5
    assert not throttle.allow("a")


def test_what_is_held_back_does_not_move_the_time(clock: SimpleNamespace) -> None:
    throttle = Throttle()
    passed = 0
    for step in range(50):
        clock.now = 1000 + step / 10
        passed += throttle.allow("a")
    assert passed == 5


def test_a_clock_that_begins_at_nothing_lets_the_first_through(clock: SimpleNamespace) -> None:
    clock.now = 0.0
    assert Throttle().allow("a")


def test_things_do_not_hold_each_other_back(clock: SimpleNamespace) -> None:
    throttle = Throttle()
    assert throttle.allow("a")
    assert throttle.allow("b")
    assert throttle.allow()
    assert not any(map(throttle.allow, ["a", "b", ""]))


def test_any_number_of_things_takes_a_bounded_room(clock: SimpleNamespace) -> None:
    throttle = Throttle()
    for number in range(10_000):
        assert throttle.allow(f"thing {number}")
    assert len(throttle._reported) <= 1024
    assert not throttle.allow("thing 9999")


# Counting


def told(tally: Tally, kind: str, now: float) -> list[int]:
    """The reports that one more of `kind` makes."""
    reports: list[int] = []
    tally.add(kind, reports.append, now)
    return reports


def test_the_first_is_reported_and_the_following_ones_when_a_second_is_over() -> None:
    tally = Tally()
    reports: list[int] = []
    assert tally.next() is None
    for now in (10.0, 10.5, 10.75):
        tally.add("a", reports.append, now)
    assert reports == [1]
    assert tally.next() == 11.0
    tally.report(10.99)
    assert reports == [1]
    tally.report(11.0)
    assert reports == [1, 3]
    assert tally.next() is None
    tally.report(20.0)
    assert reports == [1, 3]
    assert told(tally, "a", 11.5) == []
    assert told(tally, "a", 12.0) == [5]
    assert tally.next() is None


def test_kinds_are_counted_apart_and_the_next_report_is_that_of_the_earliest() -> None:
    tally = Tally()
    for kind, now in (("a", 1.0), ("b", 1.5), ("a", 1.6), ("b", 1.6)):
        told(tally, kind, now)
    assert tally.next() == 2.0
    assert told(tally, "a", 2.0) == [3]
    assert tally.next() == 2.5


def test_the_rest_can_be_reported_early() -> None:
    tally = Tally()
    reports: list[int] = []
    for _ in range(3):
        tally.add("a", reports.append, 1.0)
    tally.report(float("inf"))
    assert reports == [1, 3]


def test_kinds_beyond_those_that_a_second_has_room_for_are_reported_in_the_next_ones() -> None:
    tally = Tally()
    reports: list[int] = []
    for number in range(100):
        for _ in range(number + 1):
            tally.add(number, lambda count, number=number: reports.append(number), 5.0)
    assert reports == list(range(32))
    for second, total in ((6.0, 64), (7.0, 96)):
        assert tally.next() == second
        tally.report(second)
        tally.report(second + 0.99)
        assert len(reports) == total
    for second in (8.0, 9.0):
        tally.report(second)
    # All of them, and a second time those of the first second, whose number has grown.
    assert sorted(set(reports)) == list(range(100))
    assert tally.next() is None
    assert not tally.waiting


def test_any_number_of_kinds_takes_a_bounded_room_and_is_reported_now_and_then() -> None:
    tally = Tally()
    reports: list[int] = []
    for number in range(100_000):
        tally.add(number, reports.append, 1.0)
        assert len(tally._kinds) + len(tally._untold) <= 2 * 1024 + 1
    assert len(reports) == 32
    tally.report(float("inf"))
    # Those that could be distinguished, and one for all the others.
    assert reports == [1] * 1025


def test_kinds_that_were_reported_a_second_ago_make_room_for_others() -> None:
    tally = Tally()
    for number in range(1_024):
        told(tally, f"before {number}", float(number))
    assert told(tally, "after", 2_000.0) == [1]
    assert told(tally, "after", 2_000.5) == []
    assert told(tally, "after", 2_001.0) == [3]
