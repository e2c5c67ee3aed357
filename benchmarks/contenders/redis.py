"""redis-py, asyncio, with redis-server: publications in pipelines, hiredis as the parser.

Redis has no requests; these are publications to a channel and back, with a number before the
payload.  redis-py sends each command by itself unless it is given a pipeline, so here those that
come together leave together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.abc
import redis.asyncio

from .. import cases, processes
from ..workload import DOCUMENT, decode, encode
from .inbox import Inbox

__all__ = ["measure"]

PIPELINE = 100
"""Publications in one pipeline: more make it no faster."""


def measure(messages: int) -> cases.Figures:
    port = processes.free_port()
    command = (
        *(processes.program("redis-server"), "--bind", "127.0.0.1", "--port", str(port)),
        *("--save", "", "--appendonly", "no"),
        *("--client-output-buffer-limit", "pubsub 0 0 0"),
    )
    with processes.server(*command, ready="Ready to accept connections"):
        return cases.run(lambda: _connected(port), messages)


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Redis]:
    async with (
        redis.asyncio.Redis(host="127.0.0.1", port=port) as sender,
        redis.asyncio.Redis(host="127.0.0.1", port=port) as receiver,
        anyio.create_task_group() as tasks,
    ):
        peer = Redis(sender, receiver, tasks)
        yield peer
        tasks.cancel_scope.cancel()


class Redis:
    def __init__(self, sender: Any, receiver: Any, tasks: anyio.abc.TaskGroup) -> None:
        self._sender = sender
        self._receiver = receiver
        self._tasks = tasks
        self._inbox = Inbox()
        self._requests = Outbox(sender)

    async def listen(self, handler: Callable[[Any], object]) -> None:
        await self._subscribe(self._receiver, b"bench.events", lambda data: handler(decode(data)))

    async def serve(self) -> None:
        answers = Outbox(self._receiver)

        def answer(data: bytes) -> None:
            number, _, body = data.partition(b" ")
            answers.publish(b"bench.answers", number + b" " + encode(decode(body)))

        def receive(data: bytes) -> None:
            number, _, body = data.partition(b" ")
            self._inbox.receive(number, body)

        await self._subscribe(self._sender, b"bench.answers", receive)
        await self._subscribe(self._receiver, b"bench.echo", answer)
        self._tasks.start_soon(answers.run)
        self._tasks.start_soon(self._requests.run)

    async def publish(self, count: int) -> None:
        for start in range(0, count, PIPELINE):
            pipeline = self._sender.pipeline(transaction=False)
            for _ in range(min(PIPELINE, count - start)):
                pipeline.publish(b"bench.events", encode(DOCUMENT))
            await pipeline.execute()

    async def ask(self) -> Any:
        number, answer = self._inbox.expect()
        self._requests.publish(b"bench.echo", number + b" " + encode(DOCUMENT))
        return await answer

    async def _subscribe(
        self, client: Any, channel: bytes, handler: Callable[[bytes], object]
    ) -> None:
        subscription = client.pubsub()
        await subscription.subscribe(channel)
        await subscription.get_message(timeout=None)  # the server's word that it is in force

        async def consume() -> None:
            async for message in subscription.listen():
                handler(message["data"])

        self._tasks.start_soon(consume)


class Outbox:
    """Publishes what came together in one pipeline, while the one before is on its way."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._waiting: list[tuple[bytes, bytes]] = []
        self._filled = asyncio.Event()

    def publish(self, channel: bytes, data: bytes) -> None:
        self._waiting.append((channel, data))
        self._filled.set()

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            batch, self._waiting = self._waiting, []
            if len(batch) == 1:
                await self._client.publish(*batch[0])
                continue
            pipeline = self._client.pipeline(transaction=False)
            for channel, data in batch:
                pipeline.publish(channel, data)
            await pipeline.execute()
