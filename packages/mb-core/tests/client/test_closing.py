"""Closing a client whose connection is lost: at any moment of its coming back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import ConnectError, ConnectionLost, Message, MessageBrokerClient
from mb_testing import until

from .gone_broker import QUICK
from .scripted import ScriptedBroker
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

# Longer than any test: who waits for these has not been told to stop.
PATIENT: dict[str, Any] = {"connect_timeout": 60_000, "drain_timeout": 60_000}

STAGES = ["back-off", "dial", "greeting", "restore"]


@pytest.fixture(params=STAGES)
async def coming_back(
    request: pytest.FixtureRequest,
    scripted: ScriptedBroker,
    start_tcp_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[MessageBrokerClient]:
    """A client whose connection is lost, and which is stuck on its way to another."""
    async with start_tcp_server(greeting=None) as silent:
        urls = [scripted.url]
        if request.param == "dial":
            urls.append(f"ws://127.0.0.1:{silent.port}")  # its handshake is never answered
        client = MessageBrokerClient(urls, **QUICK | PATIENT)
        await client.connect()
        await client.subscribe("handled", handler=lambda m: None)
        await client.subscribe("iterated")
        await client.register_service("name", "text")
        if request.param == "back-off":
            monkeypatch.setattr("random.uniform", lambda low, high: 60.0)
            await scripted.stop()
        elif request.param == "dial":
            await scripted.stop()
            await silent.connected.wait()
        elif request.param == "greeting":
            scripted.greeting = None
            await scripted.connections[0].drop()
            await scripted.connection(2)
        else:
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            await (await scripted.connection(2)).wait_for(b"request:system.topic.subscribe")
        await anyio.wait_all_tasks_blocked()
        yield client
        with anyio.fail_after(5):
            for connection in scripted.connections:
                await connection.lost.wait()
            if request.param == "dial":
                await silent.disconnected.wait()


@asynccontextmanager
async def at_once() -> AsyncIterator[None]:
    with anyio.fail_after(5):
        yield


async def is_closed(client: MessageBrokerClient) -> None:
    await client.run()
    with pytest.raises(ConnectionLost, match="the client was closed") as lost:
        await client.request("a.b", {})
    assert not lost.value.sent
    assert not client.connected
    assert (client.stats().pending, client.stats().buffered) == (0, 0)


async def test_closing_while_it_comes_back_ends_it_at_once(
    coming_back: MessageBrokerClient,
) -> None:
    async with at_once():
        await coming_back.close()
        await is_closed(coming_back)
        await coming_back.close()


async def test_leaving_the_block_while_it_comes_back_ends_it_at_once(
    coming_back: MessageBrokerClient,
) -> None:
    async with at_once():
        async with coming_back:
            pass
        await is_closed(coming_back)


async def test_closing_from_several_tasks_while_it_comes_back_returns_in_all_of_them(
    coming_back: MessageBrokerClient,
) -> None:
    async with at_once():
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(coming_back.close)
            tasks.start_soon(coming_back.run)
        await is_closed(coming_back)


async def test_a_cancelled_block_ends_it_while_it_comes_back(
    coming_back: MessageBrokerClient,
) -> None:
    async with at_once():
        with anyio.CancelScope() as scope:
            async with coming_back:
                scope.cancel()
                await coming_back.run()
        await coming_back.close()
        await is_closed(coming_back)


async def test_closing_fails_what_waits_for_the_connection(
    coming_back: MessageBrokerClient,
) -> None:
    outcomes: list[tuple[str, bool]] = []

    async def wait_for(name: str, call: Any) -> None:
        with pytest.raises(ConnectionLost, match="the client was closed") as lost:
            await call()
        outcomes.append((name, lost.value.sent))

    async with at_once(), anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, "retry", lambda: coming_back.request("a", 1, retry=True))
        tasks.start_soon(wait_for, "subscribe", lambda: coming_back.subscribe("new"))
        tasks.start_soon(wait_for, "register", lambda: coming_back.register_service("new", "text"))
        await anyio.wait_all_tasks_blocked()
        await coming_back.close()
    assert sorted(outcomes) == [("register", False), ("retry", False), ("subscribe", False)]


async def test_closing_at_any_turn_of_its_coming_back_ends_it_and_what_waits(
    scripted: ScriptedBroker,
) -> None:
    """Also while the consumers' tasks are being ended, which may take turns."""
    working = anyio.Event()

    async def work(message: Message) -> None:
        working.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()

    async def ask(client: MessageBrokerClient) -> None:
        with pytest.raises(ConnectionLost):
            await client.request("nobody.answers", {}, retry=True)

    with anyio.fail_after(20):
        for turns in range(60):
            working = anyio.Event()
            client = MessageBrokerClient(scripted.url, drain_timeout=0, **QUICK)
            await client.connect()
            await client.subscribe("handled", handler=work)
            await client.register_service("name", "text")
            connection = scripted.connections[-1]
            connection.send(b"publish:handled:1.0.0\n{}")
            await working.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, client)
                await connection.wait_for(b"request:nobody.answers")
                connection.link.abort()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await client.close()
                # Nothing is left to wait for: it is notified now or never.
                assert client.stats().pending == 0
            await is_closed(client)
            for connection in scripted.connections:
                await connection.lost.wait()
            scripted.connections.clear()


