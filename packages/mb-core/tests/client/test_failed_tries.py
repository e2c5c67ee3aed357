"""Tries to connect again that fail, and connections that the client itself gives up."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from mb_core import (
    ConnectError,
    ConnectionLost,
    Message,
    MessageBrokerClient,
)

from .gone_broker import QUICK
from .scripted import VIRTUAL_TIME, ScriptedBroker, ScriptedConnection
from .watching import Watch

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("leaves_nothing"),
    VIRTUAL_TIME,
]


# Tries that fail


async def test_a_restore_without_an_answer_fails_the_try_in_time_and_the_next_works(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, connect_timeout=100, **QUICK) as client:
            watch = Watch(client)
            events = await client.subscribe("a")
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            failed = await watch.error(ConnectError)
            assert "did not answer the client's requests within 0.1 s" in str(failed)
            await scripted.connections[1].lost.wait()
            scripted.answers["system.topic.subscribe"] = b'{"status":"success"}'
            await watch.connects(1)
            scripted.connections[-1].send(b"publish:a:1.0.0\n1")
            assert (await anext(events)).payload == 1
    assert watch.moves == ["disconnect", "connect", "disconnect"]


@pytest.mark.parametrize("when", ["before the greeting", "in the restore"])
async def test_a_connection_lost_on_its_way_up_is_a_failed_try_and_no_second_loss(
    scripted: ScriptedBroker, when: str
) -> None:
    def end(connection: ScriptedConnection) -> None:
        connection.link.abort()

    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            events = await client.subscribe("a")
            if when == "before the greeting":
                scripted.greeting, scripted.at_accept = None, end
            else:
                scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            for number in range(1, 4):
                if when == "in the restore":
                    connection = await scripted.connection(number + 1)
                    await connection.wait_for(b"request:system.topic.subscribe")
                    await connection.drop()
                failed = await watch.error(ConnectError, number)
                assert not failed.final
            scripted.greeting, scripted.at_accept = (
                b"publish:system.initialize:1.0.0\n{}",
                (lambda connection: None),
            )
            scripted.answers["system.topic.subscribe"] = b'{"status":"success"}'
            await watch.connects(1)
            scripted.connections[-1].send(b"publish:a:1.0.0\n1")
            assert (await anext(events)).payload == 1
            assert watch.moves == ["disconnect", "connect"]


async def test_a_broker_that_greets_and_hangs_up_is_not_hammered(
    scripted: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection is established and ends at once: the waits still grow."""
    bounds: list[float] = []

    def uniform(low: float, high: float) -> float:
        bounds.append(high)
        return 0.0

    with anyio.fail_after(5):
        async with MessageBrokerClient(
            scripted.url, backoff_min=1_000, backoff_max=16_000, close_timeout=200
        ) as client:
            watch = Watch(client)
            monkeypatch.setattr(random, "uniform", uniform)
            for number in range(1, 7):
                await scripted.connections[-1].drop()
                await watch.connects(number)
    assert bounds == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]


async def test_the_wait_lies_before_each_round_of_tries(
    scripted: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    with anyio.fail_after(5):
        async with MessageBrokerClient(
            scripted.url, backoff_min=100, backoff_max=200, close_timeout=200
        ) as client:
            watch = Watch(client)
            await scripted.stop()
            begun = anyio.current_time()
            await watch.error(ConnectError, 2)
            assert anyio.current_time() - begun >= 0.3 - 0.001
            await scripted.listen()
            await watch.connects(1)
            assert anyio.current_time() - begun >= 0.5 - 0.001


# Losses from within


async def test_a_handler_that_was_at_work_at_the_loss_goes_on_and_its_answer_is_dropped(
    broker: Any,
) -> None:
    working, go_on = anyio.Event(), anyio.Event()
    done: list[str] = []

    async def handler(message: Message) -> str:
        working.set()
        await go_on.wait()
        if message.payload == "first":
            assert client.connected  # over another connection, that does not know of it
            with pytest.raises(ConnectionLost) as lost:
                await message.respond("to nobody")
            assert not lost.value.sent
        done.append(message.payload)
        return "the answer"

    with anyio.fail_after(10):
        async with MessageBrokerClient(broker.url, **QUICK) as client:
            watch = Watch(client)
            await client.subscribe("work", action="request", handler=handler)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lose, client, "first")
                await working.wait()
                await broker.kill()
            await broker.start()
            await watch.connects(1)
            go_on.set()
            assert (await client.request("work", "second")).payload == "the answer"
            assert all(isinstance(tried, ConnectError) for tried in watch.errors)
    assert done == ["first", "second"]


async def lose(client: MessageBrokerClient, payload: str) -> None:
    with pytest.raises(ConnectionLost):
        await client.request("work", payload)
