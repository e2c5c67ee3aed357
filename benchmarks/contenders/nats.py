"""nats-py with nats-server.

Publications go through the client's buffer, which it flushes by itself; a subscription's callback
is its fastest consumer; requests share one inbox.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats

from .. import cases, processes
from ..workload import DOCUMENT, decode, encode

__all__ = ["measure"]


def measure(messages: int) -> cases.Figures:
    port = processes.free_port()
    command = (processes.program("nats-server"), "-a", "127.0.0.1", "-p", str(port))
    with processes.server(*command, ready="Server is ready"):
        return cases.run(lambda: _connected(f"nats://127.0.0.1:{port}"), messages)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[NATS]:
    sender, receiver = await nats.connect(url), await nats.connect(url)
    try:
        yield NATS(sender, receiver)
    finally:
        await sender.close()
        await receiver.close()


class NATS:
    def __init__(self, sender: Any, receiver: Any) -> None:
        self._sender = sender
        self._receiver = receiver

    async def listen(self, handler: Callable[[Any], object]) -> None:
        async def receive(message: Any) -> None:
            handler(decode(message.data))

        await self._receiver.subscribe("bench.events", cb=receive)
        await self._receiver.flush()

    async def serve(self) -> None:
        async def answer(message: Any) -> None:
            await message.respond(encode(decode(message.data)))

        await self._receiver.subscribe("bench.echo", cb=answer)
        await self._receiver.flush()

    async def publish(self, count: int) -> None:
        publish = self._sender.publish
        for _ in range(count):
            await publish("bench.events", encode(DOCUMENT))

    async def ask(self) -> Any:
        return decode((await self._sender.request("bench.echo", encode(DOCUMENT), timeout=30)).data)
