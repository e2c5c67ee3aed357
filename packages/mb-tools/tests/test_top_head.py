"""The head of `mb top`, and what it says is not as usual."""

from __future__ import annotations

from dataclasses import replace

from mb_tools.top.app import head_text, notices
from mb_tools.top.model import Audit, Head, Model

URL = "tcp://localhost:8081"
HEAD = Head(
    uptime=11_520,
    connections=12,
    cpu=0.031,
    memory=41 * 1024 * 1024,
    rates=(),
)
VIEW = replace(Model().view(0.0), trouble="", audit=Audit.ON)


def test_the_first_line_tells_where_the_broker_is_and_how_it_is() -> None:
    line = "mb top tcp://localhost:8081  up 3h 12m  12 connections  cpu 3%  memory 41.0 MiB"
    assert head_text(URL, HEAD) == line


def test_what_is_not_known_is_left_out() -> None:
    unknown = Head(None, None, None, None, ())
    assert head_text(URL, unknown) == "mb top tcp://localhost:8081"
    assert head_text(URL, replace(unknown, connections=1)).endswith("1 connection")


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
