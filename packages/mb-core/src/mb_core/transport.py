"""What plugins register: transports, by which a URL becomes a connection, and front ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from .link import Accept, Backend, Link, Listener, SocketAddress
from .url import URL
from .wire import Limits, Site, Wire

__all__ = [
    "Frontend",
    "LinkTransport",
    "SocketAddress",
    "Sockets",
    "Transport",
    "WireTransport",
    "port_of",
]


class Sockets(Protocol):
    """The stream sockets of a transport that is not on TCP; core connects, reads and writes."""

    def address(self, url: URL) -> SocketAddress:
        """Where a client connects to; raises ConnectError for a URL that says no such place."""
        ...

    def listen(self, url: URL) -> socket.socket:
        """A socket that listens at `url`, for a broker, which closes it.

        Raises OSError, which becomes a ConnectError, or a ConnectError of its own.
        """
        ...

    def release(self, url: URL) -> None:
        """Remove what `listen` has left, a file for example: its socket is closed."""
        ...


class WireTransport(msgspec.Struct, frozen=True):
    """A transport over a byte stream: core does the I/O.

    `client` and `server` build a Wire for one connection.  `server` also gets what the broker
    serves over HTTP, for transports that speak it.  The stream is within TLS where `secure`.
    It is TCP's, with `default_port` where a URL names none, unless there are `sockets`.
    """

    scheme: str
    client: Callable[[URL, Limits], Wire]
    server: Callable[[Limits, Site | None], Wire]
    secure: bool = False
    default_port: int | None = None
    sockets: Sockets | None = None


def port_of(url: URL, transport: WireTransport) -> int:
    """The TCP port of a URL."""
    port = url.port if url.port is not None else transport.default_port
    assert port is not None  # plugins are held to it
    return port


class LinkTransport(Protocol):
    """A transport that is not a byte stream, and supplies whole Links."""

    @property
    def scheme(self) -> str: ...

    async def connect(self, url: URL, accept: Accept, *, backend: Backend, limits: Limits) -> Link:
        """Connect, or raise ConnectError; `accept` is called as in `Backend.connect`.

        An OSError is taken for a ConnectError.  Anything else is taken for a bug: it becomes a
        PluginError, which ends the client.  When cancelled, nothing is left behind.
        """
        ...

    async def listen(
        self, url: URL, accept: Accept, *, backend: Backend, limits: Limits
    ) -> Listener:
        """Accept connections at `url` until the Listener is closed; raises ConnectError."""
        ...


Transport = WireTransport | LinkTransport


class Frontend(msgspec.Struct, frozen=True):
    """A way to use the client, by name: on an event loop, in threads, in a program of windows.

    `client(url, **options)` makes a client that is not connected yet, with the methods of
    `MessageBrokerClient` as far as they make sense there.  It is entered with `async with`, or,
    where it is `blocking`, with `with`.
    """

    name: str
    client: Callable[..., Any]
    blocking: bool = False
