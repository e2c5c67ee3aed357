"""Asks brokers at the URLs that it is given, with both front ends; serves one itself, too."""

import asyncio
import sys
import urllib.request

import mb_sync
from mb_client import Broker, MessageBrokerClient


async def main() -> None:
    for url in sys.argv[1:]:
        async with MessageBrokerClient(url) as client:
            print((await client.request("system.heartbeat", {})).payload["status"])
    async with Broker("memory://", "ws://127.0.0.1:0") as broker:
        async with MessageBrokerClient(broker.url) as client:
            print((await client.request("system.heartbeat", {})).payload["status"])
        page = broker.urls[1].replace("ws:", "http:")
        with await asyncio.to_thread(urllib.request.urlopen, page) as response:
            print(response.status)


asyncio.run(main())
for url in sys.argv[1:]:
    with mb_sync.MessageBrokerClient(url) as client:
        print(client.request("system.heartbeat", {}).payload["status"])
