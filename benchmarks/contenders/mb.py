"""MB: broker and client over one transport, on asyncio or trio."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from mb_client import MessageBrokerClient

from .. import cases, processes
from ..workload import DOCUMENT

__all__ = ["MB", "connected", "measure"]


def measure(messages: int, scheme: str, backend: str) -> cases.Figures:
    with processes.mb_broker(scheme) as url:
        return cases.run(lambda: connected(url), messages, backend)


@contextlib.asynccontextmanager
async def connected(url: str, *, serves: bool = True) -> AsyncIterator[MB]:
    async with MessageBrokerClient(url) as sender, MessageBrokerClient(url) as receiver:
        yield MB(sender, receiver, serves=serves)


class MB:
    def __init__(
        self, sender: MessageBrokerClient, receiver: MessageBrokerClient, *, serves: bool
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._serves = serves

    async def listen(self, handler: Callable[[Any], object]) -> None:
        await self._receiver.subscribe("bench.events", handler=lambda m: handler(m.payload))

    async def serve(self) -> None:
        if self._serves:
            await self._receiver.subscribe(
                "bench.echo", action="request", handler=lambda m: m.payload
            )

    async def publish(self, count: int) -> None:
        publish = self._sender.publish
        for _ in range(count):
            await publish("bench.events", DOCUMENT)

    async def ask(self) -> Any:
        return (await self._sender.request("bench.echo", DOCUMENT)).payload
