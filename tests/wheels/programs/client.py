"""A client of somebody else's broker: one URL is the argument."""

from __future__ import annotations

import asyncio
import sys

from mb_core import MessageBrokerClient


async def main(url: str) -> None:
    async with MessageBrokerClient(url) as client, asyncio.timeout(30):
        await client.subscribe("double", action="request", handler=lambda m: 2 * m.payload)
        assert (await client.request("double", 21)).payload == 42
        async with client.subscribe("news.#") as news:
            await client.publish("news.local", {"n": 1}, confirm=True)
            assert (await anext(news)).payload == {"n": 1}


asyncio.run(main(sys.argv[1]))
