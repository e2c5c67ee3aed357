"""Print what an observer that is installed writes to the log while a request is asked."""

from __future__ import annotations

import asyncio
import logging
import sys

from mb_broker import Broker
from mb_core import MessageBrokerClient


async def main() -> None:
    async with Broker("memory://") as broker, MessageBrokerClient(broker.url) as client:
        await client.subscribe("over.log", action="request", handler=lambda m: m.payload)
        await client.request("over.log", "hello")


logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
asyncio.run(main())
