"""Requests by the thousand, of which a tenth gets no answer in time and a tenth is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from mb_client import MessageBrokerClient, RequestTimeoutError

__all__ = ["Load", "load"]

WORKERS = 500
# Milliseconds: of requests that nobody answers, of those that are cancelled, and of the others.
SHORT, MIDDLE, LONG = 50, 1000, 60_000
ECHO, VOID = "load.echo", "load.void"


@dataclass
class Load:
    """A client that asks, and what has become of its requests so far."""

    client: MessageBrokerClient
    answered: int = 0
    timed_out: int = 0
    cancelled: int = 0

    async def ask(self, count: int) -> None:
        """Make this many requests, WORKERS at a time, and wait for all of them."""
        numbers = iter(range(count))
        async with anyio.create_task_group() as tasks:
            for _ in range(WORKERS):
                tasks.start_soon(self._work, numbers)

    async def _work(self, numbers: Iterator[int]) -> None:
        client = self.client
        for number in numbers:
            if number % 10 == 0:
                try:
                    await client.request(VOID, number, timeout=SHORT)
                except RequestTimeoutError:
                    self.timed_out += 1
            elif number % 10 == 1:
                # In flight: a request is sent before anybody looks whether it is cancelled.
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await client.request(VOID, number, timeout=MIDDLE)
                self.cancelled += scope.cancelled_caught
            else:
                answer = await client.request(ECHO, number, timeout=LONG)
                assert answer.payload == number
                self.answered += 1


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    """A client with a service beside it that answers ECHO, and takes VOID without answering."""
    async with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:
        await service.subscribe(ECHO, action="request", handler=lambda m: m.payload)
        async with (
            service.subscribe(VOID, action="request") as requests,
            anyio.create_task_group() as tasks,
        ):

            async def swallow() -> None:
                async for _ in requests:
                    pass

            tasks.start_soon(swallow)
            yield Load(client)
            tasks.cancel_scope.cancel()
