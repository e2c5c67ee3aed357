"""on_message: who gets what has no other consumer, and that no handler waits for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from mb_core import (
    LocalProtocolError,
    MessageBrokerClient,
    NoRouteFoundError,
    RemoteProtocolError,
    SlowConsumer,
)
from mb_testing import until

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


async def fill(client: MessageBrokerClient, topic: str, count: int) -> None:
    for number in range(count):
        await client.publish(topic, number)
    await client.request("system.heartbeat", {})  # behind which nothing is left


async def hang(header: Any, payload: Any) -> None:
    await anyio.sleep_forever()


async def test_messages_without_consumer_wait_for_on_message(client: MessageBrokerClient) -> None:
    got: list[tuple[str, str, Any]] = []
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        await fill(client, "a.b", 3)
        assert events.queued == 3
        client.on_message(
            lambda header, payload: got.append((header.action, header.topic, payload))
        )
        await client.publish("a.b", 3)
        await until(lambda: len(got) == 4)
    assert got == [("publish", "a.b", number) for number in range(4)]


async def test_each_on_message_handler_gets_each_message(client: MessageBrokerClient) -> None:
    one: list[Any] = []
    two: list[Any] = []

    async def second(header: Any, payload: Any) -> None:
        await anyio.lowlevel.checkpoint()
        two.append(payload)

    client.on_message(lambda header, payload: one.append(payload))
    client.on_message(second)
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await client.subscribe("c.d")
        await client.publish("a.b", 1)
        await client.publish("c.d", 2)
        await until(lambda: len(two) == 2)
    assert sorted(one) == sorted(two) == [1, 2]


async def test_on_message_gets_the_messages_of_a_subscription_one_after_the_other(
    client: MessageBrokerClient,
) -> None:
    steps: list[str] = []

    async def handler(header: Any, payload: Any) -> None:
        steps.append(f"begin {payload}")
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        steps.append(f"end {payload}")

    client.on_message(handler)
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await fill(client, "a.b", 3)
        await until(lambda: len(steps) == 6)
    assert steps == ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]


async def test_on_message_does_not_take_what_has_a_consumer(client: MessageBrokerClient) -> None:
    got: list[Any] = []
    handled: list[Any] = []
    client.on_message(lambda header, payload: got.append(payload))
    with anyio.fail_after(5):
        await client.subscribe("handled", handler=lambda m: handled.append(m.payload))
        async with client.subscribe("iterated") as events:
            await client.publish("handled", 1)
            await client.publish("iterated", 2)
            assert (await anext(events)).payload == 2
            await until(lambda: handled == [1])
    assert got == []


async def test_on_message_cant_be_iterated_as_well(client: MessageBrokerClient) -> None:
    client.on_message(lambda header, payload: None)
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        with pytest.raises(LocalProtocolError, match="go to a handler"):
            await anext(events)


async def test_on_message_gets_no_requests(client: MessageBrokerClient) -> None:
    got: list[Any] = []
    client.on_message(lambda header, payload: got.append(payload))
    with anyio.fail_after(5):
        async with (
            client.subscribe("a.b", action="request") as requests,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.request, "a.b", {})
            await (await anext(requests)).respond("by hand")
    assert got == []


async def test_on_message_is_told_of_what_cant_be_read(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    got: list[Any] = []
    client.on_error(errors.append)
    client.on_message(lambda header, payload: got.append(payload))
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await client.publish("a.b", msgspec.Raw(b"}{"))
        await client.publish("a.b", 1)
        await until(lambda: got == [1] and errors)
    assert [type(error) for error in errors] == [RemoteProtocolError]
    assert "can't read a message of 'a.b': " in caplog.text


# Several handlers


async def test_a_hanging_handler_stops_no_other(client: MessageBrokerClient) -> None:
    before: list[Any] = []
    behind: list[Any] = []
    client.on_message(lambda header, payload: before.append(payload))
    client.on_message(hang)
    client.on_message(lambda header, payload: behind.append(payload))
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        await client.subscribe("c.d")
        await fill(client, "a.b", 5)
        await client.publish("c.d", "too")
        await until(lambda: len(before) == len(behind) == 6)
        assert events.queued == 4
    assert sorted(before, key=str) == sorted(behind, key=str) == [0, 1, 2, 3, 4, "too"]


async def test_the_first_handler_takes_over_what_waits_and_a_later_one_what_comes(
    client: MessageBrokerClient,
) -> None:
    one: list[Any] = []
    two: list[Any] = []
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await fill(client, "a.b", 3)
        client.on_message(lambda header, payload: one.append(payload))
        client.on_message(lambda header, payload: two.append(payload))
        await until(lambda: len(one) == 3)
        await client.publish("a.b", 3)
        await until(lambda: len(one) == 4 and two)
    assert one == [0, 1, 2, 3]
    assert two == [3]


async def test_what_overtakes_the_confirmation_goes_to_all_who_were_there_before(
    start_tcp_server: Start,
) -> None:
    one: list[Any] = []
    two: list[Any] = []
    async with (
        start_tcp_server() as server,
        MessageBrokerClient(server.url, drain_timeout=0) as client,
    ):
        client.on_message(lambda header, payload: one.append(payload))
        client.on_message(lambda header, payload: two.append(payload))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def subscribe() -> None:
                    await client.subscribe("a.b")

                tasks.start_soon(subscribe)
                request = await server.wait_for(b"request:system.topic.subscribe")
                await server.send(b"publish:a.b:1.0.0\n1")
                await server.answer(request)
            await until(lambda: one and two)
    assert one == two == [1]


async def test_a_handler_that_comes_while_its_client_subscribes_is_called_once_it_has(
    start_tcp_server: Start,
) -> None:
    got: list[Any] = []
    async with (
        start_tcp_server() as server,
        MessageBrokerClient(server.url, drain_timeout=0) as client,
    ):
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def subscribe() -> None:
                    await client.subscribe("a.b")

                tasks.start_soon(subscribe)
                request = await server.wait_for(b"request:system.topic.subscribe")
                await server.send(b"publish:a.b:1.0.0\n1")
                await server.send(b"request:system.heartbeat:1.0.0\n{}")
                await server.wait_for(b"response:system.heartbeat")
                client.on_message(lambda header, payload: got.append(payload))
                await anyio.wait_all_tasks_blocked()
                assert got == []
                await server.answer(request)
            await until(lambda: got)
    assert got == [1]


@pytest.mark.parametrize(("overflow", "kept"), [("drop_newest", [1, 2]), ("drop_oldest", [8, 9])])
async def test_what_a_slow_handler_has_no_room_for_the_others_get(
    client: MessageBrokerClient, overflow: str, kept: list[int]
) -> None:
    quick: list[Any] = []
    slow: list[Any] = []
    errors: list[Exception] = []
    go_on = anyio.Event()

    async def handler(header: Any, payload: Any) -> None:
        slow.append(payload)
        await go_on.wait()

    client.on_message(handler)
    client.on_message(lambda header, payload: quick.append(payload))
    client.on_error(errors.append)
    with anyio.fail_after(5):
        events = await client.subscribe("a.b", queue_size=2, overflow=overflow)
        for number in range(10):
            await client.publish("a.b", number)
            await until(lambda number=number: number in quick and slow)
        assert (events.queued, events.dropped) == (2, 7)
        go_on.set()
        await until(lambda: len(slow) == 3)
        await until(lambda: errors)
    assert quick == list(range(10))
    assert slow == [0, *kept]
    assert {type(error) for error in errors} == {SlowConsumer}


async def test_where_a_full_queue_is_the_end_it_is_that_of_its_handler_alone(
    client: MessageBrokerClient,
) -> None:
    """The subscription ends with the last of them."""
    quick: list[Any] = []
    slow: list[Any] = []
    errors: list[Exception] = []
    go_on = anyio.Event()

    async def wait(header: Any, payload: Any) -> None:
        slow.append(payload)
        await go_on.wait()

    async def wait_at_last(header: Any, payload: Any) -> None:
        quick.append(payload)
        if payload == "wait":
            await anyio.sleep_forever()

    client.on_message(wait)
    client.on_message(wait_at_last)
    client.on_error(errors.append)
    with anyio.fail_after(5):
        events = await client.subscribe("a.b", queue_size=2, overflow="error")
        for number in range(6):
            await client.publish("a.b", number)
            await until(lambda number=number: number in quick and slow)
        assert (events.dropped, "active" in repr(events)) == (1, True)
        go_on.set()
        await until(lambda: len(slow) == 3)
        await client.publish("a.b", "wait")
        await until(lambda: "wait" in quick)
        await fill(client, "a.b", 3)
        assert "ended" in repr(events)
        with pytest.raises(NoRouteFoundError):
            await client.publish("a.b", {}, confirm=True)
    assert slow == [0, 1, 2]
    assert quick == [*range(6), "wait"]
    assert {type(error) for error in errors} == {SlowConsumer}


async def test_each_handler_gets_what_is_queued_after_unsubscribing(
    client: MessageBrokerClient,
) -> None:
    got: dict[str, list[Any]] = {"one": [], "two": []}
    go_on = anyio.Event()

    def handler(name: str) -> Callable[[Any, Any], Any]:
        async def handle(header: Any, payload: Any) -> None:
            got[name].append(payload)
            await go_on.wait()

        return handle

    client.on_message(handler("one"))
    client.on_message(handler("two"))
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        await fill(client, "a.b", 4)
        await events.unsubscribe()
        assert events.queued == 6
        go_on.set()
        await until(lambda: events.queued == 0)
    assert got == {"one": [0, 1, 2, 3], "two": [0, 1, 2, 3]}
