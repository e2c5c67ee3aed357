"""The head of `mb top`, and what it says is not as usual."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mb_tools.top.head import head_text, notices
from mb_tools.top.model import Audit, Head, Model

URL = "tcp://localhost:8081"
HEAD = Head(
    uptime=11_520,
    connections=12,
    cpu=0.031,
    memory=41 * 1024 * 1024,
    rates=(),
)


def test_the_first_line_tells_where_the_broker_is_and_how_it_is() -> None:
    line = "mb top tcp://localhost:8081  up 3h 12m  12 connections  cpu 3%  memory 41.0 MiB"
    assert head_text(URL, HEAD) == line


def test_what_is_not_known_is_left_out() -> None:
    unknown = Head(None, None, None, None, ())
    assert head_text(URL, unknown) == "mb top tcp://localhost:8081"
    assert head_text(URL, replace(unknown, connections=1)).endswith("1 connection")


@pytest.fixture
def model() -> Model:
    """Connected, with the audit feed on."""
    model = Model()
    model.up()
    model.set_audit(Audit.ON)
    return model


def test_usually_there_is_nothing_to_be_said(model: Model) -> None:
    assert notices(model, paused=False, wanted="") == []


def test_what_is_not_as_usual_is_said_with_its_remedy(model: Model) -> None:
    model.down("refused")
    model.set_audit(Audit.OFF)
    model.refused("system.metrics", "TOPIC_NOT_SUPPORTED")
    model.refused("system.else", "TIMEOUT")
    model.skipped, model.unreadable = 1200, 3
    assert notices(model, paused=True, wanted="x") == [
        "NO CONNECTION, retrying: refused",
        "PAUSED (p: resume)",
        "only 'x' (esc: all)",
        "audit feed off: no rates, no latencies (a: on)",
        "no totals: system.metrics TOPIC_NOT_SUPPORTED",
        "no system.else: system.else TIMEOUT",
        "1,200 audit messages skipped: figures are too low",
        "3 audit messages can't be read",
    ]
