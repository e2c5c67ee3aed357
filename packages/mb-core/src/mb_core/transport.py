"""What plugins register: transports, which turn a URL into a connection, and front ends."""

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
    """The stream sockets of a transport that does not use TCP. mb_core reads and writes them."""

    def address(self, url: URL) -> SocketAddress:
        """Return the address to connect to.

        Raises:
            ConnectError: The URL is invalid.
        """
        ...

    def listen(self, url: URL) -> socket.socket:
        """Return a socket that listens at `url`. The broker closes it.

        Raises:
            ConnectError: The socket can't listen there. An `OSError` becomes one.
        """
        ...

    def release(self, url: URL) -> None:
        """Remove anything that `listen` created, such as a file. Its socket is already closed."""
        ...


class WireTransport(msgspec.Struct, frozen=True):
    """A transport over a byte stream. mb_core does the I/O.

    docs/tutorial-transport.md builds one.

    Attributes:
        scheme: The scheme of its URLs, such as `tcp`.
        client: Creates the Wire of a client's connection to a URL.
        server: Creates the Wire of a broker's connection. The `Site` is what the broker serves over
            HTTP, for transports that speak it.
        secure: Whether the stream is encrypted by TLS.
        default_port: The TCP port if the URL has none.
        sockets: Used instead of TCP, if given.
        client_with_token: Used instead of `client` if the client has a token, for transports whose
            handshake can present one, such as HTTP's `Authorization: Bearer`. A token that does not
            fit into it is left out: the client also sends it as a request after the greeting.
    """

    scheme: str
    client: Callable[[URL, Limits], Wire]
    server: Callable[[Limits, Site | None], Wire]
    secure: bool = False
    default_port: int | None = None
    sockets: Sockets | None = None
    client_with_token: Callable[[URL, Limits, str], Wire] | None = None


def port_of(url: URL, transport: WireTransport) -> int:
    """Return the TCP port of a URL."""
    port = url.port if url.port is not None else transport.default_port
    assert port is not None  # plugins are held to it
    return port


class LinkTransport(Protocol):
    """A transport that is not a byte stream. It provides whole Links."""

    @property
    def scheme(self) -> str:
        """The scheme of its URLs, such as `memory`."""
        ...

    async def connect(self, url: URL, accept: Accept, *, backend: Backend, limits: Limits) -> Link:
        """Connect to `url`, and return the Link.

        Any error other than `ConnectError` and `OSError` counts as a bug: it becomes a
        `PluginError`, which ends the client.

        Args:
            accept: Called with the Link as soon as it can send; see `mb_core.link.Accept`.

        Raises:
            ConnectError: The connection could not be established. An `OSError` becomes one.

        If cancelled, it must leave nothing behind.
        """
        ...

    async def listen(
        self, url: URL, accept: Accept, *, backend: Backend, limits: Limits
    ) -> Listener:
        """Accept connections at `url` until the returned Listener is closed.

        Raises:
            ConnectError: The broker can't listen there.
        """
        ...


Transport = WireTransport | LinkTransport


class Frontend(msgspec.Struct, frozen=True):
    """A way to use the client, by name: on an event loop, in threads, in a GUI program.

    Attributes:
        name: The name by which programs choose it.
        client: `client(url, **options)` returns a client that is not connected yet, with the
            methods of `MessageBrokerClient` as far as they make sense.
        blocking: Whether the client is entered by `with`, and not by `async with`.
    """

    name: str
    client: Callable[..., Any]
    blocking: bool = False
