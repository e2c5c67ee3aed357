"""A transport of somebody else's, whose Links are driven by a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.hookspecs import hookimpl
from mb_core.link import Link, LinkHandler
from mb_core.url import URL

__all__ = ["FaultyLink", "FaultyPlugin", "FaultyTransport"]


class FaultyLink:
    """A Link that accepts everything and says that nothing of it was taken."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.congested = True
        self.unsent = 0
        self.messages_sent = 0
        self.bytes_sent = 0
        self.aborted = 0
        self.handler: LinkHandler
        self.credentials = NO_CREDENTIALS
        self.relieved = anyio.Event()
        self._closed = anyio.Event()

    def send(self, message: bytes) -> None:
        self.unsent += len(message)

    def send_many(self, messages: list[bytes]) -> None:
        for message in messages:
            self.send(message)

    def take_unsent(self) -> list[bytes]:
        raise NotImplementedError

    async def drain(self) -> None:
        await self.relieved.wait()

    def close(self, reason: str = "") -> None:
        self.abort()

    def abort(self) -> None:
        # From within, which no Link of ours does.
        self.aborted += 1
        if not self._closed.is_set():
            self._closed.set()
            self.relieved.set()
            self.handler.link_lost(None)

    async def wait_closed(self) -> None:
        await self._closed.wait()


class FaultyTransport:
    """A LinkTransport that gives the broker FaultyLinks."""

    scheme = "faulty"

    def __init__(self) -> None:
        self.accept: Callable[[Link], LinkHandler]

    async def connect(self, url: URL, accept: Any, **_: Any) -> Link:
        raise NotImplementedError

    async def listen(self, url: URL, accept: Any, **_: Any) -> Any:
        self.accept = accept

        class Listener:
            address = ("here", 0)

            async def close(self) -> None:
                pass

        return Listener()

    def join(self, peer: str, credentials: Credentials = NO_CREDENTIALS) -> FaultyLink:
        link = FaultyLink(peer)
        link.credentials = credentials
        link.handler = self.accept(link)
        return link


class FaultyPlugin:
    def __init__(self, transport: FaultyTransport) -> None:
        self._transport = transport

    @hookimpl
    def mb_register_transports(self) -> list[FaultyTransport]:
        return [self._transport]
