"""A client that several tasks use before its first connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_core import ConnectError, ConnectionLost, LocalProtocolError, MessageBrokerClient

from .gone_broker import QUICK, Outcome
from .scripted import ScriptedBroker
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


class Early:
    """A client that another task connects, to a ScriptedBroker that is not there yet."""

    def __init__(
        self, scripted: ScriptedBroker, client: MessageBrokerClient, tasks: anyio.abc.TaskGroup
    ) -> None:
        self.scripted = scripted
        self.client = client
        self.tasks = tasks
        self.watch = Watch(client)
        self.connect = Outcome(tasks, client.connect)

    def calls(self, *calls: Callable[[], Any]) -> list[Outcome]:
        return [Outcome(self.tasks, call) for call in calls]


@asynccontextmanager
async def early(scripted: ScriptedBroker, **options: Any) -> AsyncIterator[Early]:
    await scripted.stop()
    client = MessageBrokerClient(scripted.url, **QUICK | {"retry_connect": True} | options)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            yield Early(scripted, client, tasks)
            await client.close()


async def test_what_would_wait_after_a_loss_waits_for_the_first_connection(
    scripted: ScriptedBroker,
) -> None:
    """The calls come before connect() has had a turn."""
    scripted.answers |= {"ask": b"1", "tell": b'{"status":"success"}'}
    async with early(scripted) as it:
        client = it.client
        await client.publish("first", 1)
        calls = it.calls(
            lambda: client.register_service("a", "b"),
            lambda: client.subscribe("news"),
            lambda: client.request("ask", {}, retry=True),
            lambda: client.publish("tell", {}, confirm=True),
        )
        await it.watch.error(ConnectError, 2)
        with pytest.raises(ConnectionLost, match="retry=True") as lost:
            await client.request("ask", {})
        assert not lost.value.sent
        assert client.stats().buffered == 2
        assert not any(call.over for call in calls)
        await scripted.listen()
        results = [await call.succeeds() for call in calls]
        assert results[2].payload == 1
        scripted.connections[-1].send(b"publish:news:1.0.0\n2")
        assert (await anext(results[1])).payload == 2
        sent = scripted.connections[-1].messages
        assert sent[0].startswith(b"publish:first:")
        for start in (b"publish:first:", b"request:ask:", b"request:system.topic.subscribe:"):
            assert len(scripted.connections[-1].starting(start)) == 1
        await it.connect.succeeds()


async def test_calls_wait_for_a_connect_that_was_just_scheduled(scripted: ScriptedBroker) -> None:
    scripted.answers["ask"] = b"1"
    for call in ("publish", "request", "subscribe", "register_service", "run"):
        client = MessageBrokerClient(scripted.url, **QUICK, retry_connect=True)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                if call == "publish":
                    await client.publish("a.b", 1)
                elif call == "request":
                    assert (await client.request("ask", {}, retry=True)).payload == 1
                elif call == "subscribe":
                    await client.subscribe("a.b")
                elif call == "register_service":
                    await client.register_service("a", "b")
                else:
                    Outcome(tasks, client.run)
                await client.wait_connected()
                await client.close()


async def test_without_retry_connect_nothing_waits(scripted: ScriptedBroker) -> None:
    scripted.greeting = None
    client = MessageBrokerClient(scripted.url, **QUICK)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            connection = await scripted.connection(1)
            for call in (
                lambda: client.publish("a.b", 1),
                lambda: client.request("a.b", 1, retry=True),
                lambda: client.subscribe("a.b"),
            ):
                with pytest.raises(LocalProtocolError, match="retry_connect=True"):
                    await call()
            connection.send(b"publish:system.initialize:1.0.0\n{}")
            await client.wait_connected()
            await client.publish("a.b", 2)
            await client.close()


async def test_wait_connected_waits_for_a_connect_that_is_yet_to_be_called(
    scripted: ScriptedBroker,
) -> None:
    client = MessageBrokerClient(scripted.url, **QUICK)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            waits = Outcome(tasks, client.wait_connected)
            await anyio.wait_all_tasks_blocked()
            assert not waits.over
            await client.connect()
            await waits.succeeds()
            await client.wait_connected(timeout=1)
            await client.close()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await client.wait_connected()


async def test_wait_connected_waits_for_a_lost_connection(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            await scripted.stop()
            await watch.disconnects(1)
            async with anyio.create_task_group() as tasks:
                waits = Outcome(tasks, client.wait_connected)
                await watch.error(ConnectError)
                assert not waits.over
                await scripted.listen()
                await waits.succeeds()
            assert client.connected


async def test_wait_connected_has_a_time_limit_and_says_why(scripted: ScriptedBroker) -> None:
    idle = MessageBrokerClient(scripted.url)
    with pytest.raises(TimeoutError, match=r"within 1 ms: connect\(\) was not called"):
        await idle.wait_connected(timeout=1)
    with pytest.raises(LocalProtocolError, match="timeout"):
        await idle.wait_connected(timeout=0)
    async with early(scripted) as it:
        await it.watch.error(ConnectError)
        with pytest.raises(TimeoutError, match=r"within 20 ms: (nobody|no broker)"):
            await it.client.wait_connected(timeout=20)
        await scripted.listen()
        await it.client.wait_connected(timeout=4_000)
        await it.connect.succeeds()


async def test_closing_wakes_who_waits_for_a_connect(scripted: ScriptedBroker) -> None:
    client = MessageBrokerClient(scripted.url)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            waits = Outcome(tasks, client.wait_connected)
            await anyio.wait_all_tasks_blocked()
            await client.close()
            assert "the client was closed" in str(await waits.lost())


@pytest.mark.parametrize("end", ["cancelled", "timeout", "closed"])
async def test_calls_that_wait_fail_with_the_reason(scripted: ScriptedBroker, end: str) -> None:
    options = {"drain_timeout": 0} | ({"reconnect_timeout": 50} if end == "timeout" else {})
    async with early(scripted, **options) as it:
        client = it.client
        calls = it.calls(
            client.wait_connected,
            client.run,
            lambda: client.request("a.b", {}, retry=True),
            lambda: client.publish("a.b", {}, confirm=True),
            lambda: client.subscribe("a.b"),
        )
        await it.watch.error(ConnectError)
        if end == "cancelled":
            it.connect.scope.cancel()
        elif end == "closed":
            await client.close()
            calls.pop(1)  # run() has no error then
        reason = {
            "cancelled": r"connect() was cancelled",
            "timeout": "(reconnect_timeout)",
            "closed": "the client was closed",
        }[end]
        for call in calls:
            lost = await call.lost()
            assert reason in str(lost)
            assert not lost.sent
        await it.connect.ends()


async def test_a_second_connect_is_told_to_wait(scripted: ScriptedBroker) -> None:
    async with early(scripted) as it:
        await it.watch.error(ConnectError)
        with pytest.raises(LocalProtocolError, match=r"wait_connected\(\)"):
            await it.client.connect()
        await scripted.listen()
        await it.connect.succeeds()
        with pytest.raises(LocalProtocolError, match="already connected"):
            await it.client.connect()


async def test_a_block_waits_for_the_task_that_connects(scripted: ScriptedBroker) -> None:
    async with early(scripted) as it:
        entered = anyio.Event()

        async def use() -> None:
            async with it.client:
                assert it.client.connected
                entered.set()

        await anyio.wait_all_tasks_blocked()
        it.tasks.start_soon(use)
        await it.watch.error(ConnectError)
        assert not entered.is_set()
        await scripted.listen()
        await entered.wait()


async def test_closing_lets_the_buffer_go_to_the_first_connection(
    scripted: ScriptedBroker,
) -> None:
    async with early(scripted) as it:
        await it.client.publish("a.b", 1)
        await it.watch.error(ConnectError)
        closing = Outcome(it.tasks, it.client.close)
        await it.watch.error(ConnectError, 3)
        assert not closing.over
        await scripted.listen()
        await closing.succeeds()
        assert scripted.connections[-1].starting(b"publish:") == [b"publish:a.b:1.0.0\n1"]


async def test_closing_with_a_buffer_is_bounded_and_tells_what_was_never_sent(
    scripted: ScriptedBroker,
) -> None:
    async with early(scripted, drain_timeout=50) as it:
        await it.client.publish("a.b", 1)
        confirmed = Outcome(it.tasks, lambda: it.client.publish("a.b", 2, confirm=True))
        await it.watch.error(ConnectError)
        await it.client.close()
        assert "the client was closed" in str(await confirmed.lost())
        assert "closed while it was connecting" in str(await it.connect.fails(ConnectError))
        assert "1 publication was never sent" in str(await it.watch.error(ConnectionLost))


async def test_a_full_buffer_speaks_of_no_connection(scripted: ScriptedBroker) -> None:
    for size in (0, 10):
        async with early(scripted, publish_buffer=size) as it:
            await it.watch.error(ConnectError)
            with pytest.raises(ConnectionLost, match="there is no connection"):
                await it.client.publish("a.b", "too much for the buffer")


async def test_a_subscription_belongs_to_the_first_task_that_awaits_it(
    scripted: ScriptedBroker,
) -> None:
    async with early(scripted) as it:
        events = it.client.subscribe("a.b")

        async def start() -> Any:
            return await events

        both = it.calls(start, start)
        await it.watch.error(ConnectError)
        # On trio, tasks that are started together run in any order.
        second, first = sorted(both, key=lambda call: not call.over)
        assert "awaited before" in str(await second.fails(LocalProtocolError))
        assert not first.over
        await scripted.listen()
        assert await first.succeeds() is events
        scripted.connections[-1].send(b"publish:a.b:1.0.0\n1")
        assert (await anext(events)).payload == 1
