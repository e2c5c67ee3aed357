"""Clients that write each message by hand, on a socket of their own or with a raw client."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from anyio.from_thread import BlockingPortal

from mb_core import TCPSocketClient, WebSocketClient
from mb_core.link import current_backend
from mb_core.plugins import installed_plugins
from mb_core.raw_clients import RawClient
from mb_core.url import parse_url
from mb_core.wire import Limits

__all__ = ["Wire", "connected"]

_PATIENCE = 20
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASK = b"abcd"


class Wire(Protocol):
    """A connection for whole messages."""

    def send(self, message: bytes) -> None: ...

    def receive(self) -> bytes:
        """Wait for the next message; raises EOFError if the broker has closed the connection."""
        ...


class _Tcp:
    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._file = stream.makefile("rb")

    def send(self, message: bytes) -> None:
        self._stream.sendall(len(message).to_bytes(4) + message)

    def receive(self) -> bytes:
        return self._read(int.from_bytes(self._read(4)))

    def close(self) -> None:
        self._file.close()

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the broker has closed the connection")
        return data


class _WebSocket(_Tcp):
    def __init__(self, stream: socket.socket) -> None:
        super().__init__(stream)
        stream.sendall(_UPGRADE)
        assert b" 101 " in self._file.readline()
        while self._file.readline() != b"\r\n":
            pass

    def send(self, message: bytes) -> None:
        size = len(message)
        head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2)
        key = int.from_bytes((_MASK * (size // 4 + 1))[:size])
        masked = (int.from_bytes(message) ^ key).to_bytes(size)
        self._stream.sendall(head + _MASK + masked)

    def receive(self) -> bytes:
        first, size = self._read(2)
        if first == 0x88:
            raise EOFError("the broker closes the connection")
        assert first == 0x81, "expected a text frame"
        if size >= 126:
            size = int.from_bytes(self._read(2 if size == 126 else 8))
        return self._read(size)


class _Memory:
    """Not a socket: the handler of a Link, which is called in the broker's thread."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._inbox: queue.Queue[bytes | None] = queue.Queue()
        self.link: Any

    def send(self, message: bytes) -> None:
        self._portal.call(self.link.send_many, [message])

    def receive(self) -> bytes:
        message = self._inbox.get(timeout=_PATIENCE)
        if message is None:
            raise EOFError("the broker has closed the connection")
        return message

    def accept(self, link: Any) -> _Memory:
        self.link = link
        return self

    def messages_received(self, messages: list[bytes]) -> None:
        for message in messages:
            self._inbox.put(message)

    def link_lost(self, error: Exception | None) -> None:
        self._inbox.put(None)

    async def connect(self, url: str) -> None:
        transport = installed_plugins().transport("memory")
        await transport.connect(
            parse_url(url), self.accept, backend=current_backend(), limits=Limits()
        )

    async def close(self) -> None:
        self.link.abort()
        await self.link.wait_closed()


class _RawClient:
    """A client for whole messages, on the broker's event loop."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._inbox: queue.Queue[str] = queue.Queue()
        self.client: RawClient

    def send(self, message: bytes) -> None:
        self._portal.call(self.client.send, message.decode())

    def receive(self) -> bytes:
        return self._inbox.get(timeout=_PATIENCE).encode()

    async def connect(self, url: str, ssl_context: ssl.SSLContext | None) -> None:
        kind = WebSocketClient if url.startswith("ws") else TCPSocketClient
        self.client = kind(ssl_context=ssl_context)
        self.client.on_message(self._inbox.put)
        await self.client.connect(url)


@contextmanager
def connected(
    url: str, portal: BlockingPortal, ssl_context: ssl.SSLContext | None, *, raw_client: bool
) -> Iterator[Wire]:
    """Connect over any transport; the client has been greeted."""
    address = parse_url(url)
    if raw_client:
        raw = _RawClient(portal)
        portal.call(raw.connect, url, ssl_context)
        try:
            yield _greeted(raw)
        finally:
            portal.call(raw.client.close)
        return
    if address.scheme == "memory":
        wire = _Memory(portal)
        portal.call(wire.connect, url)
        try:
            yield _greeted(wire)
        finally:
            portal.call(wire.close)
        return
    assert address.port is not None
    stream = socket.create_connection((address.host, address.port), timeout=_PATIENCE)
    with stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ssl_context is not None:
            stream = ssl_context.wrap_socket(stream, server_hostname="127.0.0.1")
        with stream:
            kind = _WebSocket if address.scheme in ("ws", "wss") else _Tcp
            with contextlib.closing(kind(stream)) as client:
                yield _greeted(client)


def _greeted(wire: Wire) -> Wire:
    assert wire.receive() == b"publish:system.initialize:1.0.0\n{}"
    return wire
