"""How values read: numbers, times and sizes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_tools.text import (
    bytes_text,
    duration_text,
    milliseconds_text,
    number_text,
    one_line,
    rate_text,
    short_id,
    time_text,
)


@given(st.text())
def test_text_of_others_can_not_steer_a_terminal(text: str) -> None:
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0, "0"), (0.2, "0.2"), (9.94, "9.9"), (9.96, "10"), (12_345.6, "12,346")],
)
def test_rates(value: float | None, expected: str) -> None:
    assert rate_text(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(None, "-"), (0, "<1"), (7, "7"), (5000, "5,000")])
def test_latencies(value: int | None, expected: str) -> None:
    assert milliseconds_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (12, "12 B"),
        (4_600, "4.5 KiB"),
        (41e6, "39.1 MiB"),
        (3 * 1024**5, "3072.0 TiB"),
    ],
)
def test_sizes(value: float | None, expected: str) -> None:
    assert bytes_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (61, "1m 01s"),
        (3 * 3600 + 120, "3h 02m"),
        (86_400 * 12 + 3600 * 5, "12d 05h"),
    ],
)
def test_durations(value: float | None, expected: str) -> None:
    assert duration_text(value) == expected


def test_a_time_is_that_of_the_zone_of_now() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert time_text(datetime(2026, 3, 1, 9, 30, 15, tzinfo=UTC), now) == "11:30:15"
    assert time_text(datetime(2026, 2, 28, 22, 30, tzinfo=UTC), now) == "00:30:00"
    assert time_text(datetime(2026, 2, 27, 22, 30, tzinfo=UTC), now) == "26-02-28"
    assert time_text(None, now) == "-"


def test_ids_are_short_and_numbers_have_separators() -> None:
    assert short_id("11111111-0000-4000-8000-000000000001") == "11111111"
    assert [number_text(each) for each in (None, 1234, 12.0, 1234.56789)] == [
        "-",
        "1,234",
        "12",
        "1,234.57",
    ]
