"""The other side of a Link, without a Link: a socket and a Wire that a test controls."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from mb_core.dialing import stream_address
from mb_core.link import SocketAddress, StreamOptions
from mb_core.link.tls import dialled_wire, wire_factory
from mb_core.transport import WireTransport
from mb_core.url import URL
from mb_core.wire import Wire, WireState

from ..links import LinkEnd
from .links_under_test import Network
from .settings import LIMITS

__all__ = ["RawListener", "RawPeer", "against_raw", "connect_raw", "in_thread"]

_T = TypeVar("_T")

# Seconds for which a socket is waited for.
_PATIENCE = 5.0


async def in_thread(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function that waits for a socket, without blocking the event loop."""
    return await anyio.to_thread.run_sync(function, *arguments)


class RawPeer:
    """One side of a connection.  Its methods block, for a limited time: see `in_thread`."""

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        self.sock = sock
        self.wire = wire
        sock.settimeout(_PATIENCE)

    def shake_hands(self) -> None:
        self.flush()
        while self.wire.state is WireState.HANDSHAKE:
            self._read()

    def send(self, *messages: bytes) -> None:
        self.sock.sendall(self.framed(*messages))

    def framed(self, *messages: bytes) -> bytes:
        """Return the bytes of messages without sending them."""
        for message in messages:
            self.wire.send(message)
        return self.wire.data_to_send()

    def receive_many(self, count: int) -> list[bytes]:
        """Read until `count` messages have arrived."""
        messages: list[bytes] = []
        while len(messages) < count:
            messages += self._read()
        return messages

    def receive_all(self) -> list[bytes]:
        """Read to the end of the stream, which may be a break."""
        messages: list[bytes] = []
        try:
            while data := self.sock.recv(65_536):
                messages += self.wire.receive_data(data)
        except ConnectionError:
            pass
        return messages

    def visit(self, greeting: bytes) -> None:
        """Send something that is not MB, end, and wait until the other side has ended as well."""
        try:
            self.sock.sendall(greeting)
            self.end()
            while self.sock.recv(65_536):
                pass
        except OSError:
            pass  # it may well be thrown out

    def end(self) -> None:
        """End this side's half of the stream, without a farewell."""
        self.sock.shutdown(socket.SHUT_WR)

    def flush(self) -> None:
        self.sock.sendall(self.wire.data_to_send())

    def _read(self) -> list[bytes]:
        data = self.sock.recv(65_536)
        if not data:
            raise EOFError(f"the stream has ended; the Wire has {self.wire.error!r}")
        messages = self.wire.receive_data(data)
        self.flush()
        return messages


class RawListener:
    """A socket that listens like a broker, and answers only as a test says."""

    def __init__(self, net: Network, stack: ExitStack) -> None:
        self._net = net
        self._stack = stack
        self._transport = _over_streams(net)
        url = net.new_url("raw")
        sockets = self._transport.sockets
        if sockets is None:
            self._sock = socket.create_server((url.host, 0))
            self.url = URL(url.scheme, url.host, self._sock.getsockname()[1], url.path)
        else:
            self._sock = sockets.listen(url)
            self.url = url
            stack.callback(sockets.release, url)
        self._sock.settimeout(_PATIENCE)
        stack.enter_context(self._sock)

    def accept(self) -> RawPeer:
        sock, _ = self._sock.accept()
        self._stack.enter_context(sock)
        options = StreamOptions(ssl_context=self._net.server_context)
        make = wire_factory(lambda: self._transport.server(LIMITS, None), options)
        return RawPeer(sock, make())


def connect_raw(net: Network, url: URL, stack: ExitStack) -> RawPeer:
    """Connect as a client would, without starting the handshake."""
    transport = _over_streams(net)
    address = stream_address(url, transport, {})
    if isinstance(address, SocketAddress):
        sock = stack.enter_context(socket.socket(address.family, socket.SOCK_STREAM))
        sock.settimeout(_PATIENCE)
        sock.connect(address.address)
    else:
        sock = stack.enter_context(socket.create_connection(address, _PATIENCE))
    options = StreamOptions(ssl_context=net.client_context, server_hostname=url.host)
    return RawPeer(sock, dialled_wire(transport.client(url, LIMITS), address, options))


async def against_raw(
    net: Network, side: str, stack: ExitStack, *, close_timeout: float = 5.0
) -> tuple[LinkEnd, RawPeer]:
    """Return a Link of this side and the raw peer on the other, after their handshake."""
    if side == "server":
        server = await net.listen(close_timeout=close_timeout)
        peer = await in_thread(connect_raw, net, server.url, stack)
        await in_thread(peer.shake_hands)
        return await server.accepted(), peer
    listener = RawListener(net, stack)
    ends: list[LinkEnd] = []

    async def connect() -> None:
        ends.append(await net.connect(listener.url, close_timeout=close_timeout))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        peer = await in_thread(listener.accept)
        await in_thread(peer.shake_hands)
    return ends[0], peer


def _over_streams(net: Network) -> WireTransport:
    transport = net.transport
    assert isinstance(transport, WireTransport)  # or its tests would not be collected
    return transport
