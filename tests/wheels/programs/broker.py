"""A broker of one's own and a client of it; the arguments are the URLs to listen on."""

from __future__ import annotations

import asyncio
import sys

from mb_broker import Broker
from mb_core import MessageBrokerClient


async def main(*urls: str) -> None:
    async with Broker(*urls) as broker, asyncio.timeout(30):
        for url in broker.urls:
            async with MessageBrokerClient(url) as client:
                topic = f"over.{url.partition(':')[0]}"
                await client.subscribe(topic, action="request", handler=lambda m: m.payload)
                assert (await client.request(topic, url)).payload == url


asyncio.run(main(*sys.argv[1:]))
