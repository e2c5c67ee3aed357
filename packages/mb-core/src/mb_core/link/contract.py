"""The contracts between a live connection, its event loop, and the code that uses it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ..errors import MBError
from ..wire import Wire

if TYPE_CHECKING:
    import ssl

    from anyio.abc import TaskGroup

__all__ = [
    "FLUSH_AT",
    "Accept",
    "Address",
    "Backend",
    "Link",
    "LinkHandler",
    "Listener",
    "Poster",
    "SocketAddress",
    "Spawn",
    "StreamOptions",
    "Waiter",
    "Waker",
]

FLUSH_AT = 65_536
"""How many bytes can be sent in one turn of the loop before a Link is congested."""


class LinkHandler(Protocol):
    """Receives what a Link receives. Called from the event loop, so it must not block.

    An exception in it is a bug: the Link logs it and ends the connection.
    """

    def messages_received(self, messages: list[bytes]) -> None:
        """Take whole messages, in order. Never called without messages, or after `link_lost`."""
        ...

    def link_lost(self, error: MBError | None) -> None:
        """The connection has ended. Called exactly once.

        Args:
            error: The reason. None for an orderly end, whichever side began it, and for `abort`.
        """
        ...


class Link(Protocol):
    """A live connection on one event loop. Use it only in the thread of that loop.

    If the handshake says who a client is, the broker's Link may have an attribute `credentials`, of
    the type `Credentials`. It is read once, in `Accept`. Links over byte streams have that of their
    Wire.
    """

    @property
    def peer(self) -> str:
        """The other side, for logs and errors."""
        ...

    @property
    def congested(self) -> bool:
        """Whether `drain` would wait."""
        ...

    @property
    def unsent(self) -> int:
        """Roughly how many sent bytes the operating system has not taken yet.

        0 when the connection has ended, even if `take_unsent` still has messages to return.
        """
        ...

    @property
    def messages_sent(self) -> int:
        """How many messages were passed to the transport. It grows with each write."""
        ...

    @property
    def bytes_sent(self) -> int:
        """How many bytes those messages have together, without the transport's framing."""
        ...

    @property
    def progress(self) -> int:
        """A number that changes with every sign of life from the other side.

        A sign of life is each byte that arrives, even if the message is not complete yet, and each
        byte that the operating system accepts from a write that had to wait. A write that is
        accepted at once proves nothing about the other side. A Link without this attribute counts
        as alive as long as whole messages arrive.
        """
        ...

    def send(self, message: bytes) -> None:
        """Send a message. Messages of one turn of the loop are written together.

        A message that was sent reaches the operating system unless the connection breaks, is
        aborted, or is ended by the other side first; see `take_unsent`.

        Raises:
            ConnectionLost: The connection is closing or closed; `sent` is False.
        """
        ...

    def send_many(self, messages: list[bytes]) -> None:
        """Send messages in order, as `send` does. If it raises, none was taken."""
        ...

    def take_unsent(self) -> list[bytes]:
        """Return the messages that were sent, but of which no byte has left this process.

        Call it in `link_lost` or later. The messages are the same objects that were sent, in order.
        Messages that were passed to the transport are not included, as it may have sent a part of
        them. `close` passes everything that still waits to the transport, so nothing can be
        returned afterwards. A second call returns an empty list.
        """
        ...

    async def drain(self) -> None:
        """Wait until more may be sent. Returns at once if the Link is not congested.

        Await it whenever `congested` is true while you send many messages: this limits memory and
        gives the loop its turn. A lost connection also ends the wait. Can be cancelled.
        """
        ...

    def pause_reading(self) -> None:
        """Stop reading for a while, so that the other side has to stop sending.

        What was received before may still arrive, and `link_lost` may still be called. Closing the
        connection resumes reading.
        """
        ...

    def resume_reading(self) -> None:
        """Read again. Does nothing if reading was not paused or the connection has ended."""
        ...

    def close(self, reason: str = "") -> None:
        """Send the remaining messages, then end the connection as the transport requires.

        After the close time limit, the connection is lost with an error. Can be called at any time,
        and twice. `link_lost` is called when the connection has ended.
        """
        ...

    def abort(self) -> None:
        """End the connection now, without writing the remaining messages."""
        ...

    async def wait_closed(self) -> None:
        """Wait until `link_lost` was called."""
        ...


Accept = Callable[[Link], LinkHandler]
"""Returns the handler of a new Link. Called when the transport's handshake is complete, before
anything is received; from then on, the Link can send.
"""

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Starts a task that lives as long as the caller's scope."""

