"""Where reconnecting is off, or given up: everything ends with ConnectionLost, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mb_client import ConnectError, ConnectionLost, MessageBrokerClient
from mb_testing.proxy import Cut, Proxy

from .brokers import thread_broker
from .scene import FAST
from .traffic import PATIENCE, Signal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

OPTIONS: dict[str, dict[str, Any]] = {
    "off": {"reconnect": False},
    "given-up": {"reconnect_timeout": 150},
}


@pytest.mark.parametrize("why", OPTIONS)
async def test_all_that_waits_ends_and_all_that_comes_is_refused(why: str) -> None:
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        client = MessageBrokerClient(proxy.url, **FAST | OPTIONS[why])
        disconnects = Signal()
        client.on_disconnect(disconnects)
        ended: list[str] = []

        async def expect_the_end(what: str, call: Callable[[], Any]) -> None:
            with pytest.raises(ConnectionLost):
                await call()
            ended.append(what)

        async def confirm_later() -> None:
            await disconnects.reaches(1, "the client has lost its connection")
            await client.publish("some.topic", 1, confirm=True)

        async def ask_later() -> None:
            await disconnects.reaches(1, "the client has lost its connection")
            await client.request("some.topic", 1, retry=True)

        async with client:
            events = await client.subscribe("some.topic")
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(expect_the_end, "run", client.run)
                    tasks.start_soon(expect_the_end, "iterator", lambda: anext(events))
                    tasks.start_soon(expect_the_end, "publish", confirm_later)
                    tasks.start_soon(expect_the_end, "request", ask_later)
                    await anyio.wait_all_tasks_blocked()
                    proxy.refuse()
                    proxy.cut(Cut.RESET)
            assert sorted(ended) == ["iterator", "publish", "request", "run"]
            proxy.accept()
            for call in (
                lambda: client.publish("some.topic", 1),
                lambda: client.request("some.topic", 1, retry=True),
                lambda: client.subscribe("another.topic"),
                lambda: client.register_service("a", "b"),
            ):
                with pytest.raises(ConnectionLost) as raised:
                    await call()
                assert not raised.value.sent
            assert not client.connected
            assert client.stats().pending == 0
            assert disconnects.count == 1
        assert proxy.stats.accepted == 1


async def test_a_first_connection_that_fails_is_not_tried_again_unless_that_was_asked_for() -> None:
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        proxy.refuse()
        client = MessageBrokerClient(proxy.url, **FAST)
        with pytest.raises(ConnectError) as raised:
            await client.connect()
        assert not raised.value.final
        again = MessageBrokerClient(proxy.url, **FAST | {"retry_connect": True})
        failures = Signal()
        again.on_error(failures)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(again.connect)
            await failures.reaches(3, "a try that failed")
            proxy.accept()
        assert again.connected
        await again.close()


async def test_of_several_addresses_any_will_do_and_the_good_one_stays() -> None:
    with (
        thread_broker() as broker,
        Proxy(broker.url) as first,
        Proxy(broker.url) as second,
    ):
        first.refuse()
        client = MessageBrokerClient([first.url, second.url], **FAST)
        connects = Signal()
        client.on_connect(connects)
        async with client:
            assert (first.stats.accepted, second.stats.accepted) == (0, 1)
            first.accept()
            second.cut(Cut.RESET)
            await connects.reaches(2, "the client is connected")
            assert (first.stats.accepted, second.stats.accepted) == (0, 2)
            second.refuse()
            second.cut(Cut.RESET)
            await connects.reaches(3, "the client is connected")
            assert (first.stats.accepted, second.stats.accepted) == (1, 2)
            await client.request("system.heartbeat", {})
