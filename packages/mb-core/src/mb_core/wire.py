"""The Wire contract: a transport's framing, without I/O.

A transport package supplies Wires; mb_core reads and writes the bytes.  A Wire belongs to one
connection, on the client's side or the broker's, and works under asyncio, trio and threads alike.
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
"""The largest payload in bytes that a broker accepts by default."""


class Limits(msgspec.Struct, frozen=True):
    """Sizes in bytes.

    `max_payload` applies to what this side sends, and in a broker to what it accepts.
    `max_message` is the largest message accepted from the wire; a larger one closes the
    connection.
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
    """Where an HTTP request comes from and where it goes.

    `path` is the requested page, None for a WebSocket handshake.  `host` is the host and port that
    it was sent to, `origin` the origin of the web page that sent it; browsers always send the
    first, and the second with a handshake.
    """

    path: str | None
    host: str | None
    origin: str | None


class Site(msgspec.Struct, frozen=True):
    """What a broker serves over HTTP, if its transport speaks that (WebSocket does).

    `get` returns the page at a path, None if there is none.  `forbids` returns why a request is
    refused, None if it is allowed.
    """

    get: Callable[[str], Page | None]
    forbids: Callable[[Visit], str | None] = lambda visit: None


class WireState(Enum):
    """The state of a Wire; it only moves down this list."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Wire(Protocol):
    """Turns received bytes into whole messages, and messages into bytes to send.

    Its driver (a Link) has to:

    - write `data_to_send()` after creating the Wire, and after each call of any method;
    - pass every received chunk to `receive_data`, and the end of the stream to `receive_eof`;
    - check `state` after that: messages may be sent in OPEN only; in CLOSED there is nothing more
      to read, and the stream is closed when all output is written;
    - call `receive_data(b"")` soon if the Wire is `held_back`, after others had their turn;
    - call it from one thread only.  No method blocks, and none calls back.

    A Wire has to guarantee:

    - No method raises for what the other side did.  The Wire moves to CLOSED (or to CLOSING, if it
      still has to wait for the other side) and keeps the reason in `error`; messages that were
      complete before the fault are still returned.
    - After CLOSED, received data is ignored; `receive_eof` and `close` are safe to call twice.
    - Its work is proportional to the bytes received, however they were split.

    If few bytes from the other side can cause much work, a Wire may have an attribute `held_back`.
    It is true while the Wire holds received bytes that it has not processed yet, so that other
    connections get their turn.
    """

    @property
    def state(self) -> WireState: ...

    @property
    def error(self) -> MBError | None:
        """Why the Wire is closing, None for an orderly end.

        RemoteProtocolError, MessageTooLarge, or ConnectError for a refused handshake.
        """
        ...

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take bytes from the stream; return the messages that are complete now, in order."""
        ...

    def receive_eof(self) -> None:
        """The stream has ended.  An end within a message or a handshake is an `error`."""
        ...

    def send(self, message: bytes) -> int:
        """Queue a message of UTF-8; return how many bytes it adds to the output.

        Called in OPEN only.
        """
        ...

    def close(self, reason: str = "") -> None:
        """Begin an orderly close, after everything that is queued."""
        ...

    def data_to_send(self) -> bytes:
        """Take the bytes to write now, in order; empty if there are none."""
        ...


def is_held_back(wire: Wire) -> bool:
    """Whether a Wire holds bytes that it will process when others had their turn."""
    return getattr(wire, "held_back", False)


def foreign_protocol(start: bytes) -> str | None:
    """Recognize a common protocol other than MB's; return its name and what to do about it.

    `start` is the beginning of the stream, at least four bytes.
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
