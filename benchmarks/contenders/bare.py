"""No library at all: what asyncio and this machine take for the same bytes, and nothing more.

The least that a client in Python can do: a frame is its length, a letter and a payload, the
server passes on whatever comes without a look at it, answers come in the order of their questions,
and nothing is checked, limited or timed.  No library is expected to reach it: it says what is left
of a figure when all of a library's own work is taken away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from struct import Struct
from typing import Any, cast

from .. import cases, processes
from ..workload import DOCUMENT, decode, encode

__all__ = ["measure"]

HEAD = Struct(">Ic")
# What the server sends on both connections when it has accepted both.
READY = b"!"
# What one write takes, and what a loop that publishes may write before others have their turn.
FULL = 65_536


def measure(messages: int) -> cases.Figures:
    with processes.module("benchmarks.contenders.bare", ready="127.0.0.1") as line:
        host, _, port = line.partition(":")
        return cases.run(lambda: _connected(host, int(port)), messages)


class PassOn(asyncio.Protocol):
    """One of the server's two connections: what comes on it goes out on the other."""

    def __init__(self, both: list[PassOn]) -> None:
        self._both = both

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._both.append(self)
        if len(self._both) == 2:
            # A connected socket may not have been accepted yet.  The clients wait for this byte
            # before they send: nothing could be passed on earlier.
            for connection in self._both:
                connection.transport.write(READY)

    def data_received(self, data: bytes) -> None:
        first, second = self._both
        (second if self is first else first).transport.write(data)


async def run_server() -> None:
    """Pass on until the process is killed."""
    connections: list[PassOn] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: PassOn(connections), "127.0.0.1", 0)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


class Frames(asyncio.Protocol):
    """Cuts what comes into frames; writes a turn of the loop at once, or when it is full."""

    def __init__(self, receive: Callable[[bytes, bytes], object]) -> None:
        self._receive = receive
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._output: list[bytes] = []
        self._size = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            data = data.removeprefix(READY)
        data = self._rest + data
        position, end = 0, len(data)
        while (start := position + HEAD.size) <= end:
            length, kind = HEAD.unpack_from(data, position)
            if start + length > end:
                break
            position = start + length
            self._receive(kind, data[start:position])
        self._rest = data[position:]

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def send(self, kind: bytes, payload: bytes) -> bool:
        """Send a frame; whether the loop should have a turn before the next one."""
        if not self._output:
            self._loop.call_soon(self._flush)
        self._output += (HEAD.pack(len(payload), kind), payload)
        self._size += len(payload)
        if self._size < FULL:
            return self._paused
        self._flush()
        return True

    def _flush(self) -> None:
        if self._output:
            self._transport.write(b"".join(self._output))
            self._output.clear()
            self._size = 0


@contextlib.asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[Bare]:
    peer = Bare()
    loop = asyncio.get_running_loop()
    for receive in (peer.answered, peer.received):
        protocol = functools.partial(Frames, receive)
        transport, frames = await loop.create_connection(protocol, host, port)
        peer.connections.append(frames)
        peer.transports.append(transport)
    for frames in peer.connections:
        await frames.ready
    yield peer
    for transport in peer.transports:
        transport.close()


class Bare:
    def __init__(self) -> None:
        self.connections: list[Frames] = []
        self.transports: list[asyncio.Transport] = []
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._handler: Callable[[Any], object] = print

    async def listen(self, handler: Callable[[Any], object]) -> None:
        self._handler = handler

    async def serve(self) -> None:
        """It does from the start."""

    async def publish(self, count: int) -> None:
        send = self.connections[0].send
        for _ in range(count):
            if send(b"p", encode(DOCUMENT)):
                await asyncio.sleep(0)

    async def ask(self) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self.connections[0].send(b"q", encode(DOCUMENT))
        return await answer

    def received(self, kind: bytes, payload: bytes) -> None:
        if kind == b"p":
            self._handler(decode(payload))
        else:
            self.connections[1].send(b"r", encode(decode(payload)))

    def answered(self, kind: bytes, payload: bytes) -> None:
        self._waiting.popleft().set_result(decode(payload))


if __name__ == "__main__":
    asyncio.run(run_server())
