"""Subscriptions: their life, and several of one client."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    ResponseError,
)
from mb_testing import until

from .watching import known_subscriptions, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


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
