"""Handlers: when they are called, and how many at a time."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    Action,
    ForbiddenError,
    InternalError,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
)
from mb_testing import until

from .watching import settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Handlers


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_handler_gets_each_message_in_order(url: str, kind: str) -> None:
    got: list[Any] = []

    def plain(message: Message) -> None:
        got.append(message.payload)

    async def waiting(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(message.payload)

    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            await client.subscribe("a.b", handler=plain if kind == "plain" else waiting)
            for number in range(200):
                await client.publish("a.b", number)
            await until(lambda: len(got) == 200)
    assert got == list(range(200))


async def test_a_failing_handler_is_logged_told_to_on_error_and_called_again(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    got: list[int] = []

    def handler(message: Message) -> None:
        got.append(message.payload)
        if message.payload % 2:
            raise ValueError(f"odd: {message.payload}")

    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=handler)
        for number in range(4):
            await client.publish("a.b", number)
        await until(lambda: len(errors) == 2)
    assert got == [0, 1, 2, 3]
    assert [str(error) for error in errors] == ["odd: 1", "odd: 3"]
    assert "handler of 'a.b' failed: odd: 1" in caplog.text


async def test_a_group_that_a_handler_raises_is_reported_as_it_is(
    client: MessageBrokerClient,
) -> None:
    errors: list[Exception] = []

    async def handler(message: Message) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, message)

    async def fail(message: Message) -> None:
        raise ForbiddenError("in a task") if message.action is Action.PUBLISH else ValueError("too")

    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b", action="both", handler=handler)
        await client.publish("a.b", {})
        with pytest.raises(InternalError):
            await client.request("a.b", {})
        await until(lambda: len(errors) == 2)
    assert [type(error) for error in errors] == [ExceptionGroup, ExceptionGroup]


async def test_a_handler_that_awaits_what_was_cancelled_goes_on(
    client: MessageBrokerClient, anyio_backend_name: str
) -> None:
    """On asyncio such an await raises CancelledError, which looks like the end of the task."""
    if anyio_backend_name != "asyncio":
        pytest.skip("on trio, only the task's own scopes cancel it")
    errors: list[Exception] = []

    async def handler(message: Message) -> str:
        if message.payload == "wait":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        return "well"

    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b", action="both", handler=handler)
        await client.publish("a.b", "wait")
        with pytest.raises(InternalError):
            await client.request("a.b", "wait")
        assert (await client.request("a.b", {})).payload == "well"
        await until(lambda: len(errors) == 2)


async def test_a_handler_sees_the_context_variables_of_who_subscribed(
    client: MessageBrokerClient,
) -> None:
    variable = ContextVar("variable", default="unset")
    seen: list[str] = []

    def handler(message: Message) -> None:
        seen.append(variable.get())
        variable.set("the handler's own")

    async def subscribe() -> None:
        variable.set("subscriber")
        await client.subscribe("a.b", handler=handler)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscribe)
    with anyio.fail_after(5):
        await client.publish("a.b", {})
        await until(lambda: seen)
    assert seen == ["subscriber"]
    assert variable.get() == "unset"


async def test_a_handler_that_never_awaits_starves_nobody(client: MessageBrokerClient) -> None:
    handled = 0

    def busy(message: Message) -> None:
        nonlocal handled
        handled += 1
        until = time.monotonic() + 0.0005
        while time.monotonic() < until:
            pass

    await client.subscribe("busy", handler=busy)
    with anyio.fail_after(10):
        for number in range(1000):
            await client.publish("busy", number)
        await settle(client)  # half a second of work lies in the queue
        assert handled < 1000
        turns = 0
        while handled < 1000:
            await anyio.lowlevel.checkpoint()
            turns += 1
    # It gives way after each slice of five milliseconds; a handler that starves others, never.
    assert turns >= 5


async def test_iterating_without_awaiting_starves_nobody(client: MessageBrokerClient) -> None:
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    with anyio.fail_after(10):
        async with client.subscribe("a.b") as events:
            for number in range(400):
                await client.publish("a.b", number)
            await settle(client)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                await anyio.lowlevel.checkpoint()
                turns = 0
                async for message in events:
                    until = time.monotonic() + 0.0005
                    while time.monotonic() < until:
                        pass
                    if message.payload == 399:
                        break
                # It gives way after each slice of five milliseconds.
                assert turns >= 5
                tasks.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_burst_arrives_whole_and_in_order(mb_broker: RunningBroker, scheme: str) -> None:
    url = mb_broker.url_of(scheme)
    got: list[int] = []
    with anyio.fail_after(30):
        async with MessageBrokerClient(url) as listener, MessageBrokerClient(url) as client:
            events = await listener.subscribe(
                "burst", handler=lambda message: got.append(message.payload), queue_size=20_000
            )
            for number in range(20_000):
                await client.publish("burst", number)
            await until(lambda: len(got) + events.dropped == 20_000)
    assert events.dropped == 0
    assert got == list(range(20_000))


# Concurrency


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_as_many_handlers_run_as_were_asked_for(
    client: MessageBrokerClient, concurrency: int
) -> None:
    running = most = 0
    order: list[int] = []
    go_on = anyio.Event()

    async def handler(message: Message) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(message.payload)
        await go_on.wait()
        running -= 1

    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=handler, concurrency=concurrency)
        for number in range(10):
            await client.publish("a.b", number)
        await settle(client)
        await until(lambda: running == concurrency)
        await anyio.wait_all_tasks_blocked()
        assert running == concurrency
        go_on.set()
        await until(lambda: len(order) == 10)
    assert most == concurrency
    if concurrency == 1:
        assert order == list(range(10))


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "2", None, True])
async def test_bad_concurrency_is_refused(client: MessageBrokerClient, concurrency: Any) -> None:
    with pytest.raises(LocalProtocolError, match="concurrency"):
        client.subscribe("a.b", concurrency=concurrency)
