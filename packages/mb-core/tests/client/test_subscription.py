"""Subscriptions: their life, who of several gets which message, and what iterating is."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    ForbiddenError,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    ResponseError,
    ServiceUnavailableError,
    SlowConsumer,
    Subscription,
    parse_message,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.client.queue import MessageQueue
from mb_core.client.runner import Runner
from mb_core.client.subscription import Consumer
from mb_core.header import Action
from mb_core.link import Home, current_backend
from mb_core.session import SubscriptionEntry
from mb_testing import until

from .watching import known_subscriptions, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

Start = Callable[..., AbstractAsyncContextManager[Any]]


async def collect(events: Subscription, into: list[Any]) -> None:
    async for message in events:
        into.append(message.payload)  # noqa: PERF401


# Iterating


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
    """Wherever it is cancelled, each message is got once, whoever gets it."""
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


# The life of a Subscription


async def test_a_subscription_that_is_never_awaited_warns(client: MessageBrokerClient) -> None:
    def forget() -> None:
        client.subscribe("a.b")
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"client\.subscribe\('a\.b'\) was never awaited"):
        forget()


async def test_a_subscription_is_awaited_once(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        events = client.subscribe("a.b")
        assert await events is events
        with pytest.raises(LocalProtocolError, match="awaited before"):
            await events
        with pytest.raises(LocalProtocolError, match="awaited before"):
            async with events:
                pass
        await client.publish("a.b", 1)
        assert (await anext(events)).payload == 1


async def test_a_subscription_that_failed_cant_be_awaited_again(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    events = client.subscribe("a.b")
    with pytest.raises(LocalProtocolError, match="not connected"):
        await events
    async with client:
        # It would be in force at the broker, and dead here.
        with pytest.raises(LocalProtocolError, match="awaited before"):
            await events
        assert await known_subscriptions(client) == []


async def test_a_subscription_says_what_it_is(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        events = client.subscribe("a.b", action="both")
        assert repr(events) == "<Subscription publish+request 'a.b' not awaited>"
        await events
        assert repr(events) == "<Subscription publish+request 'a.b' active>"
        await events.unsubscribe()
        assert repr(events) == "<Subscription publish+request 'a.b' ended>"


async def test_unsubscribing_twice_and_before_awaiting_is_safe(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        events = client.subscribe("a.b")
        await events.unsubscribe()
        await events
        await events.unsubscribe()
        await events.unsubscribe()
        assert await known_subscriptions(client) == []


async def test_what_is_queued_is_still_handled_after_unsubscribing(
    client: MessageBrokerClient,
) -> None:
    got: list[int] = []
    go_on = anyio.Event()

    async def handler(message: Message) -> int:
        got.append(message.payload)
        await go_on.wait()
        return message.payload

    answers: list[int] = []

    async def ask(number: int) -> None:
        answers.append((await client.request("a.b", number)).payload)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            events = await client.subscribe("a.b", action="request", handler=handler)
            for number in range(3):
                tasks.start_soon(ask, number)
            await until(lambda: got and events.queued == 2)
            await events.unsubscribe()
            go_on.set()
    assert sorted(answers) == [0, 1, 2]


async def test_unsubscribing_in_the_handler_ends_it(client: MessageBrokerClient) -> None:
    got: list[int] = []

    async def handler(message: Message) -> None:
        got.append(message.payload)
        await events.unsubscribe()

    with anyio.fail_after(5):
        events = await client.subscribe("a.b", handler=handler)
        await client.publish("a.b", 1)
        await until(lambda: "ended" in repr(events))
        with pytest.raises(NoRouteFoundError):
            await client.publish("a.b", 2, confirm=True)
    assert got == [1]


@pytest.mark.parametrize("action", ["", "response", "PUBLISH", None, 1])
async def test_bad_actions_are_refused(client: MessageBrokerClient, action: Any) -> None:
    with pytest.raises(LocalProtocolError, match="action"):
        client.subscribe("a.b", action=action)
    with pytest.raises(LocalProtocolError, match="action"):
        await client.unsubscribe("a.b", action=action)


@pytest.mark.parametrize("topic", ["", "a..b", "a.#.b", "++", "1a", "a.b.c.d.e.f", None, 1])
async def test_bad_patterns_are_refused(client: MessageBrokerClient, topic: Any) -> None:
    with pytest.raises(LocalProtocolError, match="topic"):
        client.subscribe(topic)
    with pytest.raises(LocalProtocolError, match="topic"):
        await client.unsubscribe(topic)


async def test_a_topic_that_the_broker_refuses_leaves_no_subscription(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        with pytest.raises(ResponseError):
            await client.subscribe("system.metrics")
        with pytest.raises(LocalProtocolError, match="no subscription"):
            await client.unsubscribe("system.metrics")


async def test_unsubscribing_in_vain_is_an_error(client: MessageBrokerClient) -> None:
    with pytest.raises(LocalProtocolError, match="no subscription"):
        await client.unsubscribe("a.b")


async def test_a_subscription_is_found_by_its_topic_in_any_case(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        await client.subscribe("Weather.Oslo")
        await client.unsubscribe("weather.oslo")
        assert await known_subscriptions(client) == []


@pytest.mark.parametrize(("gone", "left"), [("publish", "request"), ("request", "publish")])
@pytest.mark.parametrize("apart", [True, False], ids=["two subscriptions", "one for both"])
async def test_unsubscribing_one_action_keeps_the_other(
    client: MessageBrokerClient, gone: str, left: str, apart: bool
) -> None:
    def handler(message: Message) -> str:
        return message.action.value

    with anyio.fail_after(5):
        for action in ("publish", "request") if apart else ("both",):
            await client.subscribe("a.b", action=action, handler=handler)
        assert await known_subscriptions(client) == [("publish", "a.b"), ("request", "a.b")]
        await client.unsubscribe("a.b", action=gone)
        assert await known_subscriptions(client) == [(left, "a.b")]
        if left == "request":
            assert (await client.request("a.b", {})).payload == "request"
        else:
            await client.publish("a.b", {}, confirm=True)
        with pytest.raises(LocalProtocolError, match="no subscription"):
            await client.unsubscribe("a.b", action=gone)
        await client.unsubscribe("a.b")
        assert await known_subscriptions(client) == []


# Several subscriptions of one client


async def test_both_gets_publications_and_requests_of_one_topic(
    client: MessageBrokerClient,
) -> None:
    got: list[tuple[str, Any]] = []

    def handler(message: Message) -> str:
        got.append((message.action.value, message.payload))
        return "answer"

    with anyio.fail_after(5):
        await client.subscribe("a.b", action="both", handler=handler)
        await client.publish("a.b", 1)
        assert (await client.request("a.b", 2)).payload == "answer"
    assert got == [("publish", 1), ("request", 2)]


async def test_publications_and_requests_of_a_topic_may_have_a_subscription_each(
    client: MessageBrokerClient,
) -> None:
    published: list[Any] = []
    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=lambda m: published.append(m.payload))
        await client.subscribe("a.b", action="request", handler=lambda m: "answer")
        await client.publish("a.b", "event")
        assert (await client.request("a.b", {})).payload == "answer"
        await until(lambda: published == ["event"])


async def test_two_subscriptions_of_a_pattern_get_a_copy_each(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        one = await client.subscribe("a.b")
        two = await client.subscribe("A.B")
        await client.publish("a.b", 1)
        assert (await anext(one)).payload == (await anext(two)).payload == 1
        await one.unsubscribe()
        await client.publish("a.b", 2, confirm=True)
        assert (await anext(two)).payload == 2
        await two.unsubscribe()
        with pytest.raises(NoRouteFoundError):
            await client.publish("a.b", 3, confirm=True)
        assert [message async for message in one] == []


async def test_unsubscribing_a_topic_ends_all_its_subscriptions(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        ends = [await client.subscribe("a.b") for _ in range(3)]
        other = await client.subscribe("a.#")
        await client.unsubscribe("a.b")
        for events in ends:
            assert [message async for message in events] == []
        await client.publish("a.b", 1)
        assert (await anext(other)).payload == 1


async def test_overlapping_patterns_get_a_copy_each(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        patterns = ["#", "a.#", "a.+", "a.b", "+.b"]
        all_events = [await client.subscribe(pattern) for pattern in patterns]
        await client.publish("a.b", 1)
        await client.publish("a.b.c", 2)
        await settle(client)
        assert [events.queued for events in all_events] == [2, 2, 1, 1, 1]


async def test_a_second_responder_of_a_topic_is_an_error(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        await client.subscribe("a.b", action="request", handler=lambda m: "first")
        for action in ("request", "both"):
            with pytest.raises(LocalProtocolError, match="another subscription"):
                await client.subscribe("A.b", action=action, handler=lambda m: "second")
        assert (await client.request("a.b", {})).payload == "first"
        assert await known_subscriptions(client) == [("request", "a.b")]


async def test_overlapping_responders_answer_by_their_priority(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        await client.subscribe("a.#", 5, action="request", handler=lambda m: "pattern")
        await client.subscribe("a.b", 1, action="request", handler=lambda m: "exact")
        assert (await client.request("a.b", {})).payload == "pattern"
        assert (await client.request("a.c", {})).payload == "pattern"


# Subscribing that fails half-way


class Driver:
    """Confirms subscriptions as it is told, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.backend = current_backend()
        self.home = Home(self.backend)
        self.asked: list[tuple[str, SubscriptionEntry]] = []
        self.answers: list[tuple[Message, Any]] = []
        self.dropped = 0

    async def subscribe(self, entry: SubscriptionEntry) -> None:
        self.asked.append(("subscribe", entry))
        await self.confirm(entry)

    async def confirm(self, entry: SubscriptionEntry) -> None: ...

    async def unsubscribe(self, entries: Iterable[SubscriptionEntry]) -> None:
        self.asked += [("unsubscribe", entry) for entry in entries]

    def unsubscribe_nowait(self, entry: SubscriptionEntry) -> None:
        self.asked.append(("unsubscribe_nowait", entry))

    def spawn_consumer(self, function: Callable[[], Any]) -> None:
        raise AssertionError("nothing is consumed")

    def count_dropped(self, count: int) -> None:
        self.dropped += count

    # The Responder

    deadline = None

    async def respond(self, message: Message, payload: Any) -> None:
        raise AssertionError("who refuses does not wait")

    def answer_now(self, message: Message, payload: Any) -> None:
        message.responder = None
        self.answers.append((message, payload))


def subscription(driver: Driver, queue: MessageQueue) -> Subscription:
    async def connected() -> Driver:
        return driver

    consumer = Consumer(
        Callbacks(Handlers()),
        "a.b",
        (Action.PUBLISH, Action.REQUEST),
        priority=1,
        handler=None,
        concurrency=1,
        queue=queue,
        make_runner=Runner,
    )
    return Subscription(connected, consumer)


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
