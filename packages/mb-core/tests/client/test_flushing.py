"""What closing sends before the end, and what it does where the connection is lost meanwhile."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import ConnectionLost, Message, MessageBrokerClient
from mb_testing import until

from .gone_broker import QUICK, Outcome
from .scripted import VIRTUAL_TIME, ScriptedBroker
from .watching import Gate, Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

ASKED = b"request:%b:1.0.0:0f8fad5b-d9cb-469f-a165-%012d\n%d"


# What was published


@pytest.mark.parametrize("url", ["memory", "tcp", "ws"], indirect=True)
@pytest.mark.parametrize("how", ["left", "closed", "cancelled"])
async def test_nothing_that_was_published_before_the_exit_is_lost(url: str, how: str) -> None:
    """Also without a drain: a connection that lives is closed behind what was sent."""
    count = 10_000
    got: list[Any] = []
    complete = anyio.Event()

    def take(message: Message) -> None:
        got.append(message.payload)
        if len(got) == count:
            complete.set()

    async with MessageBrokerClient(url) as listener:
        await listener.subscribe("a", handler=take)
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            client = MessageBrokerClient(url)
            async with client:
                for number in range(count):
                    await client.publish("a", number)
                if how == "closed":
                    await client.close()
                elif how == "cancelled":
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
        with anyio.fail_after(10):
            await complete.wait()
    assert got == list(range(count))


async def test_what_waits_in_the_buffer_is_sent_before_the_end_where_there_is_a_connection_again(
    broker: Any,
) -> None:
    with anyio.fail_after(10):
        client = MessageBrokerClient(broker.url, **QUICK)
        watch = Watch(client)
        await client.connect()
        await broker.kill()
        await watch.disconnects(1)
        for number in range(20):
            await client.publish("a", number)
        async with anyio.create_task_group() as tasks:
            confirmed = Outcome(tasks, lambda: client.publish("a", 20, confirm=True))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(client.close)
            await anyio.wait_all_tasks_blocked()
            assert not confirmed.over
            await broker.start()
            await until(lambda: confirmed.over)
        assert client.stats().buffered == 0
        # 21 went out, and what the restore of nothing took.
        assert client.stats().messages_sent == 21
        assert not [each for each in watch.errors if isinstance(each, ConnectionLost)]


@VIRTUAL_TIME
async def test_the_buffer_waits_for_a_connection_no_longer_than_drain_timeout(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK, drain_timeout=200)
        watch = Watch(client)
        await client.connect()
        await scripted.stop()
        await watch.disconnects(1)
        await client.publish("a", 1)
        await client.publish("a", 2)
        begun = anyio.current_time()
        await client.close()
        assert 0.19 < anyio.current_time() - begun < 1.5
    lost = await watch.error(ConnectionLost)
    assert "2 publications were never sent" in str(lost)


async def test_a_buffer_that_nothing_can_empty_any_more_is_not_waited_for(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(3):
        client = MessageBrokerClient(
            scripted.url, **QUICK, drain_timeout=60_000, reconnect_timeout=100
        )
        watch = Watch(client)
        await client.connect()
        await scripted.stop()
        await watch.disconnects(1)
        await client.publish("a", 1)
        await client.close()
        assert "never sent" in str(await watch.error(ConnectionLost))


# Losses meanwhile


async def test_a_connection_lost_in_the_drain_does_not_end_the_handlers(
    scripted: ScriptedBroker,
) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK)
        await client.connect()
        await client.subscribe("work", action="request", handler=gate)
        connection = scripted.connections[0]
        connection.send(*(ASKED % (b"work", number, number) for number in range(3)))
        await gate.entered.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            await connection.wait_for(b"request:system.topic.unsubscribe")
            await anyio.wait_all_tasks_blocked()
            await connection.drop()
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
    assert gate.handled == [0, 1, 2]


async def test_a_connection_that_comes_back_in_the_drain_is_not_subscribed_again(
    scripted: ScriptedBroker,
) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK)
        watch = Watch(client)
        await client.connect()
        await client.subscribe("work", action="request", handler=gate)
        scripted.connections[0].send(ASKED % (b"work", 1, 1))
        await gate.entered.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            await scripted.connections[0].wait_for(b"request:system.topic.unsubscribe")
            await anyio.wait_all_tasks_blocked()
            await scripted.connections[0].drop()
            await watch.connects(2)
            assert scripted.connections[1].starting(b"request:") == []
            gate.opened.set()


async def test_a_loss_in_the_unsubscription_does_not_hold_up_the_drain(
    scripted: ScriptedBroker,
) -> None:
    handled: list[Any] = []
    scripted.answers["system.topic.unsubscribe"] = None
    with anyio.fail_after(3):
        client = MessageBrokerClient(
            scripted.url, **QUICK | {"close_timeout": 60_000}, drain_timeout=60_000
        )
        await client.connect()
        await client.subscribe("work", handler=lambda m: handled.append(m.payload))
        connection = scripted.connections[0]
        connection.send(b"publish:work:1.0.0\n1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            await connection.wait_for(b"request:system.topic.unsubscribe")
            await connection.drop()
    assert handled == [1]


async def test_closing_in_the_midst_of_a_restore_leaves_no_requests_to_the_broker(
    scripted: ScriptedBroker,
) -> None:
    """Subscriptions that the broker is being told of are ended as well, before handlers finish."""
    gate = Gate()
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK)
        await client.connect()
        await client.subscribe("work", action="request", handler=gate)
        scripted.connections[0].send(ASKED % (b"work", 1, 1))
        await gate.entered.wait()
        scripted.answers["system.topic.subscribe"] = None
        await scripted.connections[0].drop()
        connection = await scripted.connection(2)
        request = await connection.wait_for(b"request:system.topic.subscribe")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            await anyio.wait_all_tasks_blocked()
            connection.answer(request)
            await connection.wait_for(b"request:system.topic.unsubscribe")
            gate.opened.set()


async def test_what_the_other_side_does_not_take_in_time_is_told_to_on_error(
    connect_to_deaf_server: Any,
) -> None:
    client = await connect_to_deaf_server(close_timeout=100, drain_timeout=100)
    errors: list[Exception] = []
    client.on_error(errors.append)
    with anyio.fail_after(10):
        with anyio.move_on_after(0.2):
            while True:  # until nothing more is taken
                await client.publish("a.b", "x" * 10_000)
        await client.close()
    (error,) = errors
    assert isinstance(error, ConnectionLost)
    assert error.sent
    assert "did not close it" in str(error)
    assert str(error).count("the connection to") == 1
