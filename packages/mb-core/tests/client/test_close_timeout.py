"""Closing within close_timeout, whatever user code does."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
)
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


class Stuck:
    """User code that waits for a thread, so that it can't be cancelled, until it is released."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.ended = anyio.Event()
        self.release = threading.Event()

    async def __call__(self, *args: object) -> None:
        if self.began.is_set():
            return
        self.began.set()
        await anyio.to_thread.run_sync(self.release.wait)
        self.ended.set()


@pytest.fixture
async def stuck() -> AsyncIterator[Stuck]:
    stuck = Stuck()
    yield stuck
    assert not stuck.ended.is_set()
    stuck.release.set()
    with anyio.fail_after(5):
        await stuck.ended.wait()
        await anyio.wait_all_tasks_blocked()  # the tasks that have waited for it end


@pytest.mark.parametrize("where", ["handler", "responder", "on_error", "on_disconnect"])
async def test_closing_leaves_behind_what_waits_for_a_thread(
    mb_broker: RunningBroker, stuck: Stuck, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = MessageBrokerClient(mb_broker.url, drain_timeout=50, close_timeout=100)
    await client.connect()
    if where == "handler":
        await client.subscribe("some.event", handler=stuck)
        await client.publish("some.event", 1)
    elif where == "responder":
        await client.subscribe("some.event", action="request", handler=stuck)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.request, "some.event", 1)
            await stuck.began.wait()
            tasks.cancel_scope.cancel()
    elif where == "on_error":
        client.on_error(stuck)
        await client.publish("nobodys.event", 1)
    else:
        client.on_disconnect(stuck)
    if where != "on_disconnect":
        await stuck.began.wait()
    with anyio.fail_after(5):
        await client.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await client.request("some.question", 1)
        await client.run()
    assert stuck.began.is_set()
    assert "a handler or a callback is still running" in caplog.text
    await until(lambda: mb_broker.connections == 0)


async def test_a_connect_that_is_cancelled_leaves_behind_what_waits_for_a_thread(
    free_port: int, stuck: Stuck
) -> None:
    client = MessageBrokerClient(
        f"tcp://127.0.0.1:{free_port}", retry_connect=True, close_timeout=100
    )
    client.on_error(stuck)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await stuck.began.wait()
            tasks.cancel_scope.cancel()
    with pytest.raises(LocalProtocolError, match="not connected"):
        await client.request("some.question", 1)


async def test_closing_in_a_task_that_a_handler_has_started_waits_as_any_other(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient(mb_broker.url)
    await client.connect()
    steps: list[str] = []
    closing, closed = anyio.Event(), anyio.Event()

    async def close() -> None:
        closing.set()
        await client.close()
        steps.append("closed" if not client.connected else "still connected")
        closed.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def handle(message: Message) -> None:
                tasks.start_soon(close)
                await closing.wait()
                await client.publish("some.answer", "last words")
                steps.append("handled")

            async with MessageBrokerClient(mb_broker.url) as other:
                answers = await other.subscribe("some.answer")
                await client.subscribe("some.event", handler=handle)
                await other.publish("some.event", 1)
                await closed.wait()
                assert (await anext(aiter(answers))).payload == "last words"
    assert steps == ["handled", "closed"]


async def test_closing_in_a_task_group_of_a_handler_does_not_wait_for_it(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient(mb_broker.url)
    await client.connect()
    steps: list[str] = []

    async def close() -> None:
        await client.close()
        steps.append("returned")

    async def handle(*args: object) -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            outer.start_soon(close)
        steps.append("handled")

    with anyio.fail_after(3):
        await client.subscribe("some.event", handler=handle)
        client.on_error(handle)
        await client.publish("some.event", 1)
        await client.publish("nobodys.event", 1)
        await client.run()
        await client.close()
    assert steps.count("returned") == 2 * steps.count("handled") > 0
