"""Queues that are full: what is dropped, what is reported, and what is answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import (
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    ServiceUnavailableError,
    SlowConsumer,
    Subscription,
)
from mb_testing import until

from .watching import known_subscriptions, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


async def collect(events: Subscription, into: list[Any]) -> None:
    async for message in events:
        into.append(message.payload)  # noqa: PERF401


async def fill(client: MessageBrokerClient, topic: str, count: int) -> None:
    for number in range(count):
        await client.publish(topic, number)
    await settle(client)


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [("drop_newest", [0, 1, 2]), ("drop_oldest", [7, 8, 9])],
)
async def test_a_full_queue_drops_by_its_policy_and_counts(
    client: MessageBrokerClient, overflow: str, kept: list[int]
) -> None:
    errors: list[Exception] = []
    client.on_error(errors.append)
    with anyio.fail_after(5):
        events = await client.subscribe("a.b", queue_size=3, overflow=overflow)
        await fill(client, "a.b", 3)
        assert (events.queued, events.dropped) == (3, 0)
        for _ in range(3):
            await anext(events)
        await fill(client, "a.b", 10)
        assert (events.queued, events.dropped) == (3, 7)
        assert [(await anext(events)).payload for _ in range(3)] == kept
        await client.publish("a.b", "after")
        assert (await anext(events)).payload == "after"
        await until(lambda: errors)
    assert all(isinstance(error, SlowConsumer) for error in errors)
    assert errors[0].topic == "a.b"  # type: ignore[attr-defined]


async def test_a_full_queue_may_be_the_end_of_its_subscription(
    client: MessageBrokerClient,
) -> None:
    errors: list[Exception] = []
    client.on_error(errors.append)
    got: list[int] = []
    with anyio.fail_after(5):
        async with client.subscribe("a.b", queue_size=3, overflow="error") as events:
            await fill(client, "a.b", 10)
            with pytest.raises(SlowConsumer) as raised:
                await collect(events, got)
            with pytest.raises(SlowConsumer):
                await anext(events)
            # It is over for the broker too.
            assert await known_subscriptions(client) == []
            with pytest.raises(NoRouteFoundError):
                await client.publish("a.b", {}, confirm=True)
            await until(lambda: any(isinstance(error, SlowConsumer) for error in errors))
    assert got == [0, 1, 2]
    assert raised.value.topic == "a.b"
    assert raised.value.dropped >= 1


async def test_a_topic_can_be_subscribed_again_after_its_queue_was_full(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        old = await client.subscribe("a.b", action="request", queue_size=1, overflow="error")
        with anyio.move_on_after(0.05):
            await client.request("a.b", {})
        with pytest.raises(ServiceUnavailableError):
            await client.request("a.b", {})
        await client.subscribe("a.b", action="request", handler=lambda m: "again")
        assert (await client.request("a.b", {})).payload == "again"
        assert "ended" in repr(old)


async def test_a_handler_gets_what_was_queued_before_the_overflow(
    client: MessageBrokerClient,
) -> None:
    got: list[int] = []
    go_on = anyio.Event()

    async def handler(message: Message) -> None:
        got.append(message.payload)
        await go_on.wait()

    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=handler, queue_size=2, overflow="error")
        await client.publish("a.b", 0)
        await until(lambda: got)
        await fill(client, "a.b", 5)
        go_on.set()
        await until(lambda: len(got) == 3)
        await anyio.wait_all_tasks_blocked()
    assert got == [0, 0, 1]


async def test_a_queue_without_bound_drops_nothing(client: MessageBrokerClient) -> None:
    with anyio.fail_after(10):
        events = await client.subscribe("a.b", queue_size=None)
        for number in range(70_000):
            await client.publish("a.b", number)
        await settle(client)
        assert (events.queued, events.dropped) == (70_000, 0)


async def test_a_queue_is_bounded_in_bytes_as_well(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        events = await client.subscribe("a.b", queue_size=None, queue_bytes=100)
        for letter in "abcde":
            await client.publish("a.b", letter * 38)  # 40 bytes with its quotes
        await settle(client)
        assert (events.queued, events.dropped, client.stats().dropped) == (2, 3, 3)
        assert [(await anext(events)).payload[0] for _ in range(2)] == ["a", "b"]
        await client.publish("a.b", "x" * 1000)
        assert len((await anext(events)).payload) == 1000


async def test_requests_that_overflow_in_bytes_are_answered_at_once(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5):
        async with (
            client.subscribe("a.b", action="request", queue_bytes=100) as requests,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.request, "a.b", "x" * 60)
            await until(lambda: requests.queued == 1)
            with pytest.raises(ServiceUnavailableError, match="too many requests waiting"):
                await client.request("a.b", "x" * 60)
            await (await anext(requests)).respond("served")


async def test_requests_that_overflow_are_answered_at_once(client: MessageBrokerClient) -> None:
    go_on = anyio.Event()
    started: list[Any] = []
    outcomes: list[Any] = []

    async def handler(message: Message) -> Any:
        started.append(message.payload)
        await go_on.wait()
        return "served"

    async def ask() -> None:
        try:
            outcomes.append((await client.request("a.b", {})).payload)
        except ServiceUnavailableError as error:
            outcomes.append(error.message)

    with anyio.fail_after(5):
        events = await client.subscribe("a.b", action="request", handler=handler, queue_size=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await until(lambda: started)
            for _ in range(5):
                tasks.start_soon(ask)
            await until(lambda: len(outcomes) == 3)
            assert outcomes == ["the service has too many requests waiting"] * 3
            assert (events.queued, events.dropped) == (2, 3)
            go_on.set()
    assert outcomes[3:] == ["served"] * 3


@pytest.mark.parametrize("next_message", ["publish", "request"])
async def test_the_oldest_that_is_dropped_may_be_a_request(
    client: MessageBrokerClient, next_message: str
) -> None:
    outcomes: list[str] = []

    async def ask() -> None:
        with pytest.raises(ServiceUnavailableError) as raised:
            await client.request("a.b", {})
        outcomes.append(raised.value.message)

    with anyio.fail_after(3):
        async with (
            anyio.create_task_group() as tasks,
            client.subscribe("a.b", action="both", queue_size=1, overflow="drop_oldest") as events,
        ):
            tasks.start_soon(ask)
            await until(lambda: events.queued == 1)
            if next_message == "publish":
                await client.publish("a.b", {})
            else:
                tasks.start_soon(ask)
            await until(lambda: len(outcomes) == 1)
    assert outcomes[0] == "the service has too many requests waiting"


async def test_a_slow_consumer_is_reported_once_a_second(
    client: MessageBrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)  # not the event loop's as well
    monkeypatch.setattr("mb_core.throttle.time", clock)
    errors: list[Exception] = []
    client.on_error(errors.append)
    with anyio.fail_after(5):
        events = await client.subscribe("a.b", queue_size=1)
        for count, later in ((1, 0.0), (1, 0.9), (2, 0.1), (2, 0.5)):
            now += later
            await fill(client, "a.b", 20)
            await until(lambda count=count: len(errors) >= count)  # type: ignore[misc]
            await settle(client)
            assert len(errors) == count
        assert events.dropped > 40


@pytest.mark.parametrize("size", [0, -1, 1.5, "1", True])
async def test_bad_queue_sizes_are_refused(client: MessageBrokerClient, size: Any) -> None:
    with pytest.raises(LocalProtocolError, match="queue_size"):
        client.subscribe("a.b", queue_size=size)
    with pytest.raises(LocalProtocolError, match="queue_bytes"):
        client.subscribe("a.b", queue_bytes=size)


async def test_unknown_policies_are_refused(client: MessageBrokerClient) -> None:
    with pytest.raises(LocalProtocolError, match="'drop_newest', 'drop_oldest', 'error'"):
        client.subscribe("a.b", overflow="block")
