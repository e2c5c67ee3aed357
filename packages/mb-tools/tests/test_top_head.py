"""The head of `mb top`, and what it says is not as usual."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mb_tools.top.head import head_line, notices, rates_line
from mb_tools.top.model import Model
from mb_tools.top.view import Audit, Head, Rate

URL = "tcp://localhost:8081"
HEAD = Head(
    uptime=11_520,
    connections=12,
    cpu=0.031,
    memory=41_000_000,
    rates=(
        Rate("messages", 1234.0, [1, 2, 4] * 40),
        Rate("publish", 0.5, [0]),
        Rate("request", None, []),
    ),
)
VIEW = replace(Model().view(0.0), trouble="", audit=Audit.ON)


def test_the_first_line_tells_where_the_broker_is_and_how_it_is() -> None:
    line = "mb top tcp://localhost:8081  up 3h 12m  12 connections  cpu 3%  memory 41 MB"
    assert head_line(URL, HEAD, 78) == line


def test_what_has_no_place_or_is_not_known_is_left_out() -> None:
    assert head_line(URL, HEAD, 60) == "mb top tcp://localhost:8081  up 3h 12m  12 connections"
    assert head_line(URL, HEAD, 10) == "mb top tcp://localhost:8081"
    unknown = Head(None, None, None, None, ())
    assert head_line(URL, unknown, 78) == "mb top tcp://localhost:8081"
    assert rates_line(unknown, 78) == ""
    assert head_line(URL, replace(unknown, connections=1), 78).endswith("1 connection")


@pytest.mark.parametrize("width", [78, 118])
def test_the_totals_fill_the_line_with_their_curves(width: int) -> None:
    line = rates_line(HEAD, width)
    assert width - 3 < len(line) <= width
    assert line.startswith("messages 1,234/s ")
    assert "publish 0.5/s " in line
    assert "request - " in line
    assert "█" in line


def test_usually_there_is_nothing_to_be_said() -> None:
    assert notices(VIEW, paused=False, wanted="") == []


def test_what_is_not_as_usual_is_said_with_its_remedy() -> None:
    view = replace(
        VIEW,
        trouble="refused",
        audit=Audit.OFF,
        missing={"system.metrics": "TOPIC_NOT_SUPPORTED", "system.else": "TIMEOUT"},
        skipped=1200,
        unreadable=3,
    )
    assert notices(view, paused=True, wanted="x") == [
        "NO CONNECTION, trying again: refused",
        "PAUSED (p: go on)",
        "only 'x' (esc: all)",
        "audit feed off: no rates, no latencies (a: on)",
        "no totals: system.metrics TOPIC_NOT_SUPPORTED",
        "no system.else: system.else TIMEOUT",
        "1,200 audit messages skipped: figures are too low",
        "3 audit messages can't be read",
    ]
