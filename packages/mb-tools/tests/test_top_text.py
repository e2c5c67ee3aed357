"""How `mb top` writes figures, times and cells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mb_tools.top.text import (
    bars,
    bytes_text,
    cell,
    clean,
    duration_text,
    latency_text,
    moment_text,
    number_text,
    rate_text,
    short_id,
)


@given(st.text(), st.integers(0, 40), st.booleans())
def test_a_cell_has_exactly_its_width_whatever_is_in_it(text: str, width: int, right: bool) -> None:
    assert cell_len(cell(clean(text), width, right=right)) == width


@pytest.mark.parametrize(
    ("text", "width", "right", "expected"),
    [
        ("abc", 5, False, "abc  "),
        ("abc", 5, True, "  abc"),
        ("abcdef", 5, False, "abcd…"),
        ("漢字漢字", 5, False, "漢字…"),
        ("abc", 1, False, "…"),
        ("abc", 0, False, ""),
    ],
)
def test_a_cell_is_filled_or_cut_with_an_ellipsis(
    text: str, width: int, right: bool, expected: str
) -> None:
    assert cell(text, width, right=right) == expected


@given(st.text())
def test_cleaned_text_can_not_steer_a_terminal(text: str) -> None:
    assert clean(text).isprintable()


def test_cleaned_text_stays_on_its_line_and_shows_that_something_was_there() -> None:
    assert clean("two\nlines \x1b[31mred") == "two lines \ufffd[31mred"


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 3, "   "),
        ([0, 0], 3, " ▁▁"),
        ([1, 4, 7], 5, "  ▂▅█"),
        ([9, 0, 7], 2, "▁█"),
        ([-1, 7], 2, "▁█"),
        ([1], 0, ""),
        ([1], -4, ""),
    ],
)
def test_bars_are_as_high_as_their_share_of_the_highest(
    values: list[float], width: int, expected: str
) -> None:
    assert bars(values, width) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0, "0"), (0.2, "0.2"), (9.94, "9.9"), (9.96, "10"), (12_345.6, "12,346")],
)
def test_rates(value: float | None, expected: str) -> None:
    assert rate_text(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(None, "-"), (0, "<1"), (7, "7"), (5000, "5,000")])
def test_latencies(value: int | None, expected: str) -> None:
    assert latency_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (12, "12 B"), (4_600, "5 kB"), (41e6, "41 MB"), (2.34e9, "2.3 GB")],
)
def test_bytes(value: float | None, expected: str) -> None:
    assert bytes_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0, "0s"),
        (59.9, "59s"),
        (61, "1m 01s"),
        (3 * 3600 + 120, "3h 02m"),
        (86_400 * 12 + 3600 * 5, "12d 05h"),
    ],
)
def test_durations(value: float | None, expected: str) -> None:
    assert duration_text(value) == expected


def test_a_moment_is_told_in_the_zone_of_this_place() -> None:
    today = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert moment_text(datetime(2026, 3, 1, 9, 30, 15, tzinfo=UTC), today) == "11:30:15"
    assert moment_text(datetime(2026, 2, 28, 22, 30, tzinfo=UTC), today) == "00:30:00"
    assert moment_text(datetime(2026, 2, 27, 22, 30, tzinfo=UTC), today) == "26-02-28"
    assert moment_text(None, today) == "-"


def test_ids_and_numbers_are_short() -> None:
    assert short_id("11111111-0000-4000-8000-000000000001") == "11111111"
    assert (number_text(None), number_text(1234)) == ("-", "1,234")
