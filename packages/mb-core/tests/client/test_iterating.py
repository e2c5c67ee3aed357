"""Iterating over a subscription."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
    NoRouteFoundError,
    ResponseError,
    ServiceUnavailableError,
    Subscription,
)
from mb_testing import until

from .subscribed import collect
from .watching import Start, known_subscriptions, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


async def test_iteration_ends_when_the_subscription_does(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            events = await client.subscribe("a.b")
            for number in range(3):
                await client.publish("a.b", number)
            await settle(client)
            await events.unsubscribe()
            assert [message.payload async for message in events] == [0, 1, 2]
            assert [message async for message in events] == []


async def test_iteration_ends_when_the_client_is_closed(url: str) -> None:
    got: list[Any] = []
    client = MessageBrokerClient(url)
    with anyio.fail_after(5):
        await client.connect()
        events = await client.subscribe("a.b")

        async def consume() -> None:
            got.extend([message.payload async for message in events])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(consume)
            await client.publish("a.b", "one")
            await settle(client)
            await client.close()
    assert got == ["one"]


async def test_iteration_raises_when_the_connection_is_lost_behind_what_came(doomed: Any) -> None:
    """Where it is not to be restored."""
    got: list[Any] = []
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(doomed.url, reconnect=False) as client,
            client.subscribe("a.b") as events,
        ):
            for number in range(3):
                await client.publish("a.b", number)
            await settle(client)
            await doomed.kill()
            with pytest.raises(ConnectionLost):
                await collect(events, got)
            with pytest.raises(ConnectionLost):
                await anext(events)
    assert got == [0, 1, 2]


async def test_iterators_and_handlers_outlive_the_connection(start_broker: Start) -> None:
    iterated: list[Any] = []
    handled: list[Any] = []
    first: list[Any] = []
    second: list[Any] = []

    async def publish(client: MessageBrokerClient, *numbers: int) -> None:
        for number in numbers:
            for topic in ("iterated", "handled", "on.message"):
                await client.publish(topic, number)
        await until(lambda: all(numbers[-1] in each for each in (iterated, handled, second)))

    with anyio.fail_after(10):
        async with (
            start_broker("tcp://127.0.0.1:0") as broker,
            MessageBrokerClient(broker.url, backoff_min=1, backoff_max=10) as client,
            anyio.create_task_group() as tasks,
            client.subscribe("iterated") as events,
        ):
            tasks.start_soon(collect, events, iterated)
            await client.subscribe("handled", handler=lambda m: handled.append(m.payload))
            client.on_message(lambda header, payload: first.append(payload))
            client.on_message(lambda header, payload: second.append(payload))
            await client.subscribe("on.message")
            await publish(client, 1, 2)
            await broker.kill()
            await until(lambda: not client.connected)
            async with start_broker(broker.url):
                await until(lambda: client.connected)
                await publish(client, 3, 4)
                await events.unsubscribe()
    assert iterated == handled == first == second == [1, 2, 3, 4]


async def test_iterating_again_goes_on_where_it_was_left(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        async with client.subscribe("a.b") as events:
            for number in range(4):
                await client.publish("a.b", number)
            async for message in events:
                if message.payload == 1:
                    break
            assert (await anext(events)).payload == 2
            async for message in events:
                assert message.payload == 3
                break


async def test_several_tasks_share_one_iterator(client: MessageBrokerClient) -> None:
    got: list[tuple[int, int]] = []

    async def consume(name: int, events: Subscription) -> None:
        async for message in events:
            got.append((name, message.payload))
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        async with anyio.create_task_group() as tasks:
            for name in range(3):
                tasks.start_soon(consume, name, events)
            await anyio.wait_all_tasks_blocked()
            for number in range(30):
                await client.publish("a.b", number)
            await settle(client)
            await until(lambda: len(got) == 30)
            await events.unsubscribe()
    assert sorted(payload for _, payload in got) == list(range(30))
    assert {name for name, _ in got} == {0, 1, 2}


async def test_a_cancelled_iteration_loses_no_message(client: MessageBrokerClient) -> None:
    """Wherever it is cancelled: while it waits, when it was just woken, or before its turn."""
    got: list[int] = []

    async def take(events: Subscription) -> None:
        got.append((await anext(events)).payload)

    with anyio.fail_after(10):
        async with client.subscribe("a.b") as events:
            for number, turns in enumerate(itertools.islice(itertools.cycle(range(12)), 60)):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(take, events)
                    await client.publish("a.b", number)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            await settle(client)
            while len(got) < 60:
                await take(events)
    assert got == list(range(60))


@pytest.mark.parametrize("scheme", ["memory", "tcp"])
async def test_cancelling_one_of_several_iterators_loses_no_message(
    mb_broker: RunningBroker, scheme: str
) -> None:
    """Wherever it is cancelled, each message is received once, by any consumer."""
    got: list[int] = []
    rounds = 24

    async def iterate(events: Subscription, scope: anyio.CancelScope) -> None:
        with scope:
            await collect(events, got)

    with anyio.fail_after(20):
        async with MessageBrokerClient(mb_broker.url_of(scheme)) as client:
            events = await client.subscribe("a.b")
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(iterate, events, anyio.CancelScope())
                for number in range(rounds):
                    scope = anyio.CancelScope()
                    tasks.start_soon(iterate, events, scope)
                    for _ in range(number % 3):
                        await anyio.lowlevel.checkpoint()
                    await client.publish("a.b", 2 * number)
                    await client.publish("a.b", 2 * number + 1)
                    for _ in range(number % 12):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
                await until(lambda: len(got) == 2 * rounds)
                await events.unsubscribe()
    assert sorted(got) == list(range(2 * rounds))


async def test_unsubscribing_while_several_iterate_gives_each_message_to_one_of_them(
    client: MessageBrokerClient,
) -> None:
    for turns in range(12):
        got: list[int] = []
        with anyio.fail_after(5):
            events = await client.subscribe("a.b")
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(collect, events, got)
                for number in range(10):
                    await client.publish("a.b", number)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await settle(client)
                await events.unsubscribe()
        assert sorted(got) == list(range(10))


@pytest.mark.parametrize("way", ["unsubscribed", "cancelled"])
@pytest.mark.parametrize("scheme", ["memory", "tcp"])
async def test_the_end_of_one_subscription_loses_no_message_of_another_of_its_pattern(
    mb_broker: RunningBroker, scheme: str, way: str
) -> None:
    """At whatever point of a stream it ends."""
    url = mb_broker.url_of(scheme)
    with anyio.fail_after(20):
        async with MessageBrokerClient(url) as client, MessageBrokerClient(url) as publisher:
            for turns in range(16):
                got: list[int] = []
                other: list[int] = []
                events = await client.subscribe("a.b")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(collect, events, got)

                    async def live(
                        scope: anyio.CancelScope, other: list[int] = other, turns: int = turns
                    ) -> None:
                        with scope:
                            async with client.subscribe("a.b") as short:
                                for _ in range(turns if way == "unsubscribed" else 1_000):
                                    with anyio.move_on_after(0):
                                        other.append((await anext(short)).payload)

                    scope = anyio.CancelScope()
                    tasks.start_soon(live, scope)
                    for number in range(20):
                        await publisher.publish("a.b", number)
                        if way == "cancelled" and number == turns:
                            scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    await until(lambda got=got: len(got) == 20)
                    await events.unsubscribe()
                assert got == list(range(20))
                assert other == sorted(set(other))


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_message_for_a_cancelled_iterator_wakes_another(
    client: MessageBrokerClient, cancelled: int
) -> None:
    """One is woken by the reader and cancelled in the same turn."""
    got: list[Any] = []
    scopes: list[anyio.CancelScope] = []
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")

        async def take() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                got.append((await anext(events)).payload)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(take)
            message = await client.request("system.heartbeat", {})
            await anyio.wait_all_tasks_blocked()
            events._consumer.deliver([message])  # as the reader does
            scopes[cancelled].cancel()
            await until(lambda: got)
            tasks.cancel_scope.cancel()
    assert got == [{"status": "success"}]


@pytest.mark.parametrize("cancelled", [0, 1])
@pytest.mark.parametrize("first", ["message", "cancellation"])
async def test_asyncios_own_cancellation_loses_no_message_either(
    client: MessageBrokerClient, anyio_backend_name: str, first: str, cancelled: int
) -> None:
    """It reaches a task that was woken already, which anyio's does not."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own")
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        tasks = [asyncio.ensure_future(events.__anext__()) for _ in range(2)]
        message = await client.request("system.heartbeat", {})
        if first == "message":
            events._consumer.deliver([message])  # as the reader does
        tasks[cancelled].cancel()
        if first == "cancellation":
            events._consumer.deliver([message])
        assert await tasks[1 - cancelled] is message
        with pytest.raises(asyncio.CancelledError):
            await tasks[cancelled]


