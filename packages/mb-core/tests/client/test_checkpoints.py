"""Every async call lets other tasks run, and can be cancelled, also where it need not wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
import trio.testing

from mb_broker import RunningBroker
from mb_core import Message, MessageBrokerClient, TCPSocketClient, WebSocketClient
from mb_core.link import current_backend
from mb_core.link.checkpoints import SLICE
from mb_testing import until

from .gone_broker import Gone, gone
from .scripted import ScriptedBroker

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

Call = Callable[[], Awaitable[Any]]

REQUEST = b"request:ask:1.0.0:12345678-1234-1234-1234-12345678900%d\n{}"


async def lets_others_run(call: Call) -> bool:
    """Whether a call gives the loop a turn before it returns or raises."""
    if current_backend().name == "trio":
        # Others that are ready run in no particular order there.
        with suppress(AssertionError), trio.testing.assert_checkpoints():
            with suppress(Exception):
                await call()
            return True
        return False
    turns = asyncio.Event()
    asyncio.get_running_loop().call_soon(turns.set)
    with suppress(Exception):
        await call()
    return turns.is_set()


async def can_be_cancelled(call: Call) -> bool:
    with anyio.CancelScope() as scope:
        scope.cancel()
        with suppress(Exception):
            await call()
    return scope.cancelled_caught


async def are_checkpoints(calls: dict[str, Call]) -> None:
    """Each of `calls`, which can be made twice, lets others run and can be cancelled."""
    assert [name for name, call in calls.items() if not await lets_others_run(call)] == []
    assert [name for name, call in calls.items() if not await can_be_cancelled(call)] == []


def calls_of(client: MessageBrokerClient) -> dict[str, Call]:
    """What a client can be asked to do, right and wrong."""
    return {
        "publish": lambda: client.publish("a", {}),
        "publish, wrong": lambda: client.publish("a..b", {}),
        "publish, not JSON": lambda: client.publish("a", object()),
        "publish, too large": lambda: client.publish("a", "x" * 100_000),
        "publish, confirmed, wrong": lambda: client.publish("a", {}, confirm=True, timeout=0),
        "request": lambda: client.request("a", {}, timeout=5),
        "request, wrong": lambda: client.request("a..b", {}),
        "request, again, wrong": lambda: client.request("a", {}, timeout=0, retry=True),
        "register, wrong": lambda: client.register_service("", ""),
        "unsubscribe, nothing": lambda: client.unsubscribe("no.such"),
        "unsubscribe, wrong": lambda: client.unsubscribe("a..b"),
        "connect, wrong": lambda: client.connect("a/b", 1),
    }


async def test_while_disconnected(scripted: ScriptedBroker) -> None:
    """Loops that try until it works must not keep the client from connecting again."""
    for options in (
        {},
        {"publish_buffer": 0},
        {"publish_buffer": 50, "buffer_overflow": "drop_oldest"},
    ):
        async with gone(scripted, **options) as it:
            await are_checkpoints(calls_of(it.client))
            await scripted.listen()


async def test_a_loop_that_tries_until_it_works_does_not_keep_it_from_working(
    scripted: ScriptedBroker,
) -> None:
    tries: list[Callable[[Gone], Awaitable[Any]]] = [
        lambda it: it.client.publish("a", {}),
        lambda it: it.client.request("a", {}),
    ]
    scripted.answers["a"] = b"{}"
    for attempt in tries:
        async with gone(scripted, publish_buffer=100) as it:
            await scripted.listen()
            while not it.client.connected:
                with suppress(Exception):
                    await attempt(it)


async def test_before_connecting_and_after_closing(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    unused = {"close": client.close, "run": client.run}
    await are_checkpoints(calls_of(client) | unused)

    client = MessageBrokerClient(mb_broker.url)
    await client.connect()
    subscription = await client.subscribe("a")
    await client.close()
    await are_checkpoints(
        calls_of(client)
        | {
            "close": client.close,
            "connect": client.connect,
            "run": client.run,
            "subscribe": lambda: _subscribe(client),
            "unsubscribe": subscription.unsubscribe,
            "await again": lambda: _await(subscription),
            "next": lambda: anext(subscription),
        }
    )


async def _subscribe(client: MessageBrokerClient) -> None:
    await client.subscribe("a")


async def _await(awaitable: Awaitable[Any]) -> None:
    await awaitable


async def test_while_connected(client: MessageBrokerClient) -> None:
    handled = await client.subscribe("a.b", handler=lambda m: None)
    left = await client.subscribe("a.c")
    await left.unsubscribe()
    wrong = {name: call for name, call in calls_of(client).items() if ", " in name}
    await are_checkpoints(
        wrong
        | {
            "a request": lambda: client.request("system.heartbeat", {}),
            "leave again": left.unsubscribe,
            "next of a handler's": lambda: anext(handled),
            "next behind the end": lambda: anext(left),
            "subscribe, wrong": lambda: _subscribe(client),
        }
    )


async def lets_others_run_at_times(call: Call, calls: int = 1_000_000) -> None:
    """A loop around a call that does not have to wait lets others run now and then."""
    ran = anyio.Event()

    async def other() -> None:
        ran.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(calls):
            await call()
            if ran.is_set():
                return
    raise AssertionError


async def test_a_loop_that_publishes_lets_others_run(client: MessageBrokerClient) -> None:
    for _ in range(3):
        await lets_others_run_at_times(lambda: client.publish("a.b", {}))


async def test_a_loop_that_iterates_over_what_waits_lets_others_run(
    client: MessageBrokerClient,
) -> None:
    async with client.subscribe("a.b") as events:
        for number in range(100):
            await client.publish("a.b", number)
        await until(lambda: events.queued == 100)

        async def work() -> None:
            await anext(events)
            time.sleep(SLICE / 10)  # noqa: ASYNC251 — user code that blocks is the case

        await lets_others_run_at_times(work, calls=100)


async def test_answering(scripted: ScriptedBroker) -> None:
    async with (
        MessageBrokerClient(scripted.url) as client,
        client.subscribe("ask", action="request") as requests,
    ):

        async def receive(number: int) -> Message:
            scripted.connections[0].send(REQUEST % number)
            return await anext(requests)

        def answering(message: Message, answer: Any) -> Call:
            async def respond() -> None:
                await message.respond(answer)

            return respond

        wrong, late = [await receive(number) for number in range(2)]
        assert await lets_others_run(answering(wrong, object()))
        await scripted.stop()
        await until(lambda: not client.connected)
        assert await lets_others_run(answering(late, 1))
        await scripted.listen()


@pytest.mark.parametrize("kind", [TCPSocketClient, WebSocketClient])
async def test_clients_of_whole_messages(kind: Any, mb_broker: RunningBroker) -> None:
    client = kind()
    await are_checkpoints({"send": lambda: client.send("x"), "close": client.close})
    await client.connect(mb_broker.url_of(kind.scheme))
    await are_checkpoints(
        {
            "send, too large": lambda: client.send("x" * 100_000),
            "connect": lambda: client.connect(mb_broker.url),
        }
    )
    await lets_others_run_at_times(lambda: client.send("publish:a.b:1.0.0\n{}"))
    await client.close()
    await are_checkpoints({"send": lambda: client.send("x"), "close": client.close})
