"""Subscribing that fails half-way or is cancelled."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import (
    ForbiddenError,
    LocalProtocolError,
    MessageBrokerClient,
    ServiceUnavailableError,
    SlowConsumer,
    Subscription,
    parse_message,
)
from mb_core.client.queue import MessageQueue
from mb_core.header import Action
from mb_core.session import SubscriptionEntry
from mb_testing import until

from .subscribed import Driver, collect, subscription
from .watching import Start, known_subscriptions

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Subscribing that fails half-way


@pytest.mark.parametrize("cancelled", [True, False])
async def test_requests_that_come_before_their_subscription_fails_are_refused(
    cancelled: bool,
) -> None:
    driver = Driver()
    events = subscription(driver, MessageQueue(10, "drop_newest"))
    request = parse_message("request:a.b:1.0.0:0f8fad5b-d9cb-469f-a165-70867728950e\n1")
    request.responder = driver

    async def confirm(entry: SubscriptionEntry) -> None:
        if entry.action is Action.REQUEST:
            events._consumer.deliver([request])
            if cancelled:
                await anyio.sleep_forever()
            raise ForbiddenError("no")

    driver.confirm = confirm  # type: ignore[method-assign]
    with anyio.fail_after(5):
        if cancelled:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await events
        else:
            with pytest.raises(ForbiddenError):
                await events
    ((refused, answer),) = driver.answers
    assert refused is request
    assert isinstance(answer, ServiceUnavailableError)
    assert "ended" in repr(events)


async def test_a_queue_that_is_full_before_all_is_subscribed_ends_the_subscribing() -> None:
    driver = Driver()
    events = subscription(driver, MessageQueue(1, "error"))
    one, two = parse_message("publish:a.b:1.0.0\n1"), parse_message("publish:a.b:1.0.0\n2")

    async def confirm(entry: SubscriptionEntry) -> None:
        events._consumer.deliver([one, two])

    driver.confirm = confirm  # type: ignore[method-assign]
    await events
    publish, request = (entry for _, entry in driver.asked[1:])
    assert driver.asked == [
        ("subscribe", publish),
        ("unsubscribe_nowait", publish),
        ("unsubscribe_nowait", request),
    ]
    assert (publish.action, request.action) == (Action.PUBLISH, Action.REQUEST)
    assert await anext(events) is one
    with pytest.raises(SlowConsumer):
        await anext(events)
    assert (events.dropped, driver.dropped) == (1, 1)


async def test_leaving_a_block_keeps_publications_though_the_queue_takes_nothing_any_more() -> None:
    driver = Driver()
    kept: list[Any] = []
    async with subscription(driver, MessageQueue(1, "error")) as events:
        events._consumer.deliver(
            [parse_message(f"publish:a.b:1.0.0\n{number}") for number in range(2)]
        )
    with pytest.raises(SlowConsumer):
        await collect(events, kept)
    assert kept == [0]


# Cancellation


@pytest.mark.parametrize("action", ["publish", "request", "both"])
@pytest.mark.parametrize("url", ["memory://", "tcp://127.0.0.1:0"], ids=["memory", "tcp"])
async def test_a_cancelled_subscribe_leaves_nothing_at_the_broker(
    start_broker: Start, url: str, action: str
) -> None:
    everything = [("publish", "a.b"), ("request", "a.b")] if action == "both" else [(action, "a.b")]
    with anyio.fail_after(10):
        async with start_broker(url) as broker, MessageBrokerClient(broker.url) as client:
            for turns in range(30):
                done: list[Subscription] = []

                async def subscribe(done: list[Subscription] = done) -> None:
                    done.append(await client.subscribe("a.b", action=action))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(subscribe)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                assert await known_subscriptions(client) == (everything if done else [])
                if done:
                    await done[0].unsubscribe()


@pytest.mark.parametrize("action", ["publish", "both"])
@pytest.mark.parametrize("way", ["subscription", "client"])
@pytest.mark.parametrize("url", ["memory://", "tcp://127.0.0.1:0"], ids=["memory", "tcp"])
async def test_a_cancelled_unsubscribe_has_unsubscribed(
    start_broker: Start, url: str, action: str, way: str
) -> None:
    with anyio.fail_after(10):
        async with start_broker(url) as broker, MessageBrokerClient(broker.url) as client:
            for turns in range(20):
                several = [
                    await client.subscribe("a.b", action=action),
                    *([await client.subscribe("a.b")] if way == "client" else []),
                ]
                async with anyio.create_task_group() as tasks:
                    if way == "client":
                        tasks.start_soon(client.unsubscribe, "a.b")
                    else:
                        tasks.start_soon(several[0].unsubscribe)
                    for _ in range(turns + 1):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                assert await known_subscriptions(client) == []
                for events in several:
                    assert [message async for message in events] == []


async def test_leaving_a_cancelled_block_unsubscribes(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        for action in ("publish", "both"):
            with anyio.CancelScope() as scope:
                async with client.subscribe("a.b", action=action) as events:
                    scope.cancel()
                    await anext(events)
            assert await known_subscriptions(client) == []


async def test_a_cancelled_subscribe_keeps_another_of_the_same_pattern(
    start_tcp_server: Start,
) -> None:
    async with (
        start_tcp_server() as server,
        MessageBrokerClient(server.url, drain_timeout=0) as client,
    ):
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def subscribe() -> None:
                    await client.subscribe("a.b")

                tasks.start_soon(subscribe)
                await server.answer(await server.wait_for(b"request:system.topic.subscribe"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(subscribe)
                await server.wait_for(b"request:system.topic.subscribe", count=2)
                tasks.cancel_scope.cancel()
            await client.publish("the.end", {})
            await server.wait_for(b"publish:the.end")
        assert not [each for each in server.messages if b"unsubscribe" in each]


async def test_both_is_let_go_at_once_so_no_request_falls_in_between(
    start_tcp_server: Start,
) -> None:
    """A request that comes while the broker has answered only half is refused, not swallowed."""
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                events = client.subscribe("a.b", action="both", handler=lambda m: "served")

                async def subscribe() -> None:
                    await events

                tasks.start_soon(subscribe)
                for count in (1, 2):
                    start = b"request:system.topic.subscribe"
                    await server.answer(await server.wait_for(start, count=count))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(events.unsubscribe)
                start = b"request:system.topic.unsubscribe"
                first = await server.wait_for(start, count=1)
                request_id = b"0f8fad5b-d9cb-469f-a165-70867728950e"
                await server.send(b"request:a.b:1.0.0:%b::5000\n{}" % request_id)
                refused = await server.wait_for(b"response:a.b")
                assert b"SERVICE_UNAVAILABLE" in refused
                await server.answer(first)
                await server.answer(await server.wait_for(start, count=2))


async def test_unsubscribing_waits_where_publishing_does(client: MessageBrokerClient) -> None:
    """Both in one turn: the first leaves the connection congested for the second."""
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")

        async def publish() -> None:
            for _ in range(20):
                await client.publish("c.d", "x" * 16_000)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            tasks.start_soon(events.unsubscribe)
        assert await known_subscriptions(client) == []


async def test_a_broker_that_refuses_to_unsubscribe_is_heard(start_tcp_server: Start) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                events = client.subscribe("a.b")

                async def both_ways() -> None:
                    await events
                    with pytest.raises(ForbiddenError):
                        await events.unsubscribe()

                tasks.start_soon(both_ways)
                await server.answer(await server.wait_for(b"request:system.topic.subscribe"))
                await server.answer(
                    await server.wait_for(b"request:system.topic.unsubscribe"),
                    b'{"error":{"code":"FORBIDDEN","message":"stay"}}',
                )
            await events.unsubscribe()


async def test_a_subscription_that_was_awaited_is_not_entered(url: str) -> None:
    async with MessageBrokerClient(url) as client:
        events = await client.subscribe("a.b")
        with pytest.raises(LocalProtocolError, match="was awaited before: enter 'async with"):
            async with events:
                pass
        await client.publish("a.b", 1)
        assert (await anext(events)).payload == 1


@pytest.mark.parametrize("reconnect", [True, False])
async def test_unsubscribing_after_the_loss_is_no_error(doomed: Any, reconnect: bool) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(doomed.url, reconnect=reconnect) as client:
            events = await client.subscribe("a.b")
            await client.subscribe("c.d")
            await doomed.kill()
            await until(lambda: not client.connected)
            await events.unsubscribe()
            await client.unsubscribe("c.d")
            if reconnect:
                assert [message async for message in events] == []


async def test_unsubscribing_while_the_connection_is_lost_is_no_error(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def both_ways() -> None:
                    async with client.subscribe("a.b", action="both"):
                        pass

                tasks.start_soon(both_ways)
                for count in (1, 2):
                    start = b"request:system.topic.subscribe"
                    await server.answer(await server.wait_for(start, count=count))
                await server.wait_for(b"request:system.topic.unsubscribe")
                await server.reset()