async def test_leaving_an_iterator_early_leaves_nothing_at_the_broker(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        async with client.subscribe("a.b") as events:
            assert await known_subscriptions(client) == [("publish", "a.b")]
            await client.publish("a.b", 1)
            await client.publish("a.b", 2)
            async for _ in events:
                break
        assert await known_subscriptions(client) == []
        with pytest.raises(NoRouteFoundError):
            await client.publish("a.b", 3, confirm=True)


@pytest.mark.parametrize("action", ["request", "both"])
async def test_requests_in_the_queue_of_a_left_iterator_are_refused(
    client: MessageBrokerClient, action: str
) -> None:
    outcomes: list[type[Exception]] = []

    async def ask() -> None:
        with pytest.raises(ResponseError) as raised:
            await client.request("a.b", {})
        outcomes.append(type(raised.value))

    with anyio.fail_after(3):
        async with (
            anyio.create_task_group() as tasks,
            client.subscribe("a.b", action=action) as requests,
        ):
            for _ in range(3):
                tasks.start_soon(ask)
            await until(lambda: requests.queued == 3)
            if action == "both":
                await client.publish("a.b", "kept")
                await until(lambda: requests.queued == 4)
    assert outcomes == [ServiceUnavailableError] * 3
    kept = ["kept"] if action == "both" else []
    assert [message.payload async for message in requests] == kept


async def test_an_error_in_the_block_unsubscribes_and_comes_out_as_it_is(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        with pytest.raises(KeyError, match="mine"):
            async with client.subscribe("a.b"):
                raise KeyError("mine")
        assert await known_subscriptions(client) == []


async def test_iterating_what_is_not_in_force_is_refused(client: MessageBrokerClient) -> None:
    events = client.subscribe("a.b")
    with pytest.raises(LocalProtocolError, match="not in force"):
        async for _ in events:
            pass
    with pytest.raises(LocalProtocolError, match="not in force"):
        await anext(events)
    await events


async def test_iterating_what_has_a_handler_is_refused(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        events = await client.subscribe("a.b", handler=lambda message: None)
        with pytest.raises(LocalProtocolError, match="go to a handler"):
            async for _ in events:
                pass
        with pytest.raises(LocalProtocolError, match="go to a handler"):
            await anext(events)


async def test_who_iterates_by_hand_keeps_the_messages_from_on_message(
    client: MessageBrokerClient,
) -> None:
    got: list[Any] = []
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        await client.publish("a.b", 1)
        assert (await anext(events)).payload == 1
        client.on_message(lambda header, payload: got.append(payload))
        await client.publish("a.b", 2)
        await settle(client)
        assert (await anext(events)).payload == 2
    assert got == []


async def test_a_block_with_a_handler_lasts_as_long_as_the_block(
    client: MessageBrokerClient,
) -> None:
    got: list[Any] = []
    with anyio.fail_after(5):
        async with client.subscribe("a.b", handler=lambda m: got.append(m.payload)):
            await client.publish("a.b", 1)
            await settle(client)
        with pytest.raises(NoRouteFoundError):
            await client.publish("a.b", 2, confirm=True)
        await until(lambda: got == [1])
