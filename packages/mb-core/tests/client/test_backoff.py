"""The waits between tries to connect: random, bounded, and doubled."""

from __future__ import annotations

import random

import pytest

from mb_core.client.backoff import Backoff


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Between what each wait was drawn; what is drawn is the longest."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    return drawn


def test_the_bound_doubles_from_the_shortest_to_the_longest(
    bounds: list[tuple[float, float]],
) -> None:
    backoff = Backoff(0.1, 1.5)
    waits = [backoff.next() for _ in range(7)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5]
    assert bounds == [(0.0, wait) for wait in waits]


def test_anything_from_nothing_to_the_bound_is_a_wait() -> None:
    """Full jitter: thousands that have lost one broker come back one by one."""
    waits = []
    for _ in range(2000):
        backoff = Backoff(8.0, 8.0)
        waits.append(backoff.next())
    assert 0 <= min(waits) < 0.1
    assert 7.9 < max(waits) <= 8
    assert 3.5 < sum(waits) / len(waits) < 4.5


def test_a_connection_that_lasted_longer_than_the_last_wait_could_be_begins_anew(
    bounds: list[tuple[float, float]],
) -> None:
    backoff = Backoff(0.1, 1.5)
    for _ in range(3):
        backoff.next()
    backoff.lasted(0.41)
    assert backoff.next() == 0.1


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.4])
def test_a_connection_that_ends_as_soon_as_it_is_there_goes_on_as_a_failed_try(
    bounds: list[tuple[float, float]], seconds: float
) -> None:
    backoff = Backoff(0.1, 1.5)
    for _ in range(3):
        backoff.next()
    backoff.lasted(seconds)
    assert backoff.next() == 0.8


def test_no_count_of_tries_is_too_high(bounds: list[tuple[float, float]]) -> None:
    backoff = Backoff(0.001, 15.0)
    assert {backoff.next() for _ in range(5000)} <= {0.001 * 2**n for n in range(14)} | {15.0}
    assert backoff.next() == 15.0
