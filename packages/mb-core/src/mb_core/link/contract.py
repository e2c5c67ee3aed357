"""The contracts between a live connection, its event loop, and whoever uses the connection."""

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
"""Bytes that are sent in one turn of the loop, at which a Link is congested."""


class LinkHandler(Protocol):
    """Receives what a Link receives; called from the event loop, so it must not block.

    What it raises is a bug: the Link logs it and ends the connection.
    """

    def messages_received(self, messages: list[bytes]) -> None:
        """Take whole messages, in order; never empty, never after `link_lost`."""
        ...

    def link_lost(self, error: MBError | None) -> None:
        """The connection has ended; called exactly once.

        `error` says why, None for an orderly end, whichever side began it, and for `abort`.
        """
        ...


class Link(Protocol):
    """One live connection, on one event loop; used from that loop's thread only."""

    @property
    def peer(self) -> str:
        """The other side, for logs and errors."""
        ...

    @property
    def congested(self) -> bool:
        """Whether `drain` has something to wait for: see there."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the operating system has not taken yet, roughly; 0 when
        the connection is over, though messages may be left to take back."""
        ...

    @property
    def messages_sent(self) -> int:
        """Messages that were handed to the transport; it grows with each write."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of those messages, without the transport's framing."""
        ...

    @property
    def progress(self) -> int:
        """How far the connection has come: a number that changes with every byte that arrives,
        of a message that is not whole yet as well, and with every byte that the operating system
        takes of a write that had to wait.

        What it takes at once changes nothing: that says nothing about the other side.  A Link
        without this attribute is alive as long as whole messages arrive.
        """
        ...

    def send(self, message: bytes) -> None:
        """Send a message.  What is sent in one turn of the loop leaves in few writes.

        Raises ConnectionLost with sent=False when the connection is closing or closed.  A
        message sent before that reaches the operating system unless the connection ends first:
        it breaks, is aborted, or the other side ends it.  Then see `take_unsent`.
        """
        ...

    def send_many(self, messages: list[bytes]) -> None:
        """Send messages in order; otherwise as `send`.  When it raises, none was taken."""
        ...

    def take_unsent(self) -> list[bytes]:
        """Take back the messages that were sent and of which nothing has left this process.

        For after `link_lost`, or from within it.  In order, and the very objects that were
        sent; none that was handed to the transport, which may have sent a part of it (`close`
        hands over all).  Empty the second time.
        """
        ...

    async def drain(self) -> None:
        """Wait until more may be sent; returns at once where the Link is not congested.

        Senders of many messages await it whenever `congested` is true: then memory is bounded
        and the loop gets its turn.  A lost connection ends the wait as well.  When cancelled,
        nothing is lost.
        """
        ...

    def pause_reading(self) -> None:
        """Take nothing more from the other side for a while, so that it has to wait with sending.

        What was received before may still come, and the connection's end is still told where
        it is noticed.  Closing it resumes reading.
        """
        ...

    def resume_reading(self) -> None:
        """Read again; harmless where reading was not paused, or the connection is over."""
        ...

    def close(self, reason: str = "") -> None:
        """End the connection in order: what was sent goes out, then the transport's farewell.

        Takes at most the close time limit; a connection that is given up then is lost with an
        error.  Safe to call at any time and twice; `link_lost` is called when it is over.
        """
        ...

    def abort(self) -> None:
        """End the connection now; what was not written yet is not written any more."""
        ...

    async def wait_closed(self) -> None:
        """Wait until `link_lost` has been called."""
        ...


Accept = Callable[[Link], LinkHandler]
"""Gives the handler of a new Link.  Called when the transport's handshake is complete, before
anything is received; what is sent on the Link from then on is sent."""

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Starts a task that lives as long as the caller's scope."""

Poster = Callable[[Callable[[], None]], bool]
"""Runs a function soon in the thread of the event loop it belongs to; callable from any thread.
Functions run in the order in which they were posted.  False where that loop has ended."""


class Waker(Protocol):
    """What wakes somebody with a value, once: the reader's half of a Waiter."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...


class Waiter(Waker, Protocol):
    """A value that one task waits for: an asyncio.Future, and its like on trio."""

    def __await__(self) -> Generator[Any, Any, Any]: ...


class StreamOptions(msgspec.Struct, frozen=True):
    """How byte streams are opened and closed; times in seconds.

    `server_hostname` is the name that the server's certificate has to have; by default, the
    host that is dialled.  A Listener has at most `max_handshakes` accepted streams in their
    handshake; one more ends the oldest of them, as honest ones do not last.  `refused` is called
    with each accepted stream that never became a Link: its peer, and why, None where it just ended;
    without it, that is logged.  `unread` is called with each Link that has received something
    while the other side does not read what it is sent, to which the Wire's own answers may have
    added.  When more than `max_answers` bytes of such answers wait, the connection is given up.
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
    """Where a stream socket of another family than TCP's is: what `socket.connect` takes."""

    family: int
    address: Any


class Listener(Protocol):
    """Accepts connections until it is closed; the accepted Links live on.

    Closing ends the handshakes that are under way: nothing is accepted after it.
    """

    @property
    def address(self) -> Address:
        """Host and port; for sockets that have no port, their name and 0."""
        ...

    async def close(self) -> None: ...


class Backend(Protocol):
    """What core needs of an event loop beyond anyio: byte streams as Links, and cheap waiting."""

    @property
    def name(self) -> str: ...

    def time(self) -> float:
        """Now, in seconds, by the clock of the loop's own timers; for differences only.

        Whatever is compared with it comes from the same loop: the clocks of two have nothing in
        common, and a test may have a loop whose time is virtual.
        """
        ...

    def running(self) -> object:
        """What identifies the event loop that runs the caller; None where none of this kind does.

        Callable from any thread.
        """
        ...

    def waiter(self) -> Waiter: ...

    def poster(self) -> Poster:
        """A Poster into the running loop."""
        ...

    async def checkpoint(self) -> None:
        """Let the loop have a turn; a point of cancellation."""
        ...

    def spawn_root(self, function: Callable[[], Coroutine[Any, Any, None]]) -> object:
        """Start a task that no scope of the caller's holds, and that the loop's end cancels.

        `function` must not raise anything but cancellation.  Keep what is returned for as long
        as the task is to live: the loop may hold it weakly.
        """
        ...

    def start_in(self, group: TaskGroup, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start a task in `group`, also from a callback of the loop, outside all tasks.

        From there it is not started if the group ends before the loop's next turn.
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
        """Open a byte stream, complete the Wire's handshake, give the Link.

        Raises ConnectError.  There is no time limit but the caller's; when cancelled, the
        stream is closed.
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
        """Accept byte streams; port 0 asks for a free one.  Raises ConnectError.

        A socket in place of an address listens already, and is the Listener's to close.
        A connection whose handshake fails or takes too long is closed and logged.
        """
        ...
