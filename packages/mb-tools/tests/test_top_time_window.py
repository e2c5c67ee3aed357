"""The sliding window of `mb top`, with a clock of the test's own."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_tools.top.time_window import RATE_SPAN, SPAN, Window


def test_an_unused_window_is_idle_and_knows_nothing() -> None:
    window = Window()
    assert window.is_idle(100.0)
    assert window.rate(100.0) == 0.0
    assert window.count(100.0, "error") == 0
    assert window.percentiles(100.0, 0.5, 0.99) is None


def test_a_rate_is_the_mean_of_the_last_whole_seconds() -> None:
    window = Window()
    for second in range(10):
        for _ in range(second):
            window.add(second + 0.5, "message")
    # The second that has just begun does not count: it would pull the rate down.
    assert window.rate(10.1) == (5 + 6 + 7 + 8 + 9) / RATE_SPAN


def test_a_young_window_does_not_wait_for_five_seconds() -> None:
    window = Window()
    window.add(7.1, "message")
    window.add(7.2, "message")
    assert window.rate(7.3) == 2.0
    window.add(8.0, "message")
    assert window.rate(8.1) == 2.0
    assert window.rate(9.1) == 1.5


def test_a_rate_falls_to_zero_when_nothing_comes() -> None:
    window = Window()
    window.add(0.0, "message")
    assert window.rate(RATE_SPAN) > 0
    assert window.rate(RATE_SPAN + 1) == 0.0
    assert not window.is_idle(RATE_SPAN + 1)


def test_errors_and_latencies_are_forgotten_after_a_minute() -> None:
    window = Window()
    window.add(0.5, "error")
    window.add_latency(0.5, 5)
    window.add(10.5, "error", 3)
    window.add_latency(10.5, 50)
    assert window.count(59.9, "error") == 4
    assert window.percentiles(59.9, 0.5, 0.99) == (5, 50)
    assert window.count(60.0, "error") == 3
    assert window.percentiles(60.0, 0.5, 0.99) == (50, 50)
    assert window.count(70.0, "error") == 0
    assert window.percentiles(70.0, 0.5) is None
    assert window.is_idle(70.0)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_value_at_its_rank(share: float, expected: int) -> None:
    window = Window()
    for value in range(100, 0, -1):
        window.add_latency(0.0, value)
    assert window.percentiles(0.0, share) == (expected,)


def test_a_clock_of_the_brokers_that_was_put_back_makes_no_negative_latency() -> None:
    window = Window()
    window.add_latency(0.0, -3)
    assert window.percentiles(0.0, 0.5) == (0,)


@given(st.lists(st.integers(0, 3_600_000), min_size=1), st.floats(0.01, 1.0))
def test_percentiles_are_true_to_two_percent(values: list[int], share: float) -> None:
    window = Window()
    for value in values:
        window.add_latency(0.0, value)
    exact = sorted(values)[max(1, -int(-share * len(values) // 1)) - 1]
    found = window.percentiles(0.0, share)
    assert found is not None
    assert exact * 0.98 - 1 < found[0] <= exact


@given(
    st.lists(st.tuples(st.floats(0, 20), st.sampled_from("cel"), st.integers(0, 90)), max_size=80)
)
def test_it_agrees_with_a_plain_list_of_what_happened(steps: list[tuple[float, str, int]]) -> None:
    window = Window()
    now = 0.0
    happened: deque[tuple[int, str, int]] = deque()
    for after, kind, value in steps:
        now += after
        if kind == "c":
            window.add(now, "message")
        elif kind == "e":
            window.add(now, "error")
        else:
            window.add_latency(now, value)
        happened.append((int(now), kind, value))
        lately = [each for each in happened if each[0] > int(now) - SPAN]
        assert window.count(now, "error") == sum(each[1] == "e" for each in lately)
        latencies = sorted(each[2] for each in lately if each[1] == "l")
        found = window.percentiles(now, 1.0)
        assert (found[0] if found else None) == (latencies[-1] if latencies else None)


def test_memory_does_not_grow_with_the_traffic() -> None:
    window = Window()
    for number in range(200_000):
        window.add(number / 1000, "message")
        window.add_latency(number / 1000, number % 5_000)
    assert len(window._seconds) <= SPAN
    assert max(len(counts) for _, counts in window._seconds) < 600
