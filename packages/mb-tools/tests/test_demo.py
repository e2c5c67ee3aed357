"""`mb demo`: what it prints, and that its exit status tells the truth."""

from __future__ import annotations

import re

import anyio
import pytest

from mb_client import Broker, MessageBrokerClient, NoRouteFoundError
from mb_tools.commands import demo

pytestmark = pytest.mark.anyio


async def test_everything_arrives_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with anyio.fail_after(60):
        assert await demo.demo(50, 250) == 0
    printed = capsys.readouterr().out
    for word in ("broker", "service", "client", "requests", "events"):
        assert re.search(rf"^{word}\b", printed, re.MULTILINE)
    assert re.search(r"request and response\W+50 of 50", printed)
    assert re.search(r"publish to handler\W+250 of 250", printed)
    for column in ("messages", "per second", "p50 ms", "p99 ms"):
        assert column in printed


async def test_what_does_not_arrive_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(self: MessageBrokerClient, *args: object, **options: object) -> None:
        raise NoRouteFoundError("nobody listens")

    monkeypatch.setattr(MessageBrokerClient, "publish", refuse)
    with anyio.fail_after(60):
        assert await demo.demo(5, 5) == 1
    printed = capsys.readouterr().out
    assert "failed: NO_ROUTE_FOUND: nobody listens" in printed
    assert re.search(r"publish to handler\W+0 of 5", printed)


async def test_what_hangs_ends_with_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def hang(self: Broker) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(Broker, "__aenter__", hang)
    monkeypatch.setattr(demo, "_TIME_LIMIT", 0.01)
    assert await demo.demo(5, 5) == 1
    assert "not everything arrived within 0.01 s" in capsys.readouterr().out
