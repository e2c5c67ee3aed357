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
    """The stream sockets of a transport that does not use TCP; mb_core reads and writes them."""

    def address(self, url: URL) -> SocketAddress:
        """Return what a client connects to; raises ConnectError for an invalid URL."""
        ...

    def listen(self, url: URL) -> socket.socket:
        """Return a socket that listens at `url`; the broker closes it.

        May raise ConnectError, or OSError, which becomes a ConnectError.
        """
        ...

    def release(self, url: URL) -> None:
        """Remove what `listen` left behind, such as a file; its socket is closed by now."""
        ...


class WireTransport(msgspec.Struct, frozen=True):
    """A transport over a byte stream: mb_core does the I/O.

    `client` and `server` create a Wire for one connection.  `server` also gets what the broker
    serves over HTTP, for transports that speak it.  With `secure`, the stream is encrypted by TLS.
    It is a TCP stream, to `default_port` if the URL has no port, unless there are `sockets`.
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
