"""Print the error that a user meets: `connect URL [FRONTEND]`, `listen URL`."""

from __future__ import annotations

import asyncio
import sys

from mb_core import MBError, PluginError, connect


async def connecting(url: str) -> None:
    async with connect(url):
        pass


async def listening(url: str) -> None:
    from mb_broker import Broker

    async with Broker(url):
        pass


what, url, *frontend = sys.argv[1:]
try:
    if frontend:
        connect(url, frontend=frontend[0])
    else:
        asyncio.run(connecting(url) if what == "connect" else listening(url))
except MBError as error:
    name = "PluginError" if isinstance(error, PluginError) else type(error).__name__
    print(f"{name}: {error}")
