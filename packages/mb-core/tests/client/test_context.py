"""What a handler's code can know of the message that it works on."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import Message, MessageBrokerClient
from mb_core.message import handling
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_handler_sees_the_message_that_it_was_called_with(
    client: MessageBrokerClient, kind: str
) -> None:
    seen: list[bool] = []

    def plain(message: Message) -> None:
        seen.append(handling.get() is message)

    async def waiting(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(handling.get() is message)

    handler = plain if kind == "plain" else waiting
    with anyio.fail_after(5):
        await client.subscribe("a.b", action="both", handler=handler)
        for number in range(3):
            await client.publish("a.b", number)
            await client.request("a.b", number)
    assert seen == [True] * 6


async def test_an_on_message_handler_sees_its_message(client: MessageBrokerClient) -> None:
    seen: list[tuple[Any, Any]] = []

    def handler(header: Any, payload: Any) -> None:
        message = handling.get()
        assert message is not None
        seen.append((payload, message.payload))

    client.on_message(handler)
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        for number in range(3):
            await client.publish("a.b", number)
        await until(lambda: len(seen) == 3)
    assert seen == [(0, 0), (1, 1), (2, 2)]


async def test_handlers_that_run_at_once_see_a_message_each(client: MessageBrokerClient) -> None:
    running = 0
    seen: list[bool] = []
    all_run = anyio.Event()

    async def handler(message: Message) -> None:
        nonlocal running
        running += 1
        if running == 3:
            all_run.set()
        await all_run.wait()
        seen.append(handling.get() is message)

    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=handler, concurrency=3)
        for number in range(3):
            await client.publish("a.b", number)
        await until(lambda: len(seen) == 3)
    assert seen == [True] * 3


async def test_a_task_keeps_the_message_that_it_was_spawned_for(
    client: MessageBrokerClient,
) -> None:
    seen: list[tuple[Any, bool]] = []
    handled = 0
    go_on = anyio.Event()

    async def later(message: Message) -> None:
        await go_on.wait()
        seen.append((message.payload, handling.get() is message))

    async with anyio.create_task_group() as tasks:

        def handler(message: Message) -> None:
            nonlocal handled
            handled += 1
            tasks.start_soon(later, message)

        with anyio.fail_after(5):
            await client.subscribe("a.b", handler=handler)
            for number in range(3):
                await client.publish("a.b", number)
            await until(lambda: handled == 3)
            go_on.set()
    assert sorted(seen) == [(0, True), (1, True), (2, True)]


async def test_outside_of_handlers_there_is_no_message(client: MessageBrokerClient) -> None:
    errors: list[Message | None] = []
    iterated: list[Message | None] = []
    client.on_error(lambda error: errors.append(handling.get()))
    with anyio.fail_after(5):
        async with client.subscribe("a.b") as events:
            await client.publish("a.b", 1)
            async for _ in events:
                iterated.append(handling.get())
                break
        await client.publish("nobody.listens", {})
        await until(lambda: errors)
    assert errors == iterated == [None]
    assert handling.get() is None


async def test_callbacks_of_a_client_that_a_handler_has_connected_see_no_message(
    mb_broker: RunningBroker, client: MessageBrokerClient
) -> None:
    seen: list[Message | None] = []
    other = MessageBrokerClient(mb_broker.url)
    other.on_connect(lambda: seen.append(handling.get()))

    async def connect(message: Message) -> None:
        await other.connect()

    with anyio.fail_after(5):
        await client.subscribe("a.b", action="request", handler=connect)
        await client.request("a.b", {})
        await until(lambda: seen)
        await other.close()
    assert seen == [None]
