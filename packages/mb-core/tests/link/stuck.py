"""Links whose other side does not read."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_core.link import Link
from mb_core.wire import WireState

of_tcp = pytest.mark.parametrize("kind", ["tcp"])


class Peer:
    """The far side of an accepted Link; it reads only what it is told to."""

    def __init__(self, net: Any, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.wire = net.client_wire()
        self.messages: list[bytes] = []

    async def shake(self) -> None:
        if hello := self.wire.data_to_send():
            await self.stream.send(hello)
            self.wire.receive_data(await self.stream.receive())

    async def read(self, count: int) -> list[bytes]:
        while len(self.messages) < count:
            self.messages += self.wire.receive_data(await self.stream.receive())
        return self.messages

    async def read_to_end(self) -> list[bytes]:
        # TLS complains of an end without its farewell.
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while self.wire.state is not WireState.CLOSED:
                self.messages += self.wire.receive_data(await self.stream.receive())
        return self.messages

    async def send(self, message: bytes) -> None:
        self.wire.send(message)
        await self.stream.send(self.wire.data_to_send())

    async def forsake(self) -> None:
        await anyio.aclose_forcefully(self.stream)


async def accept_peer(net: Any, **options: Any) -> tuple[Any, Peer]:
    """A server's handler, and the peer of its Link."""
    server = await net.listen(**options)
    peer = Peer(net, await net.raw(server))
    await peer.shake()
    return await server.handler(), peer


class Numbers:
    """Messages that are told apart."""

    def __init__(self, size: int = 10_000) -> None:
        self.size = size
        self.sent: list[bytes] = []

    def next(self, count: int) -> list[bytes]:
        first = len(self.sent)
        messages = [b"%0*d" % (self.size, number) for number in range(first, first + count)]
        self.sent += messages
        return messages


async def stall(link: Link, numbers: Numbers) -> None:
    """Send to a peer that does not read until the system takes no more, and then some."""
    handed_over = -1
    while handed_over < link.messages_sent:
        handed_over = link.messages_sent
        with anyio.move_on_after(0.05):
            while True:
                link.send_many(numbers.next(1))
                if link.congested:
                    await link.drain()
    for _ in range(3):
        link.send_many(numbers.next(100))
        await anyio.wait_all_tasks_blocked()
