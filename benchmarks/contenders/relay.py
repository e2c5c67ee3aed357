"""A relay made of websockets.asyncio, the least that does the work.

A frame is a topic, a number and a payload, one a line.  As the library's documentation advises for
speed: no compression, no keepalive, no size limit, bytes rather than text, and `broadcast`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from .. import cases, processes
from ..workload import DOCUMENT, decode, encode
from .inbox import Inbox

__all__ = ["measure"]

SUBSCRIBE = b"subscribe"


def measure(messages: int) -> cases.Figures:
    with processes.module("benchmarks.contenders.relay", ready="ws://") as url:
        return cases.run(lambda: _connected(url), messages)


async def run_relay() -> None:
    """Relay until the process is killed."""
    subscribers: defaultdict[bytes, set[ServerConnection]] = defaultdict(set)

    async def relay(connection: ServerConnection) -> None:
        async for frame in connection:
            assert isinstance(frame, bytes)
            topic, _, rest = frame.partition(b"\n")
            if topic == SUBSCRIBE:
                subscribers[rest].add(connection)
                await connection.send(frame)
            else:
                broadcast(subscribers[topic], frame)

    async with serve(
        relay, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=None
    ) as server:
        print(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", flush=True)
        await server.serve_forever()


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Relayed]:
    async with (
        connect(url, compression=None, ping_interval=None, max_size=None) as sender,
        connect(url, compression=None, ping_interval=None, max_size=None) as receiver,
        anyio.create_task_group() as tasks,
    ):
        await _subscribe(sender, b"bench.answers")
        await _subscribe(receiver, b"bench.events")
        await _subscribe(receiver, b"bench.echo")
        peer = Relayed(sender, receiver)
        tasks.start_soon(peer.receive)
        tasks.start_soon(peer.receive_answers)
        yield peer
        tasks.cancel_scope.cancel()


async def _subscribe(connection: ClientConnection, topic: bytes) -> None:
    await connection.send(SUBSCRIBE + b"\n" + topic)
    await connection.recv()


class Relayed:
    def __init__(self, sender: ClientConnection, receiver: ClientConnection) -> None:
        self._sender = sender
        self._receiver = receiver
        self._inbox = Inbox()
        self._handler: Callable[[Any], object] = print

    async def listen(self, handler: Callable[[Any], object]) -> None:
        self._handler = handler

    async def serve(self) -> None:
        """It does from the start."""

    async def publish(self, count: int) -> None:
        send = self._sender.send
        for _ in range(count):
            await send(b"bench.events\n\n" + encode(DOCUMENT))

    async def ask(self) -> Any:
        number, answer = self._inbox.expect()
        await self._sender.send(b"bench.echo\n" + number + b"\n" + encode(DOCUMENT))
        return await answer

    async def receive(self) -> None:
        async for frame in self._receiver:
            assert isinstance(frame, bytes)
            topic, number, body = frame.split(b"\n", 2)
            if topic == b"bench.events":
                self._handler(decode(body))
            else:
                answer = encode(decode(body))
                await self._receiver.send(b"bench.answers\n" + number + b"\n" + answer)

    async def receive_answers(self) -> None:
        async for frame in self._sender:
            assert isinstance(frame, bytes)
            _, number, body = frame.split(b"\n", 2)
            self._inbox.receive(number, body)


if __name__ == "__main__":
    asyncio.run(run_relay())
