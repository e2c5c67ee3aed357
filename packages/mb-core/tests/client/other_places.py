"""A client with everything that its calls are made on, to be used in another place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from mb_broker import Broker, RunningBroker, running
from mb_core import (
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    TCPSocketClient,
)

PATIENCE = 20


class Scene:
    """A client of its own loop, with all that its calls are made on."""

    def __init__(self, url: str, broker: Broker) -> None:
        self.broker = broker
        self.client = MessageBrokerClient(url)
        self.raw = TCPSocketClient()
        self.asked: list[Message] = []
        self.heard: list[Any] = []
        self.errors: list[Exception] = []
        self._answered = anyio.Event()

    def calls(self) -> list[Callable[[], Awaitable[Any]]]:
        client = self.client

        async def on_message() -> None:
            client.on_message(lambda header, payload: None)

        return [
            lambda: client.request("some.question", 1, timeout=1000),
            lambda: client.request("some.question", 1, timeout=1000, retry=True),
            lambda: client.publish("some.event", "from elsewhere"),
            lambda: client.publish("some.event", "from elsewhere", confirm=True),
            lambda: client.subscribe("another.event").__aenter__(),
            lambda: client.subscribe("another.event", handler=print).__aenter__(),
            lambda: client.unsubscribe("some.event"),
            lambda: client.register_service("a", "b"),
            lambda: client.connect(),
            lambda: client.close(),
            lambda: client.run(),
            lambda: client.wait_connected(),
            lambda: client.__aenter__(),
            on_message,
            lambda: anext(self.events),
            lambda: anext(self.waiting),
            lambda: self.events.unsubscribe(),
            lambda: self.asked[0].respond("from elsewhere"),
            lambda: self.raw.send("request:system.heartbeat:1.0.0\n{}"),
            lambda: self.raw.close(),
            lambda: self.broker.drain(),
            lambda: self.broker.abort(),
        ]

    async def begin(self) -> None:
        client = self.client
        client.on_error(self.errors.append)
        await client.connect()
        await self.raw.connect(self.broker.url_of("tcp"))

        async def answer(message: Message) -> None:
            self.asked.append(message)
            await self._answered.wait()

        async def echo(message: Message) -> Any:
            return message.payload

        await client.subscribe("some.question", action="request", handler=answer)
        await client.subscribe("echo.it", action="request", handler=echo, concurrency=10)
        await client.subscribe("some.event", handler=lambda m: self.heard.append(m.payload))
        await client.subscribe("nobodys.event")
        self.events = await client.subscribe("some.event")
        self.waiting = await client.subscribe("silent.event")
        aiter(self.events), aiter(self.waiting)
        await client.publish("some.event", "before", confirm=True)

    async def works_on(self) -> None:
        """All that was there is there, and nothing has come from elsewhere."""
        for number in range(20):
            assert (await self.client.request("echo.it", number)).payload == number
        await self.client.publish("some.event", "behind", confirm=True)
        assert [(await anext(self.events)).payload for _ in range(2)] == ["before", "behind"]
        with anyio.fail_after(PATIENCE):
            while self.heard[:2] != ["before", "behind"]:
                await anyio.lowlevel.checkpoint()
        assert len(self.heard) == 2
        assert self.client.stats().reconnects == 0
        assert self.client.connected
        assert self.errors == []
        assert self.broker.connections == 2


@pytest.fixture(params=["tcp", "ws", "memory"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    urls = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://"]
    async with Broker(*urls) as broker:
        scene = Scene(broker.url_of(request.param), broker)
        await scene.begin()
        async with anyio.create_task_group() as tasks:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append((await scene.client.request("some.question", 1)).payload)

            tasks.start_soon(ask)
            while not scene.asked:
                await anyio.lowlevel.checkpoint()
            yield scene
            await scene.asked[0].respond("from home")
            scene._answered.set()
        assert answers == ["from home"]
        await scene.client.close()
        await scene.raw.close()
        # Once it is over there is nothing left that could belong anywhere.
        await anyio.to_thread.run_sync(lambda: anyio.run(scene.client.close, backend="asyncio"))


def outcomes(calls: list[Callable[[], Awaitable[Any]]], backend: str) -> list[str]:
    """What calls raise on an event loop of their own."""

    async def main() -> list[str]:
        texts: list[str] = []
        for call in calls:
            try:
                with anyio.fail_after(PATIENCE):
                    await call()
                texts.append("nothing")
            except LocalProtocolError as error:
                texts.append(str(error))
        return texts

    return anyio.run(main, backend=backend)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running("tcp://127.0.0.1:0", "ws://127.0.0.1:0") as broker:
        yield broker