Poster = Callable[[Callable[[], None]], bool]
"""Runs a function soon on an event loop. Called from any thread. Functions run in the order in
which they were posted. Returns False if that loop has ended.
"""


class Waker(Protocol):
    """The side of a Waiter that sets the value, once."""

    def done(self) -> bool:
        """Whether the value was set, or the wait was cancelled."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Set the value, and wake the task that waits for it."""
        ...


class Waiter(Waker, Protocol):
    """A value that one task waits for: an asyncio.Future, or the same on trio."""

    def __await__(self) -> Generator[Any, Any, Any]: ...


class StreamOptions(msgspec.Struct, frozen=True):
    """How byte streams are opened and closed. Times are in seconds.

    Attributes:
        ssl_context: For TLS; None for no TLS.
        server_hostname: The name that the server's certificate must have; None for the host that is
            connected to.
        handshake_timeout: Time limit for each handshake.
        close_timeout: Time limit for closing.
        max_handshakes: How many handshakes a Listener allows at the same time. One more ends the
            oldest, as honest peers complete theirs quickly.
        refused: Called for each accepted stream that never became a Link, with its peer and the
            reason, or None if it just ended. The default logs it.
        unread: Called with a Link when it receives something while its peer is not reading what was
            sent to it. The Wire's own answers may add to what is waiting.
        max_answers: How many bytes of such answers can wait before the connection is dropped.
    """

    ssl_context: ssl.SSLContext | None = None
    server_hostname: str | None = None
    handshake_timeout: float = 10.0
    close_timeout: float = 5.0
    max_handshakes: int = 1_000
    refused: Callable[[str, MBError | None], None] | None = None
    unread: Callable[[Link], None] | None = None
    max_answers: int | None = None


Address = tuple[str, int]
"""Host and port."""


class SocketAddress(msgspec.Struct, frozen=True):
    """The address of a stream socket other than TCP's.

    Attributes:
        family: Such as `socket.AF_UNIX`.
        address: What `socket.connect` takes.
    """

    family: int
    address: Any


class Listener(Protocol):
    """Accepts connections until it is closed. The accepted Links live on.

    Closing it ends handshakes in progress; nothing is accepted afterwards.
    """

    @property
    def address(self) -> Address:
        """Host and port; for sockets without ports, their name and 0."""
        ...

    async def close(self) -> None:
        """Stop accepting."""
        ...


class Backend(Protocol):
    """What mb_core needs from an event loop beyond what anyio offers.

    These are byte streams as Links, and a cheap way to wait.
    """

    @property
    def name(self) -> str:
        """`"asyncio"` or `"trio"`."""
        ...

    def time(self) -> float:
        """Return the time in seconds, on the clock of the loop's timers.

        Compare it only with times of the same loop: another loop has another clock, and in a test,
        the time may be virtual.
        """
        ...

    def running(self) -> object:
        """Return an object that identifies the caller's event loop.

        None if the caller is not running on a loop of this kind.

        Called from any thread.
        """
        ...

    def waiter(self) -> Waiter:
        """Return a new Waiter."""
        ...

    def poster(self) -> Poster:
        """Return a function that runs other functions soon on the running loop.

        It can be called from any thread, and returns False if the loop has ended.
        """
        ...

    async def checkpoint(self) -> None:
        """Give the loop a turn, and raise if the task was cancelled."""
        ...

    def spawn_root(self, function: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Start a task outside of the caller's scopes. It is cancelled when the loop ends.

        Keep the returned object as long as the task has to live: the loop may refer to it weakly.

        Args:
            function: An async function that raises nothing but cancellation.
        """
        ...

    def start_in(self, group: TaskGroup, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start a task in `group`, even from a callback of the loop, outside of any task.

        From a callback, it is not started if the group ends before the loop's next turn.
        """
        ...

    async def connect(
        self,
        address: Address | SocketAddress,
        wire: Wire,
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Link:
        """Open a byte stream, complete the Wire's handshake, and return the Link.

        The caller limits the time.

        Raises:
            ConnectError: The connection could not be established.

        If cancelled, the stream is closed.
        """
        ...

    async def listen(
        self,
        address: Address | socket.socket,
        wire: Callable[[], Wire],
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Listener:
        """Accept byte streams.

        A stream whose handshake fails or takes too long is closed and logged.

        Args:
            address: Host and port, 0 for a free port; or a socket that listens already, which the
                Listener closes.

        Raises:
            ConnectError: Listening failed.
        """
        ...
