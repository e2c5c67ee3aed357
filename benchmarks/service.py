"""A service in a process of its own: python -m benchmarks.service URL.

It answers `bench.echo`, swallows `bench.sink`, and publishes to `bench.out` as often as the number
says that it receives on `bench.send`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from mb_client import Message, MessageBrokerClient

from .processes import module
from .workload import DOCUMENT

__all__ = ["running"]


def running(url: str) -> contextlib.AbstractContextManager[str]:
    """The service, connected to the broker at `url`, for as long as a block lasts."""
    return module("benchmarks.service", url, ready="ready")


async def serve(url: str) -> None:
    async with MessageBrokerClient(url) as client:

        async def send(message: Message) -> None:
            for _ in range(message.payload):
                await client.publish("bench.out", DOCUMENT)

        await client.subscribe("bench.echo", action="request", handler=lambda m: m.payload)
        await client.subscribe("bench.sink", handler=lambda m: None, queue_size=None)
        await client.subscribe("bench.send", handler=send)
        print("ready", flush=True)
        await client.run()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