async def test_closing_at_any_turn_after_the_last_answer_of_the_restore_ends_it(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(20):
        for drain_timeout in (0, 5_000):
            for turns in range(16):
                scripted.connections.clear()
                scripted.answers["system.topic.subscribe"] = b'{"status":"success"}'
                client = MessageBrokerClient(scripted.url, drain_timeout=drain_timeout, **QUICK)
                await client.connect()
                await client.subscribe("handled", handler=lambda m: None)
                scripted.answers["system.topic.subscribe"] = None
                await scripted.connections[0].drop()
                connection = await scripted.connection(2)
                request = await connection.wait_for(b"request:system.topic.subscribe")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.close)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    with contextlib.suppress(ConnectionLost):
                        connection.answer(request)
                await is_closed(client)


# From its own callbacks


async def test_on_disconnect_may_close_the_client_that_would_come_back(
    scripted: ScriptedBroker,
) -> None:
    client = MessageBrokerClient(scripted.url, **QUICK | PATIENT)
    client.on_disconnect(client.close)
    watch = Watch(client)
    async with at_once():
        await client.connect()
        await scripted.connections[0].drop()
        await client.run()
        await client.close()
    assert watch.moves in (
        ["connect", "disconnect"],
        ["connect", "disconnect", "connect", "disconnect"],  # it was quicker
    )


async def test_on_connect_may_close_the_client_that_has_come_back(
    scripted: ScriptedBroker,
) -> None:
    client = MessageBrokerClient(scripted.url, **QUICK | PATIENT)
    watch = Watch(client)
    async with at_once():
        await client.connect()
        await watch.connects(1)
        client.on_connect(client.close)
        await scripted.connections[0].drop()
        await client.run()
        await client.close()
    assert watch.moves == ["connect", "disconnect"] * 2


async def test_on_error_may_close_the_client_that_does_not_come_back(
    scripted: ScriptedBroker,
) -> None:
    client = MessageBrokerClient(scripted.url, **QUICK | PATIENT)

    async def close(error: Exception) -> None:
        assert isinstance(error, ConnectError)
        await client.close()

    client.on_error(close)
    async with at_once():
        await client.connect()
        await scripted.stop()
        await client.run()
        await client.close()


async def test_a_callback_that_hangs_does_not_keep_the_client_from_coming_back(
    scripted: ScriptedBroker,
) -> None:
    hanging = anyio.Event()

    async def hang() -> None:
        hanging.set()
        await anyio.sleep_forever()

    client = MessageBrokerClient(scripted.url, **QUICK)
    watch = Watch(client)
    with anyio.fail_after(5):
        await client.connect()
        client.on_disconnect(hang)
        await scripted.connections[0].drop()
        await hanging.wait()
        await until(lambda: len(scripted.connections) == 2 and client.connected)
        await client.request("system.heartbeat", {})
        await client.close()
    assert watch.moves[:2] == ["connect", "disconnect"]
