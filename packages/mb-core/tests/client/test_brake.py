"""Reports that could come by the thousand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mb_core.client import brake as module
from mb_core.client.brake import Brake


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
    brake = Brake()
    assert brake.lets("a")
    clock.now = 1000.99
    assert not brake.lets("a")
    clock.now = 1001.0
    assert brake.lets("a")
    clock.now = 1001.5
    assert not brake.lets("a")


def test_what_is_held_back_does_not_move_the_time(clock: SimpleNamespace) -> None:
    brake = Brake()
    passed = 0
    for step in range(50):
        clock.now = 1000 + step / 10
        passed += brake.lets("a")
    assert passed == 5


def test_a_clock_that_begins_at_nothing_lets_the_first_through(clock: SimpleNamespace) -> None:
    clock.now = 0.0
    assert Brake().lets("a")


def test_things_do_not_hold_each_other_back(clock: SimpleNamespace) -> None:
    brake = Brake()
    assert brake.lets("a")
    assert brake.lets("b")
    assert brake.lets()
    assert not any(map(brake.lets, ["a", "b", ""]))


def test_any_number_of_things_takes_a_bounded_room(clock: SimpleNamespace) -> None:
    brake = Brake()
    for number in range(10_000):
        assert brake.lets(f"thing {number}")
    assert len(brake._reported) <= 1024
    assert not brake.lets("thing 9999")
