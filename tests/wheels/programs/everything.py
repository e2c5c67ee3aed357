"""mb-client: one import has everything that a program needs, and every URL works."""

from __future__ import annotations

import asyncio

from mb_client import Broker, MessageBrokerClient


async def main() -> None:
    urls = ["memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"]
    async with (
        asyncio.timeout(30),
        Broker(*urls) as broker,
        MessageBrokerClient(broker.url) as service,
    ):
        await service.subscribe("echo", action="request", handler=lambda m: m.payload)
        for url in broker.urls:
            async with MessageBrokerClient(url) as client:
                assert (await client.request("echo", url)).payload == url


asyncio.run(main())
