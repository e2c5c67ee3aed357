"""What the broker says without being asked: who is notified, and how often."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from mb_core import MessageBrokerClient, NoRouteFoundError, ResponseError
from mb_testing import until

from .gone_broker import QUICK
from .scripted import ScriptedBroker, error
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Publications that reach nobody


async def test_a_publication_that_reaches_nobody_is_told_with_its_topic(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            watch = Watch(client)
            await client.publish("nobody.Listens", {})
            told = await watch.error(NoRouteFoundError)
            assert told.details["topic"] == "nobody.Listens"
            assert "nobody.Listens" in str(told)


async def test_a_topic_is_told_once_in_a_second_and_counted_each_time(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5), caplog.at_level(logging.DEBUG, logger="mb_core.client"):
        async with MessageBrokerClient(url) as client:
            watch = Watch(client)
            for _ in range(30):
                await client.publish("nobody.one", {})
                await client.publish("nobody.two", {})
            await until(lambda: client.stats().unroutable == 60)
            await until(lambda: len(watch.errors) >= 2)
            topics = [
                each.details["topic"] for each in watch.errors if isinstance(each, ResponseError)
            ]
            assert sorted(topics) == ["nobody.one", "nobody.two"]
    told = [record for record in caplog.records if "reached nobody" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.DEBUG] * 2


async def test_a_topic_is_told_again_after_the_second(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            watch = Watch(client)
            await client.publish("nobody.listens", 1)
            await watch.error(NoRouteFoundError, 1)
            monkeypatch.setattr("mb_core.throttle._EVERY", 0.0)  # as if it had passed
            await client.publish("nobody.listens", 2)
            await watch.error(NoRouteFoundError, 2)


async def test_what_the_buffer_held_and_reaches_nobody_is_told_as_well(broker: Any) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(broker.url, **QUICK) as client:
            watch = Watch(client)
            await broker.kill()
            await watch.disconnects(1)
            await client.publish("nobody.listens", {})
            await broker.start()
            told = await watch.error(NoRouteFoundError)
            assert told.details["topic"] == "nobody.listens"
            assert client.stats().unroutable == 1


async def test_a_confirmed_publication_that_reaches_nobody_is_its_callers_alone(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            watch = Watch(client)
            with pytest.raises(NoRouteFoundError):
                await client.publish("nobody.listens", {}, confirm=True)
            await client.request("system.heartbeat", {})
            await anyio.wait_all_tasks_blocked()
            assert watch.errors == []
            assert client.stats().unroutable == 0


# Other reports


async def test_a_report_of_the_brokers_own_is_an_error_and_a_warning(
    scripted: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            scripted.connections[0].send(b"response:error:1.0.0\n" + error("MALFORMED_MESSAGE"))
            told = await watch.error(ResponseError)
            assert told.code == "MALFORMED_MESSAGE"
            assert client.connected
    assert "the broker reports" in caplog.text


async def test_no_route_for_what_was_never_published_here_is_a_report_as_any_other(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            scripted.connections[0].send(b"response:a.b:1.0.0\n" + error("NO_ROUTE_FOUND"))
            await watch.error(NoRouteFoundError)
            assert client.stats().unroutable == 0
