"""What a transport plugin registers: how a URL becomes a connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .link import Accept, Backend, Link, Listener
from .url import URL
from .wire import Limits, Site, Wire

__all__ = ["LinkTransport", "Transport", "WireTransport"]


@dataclass(frozen=True, slots=True)
class WireTransport:
    """A transport over a byte stream (TCP, with TLS where `secure`): core does the I/O.

    `client` and `server` build a Wire for one connection.  `server` also gets what the broker
    serves over HTTP, for transports that speak it.
    """

    scheme: str
    default_port: int
    secure: bool
    client: Callable[[URL, Limits], Wire]
    server: Callable[[Limits, Site | None], Wire]


class LinkTransport(Protocol):
    """A transport that is no byte stream, and supplies whole Links."""

    @property
    def scheme(self) -> str: ...

    async def connect(self, url: URL, accept: Accept, *, backend: Backend, limits: Limits) -> Link:
        """Connect, or raise ConnectError; `accept` is called as in `Backend.connect`.

        When cancelled, nothing is left behind.
        """
        ...

    async def listen(
        self, url: URL, accept: Accept, *, backend: Backend, limits: Limits
    ) -> Listener:
        """Accept connections at `url` until the Listener is closed; raises ConnectError."""
        ...


Transport = WireTransport | LinkTransport
