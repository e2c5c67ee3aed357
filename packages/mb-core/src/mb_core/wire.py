"""The Wire contract: the framing of a transport, without I/O.

A transport package provides Wires; mb_core reads and writes the bytes. A Wire belongs to one
connection, on the client's side or the broker's, and works under asyncio, trio and threads alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

import msgspec

from .authenticators import NO_CREDENTIALS, Credentials
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
    "credentials_of",
    "foreign_protocol",
    "is_held_back",
]

DEFAULT_MAX_PAYLOAD = 16_384
"""The largest payload that a broker accepts by default, in bytes."""


class Limits(msgspec.Struct, frozen=True):
    """Limits on the size of messages, in bytes.

    Attributes:
        max_payload: The largest payload to send; in a broker, also the largest to accept.
        max_message: The largest message to accept from the other side. A larger one ends the
            connection.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    max_message: int = DEFAULT_MAX_PAYLOAD + MAX_HEADER


class Page(msgspec.Struct, frozen=True):
    """The response to an HTTP GET.

    Attributes:
        body: The content.
        content_type: Such as `text/html; charset=utf-8`.
        status: The HTTP status.
        headers: Further headers.
    """

    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Visit(msgspec.Struct, frozen=True):
    """Where an HTTP request comes from and where it goes.

    Attributes:
        path: The requested page; None for a WebSocket handshake.
        host: The host and port that the request was sent to. Browsers always send it.
        origin: The origin of the web page that sent the request. Browsers always send it with a
            handshake.
    """

    path: str | None
    host: str | None
    origin: str | None


class Site(msgspec.Struct, frozen=True):
    """What a broker serves over HTTP, on transports that speak it, such as WebSocket.

    Attributes:
        get: Returns the page at a path; None if there is none.
        forbids: Returns why a request is refused; None if it is allowed.
    """

    get: Callable[[str], Page | None]
    forbids: Callable[[Visit], str | None] = lambda visit: None


class WireState(Enum):
    """The state of a Wire. It only moves down this list."""

    HANDSHAKE = "handshake"
    """The transport's handshake is in progress."""
    OPEN = "open"
    """Messages can be sent and received."""
    CLOSING = "closing"
    """Closing has begun. The Wire waits for the other side."""
    CLOSED = "closed"
    """There is nothing more to read."""


class Wire(Protocol):
    """Turns received bytes into whole messages, and messages into bytes to send.

    The code that drives it (a Link) has to:

    - write `data_to_send()` after creating the Wire, and after each call of any method;
    - pass every received chunk to `receive_data`, and the end of the stream to `receive_eof`;
    - check `state` afterwards: messages may be sent in OPEN only; in CLOSED there is nothing more
      to read, and the stream is closed when all output is written;
    - call `receive_data(b"")` again soon, after other connections had their turn, if the Wire has
      an attribute `held_back` (see below) that is true;
    - call it from one thread only. No method blocks, and none calls back.

    A Wire has to guarantee:

    - No method raises because of what the other side did. The Wire moves to CLOSED (or to CLOSING,
      if it still has to wait for the other side) and keeps the reason in `error`; messages that
      were complete before the fault are still returned.
    - After CLOSED, received data is ignored. `receive_eof` and `close` can be called twice.
    - Its work is proportional to the number of bytes received, however they were split.

    If few bytes from the other side can cause much work, a Wire may have an attribute `held_back`.
    It is true while the Wire holds received bytes that it has not processed yet, so that other
    connections get their turn.

    If the handshake says who a client is, the broker's Wire may have an attribute `credentials`, of
    the type `Credentials`. It is read once, when the Wire has moved to OPEN.
    """

    @property
    def state(self) -> WireState:
        """The current state."""
        ...

    @property
    def error(self) -> MBError | None:
        """Why the Wire is closing; None for an orderly end.

        A `RemoteProtocolError`, a `MessageTooLarge`, or a `ConnectError` for a refused handshake.
        """
        ...

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take bytes from the stream, and return the messages that are now complete, in order."""
        ...

    def receive_eof(self) -> None:
        """Handle the end of the stream. It sets `error` within a message or handshake."""
        ...

    def send(self, message: bytes) -> int:
        """Queue a message, which is UTF-8, and return how many bytes it adds to the output.

        Called only in OPEN.
        """
        ...

    def close(self, reason: str = "") -> None:
        """Begin an orderly close, after everything that is queued."""
        ...

    def data_to_send(self) -> bytes:
        """Return the bytes to write now, in order, and forget them; empty if there are none."""
        ...


def is_held_back(wire: Wire) -> bool:
    """Whether a Wire holds bytes that it will process after others had their turn."""
    return getattr(wire, "held_back", False)


def credentials_of(connection: object) -> Credentials:
    """Return the credentials that a client has presented to a Wire or Link with its handshake."""
    credentials: Credentials = getattr(connection, "credentials", NO_CREDENTIALS)
    return credentials


def foreign_protocol(start: bytes) -> str | None:
    """Return which other protocol a stream begins with, and what to do about it.

    Args:
        start: The beginning of the stream, at least four bytes.

    Returns:
        A text for an error; None for an unknown protocol.
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
