"""A counter and its rate over the last whole second, by a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_broker.counter import Counter


def counter(*additions: tuple[int, int]) -> Counter:
    """A counter to which was added: (second, count), in order."""
    made = Counter()
    for second, count in additions:
        made.add(second, count)
    return made


@pytest.mark.parametrize("second", [0, 1, 2, 1_000_000])
def test_a_new_counter_is_still(second: int) -> None:
    assert counter().total == 0
    assert counter().rate(second) == 0


@pytest.mark.parametrize(
    ("additions", "second", "rate"),
    [
        pytest.param([(10, 3)], 10, 0, id="the running second does not count"),
        pytest.param([(10, 3)], 11, 3, id="the second before does"),
        pytest.param([(10, 3)], 12, 0, id="and is over after one second"),
        pytest.param([(10, 3), (10, 4)], 11, 7, id="all of one second add up"),
        pytest.param([(10, 3), (11, 4)], 11, 3, id="the next second has begun"),
        pytest.param([(10, 3), (11, 4)], 12, 4, id="and has ended"),
        pytest.param([(10, 3), (11, 4)], 13, 0, id="and is over"),
        pytest.param([(10, 3), (12, 4)], 12, 0, id="a second without any between them"),
        pytest.param([(10, 3), (11, 4), (11, 5)], 11, 3, id="more in the running second"),
        pytest.param([(0, 3)], 1, 3, id="the first second of the clock"),
        pytest.param([(1, 3)], 1, 0, id="the second one"),
        pytest.param([(0, 1), (1, 1)], 1, 1, id="both"),
        pytest.param([(10, 0)], 11, 0, id="nothing added"),
        pytest.param([(10, 2**70)], 11, 2**70, id="huge"),
    ],
)
def test_the_rate_is_what_the_second_before_added(
    additions: list[tuple[int, int]], second: int, rate: int
) -> None:
    assert counter(*additions).rate(second) == rate


def test_one_is_added_where_no_count_is_given() -> None:
    made = Counter()
    made.add(1)
    made.add(1)
    assert made.total == made.rate(2) == 2


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30),
    st.integers(0, 3),
)
def test_it_counts_as_a_list_of_all_additions_would(
    steps: list[tuple[int, int]], later: int
) -> None:
    made, second = Counter(), 0
    added: list[tuple[int, int]] = []
    for step, count in steps:
        second += step
        # Asking changes nothing.
        assert made.rate(second) == sum(n for when, n in added if when == second - 1)
        made.add(second, count)
        added.append((second, count))
    assert made.total == sum(n for _, n in added)
    now = second + later
    assert made.rate(now) == sum(n for when, n in added if when == now - 1)
