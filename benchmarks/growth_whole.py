"""The curves that are measured the whole way: clients, Links and a broker, on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from mb_broker import Broker
from mb_core import Message, MessageBrokerClient

from .growth_work import Work
from .processes import module
from .workload import DOCUMENT

__all__ = ["clients_publish", "fans_out", "tcp_echoes", "whole"]

_MEBIBYTE = 1024 * 1024
# Messages that a client sends together: as many at each size, since what is sent together leaves in
# one piece, and costs less.
_TOGETHER = 10

Round = Callable[[], Awaitable[object]]


class _Counter:
    """Waits until so many messages were handled."""

    def __init__(self) -> None:
        self._left = 0
        self._all = asyncio.Event()

    def expect(self, count: int) -> None:
        self._left = count
        self._all.clear()

    def handle(self, message: Message) -> None:
        self._left -= 1
        if not self._left:
            self._all.set()

    async def wait(self) -> None:
        await self._all.wait()


def clients_publish(size: int) -> Work:
    """Ten publications of each client, over memory://, until they were handled."""

    async def prepare(stack: AsyncExitStack) -> Round:
        broker = await stack.enter_async_context(Broker("memory://"))
        clients = [
            await stack.enter_async_context(MessageBrokerClient(broker.url)) for _ in range(size)
        ]
        receiver = await stack.enter_async_context(MessageBrokerClient(broker.url))
        counter = _Counter()
        await receiver.subscribe("bench.events", handler=counter.handle)

        async def publish() -> None:
            counter.expect(_TOGETHER * size)
            for client in clients:
                for _ in range(_TOGETHER):
                    await client.publish("bench.events", DOCUMENT)
            await counter.wait()

        return publish

    return whole(prepare, _TOGETHER * size)


def fans_out(size: int) -> Work:
    """Ten publications to as many clients, over memory://, until all have handled them."""

    async def prepare(stack: AsyncExitStack) -> Round:
        broker = await stack.enter_async_context(Broker("memory://"))
        counter = _Counter()
        for _ in range(size):
            client = await stack.enter_async_context(MessageBrokerClient(broker.url))
            await client.subscribe("bench.events", handler=counter.handle)
        sender = await stack.enter_async_context(MessageBrokerClient(broker.url))

        async def publish() -> None:
            counter.expect(_TOGETHER * size)
            for _ in range(_TOGETHER):
                await sender.publish("bench.events", DOCUMENT)
            await counter.wait()

        return publish

    return whole(prepare, _TOGETHER * size)


def tcp_echoes(size: int) -> Work:
    """A request whose payload comes back, over TCP; the broker has a process of its own."""
    requests = 10

    async def prepare(stack: AsyncExitStack) -> Round:
        limit = f"--max-payload={_MEBIBYTE}"
        listen = "--listen=tcp://127.0.0.1:0"
        url = stack.enter_context(module("mb_tools", "serve", listen, limit, ready="tcp://"))
        one, two = [
            await stack.enter_async_context(MessageBrokerClient(url, max_payload=_MEBIBYTE))
            for _ in range(2)
        ]
        await two.subscribe("bench.echo", action="request", handler=lambda m: m.payload)
        payload = "x" * (size - 2)

        async def ask() -> None:
            for _ in range(requests):
                await one.request("bench.echo", payload)

        return ask

    return whole(prepare, requests)


def whole(prepare: Callable[[AsyncExitStack], Awaitable[Round]], messages: int) -> Work:
    """Work on an event loop of its own, which stands still between the rounds."""
    runner = asyncio.Runner()
    loop = runner.get_loop()
    prepared: asyncio.Future[Round] = loop.create_future()
    over = asyncio.Event()

    async def live() -> None:
        # One task from the first to the last: a Broker is left where it was entered.
        async with AsyncExitStack() as stack:
            try:
                prepared.set_result(await prepare(stack))
            except Exception as error:
                prepared.set_exception(error)
            else:
                await over.wait()

    life = loop.create_task(live())
    round_ = loop.run_until_complete(prepared)

    def run() -> None:
        loop.run_until_complete(round_())

    def end() -> None:
        over.set()
        loop.run_until_complete(life)
        runner.close()

    return Work(run, messages, end)
