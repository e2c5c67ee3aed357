"""The waits between tries to connect: random, bounded, and doubled."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mb_core.client.backoff import Backoff


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The range each wait was drawn from; the longest of the range is what is drawn."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    return drawn


def test_the_bound_doubles_and_half_of_it_is_random_from_the_second_wait_on(
    bounds: list[tuple[float, float]],
) -> None:
    backoff = Backoff(0.1, 1.5)
    waits = [backoff.next() for _ in range(7)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5]
    assert bounds == [(0.0, 0.1), *[(wait / 2, wait) for wait in waits[1:]]]


def test_the_first_wait_is_anything_up_to_the_shortest() -> None:
    waits = [Backoff(8.0, 60.0).next() for _ in range(2000)]
    assert 0 <= min(waits) < 0.1
    assert 7.9 < max(waits) <= 8
    assert 3.5 < sum(waits) / len(waits) < 4.5


@pytest.mark.parametrize("seconds", [1.0, 1.5, 1e6])
def test_after_a_connection_of_a_second_the_waits_start_over(
    bounds: list[tuple[float, float]], seconds: float
) -> None:
    """Whatever the last wait was, which only shows how long the outage took."""
    backoff = Backoff(0.1, 60.0)
    for _ in range(12):
        backoff.next()
    backoff.lasted(seconds)
    assert backoff.next() == 0.1


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.99])
def test_a_connection_that_ends_at_once_counts_as_a_failed_try(
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


def back_after(outage: float, backoff: Backoff) -> float:
    """How long after the end of an outage a client's first try is that can succeed."""
    now = 0.0
    while now < outage:
        now += backoff.next()
    return now - outage


@pytest.mark.parametrize("outage", [0.2, 1.5, 5.0, 20.0, 600.0])
def test_a_thousand_clients_are_back_within_two_seconds_and_not_all_at_once(
    outage: float,
) -> None:
    waits = sorted(back_after(outage, Backoff(0.1, 2.0)) for _ in range(1000))
    assert waits[-1] <= 2.0
    assert waits[900] < 1.9
    in_a_tenth = Counter(int(wait * 10) for wait in waits)
    if outage > 1:
        assert max(in_a_tenth.values()) < 250
        assert len(in_a_tenth) > 10
