"""What is registered, subscribed and unsubscribed while there is no connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_core import ConnectionLost, LocalProtocolError, MessageBrokerClient, ResponseError

from .gone_broker import QUICK
from .scripted import VIRTUAL_TIME, ScriptedBroker, error
from .watching import Watch, known_subscriptions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("leaves_nothing"),
    VIRTUAL_TIME,
]


@asynccontextmanager
async def disconnected(
    broker: Any, **options: Any
) -> AsyncIterator[tuple[MessageBrokerClient, Watch]]:
    """A client of a RestartableBroker that has been killed."""
    async with MessageBrokerClient(broker.url, **QUICK | options) as client:
        watch = Watch(client)
        await broker.kill()
        await watch.disconnects(1)
        with anyio.fail_after(10):
            yield client, watch


@asynccontextmanager
async def waiting(call: Callable[[], Any]) -> AsyncIterator[anyio.abc.TaskGroup]:
    """`call` waits in the block, and has finished after it."""

    async def wait() -> None:
        await call()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        yield tasks


# Subscribing


async def test_a_subscription_made_while_disconnected_waits_for_the_restore(broker: Any) -> None:
    got: list[Any] = []
    there: list[Any] = []
    async with disconnected(broker) as (client, _):

        async def subscribe() -> None:
            there.append(await client.subscribe("a", handler=lambda m: got.append(m.payload)))
            there.append(await client.subscribe("b", action="both"))
            await client.publish("a", 1, confirm=True)

        async with waiting(subscribe):
            assert there == []
            await broker.start()
        assert await known_subscriptions(client) == [
            ("publish", "a"),
            ("publish", "b"),
            ("request", "b"),
        ]
        assert got == [1]


async def test_a_subscription_waits_no_longer_than_connect_timeout(broker: Any) -> None:
    async with disconnected(broker, connect_timeout=100) as (client, watch):
        text = "no confirmation of the subscription to 'a': there was no connection within 100 ms"
        with pytest.raises(ConnectionLost, match=f"^{text}$") as lost:
            await client.subscribe("a", action="request")
        assert not lost.value.sent
        await broker.start()
        await watch.connects(1)
        assert await known_subscriptions(client) == []
        await client.subscribe("a", action="request")  # its topic is free again


async def test_a_subscription_cancelled_while_it_waits_is_never_made(broker: Any) -> None:
    async with disconnected(broker) as (client, watch):
        async with waiting(lambda: client.subscribe("a", action="both")) as tasks:
            assert client.stats().pending == 1
            tasks.cancel_scope.cancel()
        assert client.stats().pending == 0
        await broker.start()
        await watch.connects(1)
        assert await known_subscriptions(client) == []
        await client.subscribe("a", action="both")


async def test_one_of_two_that_wait_for_one_pattern_may_be_cancelled(broker: Any) -> None:
    async with disconnected(broker) as (client, _):
        made: list[Any] = []

        async def subscribe() -> None:
            made.append(await client.subscribe("a"))

        async with waiting(subscribe):
            async with waiting(lambda: client.subscribe("A")) as others:
                others.cancel_scope.cancel()
            await broker.start()
        assert await known_subscriptions(client) == [("publish", "a")]
        await client.publish("a", 1, confirm=True)
        assert (await anext(made[0])).payload == 1


async def test_a_second_consumer_that_joins_while_disconnected_leaves_the_first_in_place(
    broker: Any,
) -> None:
    async with MessageBrokerClient(broker.url, **QUICK) as client:
        watch = Watch(client)
        first = await client.subscribe("a")
        await broker.kill()
        await watch.disconnects(1)
        with anyio.fail_after(10):
            async with waiting(lambda: client.subscribe("a")) as tasks:
                tasks.cancel_scope.cancel()
            await broker.start()
            await watch.connects(1)
            assert await known_subscriptions(client) == [("publish", "a")]
            await client.publish("a", 1, confirm=True)
            assert (await anext(first)).payload == 1


async def test_two_responders_are_refused_while_disconnected_as_well(broker: Any) -> None:
    async with disconnected(broker) as (client, _):
        async with waiting(lambda: client.subscribe("a", action="request")):
            with pytest.raises(LocalProtocolError, match="another subscription"):
                await client.subscribe("a", action="request")
            await broker.start()
        assert await known_subscriptions(client) == [("request", "a")]


async def test_a_subscription_in_flight_at_the_loss_is_made_on_the_next_connection(
    scripted: ScriptedBroker,
) -> None:
    async with MessageBrokerClient(scripted.url, **QUICK) as client:
        scripted.answers["system.topic.subscribe"] = None
        with anyio.fail_after(5):
            made: list[Any] = []

            async def subscribe() -> None:
                made.append(await client.subscribe("a"))

            async with waiting(subscribe):
                await scripted.connections[0].wait_for(b"request:system.topic.subscribe")
                scripted.answers["system.topic.subscribe"] = b'{"status":"success"}'
                await scripted.connections[0].drop()
            # Once: it is not restored, and sent again behind that.
            assert len(scripted.connections[1].starting(b"request:system.topic.subscribe")) == 1
            scripted.connections[1].send(b"publish:a:1.0.0\n1")
            assert (await anext(made[0])).payload == 1


async def test_a_subscription_that_waited_and_is_refused_raises_and_is_gone(
    scripted: ScriptedBroker,
) -> None:
    async with MessageBrokerClient(scripted.url, **QUICK) as client:
        watch = Watch(client)
        await scripted.stop()
        await watch.disconnects(1)
        with anyio.fail_after(5):

            async def subscribe() -> None:
                with pytest.raises(ResponseError, match="FORBIDDEN"):
                    await client.subscribe("a")

            async with waiting(subscribe):
                scripted.answers["system.topic.subscribe"] = error("FORBIDDEN")
                await scripted.listen()
            await scripted.connections[-1].drop()
            await watch.connects(2)
            assert scripted.connections[-1].starting(b"request:system.topic") == []


# Unsubscribing


async def test_unsubscribing_while_disconnected_returns_at_once_and_is_not_restored(
    broker: Any,
) -> None:
    async with MessageBrokerClient(broker.url, **QUICK) as client:
        watch = Watch(client)
        with anyio.fail_after(10):
            left = await client.subscribe("left")
            await client.subscribe("left.too", action="request", handler=lambda m: None)
            await client.subscribe("kept")
            await client.publish("left", "before", confirm=True)
            await broker.kill()
            await watch.disconnects(1)
            await left.unsubscribe()
            await client.unsubscribe("left.too")
            assert [message.payload async for message in left] == ["before"]
            await broker.start()
            await watch.connects(1)
            assert await known_subscriptions(client) == [("publish", "kept")]


async def test_leaving_a_subscriptions_block_while_disconnected_returns_at_once(
    broker: Any,
) -> None:
    async with MessageBrokerClient(broker.url, **QUICK) as client:
        watch = Watch(client)
        with anyio.fail_after(10):
            async with client.subscribe("left"):
                await broker.kill()
                await watch.disconnects(1)
            await broker.start()
            await watch.connects(1)
            assert await known_subscriptions(client) == []


async def test_unsubscribing_what_waits_for_its_subscription_ends_that(broker: Any) -> None:
    async with disconnected(broker) as (client, watch):

        async def subscribe() -> None:
            with pytest.raises(ConnectionLost, match="unsubscribed") as lost:
                await client.subscribe("a")
            assert not lost.value.sent

        async with waiting(subscribe):
            await client.unsubscribe("a")
            await broker.start()
        await watch.connects(1)
        assert await known_subscriptions(client) == []


async def test_unsubscribing_in_flight_at_the_loss_is_done(scripted: ScriptedBroker) -> None:
    async with MessageBrokerClient(scripted.url, **QUICK) as client:
        watch = Watch(client)
        events = await client.subscribe("a")
        scripted.answers["system.topic.unsubscribe"] = None
        with anyio.fail_after(5):
            async with waiting(events.unsubscribe):
                await scripted.connections[0].wait_for(b"request:system.topic.unsubscribe")
                await scripted.connections[0].drop()
            await watch.connects(1)
        assert scripted.connections[1].starting(b"request:system.topic") == []


@pytest.mark.parametrize("how", ["unsubscribe", "cancelled"])
async def test_what_is_let_go_of_in_the_midst_of_the_restore_is_not_left_with_the_broker(
    scripted: ScriptedBroker, how: str
) -> None:
    """The request to subscribe is on its way, and its answer is not there yet."""
    async with MessageBrokerClient(scripted.url, **QUICK) as client:
        watch = Watch(client)
        scope = anyio.CancelScope()
        with anyio.fail_after(5):
            events = await client.subscribe("left", action="request")
            await client.subscribe("kept")
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            connection = await scripted.connection(2)
            await connection.wait_for(b"request:system.topic.subscribe", 2)
            with scope:
                if how == "cancelled":
                    scope.cancel()
                await events.unsubscribe()
            for request in connection.starting(b"request:system.topic.subscribe"):
                connection.answer(request)
            await watch.connects(1)
            told = await connection.wait_for(b"request:system.topic.unsubscribe")
            assert b'"left"' in told


# Registering


async def test_a_name_given_while_disconnected_waits_for_the_restore(broker: Any) -> None:
    async with disconnected(broker) as (client, _):
        async with waiting(lambda: client.register_service("late", "but in time")):
            await broker.start()
        listed = (await client.request("system.service.list", {})).payload["services"]
        assert [service["name"] for service in listed] == ["late"]


async def test_a_new_name_replaces_the_old_one_while_disconnected(broker: Any) -> None:
    async with MessageBrokerClient(broker.url, **QUICK) as client:
        watch = Watch(client)
        with anyio.fail_after(10):
            await client.register_service("old", "text")
            await broker.kill()
            await watch.disconnects(1)
            async with waiting(lambda: client.register_service("new", "text")):
                await broker.start()
            for number in (2, 3):
                listed = (await client.request("system.service.list", {})).payload["services"]
                assert [service["name"] for service in listed] == ["new"]
                await broker.kill()
                await broker.start()
                await watch.connects(number)


async def test_a_name_waits_no_longer_than_connect_timeout(broker: Any) -> None:
    async with disconnected(broker, connect_timeout=100) as (client, watch):
        with pytest.raises(ConnectionLost, match="no connection within 100 ms"):
            await client.register_service("late", "too late")
        await broker.start()
        await watch.connects(1)
        listed = (await client.request("system.service.list", {})).payload["services"]
        assert "late" not in [service["name"] for service in listed]


async def test_a_name_whose_registration_is_cancelled_while_it_waits_is_never_told(
    broker: Any,
) -> None:
    async with disconnected(broker) as (client, watch):
        async with waiting(lambda: client.register_service("late", "no")) as tasks:
            tasks.cancel_scope.cancel()
        await broker.start()
        await watch.connects(1)
        listed = (await client.request("system.service.list", {})).payload["services"]
        assert "late" not in [service["name"] for service in listed]
