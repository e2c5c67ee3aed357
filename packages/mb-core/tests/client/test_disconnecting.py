"""Closing a connection and losing it: nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    Message,
    MessageBrokerClient,
)

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Closing


async def test_closing_twice_and_before_connecting_is_safe(url: str) -> None:
    client = MessageBrokerClient(url)
    await client.close()
    await client.connect()
    await client.close()
    await client.close()


async def test_closing_concurrently_returns_everywhere(url: str) -> None:
    client = MessageBrokerClient(url)
    await client.connect()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.close)


async def test_a_cancelled_close_closes_all_the_same(start_broker: Start) -> None:
    async with start_broker() as broker:
        client = MessageBrokerClient(broker.url)
        await client.connect()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.close()
        with anyio.fail_after(5):
            await client.close()
        assert broker.broker.connections == 0


@pytest.mark.parametrize("hangs", [False, True], ids=["ends", "hangs"])
async def test_a_handler_may_close_its_client_and_does_not_wait_for_it(
    url: str, hangs: bool
) -> None:
    client = MessageBrokerClient(url, drain_timeout=100 if hangs else 60_000)
    await client.connect()
    after: list[str] = []

    async def handler(message: Message) -> None:
        await client.close()
        after.append("close has returned")
        if hangs:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        after.append("the handler was let finish")

    await client.subscribe("a.b", handler=handler)
    await client.publish("a.b", {})
    with anyio.fail_after(5):
        await client.run()
        await client.close()
    assert after == ["close has returned", "the handler was let finish"][: 2 - hangs]


async def test_a_request_handler_may_close_its_client_and_still_answers(
    mb_broker: RunningBroker,
) -> None:
    service = MessageBrokerClient(mb_broker.url)
    await service.connect()

    async def handler(message: Message) -> str:
        await service.close()
        return "the last answer"

    await service.subscribe("a.b", action="request", handler=handler)
    with anyio.fail_after(5):
        async with MessageBrokerClient(mb_broker.url) as client:
            assert (await client.request("a.b", {})).payload == "the last answer"
        await service.close()


@pytest.mark.parametrize("event", ["connect", "disconnect", "error"])
async def test_a_callback_may_close_its_client(mb_broker: RunningBroker, event: str) -> None:
    client = MessageBrokerClient(mb_broker.url)

    async def close(*args: object) -> None:
        await client.close()

    getattr(client, f"on_{event}")(close)
    # Less than the time limits of closing: nothing has waited for one.
    with anyio.fail_after(3):
        await client.connect()
        if event == "error":
            await client.publish("nobody.listens", {})
        elif event == "disconnect":
            await client.close()
        await client.run()
        await client.close()


async def test_what_was_published_before_closing_arrives(url: str) -> None:
    got: list[Any] = []
    all_there = anyio.Event()

    def take(message: Message) -> None:
        got.append(message.payload)
        if len(got) == 500:
            all_there.set()

    async with MessageBrokerClient(url) as listener:
        await listener.subscribe("a.b", handler=take)
        async with MessageBrokerClient(url) as client:
            for number in range(500):
                await client.publish("a.b", number)
        with anyio.fail_after(5):
            await all_there.wait()
    assert got == list(range(500))


async def test_closing_fails_what_waits_for_an_answer(url: str) -> None:
    asked = anyio.Event()

    async def never(message: Message) -> None:
        asked.set()
        await anyio.sleep_forever()

    async with (
        MessageBrokerClient(url, drain_timeout=0) as service,
        anyio.create_task_group() as tasks,
    ):
        await service.subscribe("never", action="request", handler=never)
        client = MessageBrokerClient(url)
        await client.connect()

        async def ask() -> None:
            with pytest.raises(ConnectionLost) as lost:
                await client.request("never", {})
            assert lost.value.sent

        tasks.start_soon(ask)
        with anyio.fail_after(5):
            await asked.wait()
            await client.close()


async def test_closing_ends_an_unresponsive_connection_within_its_limit(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server() as server:
        client = MessageBrokerClient(server.url, close_timeout=100)
        await client.connect()
        with anyio.fail_after(5):
            await client.close()
            await server.disconnected.wait()


# Losing the connection


async def test_a_broker_killed_in_mid_request_is_a_lost_connection_that_was_sent(
    doomed: Any,
) -> None:
    asked = anyio.Event()

    async def never(message: Message) -> None:
        asked.set()
        await anyio.sleep_forever()

    async with MessageBrokerClient(doomed.url, drain_timeout=0) as client:
        await client.subscribe("never", action="request", handler=never)
        outcomes: list[bool] = []

        async def ask() -> None:
            with pytest.raises(ConnectionLost) as lost:
                await client.request("never", {})
            outcomes.append(lost.value.sent)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
                await asked.wait()
                await doomed.kill()
        assert outcomes == [True, True, True]


async def test_after_a_loss_for_good_nothing_is_sent(doomed: Any) -> None:
    async with MessageBrokerClient(doomed.url, reconnect=False) as client:
        with anyio.fail_after(5):
            await doomed.kill()
            with pytest.raises(ConnectionLost):
                await client.run()
        calls: list[Callable[[], Any]] = [
            lambda: client.publish("a.b", {}),
            lambda: client.publish("a.b", {}, confirm=True),
            lambda: client.request("a.b", {}),
            lambda: client.request("a.b", {}, retry=True),
            lambda: client.subscribe("a.b"),
            lambda: client.register_service("a", "b"),
        ]
        for call in calls:
            with pytest.raises(ConnectionLost) as lost, anyio.fail_after(5):
                await call()
            assert not lost.value.sent
    with pytest.raises(ConnectionLost):
        await client.run()


async def test_a_broken_connection_says_why(start_tcp_server: Start) -> None:
    async with (
        start_tcp_server() as server,
        MessageBrokerClient(server.url, reconnect=False) as client,
    ):
        with anyio.fail_after(5):
            await server.reset()
            with pytest.raises(ConnectionLost, match="reset") as lost:
                await client.run()
        assert lost.value.sent


async def test_a_foreign_message_that_is_too_long_ends_the_connection(
    start_tcp_server: Start,
) -> None:
    async with (
        start_tcp_server() as server,
        MessageBrokerClient(server.url, reconnect=False) as client,
    ):
        with anyio.fail_after(5):
            await server.send_bytes(b"\xff\xff\xff\xff")
            with pytest.raises(ConnectionLost, match="announced"):
                await client.run()


async def test_on_disconnect_is_called_once_whoever_ended_it(doomed: Any) -> None:
    calls: list[str] = []
    for kill in (False, True):
        client = MessageBrokerClient(doomed.url, reconnect=False)
        client.on_disconnect(lambda: calls.append("disconnect"))
        await client.connect()
        if kill:
            await doomed.kill()
        with anyio.fail_after(5):
            await client.close()
        assert calls == ["disconnect"]
        calls.clear()


async def test_run_returns_when_the_client_is_closed(url: str) -> None:
    client = MessageBrokerClient(url)
    await client.connect()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run)
            tasks.start_soon(client.run)
            await anyio.wait_all_tasks_blocked()
            await client.close()
        await client.run()


async def test_a_cancelled_run_leaves_the_client_connected(client: MessageBrokerClient) -> None:
    with anyio.move_on_after(0.01):
        await client.run()
    await client.request("system.heartbeat", {})
