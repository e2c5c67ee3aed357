"""The table of docs/reconnecting.md, "What happens to X when Y", cell by cell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from mb_client import (
    ConnectionLost,
    MBError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from mb_testing import FaultyBroker, until

pytestmark = pytest.mark.anyio


class Outcome:
    """What a call that runs in the background returns or raises."""

    def __init__(self) -> None:
        self._value: Any = None
        self._ended = anyio.Event()

    async def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            self._value = await call()
        except MBError as error:
            self._value = error
        self._ended.set()

    async def value(self) -> Any:
        with anyio.fail_after(30):
            await self._ended.wait()
        return self._value


class Scene:
    """A service whose handler waits until the test lets it go on, and a client that asks it."""

    def __init__(self, broker: FaultyBroker, tasks: anyio.abc.TaskGroup) -> None:
        self.broker = broker
        self.service = MessageBrokerClient(broker.url, backoff_max=100)
        self.client = MessageBrokerClient(broker.url, backoff_max=100)
        self.handled: list[Any] = []
        self.go = anyio.Event()
        self._tasks = tasks

    async def handle(self, message: Message) -> Any:
        self.handled.append(message.payload)
        await self.go.wait()
        return message.payload

    def begin(self, call: Callable[[], Awaitable[Any]]) -> Outcome:
        outcome = Outcome()
        self._tasks.start_soon(outcome.run, call)
        return outcome

    async def ask(self, payload: Any, **options: Any) -> Outcome:
        """Begin a request; it has reached the handler when this returns."""
        before = len(self.handled)
        outcome = self.begin(lambda: self.client.request("work", payload, **options))
        await until(lambda: len(self.handled) > before)
        return outcome

    async def ask_again(self) -> Message:
        return await self.client.request("work", "again")


@asynccontextmanager
async def scene_of(broker: FaultyBroker) -> AsyncIterator[Scene]:
    async with anyio.create_task_group() as tasks:
        scene = Scene(broker, tasks)
        async with scene.service, scene.client:
            await scene.service.subscribe(
                "work", action="request", handler=scene.handle, concurrency=10
            )
            yield scene
            scene.go.set()


async def test_the_connection_is_lost(mb_broker: FaultyBroker) -> None:
    async with scene_of(mb_broker) as scene:
        once = await scene.ask("once")
        again = await scene.ask("again", retry=True)
        async with scene.client.subscribe("event") as events:
            mb_broker.faults.refuse()
            mb_broker.faults.cut()
            lost = await once.value()
            assert (type(lost), lost.sent) == (ConnectionLost, True)
            with pytest.raises(ConnectionLost) as new:
                await scene.client.request("work", "new")
            assert not new.value.sent
            with pytest.raises(ConnectionLost) as unconfirmed:
                await scene.client.publish("event", 1, confirm=True, timeout=50)
            assert not unconfirmed.value.sent
            await scene.client.publish("event", 2)  # waits in the buffer
            mb_broker.faults.accept()
            scene.go.set()
            assert (await again.value()).payload == "again"
            assert scene.handled.count("again") == 2
            assert (await anext(events)).payload == 2  # the iterator goes on


async def test_the_broker_gets_sigterm(mb_broker: FaultyBroker) -> None:
    async with scene_of(mb_broker) as scene:
        asked = await scene.ask("asked")
        stopped = scene.begin(lambda: anyio.to_thread.run_sync(mb_broker.stop))

        async def refused() -> bool:
            try:
                await scene.client.request("work", "new", timeout=50)
            except ServiceUnavailableError:
                return True
            except MBError:
                pass
            return False

        await until(refused)
        scene.go.set()
        assert (await asked.value()).payload == "asked"
        assert await stopped.value() is None
        mb_broker.start()
        await scene.client.wait_connected()


async def test_the_network_goes_silent(mb_broker: FaultyBroker) -> None:
    async with scene_of(mb_broker) as scene:
        mb_broker.faults.stall()
        with pytest.raises(RequestTimeoutError):
            await scene.client.request("work", 1, timeout=50)
        with pytest.raises(RequestTimeoutError):
            await scene.client.publish("work", 1, confirm=True, timeout=50)
        mb_broker.faults.resume()


async def test_the_client_is_closed(mb_broker: FaultyBroker) -> None:
    async with scene_of(mb_broker) as scene:
        asked = await scene.ask("asked")
        running = scene.begin(scene.client.run)
        events = await scene.client.subscribe("event")
        await scene.client.publish("event", 1, confirm=True)
        await scene.client.close()
        assert isinstance(await asked.value(), ConnectionLost)
        assert await running.value() is None
        assert [event.payload async for event in events] == [1]
        with pytest.raises(ConnectionLost) as new:
            await scene.client.request("work", "new")
        assert not new.value.sent


async def test_a_service_loses_its_connection_or_is_closed(mb_broker: FaultyBroker) -> None:
    async with scene_of(mb_broker) as scene:
        asked = await scene.ask("asked")
        closing = scene.begin(scene.service.close)
        scene.go.set()  # the handler finishes within drain_timeout, and its answer is sent
        assert (await asked.value()).payload == "asked"
        await closing.value()
        assert isinstance(await scene.begin(scene.ask_again).value(), NoRouteFoundError)
