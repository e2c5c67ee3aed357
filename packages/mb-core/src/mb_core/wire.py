"""The Wire contract: a transport's framing, without I/O.

A transport package supplies Wires; core reads and writes the bytes.  One Wire serves one
connection, for the client's side or the broker's, under asyncio, trio and threads alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

import msgspec

from .errors import MBError
from .header import MAX_HEADER

__all__ = [
    "DEFAULT_MAX_PAYLOAD",
    "Limits",
    "Page",
    "Site",
    "Visit",
    "Wire",
    "WireState",
    "foreign_protocol",
    "is_held_back",
]

DEFAULT_MAX_PAYLOAD = 16_384
"""Bytes of the largest payload that a broker takes unless it is configured otherwise."""


class Limits(msgspec.Struct, frozen=True):
    """Sizes in bytes.

    `max_payload` holds for what this side sends, and in a broker for what it takes.
    `max_message` is the largest message that is accepted from the wire; a larger one closes
    the connection.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    max_message: int = DEFAULT_MAX_PAYLOAD + MAX_HEADER


class Page(msgspec.Struct, frozen=True):
    """The answer to an HTTP GET."""

    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Visit(msgspec.Struct, frozen=True):
    """What an HTTP request says about where it comes from and where it goes.

    `path` is the page that it asks for, None for a WebSocket handshake.  `host` is the host and
    port to which it was sent, `origin` the origin of the web page that sent it; browsers always
    send the first, and the second with a handshake.
    """

    path: str | None
    host: str | None
    origin: str | None


class Site(msgspec.Struct, frozen=True):
    """What a broker serves beside messages, where its transport speaks HTTP (WebSocket does).

    `get` returns the page at a path, None where there is none.  `forbids` returns why a request
    is refused, None if it is welcome.
    """

    get: Callable[[str], Page | None]
    forbids: Callable[[Visit], str | None] = lambda visit: None


class WireState(Enum):
    """Where a Wire is in its life; it only moves downwards in this list."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Wire(Protocol):
    """Turns received bytes into whole messages, and messages into bytes to send.

    What its driver (a Link) has to do:

    - write `data_to_send()` after creating the Wire, and after each call of any method;
    - give every received chunk to `receive_data`, and the end of the stream to `receive_eof`;
    - look at `state` after that: messages may be sent in OPEN only; in CLOSED nothing more is
      to be read, and the stream is closed when all output is written;
    - if it is `held_back`, call `receive_data(b"")` soon, after others had their turn;
    - call from one thread only.  No method blocks, and none calls back.

    What a Wire has to keep:

    - no method raises for what the other side did: it moves to CLOSED (to CLOSING, where it
      still has to wait for the other side) and leaves the reason in `error`; messages which
      were whole before the fault are still returned;
    - after CLOSED, received data is ignored; `receive_eof` and `close` are safe to call twice;
    - work in proportion to the bytes received, however they were split.

    A Wire whose other side can make much work with few bytes may have an attribute `held_back`,
    which is true while it holds received bytes that it could read, and has not, for the sake of
    the other connections.
    """

    @property
    def state(self) -> WireState: ...

    @property
    def error(self) -> MBError | None:
        """Why the Wire is closing: RemoteProtocolError, MessageTooLarge, ConnectError for a
        refused handshake; None for an orderly end."""
        ...

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take bytes from the stream, give the messages that are whole now, in order."""
        ...

    def receive_eof(self) -> None:
        """Take the end of the stream.  An end within a message or a handshake is an `error`."""
        ...

    def send(self, message: bytes) -> int:
        """Queue a message of UTF-8; return how many bytes it adds to the output.

        Called in OPEN only.
        """
        ...

    def close(self, reason: str = "") -> None:
        """Begin an orderly end behind everything that is queued."""
        ...

    def data_to_send(self) -> bytes:
        """Take the bytes that are to be written now, in order; empty where there are none."""
        ...


def is_held_back(wire: Wire) -> bool:
    """Whether a Wire holds bytes that it is to read when others had their turn."""
    return getattr(wire, "held_back", False)


def foreign_protocol(start: bytes) -> str | None:
    """Name the protocol that a stream begins with if it is a common one other than MB's.

    `start` is the first bytes, four at least.  Returns the name and what to do about it.
    """
    return next((text for prefix, text in _FOREIGN.items() if start.startswith(prefix)), None)


_PROXY = "the PROXY protocol, which MB does not read (turn off send-proxy in the load balancer)"
_HTTP = "HTTP, which is for the ports of ws:// and wss://"
_FOREIGN = {
    b"\x16\x03": "TLS, on a port without TLS (tls:// and wss:// have ports of their own)",
    b"\x15\x03": "TLS, on a port with TLS (use tls:// or wss://)",  # an alert
    b"PROX": _PROXY,
    b"\r\n\r\n": _PROXY,  # the binary version of it
    b"PRI ": "HTTP/2, which MB does not speak (use HTTP/1.1)",
    b"SSH-": "SSH",
    **{
        method[:4]: _HTTP
        for method in (b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTIONS", b"CONNECT", b"HTTP")
    },
}
